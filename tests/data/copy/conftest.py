# SPDX-License-Identifier: Apache-2.0
"""Directories for trees, and short ways to run the engine over them."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.catalog.reader import CatalogReader
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.copy.tree import copy_tree
from manila_backup.types import Counters
from tests.data.copy.file_systems import TMPFS, FileSystems


def no_progress(_: Counters) -> None:
    pass


def not_cancelled() -> bool:
    return False


class Run:
    """Source, store (data and catalog) and target of one test."""

    def __init__(self, top: Path, *, make: bool = True) -> None:
        self.source, self.data, self.target = (top / name for name in ("source", "data", "target"))
        for path in (self.source, self.data, self.target) if make else ():
            path.mkdir()
        self.catalog = b""

    def copy(
        self,
        options: CopyOptions | None = None,
        *,
        files: Files = SYSTEM,
        cancelled: Callable[[], bool] = not_cancelled,
        progress: Callable[[Counters], None] = no_progress,
    ) -> CopyResult:
        """Source to target, without a catalog."""
        with Opened(self.source) as source, Opened(self.target) as target:
            return copy_tree(
                source,
                target,
                options or CopyOptions(),
                catalog=None,
                progress=progress,
                cancelled=cancelled,
                files=files,
            )

    def backup(
        self,
        *,
        files: Files = SYSTEM,
        options: CopyOptions | None = None,
        cancelled: Callable[[], bool] = not_cancelled,
        progress: Callable[[Counters], None] = no_progress,
    ) -> CopyResult:
        """Source to data and catalog."""
        sink = io.BytesIO()
        catalog = CatalogWriter(sink)
        with Opened(self.source) as source, Opened(self.data) as data:
            result = copy_tree(
                source,
                data,
                options or CopyOptions(plain_target=True),
                catalog=catalog,
                progress=progress,
                cancelled=cancelled,
                files=files,
            )
        catalog.close()
        self.catalog = sink.getvalue()
        return result

    def entries(self) -> Iterator[Entry]:
        return iter(CatalogReader(io.BytesIO(self.catalog)))

    def entry(self, path: bytes) -> Entry:
        return next(entry for entry in self.entries() if entry.path == path)

    def restore(
        self,
        *,
        delete: bool = True,
        processes: int = 1,
        files: Files = SYSTEM,
        cancelled: Callable[[], bool] = not_cancelled,
        progress: Callable[[Counters], None] = no_progress,
    ) -> CopyResult:
        """Data and catalog to target."""
        with Opened(self.data) as data, Opened(self.target) as target:
            return restore_tree(
                self.entries,
                data,
                target,
                CopyOptions(delete=delete, processes=processes),
                progress=progress,
                cancelled=cancelled,
                files=files,
            )


class Opened:
    """A directory's fd for the time of a block."""

    def __init__(self, path: Path | str) -> None:
        self._path = path

    def __enter__(self) -> int:
        self.fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


@pytest.fixture(scope="module")
def disks() -> Iterator[FileSystems]:
    """Of each kind, made when it is asked for."""
    with FileSystems() as found:
        yield found


@pytest.fixture
def in_memory(disks: FileSystems) -> Iterator[Path]:
    """A directory."""
    path = disks.new(TMPFS)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)
