# SPDX-License-Identifier: Apache-2.0
"""Random trees from each file system to each other one: copied, backed up and restored."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

from manila_backup.data.copy.base import CopyOptions, CopyResult
from manila_backup.types import Remarks
from tests.data.copy.as_user import USER, Engine, Here, OrdinaryUser, twin
from tests.data.copy.file_systems import (
    BTRFS,
    EXT4,
    SMALL_BLOCKS,
    TMPFS,
    WHOLE,
    XFS,
    FileSystems,
    Kind,
)
from tests.support.forests import forest
from tests.support.trees import (
    XFS_ACLS,
    Node,
    Seen,
    build,
    differences,
    owned,
    snapshot,
    trees,
    widened,
    without,
)

pytestmark = [pytest.mark.root, pytest.mark.slow]

PAIRS = [(a, b) for a in WHOLE for b in WHOLE]
RING = list(zip(WHOLE, WHOLE[1:] + WHOLE[:1], strict=True))
PHASES = [Phase.generate]
"""Not Phase.shrink, which may take minutes per test; to be added by hand."""
PARALLEL = [(1, 1), (2, 4)]


@pytest.fixture(scope="module")
def user() -> Iterator[Engine]:
    with OrdinaryUser() as found:
        yield found


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a tree travels: from where, to where, back to where; by whom."""

    source: Kind
    target: Kind
    back: Kind
    engine: Engine
    owner: int = 0


@contextmanager
def directories(disks: FileSystems, owner: int, *kinds: Kind) -> Iterator[list[Path]]:
    paths = [disks.new(kind, owner=owner) for kind in kinds]
    try:
        yield paths
    finally:
        for path in paths:
            shutil.rmtree(path)


def look(kind: Kind, path: Path) -> dict[bytes, Seen]:
    """Without the attributes in which XFS shows ACLs for a second time."""
    seen = snapshot(str(path))
    return without(seen, XFS_ACLS) if kind.type == "xfs" else seen


def quiet(result: CopyResult) -> None:
    assert result.remarks == Remarks()
    assert (result.counters.losses, result.counters.changed, result.counters.skipped) == (0, 0, 0)


def same(wanted: dict[bytes, Seen], found: dict[bytes, Seen]) -> None:
    lines = differences(wanted, found)
    if lines:
        pytest.fail("\n".join([f"{len(lines)} differences", *lines[:5]]))


def merged(wanted: dict[bytes, Seen], there: dict[bytes, Seen], found: dict[bytes, Seen]) -> None:
    """All that is wanted is there, and of what was there before all that was not in the way."""
    same(wanted, {path: found[path] for path in wanted if path in found})
    in_the_way = {path for path, seen in wanted.items() if seen.kind != 0o40000}
    for path in found.keys() - wanted.keys():
        assert path in there
    for path in there.keys() - found.keys():
        parts = path.split(b"/")
        assert in_the_way & {b"/".join(parts[:n]) for n in range(1, len(parts) + 1)}, path


def compare(options: CopyOptions, *seen: dict[bytes, Seen]) -> None:
    if options.delete:
        same(seen[0], seen[2])
    else:
        merged(*seen)


def travel(disks: FileSystems, way: Way, tree: Node, before: Node, options: CopyOptions) -> None:
    """Copied, and backed up and restored, each time over another tree."""
    kinds = (way.source, way.target, way.target, way.back)
    with (
        directories(disks, way.owner, *kinds) as (source, target, data, back),
        tempfile.TemporaryDirectory() as name,
    ):
        catalog = Path(name) / "catalog"
        if way.owner:
            shutil.chown(name, way.owner, way.owner)
        build(str(source), tree)
        for path in (target, back):
            build(str(path), before)
        there = look(way.target, target)
        wanted = look(way.source, source)
        quiet(way.engine.copy(source, target, options))
        compare(options, widened(wanted, way.target.block_bytes), there, look(way.target, target))
        stored = way.engine.backup(source, data, catalog, plain(options))
        assert (stored.remarks.changed, stored.remarks.skipped) == ((), ())
        # A store must stay readable for whoever it belongs to, if that is not root.
        assert {loss.rpartition(" ")[2] for loss in stored.remarks.losses} <= (
            {"mode"} if way.owner else set()
        )
        restored = way.engine.restore(catalog, data, back, options)
        quiet(restored)
        assert restored.logical_bytes == stored.logical_bytes
        # The catalog knows the source's holes, whatever blocks the store had.
        compare(options, widened(wanted, way.back.block_bytes), there, look(way.back, back))
        same(wanted, look(way.source, source))


def plain(options: CopyOptions) -> CopyOptions:
    return CopyOptions(plain_target=True, processes=options.processes, threads=options.threads)


OPTIONS = st.builds(
    lambda parallel, delete: CopyOptions(delete=delete, processes=parallel[0], threads=parallel[1]),
    st.sampled_from(PARALLEL),
    st.booleans(),
)


def over_random_trees(
    disks: FileSystems, way: Callable[[Kind], Way], name: str, examples: int
) -> None:
    @seed(zlib.crc32(name.encode()))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=PHASES,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        tree=trees(),
        before=trees(),
        options=OPTIONS,
        back=st.sampled_from(WHOLE),
        native=st.booleans(),
    )
    def check(tree: Node, before: Node, options: CopyOptions, back: Kind, native: bool) -> None:
        there = way(back)
        if there.owner:
            tree, before = owned(tree, there.owner), owned(before, there.owner)
        note(f"{tree!r} over {before!r}, {options}, back to {back}, native: {native}")
        with twin(native):
            travel(disks, there, tree, before, options)

    check()


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
def test_random_trees(disks: FileSystems, source: Kind, target: Kind) -> None:
    over_random_trees(
        disks,
        lambda back: Way(source=source, target=target, back=back, engine=Here()),
        f"{source}-{target}",
        8,
    )


@pytest.mark.full
@pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
def test_more_random_trees(disks: FileSystems, source: Kind, target: Kind) -> None:
    over_random_trees(
        disks,
        lambda back: Way(source=source, target=target, back=back, engine=Here()),
        f"more {source}-{target}",
        40,
    )


@pytest.mark.parametrize(("source", "target"), RING, ids=str)
def test_random_trees_of_an_ordinary_user(
    disks: FileSystems, user: Engine, source: Kind, target: Kind
) -> None:
    over_random_trees(
        disks,
        lambda back: Way(source=source, target=target, back=back, engine=user, owner=USER),
        f"user {source}-{target}",
        10,
    )


@pytest.mark.full
@pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
def test_more_random_trees_of_an_ordinary_user(
    disks: FileSystems, user: Engine, source: Kind, target: Kind
) -> None:
    over_random_trees(
        disks,
        lambda back: Way(source=source, target=target, back=back, engine=user, owner=USER),
        f"more user {source}-{target}",
        20,
    )


@pytest.mark.parametrize(
    ("source", "target", "back"),
    [(SMALL_BLOCKS, EXT4, SMALL_BLOCKS), (XFS, SMALL_BLOCKS, BTRFS), (SMALL_BLOCKS, TMPFS, XFS)],
    ids=str,
)
def test_holes_keep_the_blocks_of_their_source(
    disks: FileSystems, source: Kind, target: Kind, back: Kind
) -> None:
    """Also where the store's blocks are larger: the catalog knows better."""
    over_random_trees(
        disks,
        lambda _: Way(source=source, target=target, back=back, engine=Here()),
        f"{source}-{target}-{back}",
        8,
    )


# --- trees of many batches ------------------------------------------------------------------------


def through_the_woods(disks: FileSystems, way: Way, entries: int, *, delete: bool) -> None:
    """Over a tree that has some of the same names, as other things."""
    number = zlib.crc32(f"{way.source}-{way.target}-{way.owner}-{delete}".encode())
    tree, before = forest(number, entries), forest(number + 1, entries // 10)
    if way.owner:
        tree, before = owned(tree, way.owner), owned(before, way.owner)
    processes, threads = PARALLEL[-1]
    options = CopyOptions(delete=delete, processes=processes, threads=threads)
    with twin(native=delete):
        travel(disks, way, tree, before, options)


@pytest.mark.parametrize(
    ("source", "target", "delete"), [(*pair, n % 2 == 0) for n, pair in enumerate(RING)], ids=str
)
def test_a_forest(disks: FileSystems, source: Kind, target: Kind, delete: bool) -> None:
    """Hard links lead to far directories, which other workers may have copied."""
    way = Way(source=source, target=target, back=source, engine=Here())
    through_the_woods(disks, way, 1200, delete=delete)


def test_a_forest_of_an_ordinary_user(disks: FileSystems, user: Engine) -> None:
    way = Way(source=EXT4, target=BTRFS, back=XFS, engine=user, owner=USER)
    through_the_woods(disks, way, 600, delete=True)


@pytest.mark.full
@pytest.mark.parametrize(
    ("source", "target", "delete"),
    [(*pair, number % 3 > 0) for number, pair in enumerate(PAIRS)],
    ids=str,
)
def test_a_larger_forest(
    disks: FileSystems, user: Engine, source: Kind, target: Kind, delete: bool
) -> None:
    way = Way(source=source, target=target, back=source, engine=Here())
    through_the_woods(disks, way, 2400, delete=delete)
    way = Way(source=source, target=target, back=source, engine=user, owner=USER)
    through_the_woods(disks, way, 600, delete=delete)
