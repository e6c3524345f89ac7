# SPDX-License-Identifier: Apache-2.0
"""Mounts of this node: argv lists, a private directory, and nothing written under a mount point
that is not the mount.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from oslo_log import log

from manila_backup import exception
from manila_backup.names import printable
from manila_backup.types import Mount, MountedTree

LOG = log.getLogger(__name__)

ALWAYS = ("nosuid", "nodev", "noexec")
"""Nothing in a share is ever run or opened as a device here."""

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
        LOG.warning("Process %d hangs in the kernel; it was killed and abandoned.", child.pid)


def mount_argv(mount: Mount, target: str, *, read_only: bool) -> list[str]:
    """The mount(8) command. The export is one argument, whatever it contains."""
    options = ",".join((*mount.options, *ALWAYS, "ro" if read_only else "rw"))
    if mount.proto == "bind":
        return ["mount", "--bind", "-o", options, "--", mount.export, target]
    return ["mount", "-t", mount.proto, "-o", options, "--", mount.export, target]


def mount_id(fd: int) -> int:
    """The id of the mount that an open directory is on (proc(5), fdinfo)."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "mnt_id":
            return int(value)
    raise OSError("the kernel reports no mount ids in /proc/self/fdinfo")


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def mounted_below(directory: str) -> list[str]:
    """Mount points under ``directory``, the last mounted first."""
    points = []
    table = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    # Not splitlines: of the characters that it takes for line ends the kernel escapes one only.
    for line in table.rstrip("\n").split("\n"):
        point = _unescape(line.split(" ")[4])
        if point.startswith(directory.rstrip("/") + "/"):
            points.append(point)
    return points[::-1]


class MountManager:
    """Mounts under one private directory, which belongs to this node alone.

    :param directory: made with mode 0700.
    """

    def __init__(self, directory: str, *, runner: Runner = run_command) -> None:
        # As the kernel will name the mounts in it.
        self._directory = os.path.realpath(directory)
        self._run = runner

    def point(self, name: str) -> str:
        """Where a mount of this name will be; to be written down before :meth:`mounted`."""
        return str(Path(self._directory) / name)

    @contextmanager
    def mounted(self, mount: Mount, name: str, *, read_only: bool) -> Iterator[MountedTree]:
        """Mount, and unmount when the block ends.

        A ``path`` mount is the directory itself; nothing is mounted and nothing enforces
        ``read_only``.
        :raises MountFailed:
        """
        if mount.proto == "path":
            yield self._look(mount.export, read_only=read_only)
            return
        point = self.point(name)
        self._make_private_directory()
        try:
            _make_directory(Path(point))
            outside = self._look(point, read_only=False).mount_id
            self._run(mount_argv(mount, point, read_only=read_only))
            tree = self._look(point, read_only=read_only)
            self._check(mount, tree, outside)
            yield tree
        finally:
            self._unmount_at_last(point)

    def _unmount_at_last(self, point: str) -> None:
        """What is left is found again: an error here neither hides the first one nor undoes what
        was done under the mount."""
        try:
            self.unmount(point)
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

    def _look(self, path: str, *, read_only: bool) -> MountedTree:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise exception.MountFailed(export=path, reason=error.strerror) from error
        try:
            return MountedTree(path=path, mount_id=mount_id(fd), read_only=read_only)
        finally:
            os.close(fd)

    def _check(self, mount: Mount, tree: MountedTree, outside: int) -> None:
        if tree.mount_id == outside:
            raise exception.MountFailed(export=mount.export, reason="nothing was mounted")
        if tree.read_only and not os.statvfs(tree.path).f_flag & os.ST_RDONLY:
            raise exception.MountFailed(export=mount.export, reason="it is not read-only")

    def unmount(self, point: str) -> None:
        """Unmount and remove a mount point of ours. Idempotent; lazy as the last resort.

        :raises MountFailed: it is still mounted.
        """
        if os.path.dirname(point) != self._directory or os.path.basename(point) in ("", ".", ".."):
            raise ValueError(f"not a mount point of ours: {point}")
        # Each call takes one mount off; there is more than one only if a name was used twice.
        for _ in range(mounted_below(self._directory).count(point)):
            try:
                self._run(["umount", "--", point])
            except exception.MountFailed as error:
                LOG.warning("Unmounting failed, trying lazily: %s", error)
                self._run(["umount", "--lazy", "--", point])
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
        process's. Those of a living process of another kind (see :func:`temporary_name`) are not.
        """
        try:
            return [e.path for e in os.scandir(self._directory) if not _in_use(e.name)]
        except FileNotFoundError:
            return []


def _make_directory(path: Path) -> os.stat_result:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path.lstat()
    except OSError as error:
        reason = f"no directory to mount on: {error.strerror}"
        raise exception.MountFailed(export=str(path), reason=reason) from error


def temporary_name(unique: str) -> str:
    """Name of a mount that only this process knows of: while it lives, nobody takes the mount for
    a leftover (the manage command beside a starting data node).
    """
    return f"store-{os.getpid()}-{unique}"


def _in_use(name: str) -> bool:
    match = re.match(r"store-([0-9]+)-", name)
    return match is not None and int(match[1]) != os.getpid() and Path("/proc", match[1]).exists()
