# SPDX-License-Identifier: Apache-2.0
"""Mounts of this node: argv lists, a private directory, and nothing written under a mount point
that is not the mount.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from oslo_concurrency import processutils
from oslo_log import log

from manila_backup import exception
from manila_backup.types import Mount, MountedTree

LOG = log.getLogger(__name__)

ALWAYS = ("nosuid", "nodev", "noexec")
"""Nothing in a share is ever run or opened as a device here."""

Runner = Callable[[list[str]], None]


def run_command(argv: list[str]) -> None:
    """Run a command to its end.

    :raises MountFailed: with what it said, when it fails or takes longer than a minute.
    """
    try:
        processutils.execute(*argv, timeout=60)
    except (processutils.ProcessExecutionError, OSError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise exception.MountFailed(export=argv[-2], reason=said.strip()) from error


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
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        point = _unescape(line.split(" ")[4])
        if point.startswith(directory.rstrip("/") + "/"):
            points.append(point)
    return points[::-1]


class MountManager:
    """Mounts under one private directory, which belongs to this node alone.

    :param directory: made with mode 0700.
    """

    def __init__(self, directory: str, *, runner: Runner = run_command) -> None:
        self._directory = directory
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
        Path(self._directory).mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            Path(point).mkdir(mode=0o700, exist_ok=True)
            outside = self._look(point, read_only=False).mount_id
            self._run(mount_argv(mount, point, read_only=read_only))
            tree = self._look(point, read_only=read_only)
            self._check(mount, tree, outside)
            yield tree
        finally:
            self.unmount(point)

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
        if Path(point).parent != Path(self._directory):
            raise ValueError(f"not a mount point of ours: {point}")
        while point in mounted_below(self._directory):
            try:
                self._run(["umount", "--", point])
            except exception.MountFailed:
                LOG.warning("Unmounting %s failed; trying lazily.", point)
                self._run(["umount", "--lazy", "--", point])
        try:
            mode = os.lstat(point).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            os.rmdir(point)

    def leftovers(self) -> list[str]:
        """Mount points that exist now; at start these are an earlier process's."""
        try:
            return [entry.path for entry in os.scandir(self._directory)]
        except FileNotFoundError:
            return []
