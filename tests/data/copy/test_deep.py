# SPDX-License-Identifier: Apache-2.0
"""Trees deeper than PATH_MAX, names of every kind, many names; with bounded fds."""

from __future__ import annotations

import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manila_backup.data.copy.dirstack import (
    DirStack,
    Identity,
    NotTheDirectory,
    identity_of,
)
from manila_backup.data.copy.listing import SortedNames, Spill
from manila_backup.data.copy.measure import measure_tree
from manila_backup.data.copy.remove import remove_tree
from manila_backup.data.copy.sysio import SYSTEM, Files
from manila_backup.data.copy.verify import verify_tree
from manila_backup.data.copy.walk import Walk
from manila_backup.names import PRINTABLE_LIMIT
from tests.data.copy.conftest import Opened, Run, no_progress, not_cancelled
from tests.support.syscalls import CountingFds, Faulty, open_fds
from tests.support.trees import assert_same, differences, snapshot

pytestmark = pytest.mark.slow

LEVELS = 600


def dig(root: Path, levels: int, name: bytes) -> None:
    """A chain of directories with a file beside each, which comes before what is in it."""
    fd = os.open(root, os.O_RDONLY)
    for level in range(levels):
        os.mkdir(name, dir_fd=fd)
        os.close(os.open(name + b"-", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.utime(deeper, ns=(level, level))
        os.close(fd)
        fd = deeper
    os.close(fd)


def remove(path: Path, files: Files = SYSTEM) -> int:
    with Opened(path.parent) as parent:
        return remove_tree(parent, os.fsencode(path.name), cancelled=not_cancelled, files=files)


@pytest.fixture
def deep(run: Run) -> Iterator[Run]:
    dig(run.source, LEVELS, b"n" * 60)
    yield run
    for tree in (run.source, run.data, run.target):
        remove(tree)


def test_a_tree_far_deeper_than_path_max(deep: Run) -> None:
    files = CountingFds()
    fds = len(open_fds())
    deep.backup(files=files)
    with Opened(deep.data) as data:
        assert not list(
            verify_tree(deep.entries, data, progress=no_progress, cancelled=not_cancelled)
        )
        assert measure_tree(data, cancelled=not_cancelled).entries == 2 * LEVELS + 1
    dig(deep.target, LEVELS // 2, b"o" * 60)
    deep.restore(files=files)
    assert files.most - fds < 250
    assert_same(str(deep.source), str(deep.target))
    assert max(len(entry.path) for entry in deep.entries()) > 8 * 4096


def test_removal_of_it_needs_a_handful_of_fds(deep: Run) -> None:
    files = CountingFds()
    fds = len(open_fds())
    assert remove(deep.source, files) == 2 * LEVELS + 1
    assert not deep.source.exists()
    assert files.most - fds <= 6
    deep.source.mkdir()


def test_the_cost_of_removing_a_level_does_not_depend_on_the_depth(tmp_path: Path) -> None:
    calls = []
    for levels in (20, 1000):
        fd = os.open(tmp_path, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(b"d", dir_fd=fd)
            deeper = os.open(b"d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.close(fd)
        files = Faulty(0, 0)
        assert remove(tmp_path / "d", files) == levels
        calls.append(files.calls / levels)
    assert calls[1] < calls[0] + 0.2


def nested(root: Path, levels: int, name: bytes) -> list[Identity]:
    """Like :func:`dig`; answers which directory is which."""
    dig(root, levels, name)
    fd, found = os.open(root, os.O_RDONLY), []
    for _ in range(levels):
        deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
        found.append(identity_of(os.fstat(fd)))
    os.close(fd)
    return found


def test_memory_does_not_grow_with_the_length_of_the_paths(tmp_path: Path) -> None:
    """A walk of 1000 levels, 100 KB of path at the end: 50 MB if each level kept its own."""
    levels, name = 1000, b"n" * 100
    top = tmp_path / "top"
    top.mkdir()
    wanted = nested(top, levels, name)
    try:
        with Opened(top) as root:
            tracemalloc.start()
            walk = Walk(root, files=SYSTEM, cancelled=not_cancelled, on_skip=pytest.fail)
            assert sum(1 for _ in walk) == 2 * levels + 1
            stack = DirStack(root, SYSTEM)
            for level in (levels, 1, levels // 2, levels, levels - 1):
                fd = stack.enter(b"/".join([name] * level), wanted[level - 1])
                assert identity_of(os.fstat(fd)) == wanted[level - 1]
            stack.close()
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
        remove(top)


def test_a_chain_of_directories_is_not_remembered_by_the_walk(tmp_path: Path) -> None:
    """There is nothing to come back for above."""
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "/".join("d" * 50)).mkdir(parents=True)
    (tmp_path / "top" / "z").touch()
    (tmp_path / "top" / "d" / "d" / "y").touch()
    with Opened(tmp_path / "top") as root:
        walk = Walk(root, files=SYSTEM, cancelled=not_cancelled, on_skip=pytest.fail)
        found = []
        for entry in walk:
            found.append(entry.path)
            assert len(walk._frames) <= 3
    assert found == sorted(snapshot(str(tmp_path / "top")))


def test_entering_a_neighbour_costs_its_own_calls_only(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "d").mkdir()
    with Opened(tmp_path) as root:
        files = Faulty(0, 0)
        stack = DirStack(root, files)
        for path, calls in [
            (b"a/b/c", 2),  # open and fstat
            (b"a/b/c", 0),
            (b"a/b/d", 3),  # and close
            (b"a/b", 3),
            (b"a/b/c", 2),
            (b"", 2),
        ]:
            before = files.calls
            stack.enter(path)
            assert files.calls - before == calls, path
        stack.close()


NAMES = [
    b"new\nline",
    b"\xff\xfe\xfd",
    b"-rf",
    b" ",
    b"*",
    b"n" * 255,
    "\N{LATIN SMALL LETTER E WITH ACUTE}".encode(),
    "e\N{COMBINING ACUTE ACCENT}".encode(),
    b"a\\x41",
    b"\x1b[31m",
    "\N{RIGHT-TO-LEFT OVERRIDE}".encode(),
    b"...",
    b".hidden",
    b"%s%n",
    b'"; rm',
]


def test_names_of_every_kind(run: Run) -> None:
    with Opened(run.source) as root:
        for name in NAMES:
            os.mkdir(name, dir_fd=root)
            path = b"/proc/self/fd/%d/%s" % (root, name)
            with open(os.path.join(path, name), "wb") as file:
                file.write(name)
            os.symlink(name, os.path.join(path, b"link"))
    run.backup()
    run.restore()
    assert_same(str(run.source), str(run.target))
    assert [entry.path for entry in run.entries()] == sorted(snapshot(str(run.source)))
    assert remove(run.target) == 1 + 3 * len(NAMES)


def test_problems_have_printable_names(run: Run) -> None:
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(run.source) + b"/" + name)).write_bytes(b"x")
    run.backup()
    shutil.rmtree(run.data)
    run.data.mkdir()
    with Opened(run.data) as data:
        problems = list(
            verify_tree(run.entries, data, progress=no_progress, cancelled=not_cancelled)
        )
    assert len(problems) == len(NAMES)
    assert all(problem.isprintable() and len(problem) < PRINTABLE_LIMIT for problem in problems)


# --- directories with many names ------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(st.binary(min_size=1, max_size=5).filter(lambda n: b"/" not in n)),
    run_names=st.integers(1, 8),
    put_away=st.booleans(),
    taken=st.integers(0, 5),
)
def test_names_are_sorted_once_each_however_they_are_kept(
    names: list[bytes], run_names: int, put_away: bool, taken: int
) -> None:
    spill = Spill()
    try:
        outer = SortedNames(iter(names), spill, run_names=run_names)
        found = []
        for number in range(len(names) + 1):
            if number == taken and put_away:
                outer.put_away()
                assert outer.held == 0
                inner = SortedNames(iter(names), spill, run_names=2)
                while inner.next is not None:
                    inner.advance()
                inner.close()
            if outer.next is None:
                break
            found.append(outer.next)
            outer.advance()
        assert found == sorted(set(names))
        outer.close()
        assert spill.end == 0
    finally:
        spill.close()


@pytest.mark.parametrize("held_names", [0, 60, 1000])
def test_a_wide_tree_is_walked_with_most_of_its_names_on_disk(run: Run, held_names: int) -> None:
    for directory in ("a", "a/b", "a/b/c", "a0"):
        (run.source / directory).mkdir()
        for number in range(50):
            (run.source / directory / f"z{number}").touch()
    most = 0
    with Opened(run.source) as source:
        walk = Walk(
            source,
            files=SYSTEM,
            cancelled=not_cancelled,
            on_skip=lambda path: None,
            held_names=held_names,
        )
        found = []
        for entry in walk:
            found.append(entry.path)
            most = max(most, sum(frame.names.held for frame in walk._frames))
    assert found == sorted(snapshot(str(run.source)))
    assert most <= held_names + 55 if held_names < 1000 else most > 100


# --- the stack of directories ---------------------------------------------------------------------

_PARTS = st.lists(st.sampled_from([b"a", b"b", b"ab"]), max_size=5)


@settings(max_examples=60, deadline=None)
@given(paths=st.lists(_PARTS.map(b"/".join), max_size=12), window=st.integers(1, 4))
def test_any_way_through_a_tree_reaches_the_right_directories(
    paths: list[bytes], window: int
) -> None:
    with tempfile.TemporaryDirectory() as top:
        for path in paths:
            os.makedirs(os.path.join(os.fsencode(top), path), exist_ok=True)
        before = open_fds()
        with Opened(top) as root:
            stack = DirStack(root, SYSTEM, window=window)
            for path in paths:
                wanted = identity_of(os.stat(os.path.join(os.fsencode(top), path)))
                assert identity_of(os.fstat(stack.enter(path, wanted))) == wanted
                assert len(open_fds() - before) <= window + 2
            stack.close()
            assert len(open_fds() - before) == 1


def test_a_directory_that_is_another_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with Opened(tmp_path) as root:
        stack = DirStack(root, SYSTEM)
        wanted = identity_of(os.stat(tmp_path / "a"))
        stack.enter(b"a", wanted)
        stack.enter(b"")
        (tmp_path / "a").rename(tmp_path / "c")
        (tmp_path / "a").mkdir()
        with pytest.raises(NotTheDirectory):
            stack.enter(b"a", wanted)
        assert stack.enter(b"a") >= 0
        with pytest.raises(FileNotFoundError):
            stack.enter(b"a/b")
        assert identity_of(os.fstat(stack.enter(b"c/b"))) == identity_of(
            os.stat(tmp_path / "c" / "b")
        )
        stack.close()


def test_differences_are_found_by_the_comparer(run: Run) -> None:
    """The judge of all these tests sees each kind of difference."""
    (run.source / "f").write_bytes(b"x" * 5000)
    assert differences(snapshot(str(run.source)), snapshot(str(run.target)))
    run.copy()
    base = snapshot(str(run.source))
    harms = [
        lambda path: os.chmod(path, 0o600),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: os.setxattr(path, "user.x", b"1"),
        lambda path: os.truncate(path, 4096),
        lambda path: os.truncate(path, 1 << 20),
        lambda path: path.write_bytes(b"y" * 5000),
        lambda path: os.link(path, path.parent / "g"),
        lambda path: path.unlink(),
    ]
    for harm in harms:
        run.copy(None)
        assert differences(base, snapshot(str(run.target))) == []
        harm(run.target / "f")
        assert differences(base, snapshot(str(run.target)))
        remove(run.target)
        run.target.mkdir()
