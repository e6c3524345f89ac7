# SPDX-License-Identifier: Apache-2.0
"""Each sentence of the contract in ``copy/base.py``."""

from __future__ import annotations

import ast
import errno
import itertools
import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

import manila_backup.data.copy as engine
from manila_backup.data.copy.base import IGNORED_NAMES, CopyOptions
from manila_backup.data.copy.measure import measure_tree
from manila_backup.data.copy.verify import verify_tree
from manila_backup.exception import Cancelled, CopyFailed
from manila_backup.types import Counters
from tests.data.copy.conftest import Opened, Run, no_progress, not_cancelled
from tests.support.syscalls import Watched
from tests.support.trees import acl, assert_same, differences, snapshot

MIB = 1 << 20


class Record(Watched):
    """All calls."""

    def __init__(self) -> None:
        super().__init__(before=lambda name, args: self.seen.append((name, args)))
        self.seen: list[tuple[str, tuple[Any, ...]]] = []

    def opened(self) -> list[tuple[bytes, int]]:
        return [(args[0], args[1]) for name, args in self.seen if name in ("open", "open_here")]


def fill(root: Path) -> None:
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "f").write_bytes(b"hello")
    (root / "d" / "g").write_bytes(b"")
    (root / "link").symlink_to("/etc/passwd")
    os.mkfifo(root / "fifo")


# --- access ---------------------------------------------------------------------------------------


def test_every_access_is_relative_to_a_directory_fd_one_component_at_a_time_or_by_openat2(
    run: Run,
) -> None:
    fill(run.source)
    record = Record()
    run.backup(files=record)
    run.restore(files=record)
    for name, args in record.seen:
        for arg in args:
            if isinstance(arg, bytes) and name not in ("setxattr", "getxattr", "removexattr"):
                magic = arg.startswith(b"/proc/self/fd/") and arg[14:].isdigit()
                is_text = (name, arg) == ("symlink", b"/etc/passwd")
                # For open_beneath the kernel itself follows nothing on the way.
                assert b"/" not in arg or magic or is_text or name == "open_beneath"


def test_everything_is_opened_with_o_nofollow(run: Run) -> None:
    fill(run.source)
    record = Record()
    run.backup(files=record)
    run.restore(files=record)
    assert len(record.opened()) > 15
    assert all(flags & os.O_NOFOLLOW and flags & os.O_CLOEXEC for _, flags in record.opened())


def test_only_regular_files_are_opened_for_reading_with_o_nonblock(run: Run) -> None:
    fill(run.source)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run.source / "socket"))
    record = Record()
    run.backup(files=record)
    for name, flags in record.opened():
        if name in (b"link", b"fifo", b"socket"):
            assert flags & os.O_PATH
        elif name in (b"f", b"g") and flags & os.O_ACCMODE == os.O_RDONLY:
            assert flags & os.O_NONBLOCK
    assert {b"link", b"fifo", b"socket", b"f", b"g"} <= {name for name, _ in record.opened()}


@pytest.mark.root
def test_special_files_are_made_by_mknod_and_never_opened(run: Run) -> None:
    os.mknod(run.source / "null", stat.S_IFCHR | 0o4640, os.makedev(1, 3))
    os.mknod(run.source / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    os.mkfifo(run.source / "fifo", 0o604)
    os.mknod(run.source / "socket", stat.S_IFSOCK | 0o600)
    record = Record()
    assert run.copy(files=record).counters.others == 4
    assert_same(str(run.source), str(run.target))
    assert [name for name, _ in record.seen].count("mknod") == 4
    for name, flags in record.opened():
        assert flags & os.O_PATH or name in (b".", b"..")


@pytest.mark.root
def test_mounts_inside_a_tree_are_not_entered_bind_mounts_neither(run: Run) -> None:
    """By mount id: this one is of the same file system, so st_dev says nothing."""
    (run.source / "outside").mkdir()
    outside = run.source.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    subprocess.run(["mount", "--bind", outside, run.source / "outside"], check=True)
    try:
        result = run.backup()
        assert (result.counters.warnings, result.counters.skipped) == (1, 0)
        assert [entry.path for entry in run.entries()] == [b"", b"outside"]
        assert os.listdir(run.data / "outside") == []
        with Opened(run.source) as source:
            assert measure_tree(source, cancelled=not_cancelled).entries == 2
    finally:
        subprocess.run(["umount", run.source / "outside"], check=True)


@pytest.mark.root
def test_a_mount_inside_the_target_is_neither_written_nor_emptied(run: Run) -> None:
    (run.source / "m").mkdir()
    (run.source / "m" / "f").write_bytes(b"new")
    outside = run.source.parent / "outside"
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    run.backup()
    for name in ("m", "extra"):
        (run.target / name).mkdir()
        subprocess.run(["mount", "--bind", outside, run.target / name], check=True)
    before = snapshot(str(outside))
    try:
        for delete in (True, False):
            result = run.restore(delete=delete)
            assert result.counters.warnings >= 1
            assert "m/f" in result.remarks.skipped
            assert differences(before, snapshot(str(outside))) == []
    finally:
        for name in ("m", "extra"):
            subprocess.run(["umount", run.target / name], check=True)


def test_the_engine_knows_no_sql_http_configuration_or_logging() -> None:
    strangers = {"logging", "sqlalchemy", "sqlite3", "http", "urllib"}
    for path in Path(engine.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in strangers, path
                assert not name.startswith("oslo"), path
                assert not name.startswith(("manila_backup.db", "manila_backup.api")), path


# --- names ----------------------------------------------------------------------------------------


def test_ignored_names_in_the_root_are_neither_copied_nor_deleted(run: Run) -> None:
    for name in sorted(IGNORED_NAMES):
        for tree in (run.source, run.target):
            (tree / os.fsdecode(name)).mkdir()
            (tree / os.fsdecode(name) / tree.name).touch()
    (run.source / "d").mkdir()
    (run.source / "d" / ".snapshot").mkdir()  # not in the root: a name like any other
    run.backup()
    assert {entry.path for entry in run.entries()} == {b"", b"d", b"d/.snapshot"}
    run.restore()
    for name in sorted(IGNORED_NAMES):
        assert os.listdir(run.target / os.fsdecode(name)) == ["target"]
    assert (run.target / "d" / ".snapshot").is_dir()


def test_nfs_names_are_neither_copied_nor_deleted_at_any_level(run: Run) -> None:
    for directory in (run.source / "d", run.target / "d", run.target / "extra" / "deep"):
        directory.mkdir(parents=True)
        (directory / f".nfs000{directory.parent.name}").write_bytes(b"open")
    (run.target / "extra" / "other").touch()
    run.backup()
    assert {entry.path for entry in run.entries()} == {b"", b"d"}
    result = run.restore()
    assert os.listdir(run.target / "d") == [".nfs000target"]
    assert os.listdir(run.target / "extra") == ["deep"]
    assert os.listdir(run.target / "extra" / "deep") == [".nfs000extra"]
    assert result.remarks.changed == ("extra",)  # it had to stay, so it is named


# --- options --------------------------------------------------------------------------------------


def test_delete_removes_from_the_target_what_the_source_lacks(run: Run) -> None:
    fill(run.source)
    fill(run.target)
    (run.target / "d" / "extra" / "deep").mkdir(parents=True)
    (run.target / "d" / "extra" / "deep" / "f").touch()
    (run.target / "z").touch()
    result = run.copy(CopyOptions(delete=True))
    assert_same(str(run.source), str(run.target))
    assert result.counters.deleted == 4


def test_delete_frees_the_space_before_anything_is_written(run: Run) -> None:
    fill(run.source)
    (run.target / "z").write_bytes(b"big")
    run.backup()
    record = Record()
    run.restore(files=record)
    calls = [name for name, args in record.seen if name in ("mkdir", "write", "unlink")]
    assert calls[0] == "unlink"
    assert next(args for name, args in record.seen if name == "unlink")[0] == b"z"


def test_without_delete_other_names_stay(run: Run) -> None:
    fill(run.source)
    (run.target / "d").mkdir()
    (run.target / "d" / "mine").write_bytes(b"mine")
    run.copy()
    assert (run.target / "d" / "mine").read_bytes() == b"mine"
    assert (run.target / "d" / "e" / "f").read_bytes() == b"hello"


@pytest.mark.parametrize("delete", [True, False])
def test_what_is_of_another_type_is_replaced(run: Run, delete: bool) -> None:
    fill(run.source)
    (run.target / "d").symlink_to("/")
    (run.target / "link").mkdir()
    (run.target / "link" / "full").mkdir()
    (run.target / "link" / "full" / ".nfs1").touch()
    (run.target / "fifo").write_bytes(b"")
    run.backup()
    if delete:  # what a server holds open is not deleted; here it is in the way
        (run.target / "link" / "full" / ".nfs1").unlink()
    run.restore(delete=delete)
    assert_same(str(run.source), str(run.target))


def test_a_file_is_never_written_through_an_inode_that_was_there(run: Run) -> None:
    """A and B are one file in the target and two in the backup."""
    (run.source / "a").write_bytes(b"new a")
    (run.source / "b").write_bytes(b"new b")
    elsewhere = run.target.parent / "elsewhere"
    elsewhere.write_bytes(b"old")
    os.link(elsewhere, run.target / "a")
    os.link(elsewhere, run.target / "b")
    run.backup()
    run.restore()
    assert elsewhere.read_bytes() == b"old"
    assert ((run.target / "a").read_bytes(), (run.target / "b").read_bytes()) == (
        b"new a",
        b"new b",
    )


@pytest.mark.root
def test_a_plain_target_has_no_setuid_or_setgid_bits_and_no_special_files(run: Run) -> None:
    (run.source / "f").write_bytes(b"#!")
    os.chmod(run.source / "f", 0o6755)
    (run.source / "d").mkdir()
    os.chmod(run.source / "d", 0o3775)
    os.mkfifo(run.source / "fifo")
    os.link(run.source / "fifo", run.source / "fifo2")
    os.mknod(run.source / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    result = run.backup()
    assert stat.S_IMODE(os.stat(run.data / "f").st_mode) == 0o755
    assert stat.S_IMODE(os.stat(run.data / "d").st_mode) == 0o1775
    assert sorted(os.listdir(run.data)) == ["d", "f"]
    assert (result.counters.losses, result.counters.others) == (0, 3)
    assert (run.entry(b"f").losses, run.entry(b"fifo2").losses) == (("mode",), ("special",))
    run.restore()
    assert_same(str(run.source), str(run.target))


@pytest.mark.parametrize("read_ahead_bytes", [1, 4096, 8 * MIB])
def test_read_ahead_bytes_bounds_what_is_held_per_file(run: Run, read_ahead_bytes: int) -> None:
    (run.source / "f").write_bytes(os.urandom(6 * MIB if read_ahead_bytes > 1 else 300))
    record = Record()
    run.backup(
        options=CopyOptions(plain_target=True, read_ahead_bytes=read_ahead_bytes), files=record
    )
    reads = [len(args[1]) for name, args in record.seen if name == "read"]
    assert max(reads) <= read_ahead_bytes
    run.restore()
    assert_same(str(run.source), str(run.target))


# --- results --------------------------------------------------------------------------------------


def test_counters_and_logical_bytes(run: Run) -> None:
    fill(run.source)
    os.link(run.source / "d" / "e" / "f", run.source / "linked")
    with (run.source / "sparse").open("wb") as file:
        file.truncate(MIB)
        file.write(b"x" * 4096)
    result = run.backup()
    assert result.counters == Counters(files=4, directories=3, others=2, bytes=4096 + 5)
    assert result.logical_bytes == MIB + 5
    restored = run.restore()
    assert (restored.counters, restored.logical_bytes) == (result.counters, result.logical_bytes)


def test_names_are_printable_and_at_most_100(run: Run) -> None:
    """Each file is truncated when it is read, twice, so all of them change."""
    for number in range(120):
        (run.source / f"{number:03}\n\x1b[31m").write_bytes(b"x" * 100)

    def shrink(name: str, args: tuple[Any, ...]) -> None:
        if name == "read":
            os.truncate(f"/proc/self/fd/{args[0]}", max(0, os.fstat(args[0]).st_size - 10))

    result = run.backup(files=Watched(before=shrink))
    assert result.counters.changed == 120
    assert len(result.remarks.changed) == 100
    assert result.remarks.changed[0] == "000\\x0a\\x1b[31m"


def test_losses_are_path_and_what(run: Run) -> None:
    (run.source / "a\n").write_bytes(b"")
    os.setxattr(run.source / "a\n", b"user.\xff", b"1")

    def refuse(name: str, args: tuple[Any, ...]) -> None:
        if name == "setxattr":
            raise OSError(errno.ENOTSUP, "no")

    result = run.backup(files=Watched(before=refuse))
    assert result.remarks.losses == ("a\\x0a: xattr:user.\\xff",)
    assert result.counters.losses == 1
    assert run.entry(b"a\n").losses == ("xattr:user.\\xff",)
    run.restore()  # the catalog has it
    assert_same(str(run.source), str(run.target))


def test_measuring_counts_what_is_allocated_links_once(run: Run) -> None:
    fill(run.source)
    (run.source / "big").write_bytes(bytes(300_000))
    for number in range(3):
        os.link(run.source / "big", run.source / f"big{number}")
    os.link(run.source / "d" / "e" / "f", run.source.parent / "outside")
    (run.source / "lost+found").mkdir()
    with (run.source / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    inodes = {}
    for path in (run.source, *run.source.rglob("*")):
        if path.name != "lost+found":
            inodes[path.lstat().st_ino] = path.lstat().st_blocks * 512
    with Opened(run.source) as source:
        found = measure_tree(source, cancelled=not_cancelled)
    assert found == (1 + 6 + 1 + 3 + 1, sum(inodes.values()))
    assert 300_000 < found.bytes < 600_000


# --- progress and cancellation --------------------------------------------------------------------


def test_progress_per_16_small_files_and_every_16_mib(run: Run) -> None:
    for number in range(5):
        (run.source / str(number)).write_bytes(b"")
    (run.source / "big").write_bytes(bytes(40 * MIB))
    seen: list[Counters] = []
    run.backup(progress=seen.append)
    assert len(seen) >= 2 + 1 + 2
    steps = [after.bytes - before.bytes for before, after in itertools.pairwise(seen)]
    assert max(steps) <= 17 * MIB
    assert all(step >= 0 for step in steps)
    assert seen[-1].bytes == 40 * MIB


def test_cancelled_is_asked_per_16_small_files_and_every_4_mib(run: Run) -> None:
    for number in range(160):
        (run.source / str(number)).write_bytes(b"")
    (run.source / "big").write_bytes(bytes(40 * MIB))
    asked = []

    def count() -> bool:
        asked.append(True)
        return False

    run.backup(cancelled=count)
    assert len(asked) >= 160 // 16 + 9
    asked.clear()
    run.restore(cancelled=count)
    assert len(asked) >= 160 // 16 + 9


@pytest.mark.parametrize("work", ["copy", "plain", "restore"])
def test_cancelled_stops_at_every_question(run: Run, work: str) -> None:
    fill(run.source)
    (run.source / "big").write_bytes(bytes(9 * MIB))
    run.backup()
    for stop_at in range(1, 200):
        asked = [0]

        def stop(stop_at: int = stop_at, asked: list[int] = asked) -> bool:
            asked[0] += 1
            return asked[0] == stop_at

        try:
            if work == "copy":
                run.copy(CopyOptions(delete=True), cancelled=stop)
            elif work == "plain":
                run.copy(CopyOptions(plain_target=True), cancelled=stop)
            else:
                run.restore(cancelled=stop)
        except Cancelled:
            continue
        assert asked[0] < stop_at
        assert stop_at > 8
        break
    else:
        pytest.fail("it was never asked often enough")


def test_a_cancelled_file_is_not_left_half_written(run: Run) -> None:
    (run.source / "big").write_bytes(os.urandom(9 * MIB))
    run.backup()
    for stop_at in range(4):  # before the root, before the file, twice within it
        asked = iter([False] * stop_at + [True])
        with pytest.raises(Cancelled):
            run.restore(delete=False, cancelled=lambda asked=asked: next(asked))
        assert os.listdir(run.target) == []


# --- exactness that random trees do not reach -----------------------------------------------------


@pytest.mark.root
def test_capabilities_survive_the_chown(run: Run) -> None:
    """Effective cap_net_raw of a file that is not root's."""
    (run.source / "f").write_bytes(b"#!")
    os.chown(run.source / "f", 1000, 1000)
    value = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(run.source / "f", "security.capability", value)
    run.backup()
    run.restore()
    assert os.getxattr(run.target / "f", "security.capability") == value
    assert_same(str(run.source), str(run.target))


def test_attributes_of_a_reused_directory_that_the_source_lacks_are_removed(run: Run) -> None:
    (run.source / "d").mkdir()
    (run.source / "d" / "f").touch()
    (run.target / "d").mkdir()
    for path in (run.target, run.target / "d"):
        os.setxattr(path, "user.old", b"1")
        os.setxattr(path, "system.posix_acl_default", acl((1234, 7)))
        os.setxattr(path, "system.posix_acl_access", acl((1234, 7)))
    run.backup()
    run.restore()
    assert_same(str(run.source), str(run.target))


@pytest.mark.parametrize("offset", [0, 1, 511, 4095, 4096, 4097, 65536, 4 * MIB - 1, 4 * MIB])
@pytest.mark.parametrize("tail", [0, 1, 4096, 5 * MIB])
def test_holes_at_every_alignment(run: Run, offset: int, tail: int) -> None:
    with (run.source / "f").open("wb") as file:
        file.seek(offset)
        file.write(b"data" * 3)
        file.seek(2 * MIB, os.SEEK_CUR)
        file.write(b"x")
        file.truncate(file.tell() + tail)
    run.backup()
    run.restore()
    assert_same(str(run.source), str(run.data))
    assert_same(str(run.source), str(run.target))
    with Opened(run.data) as data:
        assert not list(
            verify_tree(run.entries, data, progress=no_progress, cancelled=not_cancelled)
        )


def test_without_seek_data_the_whole_file_is_data(run: Run) -> None:
    with (run.source / "f").open("wb") as file:
        file.truncate(MIB)

    def refuse(name: str, args: tuple[Any, ...]) -> None:
        if name == "seek":
            raise OSError(errno.EINVAL, "no")

    assert run.backup(files=Watched(before=refuse)).counters.bytes == MIB
    content = run.entry(b"f").content
    assert content is not None
    assert (content.extents, len(content.pieces)) == (None, 1)
    run.restore()
    assert (run.target / "f").read_bytes() == bytes(MIB)


def test_a_backup_does_not_change_its_source(run: Run) -> None:
    fill(run.source)
    before = {path: path.lstat() for path in run.source.rglob("*")}
    run.backup()
    for path, info in before.items():
        now = path.lstat()
        assert (now.st_ctime_ns, now.st_mtime_ns) == (info.st_ctime_ns, info.st_mtime_ns)


def test_a_restore_can_be_repeated_over_an_interrupted_one(run: Run) -> None:
    """Stopped at every question, then done again: always exact in the end."""
    fill(run.source)
    os.link(run.source / "d" / "g", run.source / "d" / "h")
    (run.source / "big").write_bytes(os.urandom(9 * MIB))
    (run.target / "extra").mkdir()
    run.backup()
    for stop_at in (2, 7, 9, 11, 13, 15, 17, 19, 25):
        left = [stop_at]

        def stop(left: list[int] = left) -> bool:
            left[0] -= 1
            return left[0] < 0

        with pytest.raises(Cancelled):
            run.restore(cancelled=stop)
        run.restore()
        assert_same(str(run.source), str(run.target))


def test_an_unreadable_directory_fails_by_path_and_errno(run: Run) -> None:
    (run.source / "d").mkdir()

    def refuse(name: str, args: tuple[Any, ...]) -> None:
        if name == "open_here" and args[0] == b"d":
            raise PermissionError(13, "no")

    with pytest.raises(CopyFailed) as caught:
        run.backup(files=Watched(before=refuse))
    assert (caught.value.path, caught.value.errno) == ("d", 13)
