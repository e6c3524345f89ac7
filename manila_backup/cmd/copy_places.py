# SPDX-License-Identifier: Apache-2.0
"""The two directories of a copy: opened once, and refused where no copy can end well."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from manila_backup.data.copy.sysio import SYSTEM
from manila_backup.exception import Invalid
from manila_backup.names import printable

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_OCTAL = re.compile(rb"\\([0-7]{3})")
_NO_NAMES = frozenset({b"", b".", b".."})


@dataclass(frozen=True, slots=True)
class Places:
    """Open for reading; the context's that made them."""

    source_fd: int
    target_fd: int


@contextmanager
def opened_places(source: bytes, target: bytes) -> Iterator[Places]:
    """SRC and DST as the command line names them. A missing DST is made, after all checks, if its
    parent is there.

    :raises Invalid: refused; nothing was changed.
    """
    with ExitStack() as stack:
        source_fd = _open(stack, "SRC", source, _READ)
        try:
            target_fd = _open(stack, "DST", target, _READ)
        except _Missing:
            target_fd = _make(stack, source_fd, source, target)
        else:
            _check(source_fd, source, target_fd, target)
        yield Places(source_fd, target_fd)


class _Missing(Invalid):
    """There is nothing of that name."""


def _open(
    stack: ExitStack, what: str, path: bytes, flags: int, *, dir_fd: int | None = None
) -> int:
    """A symlink is followed: it is the caller of the command who named it."""
    try:
        fd = os.open(path, flags, dir_fd=dir_fd)
    except FileNotFoundError as error:
        raise _Missing(reason=f"{what} {_shown(path)}: {error.strerror}") from error
    except OSError as error:
        raise Invalid(reason=f"{what} {_shown(path)}: {error.strerror}") from error
    stack.callback(os.close, fd)
    return fd


def _shown(path: bytes) -> str:
    """An empty name is none, not the root of something."""
    return printable(path) if path else "''"


def _make(stack: ExitStack, source_fd: int, source: bytes, target: bytes) -> int:
    parent, name = os.path.split(target.rstrip(b"/"))
    if target.startswith(b"/") and not parent:
        parent = b"/"
    if name in _NO_NAMES:
        raise Invalid(reason=f"DST {_shown(target)}: {os.strerror(errno.ENOENT)}")
    parent_fd = _open(stack, "the parent of DST,", parent or b".", _LOOK)
    _check_writable(parent_fd, target)
    if _lies_within(parent_fd, source_fd):
        raise Invalid(reason=f"DST {_shown(target)} lies inside SRC {_shown(source)}")
    try:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
    except OSError as error:
        raise Invalid(reason=f"DST {_shown(target)}: {error.strerror}") from error
    return _open(stack, "DST", name, _READ | os.O_NOFOLLOW, dir_fd=parent_fd)


def _check(source_fd: int, source: bytes, target_fd: int, target: bytes) -> None:
    names = f"SRC {_shown(source)}", f"DST {_shown(target)}"
    _check_writable(target_fd, target)
    if _identity(source_fd) == _identity(target_fd):
        raise Invalid(reason=f"{names[0]} and {names[1]} are the same directory")
    if _lies_within(target_fd, source_fd):
        raise Invalid(reason=f"{names[1]} lies inside {names[0]}")
    if _lies_within(source_fd, target_fd):
        raise Invalid(reason=f"{names[0]} lies inside {names[1]}")


def _check_writable(fd: int, target: bytes) -> None:
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        raise Invalid(reason=f"DST {_shown(target)} is mounted read-only")


# --- which lies in which --------------------------------------------------------------------------


def _identity(fd: int) -> tuple[int, int]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def _lies_within(inner_fd: int, outer_fd: int) -> bool:
    """Whether one directory is the other or lies below it, on whatever way it was reached.

    :raises Invalid: it cannot be found out.
    """
    try:
        return _is_above(inner_fd, outer_fd) or _is_elsewhere_above(inner_fd, outer_fd)
    except OSError as error:
        reason = f"whether DST and SRC lie within each other cannot be seen: {error.strerror}"
        raise Invalid(reason=reason) from error


def _is_above(inner_fd: int, outer_fd: int) -> bool:
    """Up through ``..`` to the root."""
    wanted = _identity(outer_fd)
    here = os.open(b".", _LOOK, dir_fd=inner_fd)
    try:
        while _identity(here) != wanted:
            below, here = here, os.open(b"..", _LOOK, dir_fd=here)
            # With the mount: a directory may be bind-mounted upon one of its own children.
            is_root = (_identity(here), SYSTEM.mount_id(here)) == (
                _identity(below),
                SYSTEM.mount_id(below),
            )
            os.close(below)
            if is_root:
                return False
        return True
    finally:
        os.close(here)


def _is_elsewhere_above(inner_fd: int, outer_fd: int) -> bool:
    """The same through a bind mount, from which no ``..`` leads up to where it was taken from: the
    mounts' own roots say where that is, and looking there whether it is true.
    """
    inner, outer = _place_in_file_system(inner_fd), _place_in_file_system(outer_fd)
    if inner is None or outer is None or inner[0] != outer[0]:
        return False
    depth = len(outer[1])
    if inner[1][:depth] != outer[1]:
        return False
    with ExitStack() as stack:
        here = outer_fd
        for name in inner[1][depth:]:
            try:
                here = os.open(name, _LOOK | os.O_NOFOLLOW, dir_fd=here)
            except OSError:
                return False
            stack.callback(os.close, here)
        return _identity(here) == _identity(inner_fd)


def _place_in_file_system(fd: int) -> tuple[bytes, list[bytes]] | None:
    """The device, and the names from the root of the file system (not of the mount) to it; None if
    that cannot be told.
    """
    mount = SYSTEM.mount_id(fd)
    path = os.readlink(b"/proc/self/fd/%d" % fd)
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            fields = line.split(b" ")
            if int(fields[0]) == mount:
                root, point = (_plain(field).rstrip(b"/") for field in fields[3:5])
                if path.rstrip(b"/") != point and not path.startswith(point + b"/"):
                    return None
                names = (root + path[len(point) :]).split(b"/")
                return fields[2], [name for name in names if name]
    return None


def _plain(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)
