# SPDX-License-Identifier: Apache-2.0
"""The engine over directories that lie on different file systems: in this process, or in one of an
ordinary user that takes its orders as lines of JSON.

A process of its own and no fork: what the engine may have started in the parent as root (helper
processes, for instance) must not be there for the user.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.catalog.reader import CatalogReader
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.tree import copy_tree
from manila_backup.data.copy.verify import verify_tree
from manila_backup.exception import CopyFailed
from manila_backup.types import Counters, Remarks
from tests.data.copy.conftest import Opened, no_progress, not_cancelled
from tests.support.as_user import as_user
from tests.support.children import LASTING

USER = 65534
_NATIVE = "MANILA_BACKUP_NATIVE"
_REPOSITORY = Path(__file__).parents[3]
_MOUNTS = Path("/proc/self/mountinfo")


def entries_of(catalog: Path) -> Iterator[Entry]:
    with catalog.open("rb") as file:
        yield from CatalogReader(file)


def counted(result: CopyResult, losses: tuple[str, ...]) -> None:
    """These losses and no others, in any order."""
    assert sorted(result.remarks.losses) == sorted(losses), result.remarks.losses
    assert result.counters.losses == len(losses), result.counters


@contextlib.contextmanager
def twin(native: bool) -> Iterator[None]:
    """For the time of the block small files are copied by the part in C, or by its twin in Python;
    by an :class:`OrdinaryUser` too."""
    before = os.environ.get(_NATIVE)
    os.environ[_NATIVE] = "1" if native else "0"
    try:
        yield
    finally:
        del os.environ[_NATIVE]
        if before is not None:
            os.environ[_NATIVE] = before


class Engine(Protocol):
    """``catalog`` is a file beside the data; all is done when a method returns.

    :raises CopyFailed:
    """

    def copy(self, source: Path, target: Path, options: CopyOptions) -> CopyResult: ...

    def backup(
        self, source: Path, data: Path, catalog: Path, options: CopyOptions
    ) -> CopyResult: ...

    def restore(
        self, catalog: Path, data: Path, target: Path, options: CopyOptions
    ) -> CopyResult: ...


class Here:
    """In this process, as whoever it runs as."""

    def copy(self, source: Path, target: Path, options: CopyOptions) -> CopyResult:
        with Opened(source) as source_fd, Opened(target) as target_fd:
            return copy_tree(
                source_fd,
                target_fd,
                options,
                catalog=None,
                progress=no_progress,
                cancelled=not_cancelled,
            )

    def backup(self, source: Path, data: Path, catalog: Path, options: CopyOptions) -> CopyResult:
        """What was stored has been verified."""
        with Opened(source) as source_fd, Opened(data) as data_fd:
            with catalog.open("wb") as file:
                writer = CatalogWriter(file)
                result = copy_tree(
                    source_fd,
                    data_fd,
                    options,
                    catalog=writer,
                    progress=no_progress,
                    cancelled=not_cancelled,
                )
                writer.close()
            problems = verify_tree(
                lambda: entries_of(catalog),
                data_fd,
                plain_target=options.plain_target,
                progress=no_progress,
                cancelled=not_cancelled,
            )
            assert list(problems) == []
        return result

    def restore(self, catalog: Path, data: Path, target: Path, options: CopyOptions) -> CopyResult:
        with Opened(data) as data_fd, Opened(target) as target_fd:
            return restore_tree(
                lambda: entries_of(catalog),
                data_fd,
                target_fd,
                options,
                progress=no_progress,
                cancelled=not_cancelled,
            )


class OrdinaryUser:
    """A context manager; the process lives for the block, or until something is mounted, which it
    would not see."""

    def __enter__(self) -> OrdinaryUser:
        self._start()
        return self

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY)}
        argv = [*as_user(USER), sys.executable, "-m", __name__]
        self._mounts = _MOUNTS.read_bytes()
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        LASTING.add(self._process.pid)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        _, _ = self._process.communicate()
        LASTING.remove(self._process.pid)
        assert self._process.returncode == 0

    def copy(self, source: Path, target: Path, options: CopyOptions) -> CopyResult:
        return self._ask("copy", options, source, target)

    def backup(self, source: Path, data: Path, catalog: Path, options: CopyOptions) -> CopyResult:
        return self._ask("backup", options, source, data, catalog)

    def restore(self, catalog: Path, data: Path, target: Path, options: CopyOptions) -> CopyResult:
        return self._ask("restore", options, catalog, data, target)

    def _ask(self, method: str, options: CopyOptions, *paths: Path) -> CopyResult:
        order = {
            "method": method,
            "paths": [str(path) for path in paths],
            "options": dataclasses.asdict(options),
            "native": os.environ.get(_NATIVE, "1"),
        }
        if self._mounts != _MOUNTS.read_bytes():
            self._end()
            self._start()
        orders, answers = self._process.stdin, self._process.stdout
        assert orders is not None
        assert answers is not None
        orders.write(json.dumps(order).encode() + b"\n")
        orders.flush()
        answer: dict[str, Any] = json.loads(answers.readline())
        assert "error" not in answer, answer["error"]
        if "failed" in answer:
            raise CopyFailed(**answer["failed"])
        return CopyResult(
            counters=Counters(**answer["counters"]),
            logical_bytes=answer["logical_bytes"],
            remarks=Remarks(**{kind: tuple(names) for kind, names in answer["remarks"].items()}),
        )


def _obey(order: dict[str, Any]) -> dict[str, Any]:
    paths = [Path(path) for path in order["paths"]]
    os.environ[_NATIVE] = order["native"]
    try:
        method = getattr(Here(), order["method"])
        return dataclasses.asdict(method(*paths, CopyOptions(**order["options"])))
    except CopyFailed as failed:
        return {"failed": failed.fields}
    except BaseException:  # noqa: BLE001 - it is raised again in the test
        return {"error": traceback.format_exc()}


def _serve(orders: IO[str], answers: IO[str]) -> None:
    assert os.geteuid() == USER
    for line in orders:
        answers.write(json.dumps(_obey(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin, sys.stdout)
