# SPDX-License-Identifier: Apache-2.0
"""Removing trees that their users made to be hard to remove, and go on changing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """Where ordinary users come to, too: every run of pytest shuts the way to ``tmp_path``."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.root
def test_an_ordinary_user_removes_what_he_locked_himself_out_of(open_to_all: Path) -> None:
    mine = open_to_all / "mine"
    tree = mine / "tree"
    (tree / "locked" / "deep").mkdir(parents=True)
    (tree / "locked" / "deep" / "file").touch()
    for path in (mine, *mine.rglob("*")):
        os.chown(path, 65534, 65534)
    for path in (tree / "locked" / "deep", tree / "locked", tree):
        path.chmod(0)
    subprocess.run([*NOBODY, sys.executable, "-c", _AS_NOBODY, str(mine)], check=True, cwd="/")
    assert list(mine.iterdir()) == []


_SITTER = """
import os, sys
for number, _ in enumerate(sys.stdin):
    try:
        os.close(os.open(str(number), os.O_CREAT))
        print("done", flush=True)
    except OSError as error:
        print(os.strerror(error.errno), flush=True)
"""


@pytest.mark.root
def test_whoever_still_sits_in_the_tree_cannot_add_to_it(open_to_all: Path) -> None:
    """A tenant keeps a working directory open, and adds a file right before it is removed."""
    nest = open_to_all / "tree" / "nest"
    nest.mkdir(parents=True)
    os.chown(nest, 65534, 65534)
    answers: list[str] = []
    with subprocess.Popen(
        [*NOBODY, "/usr/bin/python3", "-c", _SITTER],
        cwd=nest,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as tenant:

        def add_a_file() -> str:
            assert tenant.stdin is not None
            assert tenant.stdout is not None
            print("go", file=tenant.stdin, flush=True)
            return tenant.stdout.readline().strip()

        assert add_a_file() == "done"
        with acting_before("os.rmdir", lambda arguments: answers.append(add_a_file())):
            files.remove_tree(open_to_all, "tree")
    assert list(open_to_all.iterdir()) == []
    # Before the tree goes, the nest has not had its turn; before the nest goes, it is closed.
    assert answers == ["done", "Permission denied", "Permission denied"]


@contextmanager
def acting_before(event: str, act: Callable[[tuple[object, ...]], object]) -> Iterator[None]:
    """Let a rival act right before each system call of that name. Hooks stay for ever, but idle."""
    active = True

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        if active and name == event:
            act(arguments)

    sys.addaudithook(hook)
    try:
        yield
    finally:
        active = False


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
    swapped: list[str] = []

    def swap(arguments: tuple[object, ...]) -> None:
        name = str(arguments[0])
        if name in ("a", "b", "c") and not swapped:
            swapped.append(name)
            os.unlink(f"{name}/file", dir_fd=fd)
            os.rmdir(name, dir_fd=fd)
            os.symlink(outside, name, dir_fd=fd)

    try:
        with acting_before("os.rename", swap):
            files.remove_tree(parent, "tree")
    finally:
        os.close(fd)
    assert swapped
    assert (outside / "file").exists()
    assert list(parent.iterdir()) == []
