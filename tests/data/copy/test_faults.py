# SPDX-License-Identifier: Apache-2.0
"""A fault at every system call of a small tree: the work ends complete and exact, or fails with
path and errno, or counts a loss where metadata could not be set. Never a success with a gap.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.data.copy.errors import ContentDamaged
from manila_backup.data.copy.measure import measure_tree
from manila_backup.data.copy.remove import remove_tree
from manila_backup.data.copy.sysio import Files
from manila_backup.data.copy.verify import check_presence, verify_tree
from manila_backup.exception import CopyFailed
from tests.data.copy.conftest import Opened, Run, no_progress, not_cancelled
from tests.support.syscalls import Faulty, open_fds
from tests.support.trees import acl, assert_same, differences, snapshot

pytestmark = [pytest.mark.root, pytest.mark.slow]

ERRORS = [errno.EIO, errno.ENOSPC, errno.EACCES, errno.ESTALE, errno.EROFS, errno.EDQUOT]
METADATA = {"chown", "chmod", "utime", "setxattr", "removexattr", "getxattr", "listxattr"}
MAKING = {"symlink", "mknod", "link"}


def small_tree(root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "f").write_bytes(b"content")
    os.setxattr(root / "d" / "f", "user.a", b"1")
    os.link(root / "d" / "f", root / "linked")
    with (root / "sparse").open("wb") as file:
        file.seek(1 << 16)
        file.write(b"x" * 5000)
        file.truncate(1 << 18)
    os.symlink("nowhere", root / "s")
    os.mkfifo(root / "p")
    os.setxattr(root / "d", "system.posix_acl_default", acl((1234, 7)))
    for path in (root / "d" / "f", root / "sparse", root / "d"):
        os.chown(path, 1000, 1001)
        os.utime(path, ns=(5, 10**18 + 7))


class Work:
    """One kind of work, over and over, with a source and a store that it does not change."""

    def __init__(self, kind: str, top: Path) -> None:
        self.kind = kind
        self._top = top
        self._run = Run(top)
        small_tree(self._run.source)
        if kind in ("restore", "merge"):
            self._run.backup()
        self._wanted = snapshot(str(self._run.source))

    def attempt(self, files: Faulty) -> tuple[CopyResult, list[str]]:
        """The result, and what differs from the source in the end."""
        run = self._run
        self._clear(run.target)
        if self.kind == "backup":
            self._clear(run.data)
            result = run.backup(files=files)
            run.restore()
        elif self.kind == "copy":
            small_tree(run.target)
            (run.target / "d" / "extra").mkdir()
            result = run.copy(CopyOptions(delete=True), files=files)
        else:
            small_tree(run.target)
            (run.target / "s").unlink()
            (run.target / "s").mkdir()
            (run.target / "s" / "extra").touch()
            result = run.restore(files=files, delete=self.kind == "restore")
        return result, differences(self._wanted, snapshot(str(run.target)))

    def _clear(self, path: Path) -> None:
        shutil.rmtree(path)
        path.mkdir()


FULL = [errno.ESTALE, errno.EROFS, errno.EDQUOT]
CASES = [
    *itertools.product(["copy", "backup", "restore"], [errno.EIO, errno.ENOSPC, errno.EACCES]),
    *(
        pytest.param(work, error, marks=pytest.mark.full)
        for work in ("copy", "backup", "restore")
        for error in FULL
    ),
    *(pytest.param("merge", error, marks=pytest.mark.full) for error in ERRORS),
]


@pytest.mark.parametrize(("kind", "error"), CASES)
def test_every_fault_fails_with_path_and_errno_or_costs_nothing_silently(
    kind: str, error: int, tmp_path: Path
) -> None:
    work = Work(kind, tmp_path)
    unharmed = Faulty(0, error)
    assert work.attempt(unharmed)[1] == []
    assert unharmed.calls > 100
    fds = open_fds()
    for fail_at in range(1, unharmed.calls + 1):
        files = Faulty(fail_at, error)
        failed = different = result = None
        try:
            result, different = work.attempt(files)
        except CopyFailed as caught:
            failed = caught
        assert files.hit is not None, f"fault {fail_at} was not hit"
        if failed is not None:
            assert failed.errno == error, files.hit
            assert failed.path, files.hit
            assert os.strerror(error) in str(failed)
        elif different:
            assert result is not None
            assert files.hit[0] in METADATA | MAKING, (files.hit, different)
            assert result.counters.losses + result.counters.changed, (files.hit, different)
    assert open_fds() == fds


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_every_fault_of_verify_is_a_problem(error: int, run: Run) -> None:
    small_tree(run.source)
    run.backup()

    def verify(files: Faulty) -> list[str]:
        with Opened(run.data) as data:
            return [
                *verify_tree(
                    run.entries, data, progress=no_progress, cancelled=not_cancelled, files=files
                ),
                *check_presence(run.entries, data, cancelled=not_cancelled, files=files),
            ]

    files = Faulty(0, error)
    assert verify(files) == []
    for fail_at in range(1, files.calls + 1):
        files = Faulty(fail_at, error)
        try:
            problems = verify(files)
        except (OSError, CopyFailed):
            assert files.hit is not None
            assert files.hit[0] in ("mount_id", "fstat")  # the root itself cannot be looked at
            continue
        assert files.hit is not None
        assert problems or files.hit[0] == "close", files.hit


def measure(top: Path, files: Faulty) -> None:
    with Opened(top / "source") as source:
        assert measure_tree(source, cancelled=not_cancelled, files=files).entries == 7


def remove(top: Path, files: Faulty) -> None:
    with Opened(top) as parent:
        remove_tree(parent, b"source", cancelled=not_cancelled, files=files)
    assert not (top / "source").exists()


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.parametrize("work", [measure, remove])
def test_every_fault_of_measuring_and_removing_names_path_and_errno(
    work: Callable[[Path, Faulty], None], error: int
) -> None:
    fail_at, files = 0, Faulty(-1, error)
    while not fail_at or files.hit:
        fail_at += 1
        files = Faulty(fail_at, error)
        with tempfile.TemporaryDirectory() as top:
            (Path(top) / "source").mkdir()
            small_tree(Path(top) / "source")
            failed = None
            try:
                work(Path(top), files)
            except CopyFailed as caught:
                failed = caught
            if failed is not None:
                assert (failed.errno, bool(failed.path)) == (error, True)
            assert failed is not None or files.hit is None or files.hit[0] == "close", files.hit
    assert fail_at > 12


def test_a_failing_read_of_stored_content_leaves_no_file_behind(run: Run) -> None:
    small_tree(run.source)
    run.backup()
    (run.data / "d" / "f").write_bytes(b"CONTENT")
    with pytest.raises(ContentDamaged) as caught:
        run.restore()
    assert caught.value.path == "d/f"
    assert not (run.target / "d" / "f").exists()


def test_short_reads_and_writes_are_finished(run: Run) -> None:
    class Short(Files):
        def read(self, fd: int, buffer: memoryview, offset: int) -> int:
            return super().read(fd, buffer[:1000], offset)

        def write(self, fd: int, data: memoryview, offset: int) -> int:
            return super().write(fd, data[:777], offset)

    small_tree(run.source)
    run.backup(files=Short())
    run.restore(files=Short())
    assert_same(str(run.source), str(run.target))
