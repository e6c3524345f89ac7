# SPDX-License-Identifier: Apache-2.0
"""One copy over NFS by one tool: seconds and requests. For ``tools/bench_nfs.py``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.tree import copy_tree
from manila_backup.data.mounts import MountManager
from manila_backup.types import Mount
from tests.nfs.guest.site import HOSTS, on

DIRECTORIES = 4
FILE_BYTES = 4096
SOURCE, TARGET = Path("/export/source/ext4/bench"), Path("/export/backup/xfs/bench")


def prepare(*, files: int, delay_ms: float) -> None:
    """``files`` files of 4 KiB in four directories, and a network that takes so long there and
    back (0: as long as it takes)."""
    for tree in (SOURCE, TARGET):
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
    for number in range(files):
        directory = SOURCE / f"d{number % DIRECTORIES}"
        directory.mkdir(exist_ok=True)
        (directory / f"file-{number}").write_bytes(os.urandom(FILE_BYTES))
    for host in HOSTS if delay_ms else ():
        delay = ["netem", "delay", f"{delay_ms}ms"]
        on("plain", "tc", "qdisc", "replace", "dev", host, "root", *delay)


def copy(*, tool: str, version: str) -> dict[str, Any]:
    """From freshly mounted to freshly mounted; the target is emptied, at the server, before."""
    for path in TARGET.iterdir():
        shutil.rmtree(path)
    manager = MountManager("/run/mounts-bench")
    options = (f"vers={version}",)
    source = Mount(proto="nfs", export=f"{HOSTS['source']}:/ext4/bench", options=options)
    target = Mount(proto="nfs", export=f"{HOSTS['backup']}:/xfs/bench", options=options)
    with (
        manager.mounted(source, "source", read_only=True) as one,
        manager.mounted(target, "target", read_only=False) as other,
    ):
        before = _requests()
        began_s = time.monotonic()
        _TOOLS[tool](one.path, other.path)
        subprocess.run(["sync", "-f", other.path], check=True)
        seconds = time.monotonic() - began_s
        requests = _requests() - before
    copied = sum(1 for path in TARGET.rglob("*") if path.is_file())
    return {"seconds": seconds, "requests": requests, "files": copied}


def _requests() -> int:
    """Sent over all NFS mounts of this process: the first figure of each operation."""
    text = Path("/proc/self/mountstats").read_text()
    found = 0
    for mount in text.split("device ")[1:]:
        _, _, operations = mount.partition("per-op statistics")
        found += sum(int(count) for count in re.findall(r"^\s+\w+: (\d+)", operations, re.M))
    return found


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def _tar(source: str, target: str) -> None:
    reading = ["tar", "-C", source, "--acls", "--xattrs", "-cf", "-", "."]
    writing = ["tar", "-C", target, "--acls", "--xattrs", "-xpf", "-"]
    with subprocess.Popen(reading, stdout=subprocess.PIPE) as first:
        subprocess.run(writing, stdin=first.stdout, check=True)
    assert first.returncode == 0


def _one_process_per_file(source: str, target: str) -> None:
    """What upstream Manila's copier does at least: it starts more than one."""
    for directory, _, names in os.walk(source):
        below = Path(target, os.path.relpath(directory, source))
        below.mkdir(exist_ok=True)
        for name in names:
            _run("cp", "-P", "--preserve=all", os.path.join(directory, name), str(below))


def _ours(source: str, target: str) -> None:
    """In this process: a new one would take ten seconds to start in this machine."""
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
    try:
        options = CopyOptions(processes=1, threads=32)
        copy_tree(
            *fds,
            options,
            catalog=None,
            progress=lambda counters: None,
            cancelled=lambda: False,
        )
    finally:
        for fd in fds:
            os.close(fd)


_TOOLS: dict[str, Callable[[str, str], None]] = {
    "cp -a": lambda source, target: _run("cp", "-a", f"{source}/.", target),
    "rsync -aHAX": lambda source, target: _run("rsync", "-aHAX", f"{source}/", target),
    "tar | tar": _tar,
    "a process per file": _one_process_per_file,
    "ours": _ours,
}
