# SPDX-License-Identifier: Apache-2.0
"""The C programs of the benchmark: building them, and mounts of the slow file system."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.images import run_quietly, unmount
from bench.system import CannotRun

_SOURCES = Path(__file__).parent
_CFLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-pthread")
_FUSE_VERSION = "3.12"
_END_LIMIT_S = 20.0
_READY = b"ready\n"


def built_floor(directory: Path) -> Path:
    program = directory / "floor"
    sources = [os.fspath(_SOURCES / name) for name in ("floor.c", "floor_entry.c")]
    run_quietly(["gcc", *_CFLAGS, "-o", os.fspath(program), *sources])
    return program


def built_slowfs(directory: Path) -> Path:
    """:raises CannotRun: libfuse3 is missing or too old."""
    asked = ["pkg-config", f"--atleast-version={_FUSE_VERSION}", "fuse3"]
    if subprocess.run(asked, check=False).returncode != 0:
        raise CannotRun(
            f"libfuse {_FUSE_VERSION} or newer is missing. On Debian: apt-get install "
            "libfuse3-dev (or leave the part out with --only S,L,M)."
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise CannotRun("/dev/fuse is missing: modprobe fuse (or --only S,L,M).")
    flags = ["pkg-config", "--cflags", "--libs", "fuse3"]
    fuse = subprocess.run(flags, capture_output=True, text=True, check=True).stdout.split()
    program = directory / "slowfs"
    names = ("slowfs.c", "slowfs_names.c", "slowfs_files.c", "slowfs_node.c", "slowfs_device.c")
    sources = [os.fspath(_SOURCES / name) for name in names]
    run_quietly(["gcc", *_CFLAGS, "-o", os.fspath(program), *sources, *fuse])
    return program


@dataclass(slots=True, kw_only=True)
class SlowMount:
    """``requests`` by kind is filled when the mount has ended; SIGUSR1 to ``pid`` writes them to
    ``counts`` before."""

    path: Path
    counts: Path
    pid: int
    requests: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def slow_mount(
    program: Path, directory: Path, mount_point: Path, delay_us: int
) -> Iterator[SlowMount]:
    """``directory`` through slowfs at ``mount_point``, with nothing in the kernel's caches yet."""
    mount_point.mkdir(exist_ok=True)
    counts = mount_point.with_suffix(".counts")
    paths = [os.fspath(path) for path in (counts, directory, mount_point)]
    argv = [os.fspath(program), "-d", str(delay_us), "-c", *paths]
    server = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
    )
    mount = SlowMount(path=mount_point, counts=counts, pid=server.pid)
    try:
        assert server.stdout is not None
        with server.stdout as output:
            if output.read(len(_READY)) != _READY:
                raise RuntimeError(f"slowfs could not mount {mount_point}")
        try:
            yield mount
        finally:
            unmount(mount_point)
        if server.wait(timeout=_END_LIMIT_S) != 0:
            raise RuntimeError(f"slowfs ended with {server.returncode}")
        mount.requests = json.loads(counts.read_text())
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()
