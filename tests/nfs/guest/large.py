# SPDX-License-Identifier: Apache-2.0
"""A large file, backed up and restored over NFS by several processes at once."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.catalog.pieces import PIECE_BYTES
from manila_backup.data.catalog.reader import CatalogReader
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy import copier, large_restore, ranges
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.in_parts import InParts
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.tree import copy_tree
from manila_backup.data.mounts import MountManager
from manila_backup.types import Counters
from tests.nfs.guest.site import nfs_mount

PARTS = 2
SIZE = (PARTS - 1) * PIECE_BYTES + 4097


def round_trip(*, version: str) -> dict[str, Any]:
    """While it is restored, somebody at the file server gives it another name."""
    copier.LARGE_BYTES = large_restore.LARGE_BYTES = PIECE_BYTES
    ranges.RANGE_BYTES = large_restore.RANGE_BYTES = PIECE_BYTES
    tasks: list[int] = []
    _count_parts(tasks)
    source, data, target = (
        Path(tempfile.mkdtemp(prefix="large-", dir=f"/export/{place}"))
        for place in ("source/ext4", "backup/xfs", "source/xfs")
    )
    (source / "big").write_bytes(os.urandom(SIZE))
    os.utime(source / "big", ns=(5, 10**18 + 7))

    def rename(_: Counters) -> None:
        if (target / "big").exists():
            (target / "big").rename(target / "away")

    catalog = io.BytesIO()
    manager = MountManager("/run/mounts-large")
    with (
        manager.mounted(nfs_mount(source, version), "source", read_only=True) as one,
        manager.mounted(nfs_mount(data, version), "data", read_only=False) as store,
        manager.mounted(nfs_mount(target, version), "target", read_only=False) as other,
    ):
        fds = [os.open(tree.path, os.O_RDONLY | os.O_DIRECTORY) for tree in (one, store, other)]
        try:
            writer = CatalogWriter(catalog)
            copy_tree(
                fds[0],
                fds[1],
                CopyOptions(plain_target=True, processes=2, threads=2),
                catalog=writer,
                progress=lambda counters: None,
                cancelled=lambda: False,
            )
            writer.close()

            def entries() -> Iterator[Entry]:
                return iter(CatalogReader(io.BytesIO(catalog.getvalue())))

            result = restore_tree(
                entries,
                fds[1],
                fds[2],
                CopyOptions(processes=2, threads=2),
                progress=rename,
                cancelled=lambda: False,
            )
        finally:
            for fd in fds:
                os.close(fd)
    found = target / "away"
    return {
        "tasks": tasks,
        "changed": result.remarks.changed,
        "is whole": found.read_bytes() == (source / "big").read_bytes(),
        "mtime_ns": found.stat().st_mtime_ns,
        "names": sorted(os.listdir(target)),
    }


def _count_parts(tasks: list[int]) -> None:
    """One figure for each file: how many parts it had."""
    real: Any = InParts._next

    def next_part(self: InParts[Any]) -> None:
        before = self._in_work
        real(self)
        tasks[-1] += self._in_work - before

    real_start: Any = InParts.start

    def start(self: InParts[Any]) -> None:
        tasks.append(0)
        real_start(self)

    patched: Any = InParts
    patched._next, patched.start = next_part, start
