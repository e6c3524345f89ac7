# SPDX-License-Identifier: Apache-2.0
"""Removing trees that their users made to be hard to remove, and go on changing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manila_backup.share.local import files


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def make_chain(top: Path, depth: int) -> None:
    """Directories in each other, deeper than any path can say."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("directory", dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("directory", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


@pytest.mark.usefixtures("few_descriptors")
def test_a_tree_deeper_than_path_max_recursion_and_descriptors(parent: Path) -> None:
    make_chain(parent / "tree", 1200)
    files.remove_tree(parent, "tree")
    assert list(parent.iterdir()) == []


def test_links_are_removed_not_followed(
    parent: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "file").write_text("x")
    (parent / "tree" / "to-directory").symlink_to(outside)
    (parent / "tree" / "to-file").symlink_to(outside / "file")
    os.link(outside / "file", parent / "tree" / "hard")
    files.remove_tree(parent, "tree")
    assert (outside / "file").read_text() == "x"
    assert list(parent.iterdir()) == []


def test_a_tree_that_is_a_link_itself(
    parent: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "file").touch()
    (parent / "link").symlink_to(outside)
    files.remove_tree(parent, "link")
    files.remove_tree(parent, "tree")
    assert (outside / "file").exists()
    assert list(parent.iterdir()) == []


def test_names_of_any_bytes(parent: Path) -> None:
    for name in (b"\n", b"\xff\xfe", b"-rf", b"x" * 255, b" ", b"0" * 32):
        os.mkdir(os.path.join(os.fsencode(parent / "tree"), name))
        Path(os.fsdecode(os.path.join(os.fsencode(parent / "tree"), name)), "f").touch()
    files.remove_tree(parent, "tree")
    assert list(parent.iterdir()) == []


def test_what_is_not_there_is_removed(parent: Path) -> None:
    files.remove_tree(parent, "tree")
    files.remove_tree(parent, "tree")
    assert list(parent.iterdir()) == []


def test_what_an_interrupted_removal_left_is_removed(parent: Path) -> None:
    left = parent / files.REMOVING / "0123"
    (left / "below").mkdir(parents=True)
    (left / "file").touch()
    files.remove_tree(parent, "tree")
    assert list(parent.iterdir()) == []


_AS_NOBODY = """
import pathlib, sys
from manila_backup.share.local import files
files.remove_tree(pathlib.Path(sys.argv[1]), "tree")
"""


@pytest.mark.root
def test_an_ordinary_user_removes_what_he_locked_himself_out_of(tmp_path: Path) -> None:
    tree = tmp_path / "mine" / "tree"
    (tree / "locked" / "deep").mkdir(parents=True)
    (tree / "locked" / "deep" / "file").touch()
    for path in (tmp_path / "mine", *(tmp_path / "mine").rglob("*")):
        os.chown(path, 65534, 65534)
    for path in (tree / "locked" / "deep", tree / "locked", tree):
        path.chmod(0)
    for path in [tmp_path, *tmp_path.parents][:3]:
        path.chmod(path.stat().st_mode | 0o011)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    subprocess.run(
        [*user, sys.executable, "-c", _AS_NOBODY, str(tmp_path / "mine")], check=True, cwd="/"
    )
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.root
def test_whoever_still_sits_in_the_tree_cannot_add_to_it(parent: Path) -> None:
    """A tenant keeps his working directory open and refills it as fast as it is emptied."""
    nest = parent / "tree" / "nest"
    nest.mkdir()
    os.chown(nest, 65534, 65534)
    for path in [parent, *parent.parents][:3]:
        path.chmod(path.stat().st_mode | 0o011)
    program = (
        "import os,sys\n"
        "print(flush=True)\n"
        "n = 0\n"
        "try:\n"
        "    while True: n += 1; os.close(os.open(str(n), os.O_CREAT))\n"
        "except OSError: print('refused', flush=True)\n"
    )
    with subprocess.Popen(
        [
            *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *("/usr/bin/python3", "-c", program),
        ],
        cwd=nest,
        stdout=subprocess.PIPE,
    ) as tenant:
        assert tenant.stdout is not None
        tenant.stdout.readline()
        files.remove_tree(parent, "tree")
        assert tenant.stdout.readline() == b"refused\n"
    assert list(parent.iterdir()) == []


def test_a_directory_that_vanishes_or_becomes_a_link_meanwhile(
    parent: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The rival acts exactly between the listing of a directory and the next call on its entry."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "file").touch()
    for name in "abc":
        (parent / "tree" / name).mkdir()
        (parent / "tree" / name / "file").touch()
    fd = os.open(parent / "tree", os.O_RDONLY | os.O_DIRECTORY)
    swapped: list[object] = []

    def rival(event: str, arguments: tuple[object, ...]) -> None:
        if event == "os.rename" and active and arguments[0] in ("a", "b", "c") and not swapped:
            swapped.append(arguments[0])
            os.unlink(f"{arguments[0]}/file", dir_fd=fd)
            os.rmdir(str(arguments[0]), dir_fd=fd)
            os.symlink(outside, str(arguments[0]), dir_fd=fd)

    active = True
    sys.addaudithook(rival)
    try:
        files.remove_tree(parent, "tree")
    finally:
        active = False
        os.close(fd)
    assert swapped
    assert (outside / "file").exists()
    assert list(parent.iterdir()) == []
