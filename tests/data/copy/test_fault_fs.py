# SPDX-License-Identifier: Apache-2.0
"""A real file system that fails, at every one of its operations in turn: the work ends complete and
exact, or fails with path and errno, or names what it had to leave out. Never a success with a gap.

Each sweep runs in a process of its own (``python -m tests.data.copy.test_fault_fs``), so that it
can choose between the compiled and the pure Python way, and so that a hang ends it.
"""

from __future__ import annotations

import errno
import faulthandler
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pytest

from manila_backup.data.catalog.reader import CatalogReader
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.errors import ContentDamaged
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.tree import copy_tree
from manila_backup.exception import CopyFailed
from manila_backup.names import printable
from manila_backup.types import Counters
from tests.data.copy.conftest import Opened, not_cancelled
from tests.support.children import children
from tests.support.faultfs import FaultFs, Hit, How
from tests.support.passthrough import Kind
from tests.support.syscalls import open_fds
from tests.support.trees import Seen, acl, snapshot

REPOSITORY = Path(__file__).parents[3]
HANGS_AFTER_S = 60

pytestmark = [pytest.mark.root, pytest.mark.slow]


@dataclass(frozen=True, kw_only=True)
class Case:
    """``side`` of ``work`` is the failing file system. ``step``: every how manieth operation."""

    work: str = "backup"
    side: str = "source"
    error: int = errno.EIO
    how: str = How.FAIL.name
    kind: str = ""
    processes: int = 1
    threads: int = 1
    native: bool = True
    step: int = 1
    bulk: int = 0

    def __str__(self) -> str:
        parts = [self.work, self.side, errno.errorcode[self.error], self.how.lower(), self.kind]
        parts += ["native" if self.native else "python", f"{self.processes}x{self.threads}"]
        return "-".join(part for part in parts if part)


# --- trees ----------------------------------------------------------------------------------------


def build_source(root: Path, *, bulk: int = 0) -> None:
    """Every type, content of several requests, a hole, links across directories. ``bulk`` more
    files in one directory make it worth to start processes.
    """
    (root / "bulk").mkdir()
    for number in range(bulk):
        (root / "bulk" / f"{number}").write_bytes(b"%d" % number)
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "f").write_bytes(b"content")
    os.setxattr(root / "d" / "e" / "f", "user.a", b"1")
    os.link(root / "d" / "e" / "f", root / "linked")
    with (root / "big").open("wb") as file:
        file.write(b"b" * 70_000)
        file.seek(1 << 18)
        file.write(b"x" * 5000)
        file.truncate(1 << 19)
    (root / "empty").touch()
    os.symlink("nowhere", root / "s")
    os.mkfifo(root / "p")
    os.setxattr(root / "d", "system.posix_acl_default", acl((1234, 7)))
    for path in (root / "d" / "e" / "f", root / "big", root / "d"):
        os.chown(path, 1000, 1001)
        os.utime(path, ns=(5, 10**18 + 7))
    os.chmod(root / "big", 0o4751)


def build_target(root: Path) -> None:
    """What an older copy may have left: something to reuse, to replace and to remove."""
    (root / "d" / "extra").mkdir(parents=True)
    (root / "d" / "extra" / "x").write_bytes(b"old")
    os.setxattr(root / "d", "user.old", b"1")
    (root / "big").write_bytes(b"old")
    (root / "s").mkdir()
    (root / "s" / "below").touch()


def clear(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in os.listxattr(root):
        os.removexattr(root, name)
    os.chmod(root, 0o755)


# --- what may differ ------------------------------------------------------------------------------


def unexplained(
    wanted: dict[bytes, Seen], found: dict[bytes, Seen], result: CopyResult
) -> list[str]:
    """The differences that the result does not name."""
    left_out = {*result.remarks.skipped, *result.remarks.changed}
    lost = _losses(wanted, result)
    lines = []
    for path in sorted(wanted.keys() | found.keys()):
        above = _above(path)
        if left_out & {printable(each) for each in above}:
            continue
        losses = lost.get(path, set())
        bad = _differing(wanted.get(path), found.get(path)) - _covered(losses)
        if left_out or any("link" in each for each in lost.values()):
            bad.discard("names")
        names = wanted[path].names if path in wanted else set()
        if any("acl" in lost.get(each, set()) for name in {path, *names} for each in _above(name)):
            # A default ACL that could not be put off is inherited: named once, at its directory.
            bad.discard("acl")
        if bad:
            lines.append(f"{path!r}: {sorted(bad)}, named: {sorted(losses)}")
    return lines


def _above(path: bytes) -> list[bytes]:
    """The root, the directories on the way, and the path itself."""
    parts = path.split(b"/") if path else []
    return [b"/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _losses(wanted: dict[bytes, Seen], result: CopyResult) -> dict[bytes, set[str]]:
    """By path. What an inode has lost is counted once, at one of its names."""
    named: dict[str, set[str]] = {}
    for line in result.remarks.losses:
        path, _, what = line.rpartition(": ")
        named.setdefault(path, set()).add(what)
    return {
        path: set().union(
            *(named.get(printable(name), set()) for name in seen.names | {path}),
        )
        for path, seen in wanted.items()
    }


def _differing(wanted: Seen | None, found: Seen | None) -> set[str]:
    if wanted is None or found is None:
        return set() if wanted is found else {"missing" if found is None else "extra"}
    names = {field.name for field in fields(Seen)} - {"xattrs"}
    bad = {name for name in names if getattr(wanted, name) != getattr(found, name)}
    for name, _ in {*wanted.xattrs} ^ {*found.xattrs}:
        is_acl = name.startswith(b"system.posix_acl")
        bad.add("acl" if is_acl else f"xattr:{name.decode()}")
    return bad


def _covered(losses: set[str]) -> set[str]:
    covered = set(losses)
    if "owner" in losses:
        covered |= {"uid", "gid"}
    if "time" in losses:
        covered |= {"mtime_ns"}
    if losses & {"mode", "acl"}:
        covered |= {"mode", "acl"}
    if "special" in losses:
        covered |= {"missing"}
    if "link" in losses:
        covered |= {"names"}
    return covered


# --- one sweep ------------------------------------------------------------------------------------


class Sweep:
    """One kind of work, over and over, the fault one operation later each time."""

    def __init__(self, case: Case, top: Path, fs: FaultFs) -> None:
        self._case = case
        self._fs = fs
        self._places = {name: top / name for name in ("source", "data", "target")}
        self._faulty = self._places | {_place(case): fs.mountpoint}
        self._catalog = b""
        self._processes = 0
        build_source(self._places["source"], bulk=case.bulk)
        self._wanted = snapshot(str(self._places["source"]))
        self._known = self._wanted.keys() | {b"d/extra", b"d/extra/x", b"s/below"}
        if case.work == "restore":
            self._backup(self._places["source"], self._places["data"], 0)
            self._processes = 0
        self.violations: list[str] = []
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        number = 1
        while self._attempt(number) is not None:
            number += self._case.step
        self._check_reached()

    def _check_reached(self) -> None:
        """A sweep that ends early, or in which nothing ever failed, proves nothing."""
        if self.outcomes["exact, not hit"] != 1:
            self.violations.append(f"the last run was not one without a fault: {self.outcomes}")
        if self._case.how != How.SHORT.name and not self.outcomes["failed"]:
            self.violations.append("no run failed")
        if self._processes != (self._case.processes if self._case.processes > 1 else 0):
            self.violations.append(f"{self._processes} processes were started")

    # --- the work ---------------------------------------------------------------------------------

    def _options(self, *, delete: bool, plain: bool = False) -> CopyOptions:
        return CopyOptions(
            delete=delete,
            plain_target=plain,
            processes=self._case.processes,
            threads=self._case.threads,
        )

    def _work(self, places: dict[str, Path], number: int) -> CopyResult:
        """``number``: the operation that fails, 0 for none."""
        if self._case.work == "backup":
            return self._backup(places["source"], places["data"], number)
        if self._case.work == "restore":
            return self._restore(places["data"], places["target"], number)
        with Opened(places["source"]) as source, Opened(places["target"]) as target:
            self._arm(number)
            return copy_tree(
                source,
                target,
                self._options(delete=True),
                catalog=None,
                progress=self._progress,
                cancelled=not_cancelled,
            )

    def _backup(self, source: Path, data: Path, number: int) -> CopyResult:
        sink = io.BytesIO()
        catalog = CatalogWriter(sink)
        with Opened(source) as source_fd, Opened(data) as data_fd:
            self._arm(number)
            result = copy_tree(
                source_fd,
                data_fd,
                self._options(delete=False, plain=True),
                catalog=catalog,
                progress=self._progress,
                cancelled=not_cancelled,
            )
        catalog.close()
        self._catalog = sink.getvalue()
        return result

    def _restore(self, data: Path, target: Path, number: int) -> CopyResult:
        with Opened(data) as data_fd, Opened(target) as target_fd:
            self._arm(number)
            return restore_tree(
                lambda: iter(CatalogReader(io.BytesIO(self._catalog))),
                data_fd,
                target_fd,
                self._options(delete=True),
                progress=self._progress,
                cancelled=not_cancelled,
            )

    def _progress(self, _: Counters) -> None:
        # The fault file system is one, too.
        self._processes = max(self._processes, len(children()) - 1)

    def _arm(self, number: int) -> None:
        """Now that the roots are open: what the test itself does must not be what fails."""
        kind = Kind[self._case.kind] if self._case.kind else None
        self._fs.arm(number, self._case.error, kind=kind, how=How[self._case.how])

    # --- what came of it --------------------------------------------------------------------------

    def _attempt(self, number: int) -> Hit | None:
        clear(self._places["target"])
        if self._case.work == "backup":
            clear(self._places["data"])
        else:
            build_target(self._places["target"])
        fds = open_fds()
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
        failed = result = None
        try:
            result = self._work(self._faulty, number)
        except (CopyFailed, ContentDamaged) as error:
            failed = error
        hit = self._fs.hit
        self._fs.disarm()
        if open_fds() != fds:
            self._violate(number, hit, "fds were left open")
        if len(children()) > 1:
            self._violate(number, hit, "processes were left running")
        if failed is not None:
            self._judge_failure(number, hit, failed)
        elif result is not None:
            self._judge_success(number, hit, result)
        self._run_again(number, hit)
        faulthandler.cancel_dump_traceback_later()
        return hit

    def _violate(self, number: int, hit: Hit | None, what: str) -> None:
        where = f"{hit.kind.name} {hit.path!r}" if hit is not None else "not hit"
        self.violations.append(f"{number} ({where}): {what}")

    def _judge_failure(self, number: int, hit: Hit | None, error: Exception) -> None:
        self.outcomes["failed"] += 1
        if hit is None:
            self._violate(number, hit, f"failed without a fault: {error}")
        elif not isinstance(error, CopyFailed):
            self._violate(number, hit, f"no system error is named: {error}")
        elif error.errno != self._case.error or os.strerror(self._case.error) not in str(error):
            self._violate(number, hit, f"another error is named: {error}")
        elif not is_related(error.path, hit.path):
            self._violate(number, hit, f"another path is named: {error}")
        written = self._places["data" if self._case.work == "backup" else "target"]
        extra = snapshot(str(written)).keys() - self._known
        if extra:
            self._violate(number, hit, f"names were left behind: {sorted(extra)}")

    def _judge_success(self, number: int, hit: Hit | None, result: CopyResult) -> None:
        found = self._found()
        gaps = unexplained(self._wanted, found, result)
        exact = found == self._wanted
        self.outcomes[("exact" if exact else "named") + (", not hit" if hit is None else "")] += 1
        if gaps:
            self._violate(number, hit, f"a success with a gap: {gaps}")
        must_be_exact = self._case.error == errno.EIO or self._case.how == How.SHORT.name
        if not exact and (hit is None or must_be_exact):
            self._violate(number, hit, f"a success that is not exact: {result}")

    def _found(self) -> dict[bytes, Seen]:
        """What there is in the end; of a backup, what is restored from it."""
        if self._case.work == "backup":
            self._restore(self._places["data"], self._places["target"], 0)
        return snapshot(str(self._places["target"]))

    def _run_again(self, number: int, hit: Hit | None) -> None:
        """Without a fault: whatever the first run has left, the second completes it."""
        try:
            self._work(self._places, 0)
            exact = self._found() == self._wanted
        except (CopyFailed, ContentDamaged) as error:
            self._violate(number, hit, f"a second run fails: {error}")
        else:
            if not exact:
                self._violate(number, hit, "a second run does not complete it")


def _place(case: Case) -> str:
    ends = {"copy": ("source", "target"), "backup": ("source", "data")}
    return ends.get(case.work, ("data", "target"))[case.side == "target"]


def is_related(named: str, hit: bytes) -> bool:
    """The same path, or one is on the way to the other: where the way to an entry is lost, either
    is what the operator has to look at. The test's links have two names; either will do.
    """
    hit = hit.removesuffix(b" (deleted)")
    links = {b"linked", b"d/e/f"}
    for path in links if hit in links else {hit}:
        if named in {printable(above) for above in _above(path)}:
            return True
    ends = {printable(link) for link in links} if named in {"linked", "d/e/f"} else {named}
    return any(end == printable(hit) or end.startswith(f"{printable(hit)}/") for end in ends)


def main(case: Case, top: Path) -> None:
    for name in ("source", "data", "target", "mnt"):
        (top / name).mkdir()
    with FaultFs(top / _place(case), top / "mnt") as fs:
        sweep = Sweep(case, top, fs)
        sweep.run()
    json.dump([sweep.violations, sweep.outcomes], sys.stdout)


# --- the tests ------------------------------------------------------------------------------------

WORKS = [(work, side) for work in ("backup", "copy", "restore") for side in ("source", "target")]
ERRORS = [errno.EIO, errno.ENOSPC, errno.EACCES, errno.ESTALE]
BULK = 600


def in_parallel(case: Case, step: int) -> Case:
    """By two processes, which are started only where there is much to do: ``step`` by step."""
    return replace(case, processes=2, threads=4, bulk=BULK, step=step)


def run_sweep(case: Case, top: Path) -> dict[str, int]:
    """How the runs ended."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.copy.test_fault_fs", json.dumps(asdict(case)), top],
        cwd=REPOSITORY,
        env=os.environ | {"MANILA_BACKUP_NATIVE": str(int(case.native))},
        stdout=subprocess.PIPE,
        check=True,
        timeout=280,
    )
    violations, outcomes = json.loads(done.stdout)
    assert not violations, "\n".join(violations)
    return dict(outcomes)


@pytest.mark.parametrize("case", [Case(work=work, side=side) for work, side in WORKS], ids=str)
def test_every_operation_that_fails_fails_the_work_or_costs_nothing(
    case: Case, tmp_path: Path
) -> None:
    outcomes = run_sweep(case, tmp_path)
    assert outcomes["failed"] >= 15


@pytest.mark.parametrize(
    "case",
    [
        Case(work="backup", side="source", native=False),
        Case(work="restore", side="target", native=False),
        in_parallel(Case(work="backup", side="source"), 701),
        in_parallel(Case(work="restore", side="target"), 701),
    ],
    ids=str,
)
def test_so_it_is_in_pure_python_and_in_parallel(case: Case, tmp_path: Path) -> None:
    run_sweep(case, tmp_path)


@pytest.mark.parametrize(
    "case",
    [Case(work="copy", side=side, how=How.SHORT.name) for side in ("source", "target")],
    ids=str,
)
def test_short_reads_and_writes_are_finished(case: Case, tmp_path: Path) -> None:
    outcomes = run_sweep(case, tmp_path)
    assert set(outcomes) == {"exact", "exact, not hit"}


ALL = [
    *(
        Case(work=work, side=side, error=error)
        for work, side in WORKS
        for error in ERRORS
        if error != errno.EIO
    ),
    *(Case(work=work, side=side, error=errno.EDQUOT) for work, side in WORKS if side == "target"),
    *(Case(work=work, side=side, native=False) for work, side in WORKS),
    *(Case(work=work, side=side, how=How.LATE.name) for work, side in WORKS),
    *(in_parallel(Case(work=work, side=side), 797) for work, side in WORKS),
]


@pytest.mark.full
@pytest.mark.parametrize("case", ALL, ids=str)
def test_every_fault_everywhere(case: Case, tmp_path: Path) -> None:
    run_sweep(case, tmp_path)


if __name__ == "__main__":
    main(Case(**json.loads(sys.argv[1])), Path(sys.argv[2]))
