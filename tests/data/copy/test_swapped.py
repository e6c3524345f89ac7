# SPDX-License-Identifier: Apache-2.0
"""A tenant's process swaps entries while root reads or writes the tree: nothing of the outside is
read into anything, nothing outside is touched, nothing hangs.

The copies run in a process of their own (``python -m tests.data.copy.test_swapped``), one after
another for some seconds, so that one that hangs ends the test and shows where.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from manila_backup.data.catalog.entry import Entry
from manila_backup.data.catalog.reader import CatalogReader
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy import copier, large_restore
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.errors import ContentDamaged
from manila_backup.data.copy.in_parts import InParts
from manila_backup.data.copy.measure import measure_tree
from manila_backup.data.copy.remove import remove_tree
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.copy.tree import copy_tree
from manila_backup.data.copy.verify import verify_tree
from manila_backup.exception import CopyFailed
from manila_backup.types import Counters
from tests.data.copy.conftest import Opened, not_cancelled
from tests.data.copy.swapper import ANYTHING, DECOY, LINKS, Config, Swapper
from tests.support.children import children
from tests.support.outside import touched
from tests.support.trees import differences, snapshot

pytestmark = [pytest.mark.root, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[3]
MARK = "from outside"
"""In every content, attribute, link target and new name of the outside, and nowhere else."""
SECRET_XATTR = MARK.encode()
SECRET_UID = 54321
SECRET_BYTES = 31337
HANGS_AFTER_S = 30
GIVES_UP_AFTER_S = 60

DIRECTORIES = ("d0", "d0/sub", "d1/sub", "d2", "d2/deep", "d3/deep/x")
REGULAR = ("t0", "t1", "d1/f0", "d1/f1", "d3/f2", "d3/sub/g0")


# --- the place ------------------------------------------------------------------------------------


def calm_paths(count: int) -> list[str]:
    """What the rival leaves alone."""
    return [f"calm/c{number}" for number in range(count)]


def inside_paths(calm: int) -> list[str]:
    """The regular files of the tree."""
    found = [f"t{number}" for number in range(4)]
    for top in ("d0", "d1", "d2", "d3"):
        found += [f"{top}/f{number}" for number in range(8)]
        found += [f"{top}/sub/g{number}" for number in range(3)]
        found.append(f"{top}/deep/x/y/z")
    return found + calm_paths(calm)


def inside_content(path: str) -> bytes:
    return f"inside {path} ".encode() * 40


def fill_inside(root: Path, calm: int) -> None:
    for path in inside_paths(calm):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(inside_content(path))


def fill_outside(root: Path, calm: int) -> None:
    """The same names, so that every path into the tree leads somewhere through a link."""
    root.mkdir()
    for name in inside_paths(calm):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(MARK.encode().ljust(SECRET_BYTES, b"."))
    for directory in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (directory / f"{MARK}-name").touch()
        (directory / f"{MARK}-link").symlink_to(MARK)
    for path in (root, *root.rglob("*")):
        os.chown(path, SECRET_UID, SECRET_UID, follow_symlinks=False)
        if not path.is_symlink():
            os.setxattr(path, "user.a", SECRET_XATTR)
        # Read once, the time of access would be a new one (relatime).
        os.utime(path, ns=(10**18, 2 * 10**18), follow_symlinks=False)


@dataclass(frozen=True)
class Place:
    """``tree`` is what the rival works on: one of the three trees below ``top``."""

    top: Path
    tree: str
    calm: int

    @classmethod
    def make(cls, top: Path, tree: str, *, calm: int) -> Place:
        for name in ("source", "data", "target", "park"):
            (top / name).mkdir()
        fill_inside(top / "source", calm)
        fill_outside(top / "outside", calm)
        # What ``..`` of a directory in the park would lead to.
        for name in ("t0", "d0", "d1", "calm"):
            (top / "park" / name).symlink_to(top / "outside" / name)
        return cls(top, tree, calm)

    def rival(self, decoys: tuple[str, ...] = ANYTHING) -> Swapper:
        config = Config(
            root=str(self.top / self.tree),
            park=str(self.top / "park"),
            outside=str(self.top / "outside"),
            directories=DIRECTORIES,
            regular=REGULAR,
            decoys=decoys,
        )
        return Swapper(config)


# --- looking for leaks ----------------------------------------------------------------------------


def leaks(root: Path, *, calm: int = 0) -> Iterator[str]:
    """What of the outside is in a tree, and what is neither the tenant's nor a decoy. ``calm``:
    how many files that the rival leaves alone must be there.
    """
    seen = set()
    for path in [root, *root.rglob("*")]:
        name = str(path.relative_to(root))
        seen.add(name)
        info = path.lstat()
        if info.st_uid == SECRET_UID or MARK in name:
            yield f"{name}: belongs to the outside"
        xattrs = os.listxattr(path, follow_symlinks=False)
        if any(os.getxattr(path, xattr, follow_symlinks=False) == SECRET_XATTR for xattr in xattrs):
            yield f"{name}: has an attribute of the outside"
        if path.is_symlink():
            if MARK in os.readlink(path):
                yield f"{name}: is a link of the outside"
        elif stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
            if content not in (inside_content(name), DECOY):
                yield f"{name}: has foreign content {content[:40]!r}, {len(content)} bytes"
    for name in set(calm_paths(calm)) - seen:
        yield f"{name}: is missing, though nobody touched it"


def catalog_leaks(catalog: bytes) -> Iterator[str]:
    for entry in CatalogReader(io.BytesIO(catalog)):
        known = (entry.path, *entry.xattrs.values(), entry.link_target or b"")
        sizes = {entry.size, len(entry.content.pieces) if entry.content else 0}
        if entry.uid == SECRET_UID or SECRET_BYTES in sizes:
            yield f"catalog: {entry.path!r} is of the outside"
        if any(MARK.encode() in each for each in known):
            yield f"catalog: {entry.path!r} tells of the outside"


# --- the copies, in a process of their own --------------------------------------------------------


class Sabotaged(Files):
    """An engine as naive as ``cp -r``: what protects from links is taken out."""

    def open(self, name: bytes, flags: int, dir_fd: int, mode: int = 0o600) -> int:
        return super().open(name, flags & ~os.O_NOFOLLOW, dir_fd, mode)

    def lstat(self, name: bytes, dir_fd: int) -> os.stat_result:
        try:
            return os.stat(name, dir_fd=dir_fd)
        except OSError:
            return super().lstat(name, dir_fd)


@dataclass(frozen=True, kw_only=True)
class Work:
    """``kind``: see :class:`Loop`; it goes on for ``seconds``, and until something was refused.
    ``in_parts``: as large files are, whatever their size."""

    kind: str
    seconds: float
    processes: int = 1
    threads: int = 1
    native: bool = True
    sabotaged: bool = False
    in_parts: bool = False

    def __str__(self) -> str:
        way = "native" if self.native else "python"
        return f"{self.kind}-{way}-{self.processes}x{self.threads}"

    @property
    def calm(self) -> int:
        """Processes are started only where there is something to do for them."""
        return 20 if self.processes == 1 else 600

    @property
    def tree(self) -> str:
        """What the rival works on."""
        return {"backup": "source", "copy": "source", "data": "data"}.get(self.kind, "target")


class Loop:
    """One copy after another. A method per kind of work; they answer how much was not copied
    because of the rival.
    """

    def __init__(self, work: Work, place: Place) -> None:
        self._work = work
        self._top = place.top
        self._calm = place.calm
        self._rival = place.rival()
        self._files: Files = Sabotaged() if work.sabotaged else SYSTEM
        self._catalog = b""
        self._before = touched(place.top / "outside")
        self.counts: Counter[str] = Counter()
        self.leaks: list[str] = []

    def run(self) -> None:
        if self._work.tree != "source":
            self._back_up()
        with self._rival:
            self._go_on()
        self.counts["swaps"] = self._rival.swaps
        if not self._work.sabotaged:
            self._finish()
        faulthandler.cancel_dump_traceback_later()

    def _go_on(self) -> None:
        started = time.monotonic()
        passed = 0.0
        while passed < self._work.seconds or not self.counts["refused"] or self.counts["runs"] < 3:
            faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
            self.counts["refused"] += self._run_once()
            self.counts["runs"] += 1
            self._look_outside()
            passed = time.monotonic() - started
            if self.leaks or passed > self._work.seconds + GIVES_UP_AFTER_S:
                return

    def _run_once(self) -> int:
        work: Callable[[], int] = getattr(self, self._work.kind)
        if not self._work.sabotaged:
            return work()
        try:
            return work()
        except CopyFailed as error:  # it stumbled over what it had no business with
            if MARK in error.path:
                self.leaks.append(f"it went as far as {error.path}")
            for name in ("data", "target"):
                self._look(name, whole=False)
            return 0

    def _finish(self) -> None:
        """The rival has put everything back; now the same work is complete and exact."""
        if self._work.tree == "data":
            self._restore(delete=True)
        elif self._work.kind in ("backup", "restore"):
            clear(self._top / "data")
            self._back_up()
            self._restore(delete=True)
        else:
            self._copy(delete=True)
        trees = [snapshot(str(self._top / name)) for name in ("source", "target")]
        self.leaks += [f"in the end: {line}" for line in differences(*trees)]

    def _options(self, *, delete: bool, plain: bool = False) -> CopyOptions:
        return CopyOptions(
            delete=delete,
            plain_target=plain,
            processes=self._work.processes,
            threads=self._work.threads,
        )

    def _refused(self, result: CopyResult) -> int:
        return result.counters.skipped + result.counters.changed

    def _look(self, name: str, *, whole: bool = True) -> None:
        with self._rival.paused():
            self.leaks += leaks(self._top / name, calm=self._calm if whole else 0)

    def _progress(self, _: Counters) -> None:
        # The rival is one, too.
        self.counts["processes"] = max(self.counts["processes"], len(children()) - 1)

    def _look_outside(self) -> None:
        before, after = self._before, touched(self._top / "outside")
        for path in sorted(before | after):
            if before.get(path) != after.get(path):
                self.leaks.append(f"{path}: was touched: {before.get(path)}, {after.get(path)}")

    def _back_up(self) -> CopyResult:
        sink = io.BytesIO()
        catalog = CatalogWriter(sink)
        with Opened(self._top / "source") as source, Opened(self._top / "data") as data:
            result = copy_tree(
                source,
                data,
                self._options(delete=False, plain=True),
                catalog=catalog,
                progress=self._progress,
                cancelled=not_cancelled,
                files=self._files,
            )
        catalog.close()
        self._catalog = sink.getvalue()
        return result

    def _entries(self) -> Iterator[Entry]:
        return iter(CatalogReader(io.BytesIO(self._catalog)))

    def _restore(self, *, delete: bool) -> CopyResult:
        with Opened(self._top / "data") as data, Opened(self._top / "target") as target:
            return restore_tree(
                self._entries,
                data,
                target,
                self._options(delete=delete),
                progress=self._progress,
                cancelled=not_cancelled,
                files=self._files,
            )

    def _copy(self, *, delete: bool) -> CopyResult:
        with Opened(self._top / "source") as source, Opened(self._top / "target") as target:
            return copy_tree(
                source,
                target,
                self._options(delete=delete),
                catalog=None,
                progress=self._progress,
                cancelled=not_cancelled,
                files=self._files,
            )

    # --- the source is swapped --------------------------------------------------------------------

    def backup(self) -> int:
        """With a catalog; some are restored, too. It never fails for what a tenant does."""
        clear(self._top / "data")
        result = self._back_up()
        self._look("data")
        self.leaks += catalog_leaks(self._catalog)
        if self.counts["runs"] % 8 == 0:
            self._restore(delete=True)
            self._look("target")
        return self._refused(result)

    def copy(self) -> int:
        """Without a catalog, over what the run before has left."""
        result = self._copy(delete=True)
        self._look("target")
        with Opened(self._top / "source") as source:
            measure_tree(source, cancelled=not_cancelled, files=self._files)
        return self._refused(result)

    # --- the target is swapped --------------------------------------------------------------------

    def restore(self) -> int:
        """Exact and merging in turn. It never fails for what a tenant does."""
        result = self._restore(delete=self.counts["runs"] % 2 == 0)
        self._look("target")
        return self._refused(result)

    def exact(self) -> int:
        """An exact copy over a target in use; that it fails is part of its contract."""
        try:
            self._copy(delete=True)
        except CopyFailed as error:
            self.counts[os.strerror(error.errno)] += 1
            self._look("target", whole=False)
            return 1
        self._look("target")
        return 0

    def remove(self) -> int:
        """What was restored is removed again, entry by entry."""
        refused = self._refused(self._restore(delete=False))
        with Opened(self._top / "target") as target:
            for name in os.listdir(target):
                try:
                    remove_tree(
                        target, os.fsencode(name), cancelled=not_cancelled, files=self._files
                    )
                except CopyFailed as error:
                    self.counts[os.strerror(error.errno)] += 1
        return refused

    def data(self) -> int:
        """The store is swapped under a restore: damage, which is never written out."""
        try:
            self._restore(delete=True)
            self._look("target")
            return 0
        except ContentDamaged:
            self._look("target", whole=False)
        with Opened(self._top / "data") as data:
            problems = verify_tree(
                self._entries,
                data,
                progress=self._progress,
                cancelled=not_cancelled,
                files=self._files,
            )
            return 1 + sum(1 for _ in problems)


def clear(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def main(work: Work, top: Path) -> None:
    loop = Loop(work, Place.make(top, work.tree, calm=work.calm))
    if work.in_parts:
        take_all_for_large(loop.counts)
    loop.run()
    json.dump([loop.leaks, loop.counts], sys.stdout)


def take_all_for_large(counts: Counter[str]) -> None:
    """In this process and those that it forks; ``counts`` says of how many that was so."""
    copier.LARGE_BYTES = large_restore.LARGE_BYTES = 1
    real = InParts.start

    def start(self: InParts[Any]) -> None:
        counts["in parts"] += 1
        real(self)

    patched: Any = InParts
    patched.start = start


# --- the tests ------------------------------------------------------------------------------------


def run_work(work: Work, top: Path) -> tuple[list[str], Counter[str]]:
    """What came from outside or was touched there, and counts."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.copy.test_swapped", json.dumps(asdict(work)), top],
        cwd=REPOSITORY,
        env=os.environ | {"MANILA_BACKUP_NATIVE": str(int(work.native))},
        stdout=subprocess.PIPE,
        check=True,
        timeout=work.seconds + GIVES_UP_AFTER_S + 2 * HANGS_AFTER_S,
    )
    found, counts = json.loads(done.stdout)
    return found, Counter(counts)


def assert_safe(work: Work, top: Path) -> Counter[str]:
    found, counts = run_work(work, top)
    assert found == []
    assert counts["refused"] > 0, counts
    assert counts["swaps"] > 100, counts
    assert counts["runs"] >= 3, counts
    assert counts["processes"] == (work.processes if work.processes > 1 else 0), counts
    return counts


KINDS = ("backup", "copy", "restore", "exact", "remove", "data")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_outside_is_read_or_touched(kind: str, tmp_path: Path) -> None:
    assert_safe(Work(kind=kind, seconds=1.5), tmp_path)


@pytest.mark.parametrize("kind", ["backup", "restore"])
def test_nor_by_several_processes(kind: str, tmp_path: Path) -> None:
    assert_safe(Work(kind=kind, seconds=3, processes=2, threads=4), tmp_path)


@pytest.mark.parametrize("kind", ["backup", "restore", "data"])
def test_nor_while_files_are_in_parts(kind: str, tmp_path: Path) -> None:
    work = Work(kind=kind, seconds=3, processes=2, threads=4, in_parts=True)
    assert assert_safe(work, tmp_path)["in parts"] > 10


@pytest.mark.full
@pytest.mark.parametrize("native", [True, False], ids=["native", "python"])
@pytest.mark.parametrize("kind", KINDS)
def test_nor_in_a_minute_of_each_direction(kind: str, native: bool, tmp_path: Path) -> None:
    seconds = 15 if kind in ("backup", "restore") else 5
    assert_safe(Work(kind=kind, seconds=seconds, native=native), tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_nor_by_several_processes_in_the_long_run(kind: str, tmp_path: Path) -> None:
    assert_safe(Work(kind=kind, seconds=8, processes=2, threads=4), tmp_path)


# --- the proof that these tests see something -----------------------------------------------------


@pytest.mark.parametrize("kind", ["backup", "copy", "restore", "exact"])
def test_an_engine_without_its_protection_is_found_out(kind: str, tmp_path: Path) -> None:
    found, _ = run_work(Work(kind=kind, seconds=30, sabotaged=True), tmp_path)
    assert found


FOREIGN_CONTENT = "foreign content b'from outside"


def test_cp_leaks_under_this_rival(tmp_path: Path) -> None:
    place = Place.make(tmp_path, "source", calm=20)
    found: list[str] = []
    with place.rival(LINKS):  # a fifo or a device would keep cp for ever
        for number in range(20):
            copy = tmp_path / f"copy{number}"
            copy.mkdir()
            subprocess.run(
                ["cp", "-a", f"{tmp_path}/source/.", copy],
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=HANGS_AFTER_S,
            )
            found += leaks(copy)
            if any(FOREIGN_CONTENT in leak for leak in found):
                return
    raise AssertionError(found)


if __name__ == "__main__":
    main(Work(**json.loads(sys.argv[1])), Path(sys.argv[2]))
