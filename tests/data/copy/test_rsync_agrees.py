# SPDX-License-Identifier: Apache-2.0
"""A second judge: what ``rsync -aHAXc --delete`` would still have to do to a copy is nothing."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from manila_backup.data.copy.base import CopyOptions
from tests.data.copy.as_user import Here
from tests.data.copy.file_systems import BTRFS, EXT4, TMPFS, WHOLE, XFS, FileSystems, Kind
from tests.support.forests import forest, one_of_each
from tests.support.trees import Node, acl, build, trees

pytestmark = [pytest.mark.root, pytest.mark.slow]


def disagreement(source: Path, target: Path) -> list[str]:
    """Times compared to the nanosecond (a modify window of -1), and without XFS's second view of
    ACLs, which rsync takes for attributes of their own."""
    argv = ["rsync", "-n", "-aHAXc", "--modify-window=-1", "--delete", "--itemize-changes"]
    argv += ["--filter=-xr trusted.SGI_ACL_*", f"{source}/", f"{target}/"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, errors="replace")
    assert done.stderr == ""
    return done.stdout.splitlines()


@contextmanager
def directories(disks: FileSystems, *kinds: Kind) -> Iterator[list[Path]]:
    paths = [disks.new(kind) for kind in kinds]
    try:
        yield paths
    finally:
        for path in paths:
            shutil.rmtree(path)


def agree(disks: FileSystems, source_kind: Kind, target_kind: Kind, tree: Node) -> None:
    engine = Here()
    kinds = (source_kind, target_kind, target_kind, source_kind)
    with (
        directories(disks, *kinds) as (source, target, data, back),
        tempfile.TemporaryDirectory() as name,
    ):
        build(str(source), tree)
        exact = CopyOptions(delete=True, processes=2, threads=4)
        engine.copy(source, target, exact)
        assert disagreement(source, target) == []
        catalog = Path(name) / "catalog"
        engine.backup(source, data, catalog, CopyOptions(plain_target=True))
        engine.restore(catalog, data, back, exact)
        assert disagreement(source, back) == []


@pytest.mark.parametrize(
    ("source", "target"), [(EXT4, XFS), (XFS, EXT4), (BTRFS, TMPFS), (TMPFS, BTRFS)], ids=str
)
def test_of_a_forest(disks: FileSystems, source: Kind, target: Kind) -> None:
    agree(disks, source, target, forest(WHOLE.index(source), 600))


def test_of_random_trees(disks: FileSystems) -> None:
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(tree=trees(), source=st.sampled_from(WHOLE), target=st.sampled_from(WHOLE))
    def check(tree: Node, source: Kind, target: Kind) -> None:
        note(f"{tree!r} from {source} to {target}")
        agree(disks, source, target, tree)

    check()


def make_sparse(root: Path) -> None:
    os.truncate(root / "f", 1 << 16)


def retarget(root: Path) -> None:
    (root / "l").unlink()
    (root / "l").symlink_to("y")


def other_device(root: Path) -> None:
    (root / "c").unlink()
    os.mknod(root / "c", stat.S_IFCHR | 0o600, os.makedev(1, 5))


def unlinked(root: Path) -> None:
    (root / "f2").unlink()
    shutil.copy2(root / "f", root / "f2")


def other_content(root: Path) -> None:
    info = (root / "f").stat()
    (root / "f").write_bytes(b"!#")
    os.utime(root / "f", ns=(info.st_atime_ns, info.st_mtime_ns))


HARMS: list[Callable[[Path], object]] = [
    make_sparse,
    retarget,
    other_device,
    unlinked,
    other_content,
    lambda root: (root / "f").chmod(0o600),
    lambda root: root.chmod(0o711),
    lambda root: os.lchown(root / "l", 1, 1),
    lambda root: os.utime(root, ns=(1, 1)),
    lambda root: os.utime(root / "d", ns=(1, 1)),
    lambda root: os.utime(root / "f", ns=(1, (root / "f").stat().st_mtime_ns + 1)),
    lambda root: os.setxattr(root / "d", "user.a", b"1"),
    lambda root: os.setxattr(root / "f", "system.posix_acl_access", acl((7, 6))),
    lambda root: os.setxattr(root / "d", "system.posix_acl_default", acl((7, 6))),
    lambda root: (root / "extra").touch(),
    lambda root: (root / "p").unlink(),
]


@pytest.mark.parametrize("number", range(len(HARMS)))
def test_rsync_sees_what_is_not_the_same(disks: FileSystems, number: int) -> None:
    """The judge is not asleep."""
    with directories(disks, EXT4, EXT4) as (source, target):
        one_of_each(source)
        os.link(source / "f", source / "f2")
        Here().copy(source, target, CopyOptions())
        assert disagreement(source, target) == []
        HARMS[number](target)
        assert disagreement(source, target)
