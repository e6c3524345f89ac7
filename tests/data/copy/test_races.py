# SPDX-License-Identifier: Apache-2.0
"""A tenant acts exactly between two system calls of the engine, on the source or on the target."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.remove import remove_tree
from manila_backup.exception import CopyFailed
from tests.data.copy.conftest import Opened, Run, not_cancelled
from tests.support.syscalls import Rival, Watched, call, open_fds, opening
from tests.support.trees import assert_same, differences, snapshot

SECRET = b"not of this share"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What a tenant would like the service to read or write."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "f").write_bytes(SECRET)
    (path / "sub").mkdir()
    (path / "sub" / "g").write_bytes(SECRET)
    return path


def assert_nothing_came_from(outside: Path, *trees: Path) -> None:
    assert (outside / "f").read_bytes() == SECRET
    assert sorted(os.listdir(outside)) == ["f", "sub"]
    for tree in trees:
        for path in tree.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert SECRET not in path.read_bytes()


def assert_same_below(run: Run) -> None:
    """Equal but for the root's own time, which the rival changed after it was recorded."""
    trees = [snapshot(str(tree)) for tree in (run.source, run.target)]
    for tree in trees:
        tree[b""] = replace(tree[b""], mtime_ns=0)
    assert differences(*trees) == []


def swap(path: Path, make: Callable[[Path], object]) -> Callable[[], None]:
    """Replace what is at ``path``, keeping it elsewhere."""

    def act() -> None:
        path.rename(path.parent.parent / f"moved-{path.name}")
        make(path)

    return act


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


# --- the source -----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_directory_swapped_for_a_symlink_to_outside(run: Run, outside: Path, after: bool) -> None:
    (run.source / "d" / "sub").mkdir(parents=True)
    (run.source / "d" / "f").write_bytes(b"mine")
    (run.source / "z").write_bytes(b"last")
    rival = Rival(
        opening(b"d"), swap(run.source / "d", lambda path: path.symlink_to(outside)), after=after
    )
    run.backup(files=rival)
    assert rival.acted
    assert_nothing_came_from(outside, run.data)
    assert (run.data / "z").read_bytes() == b"last"
    assert {entry.path for entry in run.entries()} >= {b"", b"z"}
    run.restore()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), id="symlink"),
        pytest.param(os.mkfifo, id="fifo"),
        pytest.param(bind_socket, id="socket"),
        pytest.param(lambda path: path.mkdir(), id="directory"),
    ],
)
def test_a_file_swapped_for_something_else_is_recorded_as_what_it_is_now(
    run: Run, make: Callable[[Path], object]
) -> None:
    (run.source / "f").write_bytes(b"mine")
    rival = Rival(opening(b"f"), swap(run.source / "f", make))
    result = run.backup(files=rival)
    assert rival.acted
    assert (result.counters.skipped, result.counters.files) == (0, 0)
    run.restore()
    assert_same_below(run)


def test_a_directory_that_a_file_became_is_entered(run: Run) -> None:
    (run.source / "f").write_bytes(b"mine")

    def make(path: Path) -> None:
        path.mkdir()
        (path / "below").write_bytes(b"x")

    run.backup(files=Rival(opening(b"f"), swap(run.source / "f", make)))
    assert [entry.path for entry in run.entries()] == [b"", b"f", b"f/below"]


def test_a_directory_swapped_for_another_one_before_it_is_opened_is_the_other_one(run: Run) -> None:
    (run.source / "d").mkdir()
    (run.source / "d" / "old").touch()

    def make(path: Path) -> None:
        path.mkdir(mode=0o711)
        (path / "new").touch()

    result = run.backup(files=Rival(opening(b"d"), swap(run.source / "d", make)))
    assert [entry.path for entry in run.entries()] == [b"", b"d", b"d/new"]
    assert run.entry(b"d").mode == 0o711
    assert result.counters.skipped == 0


def test_a_directory_swapped_for_another_one_after_it_was_opened_is_the_first_one(run: Run) -> None:
    """Its entry describes the first one, so the content of the second does not belong below it."""
    (run.source / "d").mkdir()
    (run.source / "d" / "old").touch()

    def make(path: Path) -> None:
        path.mkdir(mode=0o711)
        (path / "new").touch()

    rival = Rival(call("mkdir", b"d"), swap(run.source / "d", make))
    result = run.backup(files=rival)
    assert rival.acted
    assert [entry.path for entry in run.entries()] == [b"", b"d", b"d/old"]
    assert (result.remarks.skipped, run.entry(b"d").mode) == ((), 0o755)


def test_a_name_that_never_stays_the_same_is_skipped_and_counted(run: Run) -> None:
    (run.source / "f").write_bytes(b"mine")
    kinds = [lambda path: path.mkdir(), lambda path: path.touch()] * 5

    def flip() -> None:
        path = run.source / "f"
        path.rename(run.source.parent / f"old{len(kinds)}")
        kinds.pop(0)(path)

    result = run.backup(files=Rival(opening(b"f"), flip, times=10))
    assert (result.remarks.skipped, result.counters.skipped) == (("f",), 1)
    assert [entry.path for entry in run.entries()] == [b""]


@pytest.mark.parametrize(
    ("name", "at"), [("f", "open_here"), ("d", "open_here"), ("l", "lstat"), ("l", "open_here")]
)
def test_an_entry_that_vanishes_is_skipped_and_counted(run: Run, at: str, name: str) -> None:
    (run.source / "f").write_bytes(b"mine")
    (run.source / "d").mkdir()
    (run.source / "l").symlink_to("x")
    path = run.source / name
    remove = path.rmdir if name == "d" else path.unlink
    result = run.backup(files=Rival(call(at, name.encode()), remove))
    assert (result.remarks.skipped, result.counters.skipped) == ((name,), 1)
    assert len(list(run.entries())) == 3
    run.restore()
    assert_same_below(run)


def test_a_directory_that_vanishes_while_it_is_walked_is_skipped(run: Run) -> None:
    for name in ("a", "b", "c"):
        (run.source / "d" / name).mkdir(parents=True)
        (run.source / "d" / name / "f").write_bytes(b"x")
    rival = Rival(opening(b"b"), lambda: shutil.rmtree(run.source / "d"))
    result = run.backup(files=rival)
    assert result.counters.skipped >= 2
    assert [entry.path for entry in run.entries()][:4] == [b"", b"d", b"d/a", b"d/a/f"]


def test_a_file_removed_on_the_server_while_it_is_read_is_skipped(run: Run) -> None:
    """An NFS client says ESTALE then; only if the file is really gone is it passed over."""
    (run.source / "f").write_bytes(b"mine")

    def stale(name: str, args: tuple[Any, ...]) -> None:
        if name in ("read", "copy_range"):
            if gone:
                (run.source / "f").unlink()
            raise OSError(errno.ESTALE, "stale")

    gone = True
    result = run.backup(files=Watched(before=stale))
    assert (result.remarks.skipped, result.counters.bytes) == (("f",), 0)
    assert os.listdir(run.data) == []
    (run.source / "f").write_bytes(b"mine")
    gone = False
    with pytest.raises(CopyFailed) as caught:
        run.copy(files=Watched(before=stale))
    assert (caught.value.path, caught.value.errno) == ("f", errno.ESTALE)


def edit(path: Path, data: bytes) -> Callable[[], None]:
    def act() -> None:
        with path.open("r+b") as file:
            file.write(data)
            file.truncate()

    return act


def test_a_file_that_changes_once_is_copied_again(run: Run) -> None:
    (run.source / "f").write_bytes(b"before")
    rival = Rival(call("read"), edit(run.source / "f", b"after!!"), after=True)
    result = run.backup(files=rival)
    assert (result.counters.changed, result.counters.bytes) == (0, 7)
    assert not run.entry(b"f").changed
    run.restore()
    assert_same(str(run.source), str(run.target))


@pytest.mark.parametrize("data", [b"x", b"longer than it was before", b"same??"])
def test_a_file_that_changes_twice_is_kept_as_copied_and_counted(run: Run, data: bytes) -> None:
    """Size, extents and checksums are of what is stored, not of what the file was."""
    (run.source / "f").write_bytes(b"before" * 1000)
    result = run.backup(
        files=Rival(call("read"), edit(run.source / "f", data), times=9),
    )
    assert (result.counters.changed, result.remarks.changed) == (1, ("f",))
    entry = run.entry(b"f")
    assert entry.changed
    assert entry.size == (run.data / "f").stat().st_size == result.logical_bytes
    run.restore()
    assert (run.target / "f").read_bytes() == (run.data / "f").read_bytes()


def test_an_inode_number_given_to_another_file_makes_no_link(run: Run) -> None:
    """a and b are one file when a is copied, and have a third name somewhere; then z is made and
    has their inode number."""
    (run.source / "a").write_bytes(b"old")
    os.link(run.source / "a", run.source / "b")
    os.link(run.source / "a", run.source.parent / "third")
    (run.source / "z").write_bytes(b"other content")
    os.link(run.source / "z", run.source / "z2")
    inode = (run.source / "a").stat()

    class Reused(Watched):
        def lstat(self, name: bytes, dir_fd: int) -> os.stat_result:
            info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            if name in (b"z", b"z2") and os.path.sameopenfile(dir_fd, source):
                fields = list(info)
                fields[1] = inode.st_ino
                return os.stat_result(fields, {"st_mtime_ns": info.st_mtime_ns, "st_blocks": 8})
            return info

        def __getattribute__(self, name: str) -> Any:
            return (
                object.__getattribute__(self, name)
                if name == "lstat"
                else super().__getattribute__(name)
            )

    with Opened(run.source) as source:
        run.backup(files=Reused())
    assert (run.data / "z").read_bytes() == b"other content"
    run.restore()
    assert (run.target / "z2").read_bytes() == b"other content"
    assert (run.target / "b").read_bytes() == b"old"


def test_a_moved_directory_is_not_followed_upwards(run: Run, outside: Path) -> None:
    """While the walk is far below, the directory on the way is moved out of the share. Its ``..``
    is then outside; the walk must not go on there."""
    deep = run.source
    for _ in range(70):  # deeper than the window of open fds
        deep /= "d"
    deep.mkdir(parents=True)
    (run.source / "d" / "z").write_bytes(b"x")
    (outside / "z").write_bytes(SECRET)

    def move() -> None:
        (run.source / "d" / "d").rename(outside / "d")

    depth = [0]

    def when(name: str, args: tuple[Any, ...]) -> bool:
        depth[0] += name == "names"
        return depth[0] == 70 and name == "open_here"

    run.backup(files=Rival(when, move))
    assert (outside / "d").exists()
    (outside / "z").unlink()
    (outside / "d").rename(run.source / "d" / "d")
    assert_nothing_came_from(outside, run.data)
    assert (run.data / "d" / "z").read_bytes() == b"x"


class Finishing(Rival):
    """Also knows whether the engine changed anything after the rival had acted."""

    def __init__(
        self, when: Callable[[str, tuple[Any, ...]], bool], act: Callable[[], None]
    ) -> None:
        super().__init__(when, act)
        self.was_working = False

    def _act_once(self, name: str, args: tuple[Any, ...]) -> None:
        super()._act_once(name, args)
        self.was_working |= bool(self.acted) and name in ("chown", "chmod", "utime", "write")


# --- the target -----------------------------------------------------------------------------------


@pytest.fixture
def stored(run: Run) -> Run:
    """A backup to be restored."""
    (run.source / "d" / "e").mkdir(parents=True)
    (run.source / "d" / "e" / "f").write_bytes(b"mine")
    (run.source / "d" / "g").write_bytes(b"mine too")
    (run.source / "l").symlink_to("x")
    os.mkfifo(run.source / "p")
    os.link(run.source / "d" / "g", run.source / "linked")
    run.backup()
    return run


@pytest.mark.parametrize(
    "victim",
    [
        *("d", "d/e/f", "l", "linked"),
        *(pytest.param(name, marks=pytest.mark.full) for name in ("d/e", "d/g", "p")),
    ],
)
@pytest.mark.parametrize(
    "at", ["mkdir", "open", "fstat", "write", "chown", "symlink", "mknod", "link"]
)
def test_a_target_swapped_for_a_symlink_to_outside_at_any_moment(
    stored: Run, outside: Path, victim: str, at: str
) -> None:
    """At every call of one kind in turn: nothing outside is read or written, and what differs in
    the end has been counted, unless it happened while the finished target was looked over."""
    before = snapshot(str(outside))
    for number in range(40):
        seen = [0]

        def when(
            name: str, args: tuple[Any, ...], seen: list[int] = seen, number: int = number
        ) -> bool:
            seen[0] += name == at
            return name == at and seen[0] == number + 1

        def act() -> None:
            path = stored.target / victim
            if os.path.lexists(path) and not path.parent.is_symlink():
                path.rename(stored.target.parent / "aside")
                path.symlink_to(outside)

        shutil.rmtree(stored.target)
        stored.target.mkdir()
        rival = Finishing(when, act)
        result = stored.restore(files=rival)
        assert differences(before, snapshot(str(outside))) == []
        different = differences(snapshot(str(stored.source)), snapshot(str(stored.target)))
        if different and rival.was_working:
            assert result.counters.changed or result.counters.skipped, different
        aside = stored.target.parent / "aside"
        if os.path.lexists(aside):
            shutil.rmtree(aside) if aside.is_dir() and not aside.is_symlink() else aside.unlink()
        if not rival.acted:
            return


def test_names_that_appear_during_a_restore_are_removed_and_named(stored: Run) -> None:
    def add() -> None:
        (stored.target / "d" / "new").mkdir()
        (stored.target / "d" / "new" / "x").write_bytes(b"1")

    result = stored.restore(files=Rival(call("symlink"), add))
    assert result.remarks.changed == ("d/new",)
    assert result.counters.deleted == 2
    assert_same(str(stored.source), str(stored.target))


def test_deletion_passes_are_bounded(stored: Run) -> None:
    """A tenant that creates a name whenever one is removed does not keep the restore busy."""
    made = [0]

    def act(name: str, args: tuple[Any, ...]) -> None:
        if name in ("unlink", "symlink") and made[0] < 1000:
            made[0] += 1
            (stored.target / f"zz{made[0]}").touch()

    result = stored.restore(files=Watched(after=act))
    assert 2 <= result.counters.deleted <= 4
    assert result.counters.changed >= 2


def test_what_others_change_or_remove_during_a_restore_is_named(stored: Run) -> None:
    def act() -> None:
        (stored.target / "d" / "e" / "f").write_bytes(b"theirs")
        (stored.target / "l").unlink()

    result = stored.restore(files=Rival(call("mknod"), act, after=True))
    assert result.remarks.changed == ("d/e/f", "l")


def test_a_link_whose_first_name_was_removed_is_restored_with_verified_content(
    stored: Run,
) -> None:
    result = stored.restore(
        files=Rival(call("lstat", b"g"), (stored.target / "d" / "g").unlink), delete=False
    )
    assert (stored.target / "linked").read_bytes() == b"mine too"
    assert result.counters.files == 3


def test_a_link_whose_first_name_was_swapped_is_not_to_the_other_file(
    stored: Run, outside: Path
) -> None:
    def act() -> None:
        (stored.target / "d" / "g").unlink()
        os.link(outside / "f", stored.target / "d" / "g")

    stored.restore(files=Rival(call("link"), act), delete=False)
    assert (stored.target / "linked").read_bytes() == b"mine too"
    assert (outside / "f").read_bytes() == SECRET


def test_a_directory_in_the_way_that_fills_up_for_ever_is_named_not_waited_for(
    stored: Run,
) -> None:
    (stored.target / "l" / "x").mkdir(parents=True)
    count = [0]

    def act(name: str, args: tuple[Any, ...]) -> None:
        if name == "rmdir" and args[0] == b"l":
            count[0] += 1
            (stored.target / "l" / f"x{count[0]}").touch()

    result = stored.restore(files=Watched(before=act), delete=False)
    assert result.remarks.changed == ("l",)
    assert count[0] < 100


# --- removing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["open", "names", "unlink", "rmdir", "fstat", "mount_id"])
def test_removing_a_tree_that_is_swapped_for_a_symlink_keeps_what_is_outside(
    run: Run, outside: Path, at: str
) -> None:
    before = snapshot(str(outside))
    for number in range(12):
        (run.source / "d" / "sub").mkdir(parents=True)
        (run.source / "d" / "f").write_bytes(b"mine")
        (run.source / "d" / "sub" / "g").write_bytes(b"mine")
        seen = [0]

        def when(
            name: str, args: tuple[Any, ...], seen: list[int] = seen, number: int = number
        ) -> bool:
            seen[0] += name == at
            return name == at and seen[0] == number + 1

        def act() -> None:
            sub = run.source / "d" / "sub"
            if sub.exists():
                sub.rename(run.source.parent / "aside")
                sub.symlink_to(outside)

        with Opened(run.source) as parent:
            remove_tree(parent, b"d", cancelled=not_cancelled, files=Rival(when, act))
        assert not os.path.lexists(run.source / "d")
        assert differences(before, snapshot(str(outside))) == []
        shutil.rmtree(run.source.parent / "aside", ignore_errors=True)


def test_removing_a_directory_that_was_moved_away_does_not_climb_out_of_the_tree(
    run: Run, outside: Path
) -> None:
    """``..`` of a moved directory is another one: names are not removed there."""
    (run.source / "d" / "sub" / "deep").mkdir(parents=True)
    (outside / "sub" / "keep").mkdir()
    fds = open_fds()

    def move() -> None:
        (run.source / "d" / "sub" / "deep").rename(outside / "sub" / "deep")

    rival = Rival(call("open", b".."), move)
    with Opened(run.source) as parent:
        remove_tree(parent, b"d", cancelled=not_cancelled, files=rival)
    assert rival.acted
    assert sorted(os.listdir(outside / "sub")) == ["deep", "g", "keep"]
    assert not (run.source / "d").exists()
    assert open_fds() == fds


def test_an_exact_copy_over_a_live_target_fails_rather_than_leaves_a_gap(run: Run) -> None:
    (run.source / "d").mkdir()
    (run.source / "d" / "f").write_bytes(b"x")
    rival = Rival(opening(b"f"), lambda: shutil.rmtree(run.target / "d"))
    with pytest.raises(CopyFailed) as caught:
        run.copy(CopyOptions(), files=rival)
    assert caught.value.path == "d/f"
