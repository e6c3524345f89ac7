# SPDX-License-Identifier: Apache-2.0
"""Hard links: groups, targets that cannot have them, and verification of stored trees."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manila_backup.data.copy.verify import check_presence, verify_tree
from manila_backup.exception import Cancelled
from manila_backup.types import Counters
from tests.data.copy.conftest import Opened, Run, no_progress, not_cancelled
from tests.support.syscalls import Watched
from tests.support.trees import assert_same, differences, snapshot


def fill(root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "a").write_bytes(b"one" * 5000)
    os.link(root / "d" / "a", root / "b")
    os.link(root / "d" / "a", root / "d" / "c")
    (root / "l").symlink_to("x")
    os.link(root / "l", root / "d" / "l", follow_symlinks=False)


def no_links(number: int) -> Watched:
    def refuse(name: str, args: tuple[Any, ...]) -> None:
        if name == "link":
            raise OSError(number, "no")

    return Watched(before=refuse)


def problems(run: Run) -> list[str]:
    with Opened(run.data) as data:
        found = list(verify_tree(run.entries, data, progress=no_progress, cancelled=not_cancelled))
        quick = list(check_presence(run.entries, data, cancelled=not_cancelled))
    assert set(quick) <= set(found)
    return found


def test_groups_are_numbered_in_order_of_first_appearance(run: Run) -> None:
    fill(run.source)
    run.backup()
    groups = {entry.path: entry.link_group for entry in run.entries()}
    assert groups == {b"": None, b"b": 1, b"d": None, b"d/a": 1, b"d/c": 1, b"d/l": 2, b"l": 2}
    assert run.entry(b"b").content
    later, first = run.entry(b"d/a"), run.entry(b"b")
    assert later.is_later_link
    assert (later.inode, later.size, later.xattrs) == (first.inode, first.size, first.xattrs)


def test_a_link_to_outside_of_the_tree_is_a_group_of_one(run: Run) -> None:
    fill(run.source)
    os.link(run.source / "b", run.source.parent / "outside")
    run.backup()
    run.restore()
    assert_same(str(run.source), str(run.target))


@pytest.mark.parametrize("number", [errno.EMLINK, errno.EPERM, errno.ENOTSUP])
def test_a_store_without_links_has_copies_and_the_restore_has_links(run: Run, number: int) -> None:
    fill(run.source)
    result = run.backup(files=no_links(number))
    assert sorted(result.remarks.losses) == ["d/a: link", "d/c: link", "d/l: link"]
    assert (run.data / "d" / "c").stat().st_nlink == 1
    assert problems(run) == []
    run.restore()
    assert_same(str(run.source), str(run.target))


def test_a_target_without_links_gets_verified_copies(run: Run) -> None:
    fill(run.source)
    run.backup()
    result = run.restore(files=no_links(errno.EMLINK))
    assert result.remarks.losses == ("d/a: link", "d/c: link", "l: link")
    for name in ("b", "d/a", "d/c"):
        assert (run.target / name).read_bytes() == b"one" * 5000
    assert os.readlink(run.target / "l") == "x"
    assert result.counters.changed == 0


# --- verification ---------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[7000] ^= 1
    path.write_bytes(data)


def add(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def retarget(path: Path) -> None:
    path.unlink()
    path.symlink_to("y")


def unlinked(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "harm", "says"),
    [
        ("b", flip, ["b: the content at offset 0 is not what its checksum says"]),
        (
            "b",
            add,
            [f"{name}: it has 15001 bytes, not 15000" for name in ("b", "d/a", "d/c")],
        ),
        ("d/c", Path.unlink, ["d/c: it is missing"]),
        ("d/c", unlinked, ["d/c: it is not the hard link that it should be"]),
        ("d/c", as_directory, ["d/c: it is of another type"]),
        ("s", retarget, ["s: its link target is another one"]),
        ("new", Path.mkdir, ["new: it is there but not in the catalog"]),
        ("d/new\n", Path.touch, ["d/new\\x0a: it is there but not in the catalog"]),
    ],
)
def test_damage_is_found_and_named(
    run: Run, name: str, harm: Callable[[Path], None], says: list[str]
) -> None:
    fill(run.source)
    (run.source / "s").symlink_to("x")
    run.backup()
    assert problems(run) == []
    before = snapshot(str(run.data))
    harm(run.data / name)
    harmed = snapshot(str(run.data))
    assert differences(before, harmed)
    assert problems(run) == says
    assert differences(harmed, snapshot(str(run.data))) == [], "verifying changes nothing"


def test_verifying_counts_and_can_be_cancelled(run: Run) -> None:
    fill(run.source)
    run.backup()
    seen: list[Counters] = []
    with Opened(run.data) as data:
        found = verify_tree(run.entries, data, progress=seen.append, cancelled=not_cancelled)
        assert list(found) == []
        assert seen[-1] == Counters(files=3, directories=2, others=2, bytes=15000)
        for function, more in ((verify_tree, {"progress": no_progress}), (check_presence, {})):
            with pytest.raises(Cancelled):
                list(function(run.entries, data, cancelled=lambda: True, **more))
