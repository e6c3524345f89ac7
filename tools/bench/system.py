# SPDX-License-Identifier: Apache-2.0
"""What the benchmark needs of this machine, does to its own process, and says about both."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_PR_SET_CHILD_SUBREAPER = 36

_LIBC = ctypes.CDLL(None, use_errno=True)


class CannotRun(Exception):
    """The benchmark cannot run here; the text says what is missing and what to do."""


# --- what is needed -------------------------------------------------------------------------------

PACKAGES: Mapping[str, str] = {
    "cp": "coreutils",
    "rsync": "rsync",
    "tar": "tar",
    "fpsync": "fpart",
    "fpart": "fpart",
    "gcc": "gcc libc6-dev",
    "pkg-config": "pkg-config",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mount": "mount",
    "losetup": "mount",
}
"""Program -> Debian packages."""


def require_root() -> None:
    if os.geteuid() != 0:
        raise CannotRun("bench_copy must run as root: it mounts file systems and sets owners.")


def require_programs(programs: Iterable[str]) -> None:
    """:raises CannotRun: some are not there; names all of them and their packages at once."""
    missing = sorted({program for program in programs if shutil.which(program) is None})
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[program] for program in missing))
        raise CannotRun(
            f"missing: {', '.join(missing)}. On Debian: apt-get install {packages} "
            "(or leave the tool or part out with --tools or --only)."
        )


def require_space(directory: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise CannotRun(
            f"{directory} has {free >> 20} MiB free, {needed_bytes >> 20} MiB are needed: "
            "choose another place with --dir, or less with --scale or --only."
        )


# --- this process ---------------------------------------------------------------------------------


def leave_mount_namespace() -> None:
    """From now on what we mount is seen by our children only, and is gone with the last of them,
    even when all of us are killed.

    :raises OSError:
    """
    _checked(_LIBC.unshare(_CLONE_NEWNS))
    _checked(_LIBC.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None))


def adopt_orphans() -> None:
    """Processes whose parent ended first become our children: their CPU time is counted too."""
    _checked(_LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def sync_file_system(path: Path) -> None:
    """Everything written to the file system of ``path`` is on its disk, or raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _checked(_LIBC.syncfs(fd))
    finally:
        os.close(fd)


_DIRTY_LIMITS = tuple(
    Path("/proc/sys/vm", name)
    for name in ("dirty_bytes", "dirty_ratio", "dirty_background_bytes", "dirty_background_ratio")
)


@contextmanager
def raised_dirty_limits() -> Iterator[None]:
    """Nothing is written back, and no writer is slowed down for it, before half of the memory is
    dirty. The limits are the whole machine's; they are put back at the end."""
    before = [int(path.read_text()) for path in _DIRTY_LIMITS]
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    hard, _, background, _ = _DIRTY_LIMITS
    try:
        hard.write_text(str(memory_bytes * 3 // 4))
        background.write_text(str(memory_bytes // 2))
        yield
    finally:
        for path, value in zip(_DIRTY_LIMITS, before, strict=True):
            if value:  # of bytes and ratio one is 0, and setting one clears the other
                path.write_text(str(value))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# --- this machine ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    cpu: str
    cores: int
    memory_mib: int
    kernel: str
    python: str
    versions: Mapping[str, str]
    """Program -> the first line of what it says about itself."""


def described_machine(programs: Iterable[str]) -> Machine:
    return Machine(
        cpu=_proc_value("/proc/cpuinfo", "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=int(_proc_value("/proc/meminfo", "MemTotal").split()[0]) >> 10,
        kernel=platform.release(),
        python=platform.python_version(),
        versions={program: _version(program) for program in programs},
    )


def load_average() -> tuple[float, float, float]:
    return os.getloadavg()


def _proc_value(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _version(program: str) -> str:
    option = "-h" if program == "fpsync" else "--version"
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return lines[0] if lines else ""
