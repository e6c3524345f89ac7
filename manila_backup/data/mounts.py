# SPDX-License-Identifier: Apache-2.0
"""Mounts of this node: argv lists, a private directory, and nothing written under a mount point
that is not the mount.

What is mounted is never touched by this process itself: a file server that does not answer holds up
the programs that it starts, mount(8), umount(8) and workers, and these have a time limit.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from oslo_log import log

from manila_backup import exception
from manila_backup.data.hanging import HANGING
from manila_backup.data.mountinfo import mount_id, mounted_at, mounted_below
from manila_backup.data.nfs_options import GIVES_UP, GIVES_UP_OLDER, nfs_options
from manila_backup.names import printable
from manila_backup.types import Mount, MountedTree

LOG = log.getLogger(__name__)

ALWAYS = ("nosuid", "nodev", "noexec", "noatime")
"""Nothing in a share is ever run or opened as a device here. And an NFS client that need not know
the time of the last access asks for a file's attributes once less after it has read the file."""

Runner = Callable[[list[str]], None]


def run_command(argv: list[str], *, timeout_s: float = 60.0) -> None:
    """Run mount(8) or umount(8) to its end.

    :raises MountFailed: with what it said, when it fails or takes too long; then it and its
        helpers are killed.
    """
    what = printable(os.fsencode(argv[-2] if argv[0] == "mount" else argv[-1]))
    # A file and no pipe: a helper that hangs in the kernel would keep a pipe open for ever.
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise exception.MountFailed(export=what, reason=str(error)) from error
        try:
            status = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _kill(child)
            raise exception.MountFailed(
                export=what, reason=f"{argv[0]} did not end within {timeout_s:g} s"
            ) from None
        if status != 0:
            said.seek(0)
            reason = printable(said.read(4096).strip() or b"it said nothing")
            raise exception.MountFailed(export=what, reason=f"{reason} (status {status})")


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        HANGING.add(child)


def mount_argv(
    mount: Mount, target: str, *, read_only: bool, gives_up: str = GIVES_UP
) -> list[str]:
    """The mount(8) command. The export is one argument, whatever it contains.

    :param gives_up: the option by which NFS does not wait for ever.
    """
    chosen = mount.options
    if mount.proto == "nfs":
        chosen = nfs_options(chosen, gives_up=gives_up)
    options = ",".join((*chosen, *ALWAYS, "ro" if read_only else "rw"))
    if mount.proto == "bind":
        return ["mount", "--bind", "-o", options, "--", mount.export, target]
    return ["mount", "-t", mount.proto, "-o", options, "--", mount.export, target]


def umount_argv(point: str, *, lazy: bool = False) -> list[str]:
    """The umount(8) command.

    It is not to follow the path by itself, which asks the server. ``lazy`` takes the mount away
    without a word to the server; what is still in use ends by itself, since NFS gives up. (By force
    would be wrong: requests of other mounts from the same file system of the server would fail.)
    """
    ways = ["--lazy", "--internal-only"] if lazy else []
    return ["umount", "--no-canonicalize", *ways, "--", point]


@dataclass(slots=True)
class _Point:
    """A mount point of this process. ``lock`` is held while it is mounted and unmounted; it guards
    ``users``, the number of blocks that use it, and ``what`` they use. ``interested`` counts those
    who know of this object, under the manager's own lock.
    """

    users: int = 0
    what: tuple[Mount, bool] | None = None
    interested: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class MountManager:
    """Mounts under one private directory, which belongs to this node alone. Shared by threads.

    :param directory: made with mode 0700.
    :param prefix: of the names of this manager's mounts; see :func:`temporary_prefix`.
    """

    def __init__(self, directory: str, *, prefix: str = "", runner: Runner = run_command) -> None:
        # As the kernel will name the mounts in it.
        self._directory = os.path.realpath(directory)
        self._prefix = prefix
        self._run = runner
        self._points: dict[str, _Point] = {}
        self._lock = threading.Lock()
        self._gives_up = GIVES_UP

    @property
    def directory(self) -> str:
        return self._directory

    def point(self, name: str) -> str:
        """Where a mount of this name will be; to be written down before :meth:`mounted`."""
        return str(Path(self._directory) / f"{self._prefix}{name}")

    @contextmanager
    def mounted(self, mount: Mount, name: str, *, read_only: bool) -> Iterator[MountedTree]:
        """Mount, and unmount when the block ends. Blocks that use one name at the same time share
        one mount: the first mounts, the last unmounts.

        A ``path`` mount is the directory itself; nothing is mounted and nothing enforces
        ``read_only``.
        :raises MountFailed:
        :raises ValueError: the name is in use for another mount.
        """
        if mount.proto == "path":
            yield _looked_at(mount.export, read_only=read_only)
            return
        point = self.point(name)
        with self._at(point) as here:
            with here.lock:
                if here.users == 0:
                    self._mount_or_leave_nothing(mount, point, read_only=read_only)
                    here.what = (mount, read_only)
                elif here.what != (mount, read_only):
                    raise ValueError(f"{point} is in use for another mount")
                here.users += 1
            try:
                yield self._tree(mount, point, read_only=read_only)
            finally:
                with here.lock:
                    here.users -= 1
                    if here.users == 0:
                        self._unmount_at_last(point)

    @contextmanager
    def _at(self, point: str) -> Iterator[_Point]:
        with self._lock:
            here = self._points.setdefault(point, _Point())
            here.interested += 1
        try:
            yield here
        finally:
            with self._lock:
                here.interested -= 1
                if here.interested == 0:
                    del self._points[point]

    def _mount_or_leave_nothing(self, mount: Mount, point: str, *, read_only: bool) -> None:
        try:
            self._make_private_directory()
            before = mounted_at(point)
            if before is None:
                _make_directory(Path(point))
            self._mount(mount, point, read_only=read_only)
            after = mounted_at(point)
            if after is None or after == before:
                raise exception.MountFailed(export=mount.export, reason="nothing was mounted")
            if read_only and not after.is_read_only:
                raise exception.MountFailed(export=mount.export, reason="it is not read-only")
        except BaseException:
            self._unmount_at_last(point)
            raise

    def _mount(self, mount: Mount, point: str, *, read_only: bool) -> None:
        argv = mount_argv(mount, point, read_only=read_only, gives_up=self._gives_up)
        try:
            self._run(argv)
        except exception.MountFailed as error:
            if mount.proto != "nfs" or self._gives_up != GIVES_UP or not _is_unknown(error):
                raise
            older = mount_argv(mount, point, read_only=read_only, gives_up=GIVES_UP_OLDER)
            self._run(older)
            self._gives_up = GIVES_UP_OLDER

    def _tree(self, mount: Mount, point: str, *, read_only: bool) -> MountedTree:
        found = mounted_at(point)
        if found is None:
            raise exception.MountFailed(export=mount.export, reason="it is not mounted any more")
        return MountedTree(path=point, mount_id=found.mount_id, read_only=read_only)

    def _unmount_at_last(self, point: str) -> None:
        """What is left is found again: an error here neither hides the first one nor undoes what
        was done under the mount."""
        try:
            self._unmount(point)
        except exception.MountFailed as error:
            LOG.warning("A mount stays for now: %s", error)

    def _make_private_directory(self) -> None:
        directory = Path(self._directory)
        found = _make_directory(directory)
        if found.st_uid != os.geteuid():
            raise exception.MountFailed(
                export=self._directory, reason="the mount directory belongs to somebody else"
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            directory.chmod(0o700)

    def unmount(self, point: str) -> None:
        """Unmount and remove a mount point of ours that nobody in this process uses; one that is in
        use goes with its last user. Idempotent; lazy as the last resort.

        :raises MountFailed: it is still mounted.
        """
        if os.path.dirname(point) != self._directory or os.path.basename(point) in ("", ".", ".."):
            raise ValueError(f"not a mount point of ours: {point}")
        with self._at(point) as here, here.lock:
            if here.users == 0:
                self._unmount(point)

    def _unmount(self, point: str) -> None:
        # Each call takes one mount off; there is more than one only if a former process left one.
        for _ in range(mounted_below(self._directory).count(point)):
            try:
                self._run(umount_argv(point))
            except exception.MountFailed as error:
                LOG.warning("Unmounting failed, trying lazily: %s", error)
                self._run(umount_argv(point, lazy=True))
        if point in mounted_below(self._directory):
            raise exception.MountFailed(export=point, reason="it is still mounted")
        self._remove_point(point)

    def _remove_point(self, point: str) -> None:
        try:
            if stat.S_ISDIR(os.lstat(point).st_mode):
                os.rmdir(point)
        except FileNotFoundError:
            return
        except OSError as error:
            raise exception.MountFailed(
                export=point, reason=f"the mount point stays: {error.strerror}"
            ) from error

    def leftovers(self) -> list[str]:
        """Mount points that exist now and whose maker may be gone; at start these are an earlier
        process's. Those of a living process of another kind (see :func:`temporary_prefix`) are not.
        """
        try:
            return [e.path for e in os.scandir(self._directory) if not _in_use(e.name)]
        except FileNotFoundError:
            return []


def _looked_at(path: str, *, read_only: bool) -> MountedTree:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise exception.MountFailed(export=path, reason=error.strerror) from error
    try:
        return MountedTree(path=path, mount_id=mount_id(fd), read_only=read_only)
    finally:
        os.close(fd)


def _is_unknown(error: exception.MountFailed) -> bool:
    """Whether mount(8) complains of an option: the kernel says no more than that."""
    said = str(error).lower()
    return "mount option" in said or "invalid argument" in said


def _make_directory(path: Path) -> os.stat_result:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.lstat()
    except OSError as error:
        reason = f"no directory to mount on: {error.strerror}"
        raise exception.MountFailed(export=str(path), reason=reason) from error


def temporary_prefix() -> str:
    """For the mounts of a process beside the data node: while it lives, nobody takes them for
    leftovers (the manage command beside a starting data node).
    """
    return f"store-{os.getpid()}-"


def _in_use(name: str) -> bool:
    match = re.match(r"store-([0-9]+)-", name)
    return match is not None and int(match[1]) != os.getpid() and Path("/proc", match[1]).exists()
