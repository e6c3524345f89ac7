# SPDX-License-Identifier: Apache-2.0
"""A file system that fails on demand: a FUSE passthrough in a process of its own.

It speaks the kernel's protocol (:mod:`.passthrough`) without a library in between, so that each
request of the kernel is one operation that can fail, SEEK_DATA and the flush at close included.
Nothing is cached (no entry, no attribute, no page), so that every system call arrives.

The test arms one fault at a time through a shared page: :meth:`FaultFs.arm`. A kernel that repeats
a refused request gets the same refusal again, so its own retries hide nothing. What cannot carry
an error (RELEASE, FORGET) is not counted as an operation.

Needs root and Linux with FUSE; no package.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import select
import struct
import subprocess
import sys
import tempfile
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from tests.support.passthrough import (
    MAX_WRITE,
    WITHOUT_ANSWER,
    WITHOUT_ERRORS,
    Kind,
    Passthrough,
    Request,
)

_MNT_DETACH = 2
_REPEATS = 4
"""Requests of a thread among which one like the refused one is its repetition: after ESTALE the
kernel walks the path once more before it gives up."""

_libc = ctypes.CDLL(None, use_errno=True)


class How(IntEnum):
    """What happens instead of the operation."""

    FAIL = 0
    LATE = 1
    """It takes place, and fails all the same: an answer that was lost."""
    SHORT = 2
    """A read or write moves half of its bytes; other operations are not touched, nor counted."""


# --- the shared page ------------------------------------------------------------------------------

_ARMED = struct.Struct("<qqiIi")  # operations seen, fail at, errno, kind or 0, how
_HIT = struct.Struct("<II")  # kind or 0, length of the path that follows
_HIT_AT = 64


class Hit(NamedTuple):
    kind: Kind
    path: bytes


class Page:
    """One side writes while the other rests: a fault is armed when no operation is under way."""

    def __init__(self, file: int) -> None:
        self._map = mmap.mmap(file, mmap.PAGESIZE)

    def arm(self, number: int, error: int, kind: Kind | None, how: How) -> None:
        _HIT.pack_into(self._map, _HIT_AT, 0, 0)
        _ARMED.pack_into(self._map, 0, 0, number, error, kind or 0, how)

    def armed(self) -> tuple[int, int, int, int, int]:
        return _ARMED.unpack_from(self._map)

    def count(self, seen: int) -> None:
        struct.pack_into("<q", self._map, 0, seen)

    def hit(self, kind: Kind, path: bytes) -> None:
        path = path[: mmap.PAGESIZE - _HIT_AT - _HIT.size]
        start = _HIT_AT + _HIT.size
        self._map[start : start + len(path)] = path
        _HIT.pack_into(self._map, _HIT_AT, kind, len(path))

    def was_hit(self) -> Hit | None:
        kind, length = _HIT.unpack_from(self._map, _HIT_AT)
        start = _HIT_AT + _HIT.size
        return Hit(Kind(kind), self._map[start : start + length]) if kind else None


# --- the test's side ------------------------------------------------------------------------------


class FaultFs:
    """``backing`` seen through ``mountpoint`` for the time of a block; backing may be changed
    directly, too. If the test dies, the daemon unmounts and ends.
    """

    def __init__(self, backing: Path, mountpoint: Path) -> None:
        self._backing = backing
        self.mountpoint = mountpoint

    def __enter__(self) -> FaultFs:
        with tempfile.TemporaryFile() as shared:
            shared.truncate(mmap.PAGESIZE)
            self._page = Page(shared.fileno())
            self.disarm()
            argv = [str(self._backing), str(self.mountpoint), str(shared.fileno())]
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "tests.support.faultfs", *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[shared.fileno()],
                cwd=Path(__file__).parents[2],
                start_new_session=True,  # it outlives whoever kills a whole group, to unmount
            )
        assert self._daemon.stdout is not None
        if self._daemon.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the fault file system ended: {self._daemon.wait()}")
        return self

    def __exit__(self, *_: object) -> None:
        self.disarm()
        self._daemon.communicate(timeout=20)  # closes its stdin, by which it knows
        assert self._daemon.returncode == 0, "the fault file system broke"
        assert not os.path.ismount(self.mountpoint)

    def arm(
        self, number: int, error: int, *, kind: Kind | None = None, how: How = How.FAIL
    ) -> None:
        """Let operation ``number`` (from 1; of ``kind``, if given) fail with ``error``."""
        self._page.arm(number, error, kind, how)

    def disarm(self) -> None:
        """Operations are counted from here on, and none fails."""
        self._page.arm(0, 0, None, How.FAIL)

    @property
    def hit(self) -> Hit | None:
        """Where the armed fault struck."""
        return self._page.was_hit()

    @property
    def operations(self) -> int:
        """How many there were since the last arm or disarm."""
        return self._page.armed()[0]


# --- the daemon -----------------------------------------------------------------------------------


class Server:
    """Answers the kernel's requests, one at a time; the armed one badly."""

    def __init__(self, device: int, tree: Passthrough, page: Page) -> None:
        self._device = device
        self._tree = tree
        self._page = page
        self._buffer = bytearray(MAX_WRITE + (1 << 13))
        self._refused: Request | None = None
        self._refused_error = 0
        self._repeats = 0

    def serve_one(self) -> bool:
        """False: it has been unmounted."""
        try:
            size = os.readv(self._device, [self._buffer])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):  # the caller was killed
                return True
            raise
        data = memoryview(self._buffer)[:size]
        _, opcode, unique, node, _, _, thread, _ = struct.unpack("<IIQQ4I", data[:40])
        body, error_number = b"", 0
        kind = None
        try:
            kind = Kind(opcode)
            body = self._handle(Request(kind, node, thread, bytes(data[40:])))
        except ValueError:
            error_number = errno.ENOSYS
        except OSError as error:
            error_number = error.errno or errno.EIO
        if kind not in WITHOUT_ANSWER:
            self._answer(unique, error_number, body)
        return True

    def _answer(self, unique: int, error_number: int, body: bytes) -> None:
        payload = b"" if error_number else body
        head = struct.pack("<IiQ", 16 + len(payload), -error_number, unique)
        with contextlib.suppress(FileNotFoundError):  # the caller was killed
            os.writev(self._device, [head, payload])

    def _handle(self, request: Request) -> bytes:
        do = self._tree.answer
        if request.kind in WITHOUT_ERRORS:
            return do(request)
        error, how = self._fault(request)
        if how is How.SHORT:
            return do(_halved(request))
        if error and how is How.LATE:
            do(request)
        if error:
            raise OSError(error, os.strerror(error))
        return do(request)

    def _fault(self, request: Request) -> tuple[int, How | None]:
        """The errno to answer with, or 0."""
        if self._is_repeated(request):
            return self._refused_error, How.FAIL
        seen, number, error, kind, how = self._page.armed()
        if not number:
            self._refused = None
        if kind and kind != request.kind:
            return 0, None
        if how == How.SHORT and request.kind not in (Kind.READ, Kind.WRITE):
            return 0, None
        self._page.count(seen + 1)
        if seen + 1 != number:
            return 0, None
        self._page.hit(request.kind, self._tree.where(request))
        if how == How.SHORT:
            return 0, How.SHORT
        self._refused, self._refused_error, self._repeats = request, error, _REPEATS
        return error, How(how)

    def _is_repeated(self, request: Request) -> bool:
        """Whether the kernel, or somebody in a hurry, tries once more what was just refused."""
        if self._refused is None or self._refused.thread != request.thread:
            return False
        if self._refused == request:
            self._repeats = _REPEATS
            return True
        self._repeats -= 1
        if not self._repeats:
            self._refused = None
        return False


def _halved(request: Request) -> Request:
    fields, rest = request.take("<2Q2IQ2I")
    size = max(fields[2] // 2, 1)
    return request._replace(
        body=struct.pack("<2Q2IQ2I", *fields[:2], size, *fields[3:]) + rest[:size]
    )


def _mount(device: int, mountpoint: Path) -> None:
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if _libc.mount(b"faultfs", os.fsencode(mountpoint), b"fuse", 0, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main(backing: str, mountpoint: str, shared: str) -> None:
    """Serve until stdin ends, or until somebody unmounts."""
    os.umask(0)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    page = Page(int(shared))
    tree = Passthrough(Path(backing))
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    _mount(device, Path(mountpoint))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server = Server(device, tree, page)
    poll = select.poll()
    poll.register(device, select.POLLIN)
    poll.register(0, select.POLLIN)
    serving = True
    while serving:
        ready = dict(poll.poll())
        if 0 in ready:
            break
        serving = server.serve_one()
    _libc.umount2(os.fsencode(mountpoint), _MNT_DETACH)


if __name__ == "__main__":
    main(*sys.argv[1:])
