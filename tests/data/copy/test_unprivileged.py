# SPDX-License-Identifier: Apache-2.0
"""The engine as an ordinary user: what it can, and what it says of what it cannot."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manila_backup.data.copy.measure import measure_tree
from manila_backup.data.copy.remove import remove_tree
from manila_backup.exception import CopyFailed
from tests.data.copy.conftest import Opened, Run, not_cancelled
from tests.support.trees import acl, differences, snapshot

pytestmark = pytest.mark.root  # it takes root to become somebody else, and to build foreign files

USER = 65534


def work(top: Path) -> dict[str, Any]:
    """Back up, restore, and remove the store."""
    run = Run(top, make=False)
    try:
        with Opened(run.source) as source:
            entries = measure_tree(source, cancelled=not_cancelled).entries
        backup = run.backup()
    except CopyFailed as error:
        return {"failed": [error.path, error.errno]}
    assert len(list(run.entries())) == entries
    restored = run.restore()
    with Opened(top) as parent:
        remove_tree(parent, b"data", cancelled=not_cancelled)
    assert not run.data.exists()
    return {
        "backup": list(backup.remarks.losses),
        "restore": list(restored.remarks.losses),
        "counters": [backup.counters.losses, restored.counters.losses],
    }


def run_as_user(top: Path) -> dict[str, Any]:
    """What ``work`` answers in a process of an ordinary user."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            os.write(writer, json.dumps(work(top)).encode())
        except BaseException:  # noqa: BLE001 - nothing may escape into the parent's test run
            os.write(writer, json.dumps({"error": traceback.format_exc()}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        data = answer.read()
    assert os.waitpid(child, 0)[1] == 0
    found: dict[str, Any] = json.loads(data)
    assert "error" not in found, found["error"]
    return found


@pytest.fixture
def top() -> Iterator[Path]:
    """Reachable for the user, which pytest's own directories are not."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        for part in (".", "source", "data", "target"):
            (path / part).mkdir(exist_ok=True)
            os.chown(path / part, USER, USER)
        yield path


def own(path: Path) -> None:
    os.chown(path, USER, USER, follow_symlinks=False)


def test_a_tree_of_ones_own_comes_through_whole(top: Path) -> None:
    """Read-only directories, files without read permission, fifos, ACLs, links, holes."""
    source = top / "source"
    (source / "d" / "ro").mkdir(parents=True)
    (source / "d" / "ro" / "f").write_bytes(b"x")
    (source / "secret").write_bytes(b"secret")
    (source / "acl").write_bytes(b"")
    (source / "link").symlink_to("/etc/passwd")
    os.link(source / "secret", source / "d" / "linked")
    os.mkfifo(source / "fifo")
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    for path in (source, *source.rglob("*")):
        own(path)
    os.setxattr(source / "secret", "user.a", b"1")
    os.setxattr(source / "acl", "system.posix_acl_access", acl((1234, 6)))
    os.chmod(source / "secret", 0)
    os.chmod(source / "fifo", 0)
    os.chmod(source / "d" / "ro" / "f", 0o4111)
    os.chmod(source / "d" / "ro", 0o555)
    os.chmod(source / "d", 0o500)
    (top / "target" / "d" / "old").mkdir(parents=True)
    (top / "target" / "d" / "old" / "f").touch()
    for path in (top / "target").rglob("*"):
        own(path)
    os.chmod(top / "target" / "d" / "old", 0o111)
    os.chmod(top / "target" / "d", 0)
    before = snapshot(str(source))
    answer = run_as_user(top)
    assert differences(before, snapshot(str(source))) == [], "the modes were put back"
    assert differences(before, snapshot(str(top / "target"))) == []
    # The store must stay readable for the user, so it cannot have these modes.
    assert answer == {
        "backup": ["secret: mode", "d: mode", "d/ro/f: mode", "d/ro: mode"],
        "restore": [],
        "counters": [4, 0],
    }


def test_foreign_owners_are_a_loss_and_their_setuid_bits_are_not_taken_over(top: Path) -> None:
    source = top / "source"
    (source / "foreign").write_bytes(b"#!")
    os.chmod(source / "foreign", 0o6755)
    (source / "d").mkdir()
    answer = run_as_user(top)
    assert answer["restore"] == ["d: owner", "foreign: owner", "foreign: mode"]
    assert stat.S_IMODE((top / "target" / "foreign").stat().st_mode) == 0o755


def test_device_nodes_are_a_loss(top: Path) -> None:
    os.mknod(top / "source" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert run_as_user(top)["restore"] == ["null: special"]


def test_a_directory_of_ones_own_that_is_closed_is_entered_and_closed_again(top: Path) -> None:
    closed = top / "source" / "closed" / "deeper"
    closed.mkdir(parents=True)
    (closed / "f").write_bytes(b"x")
    os.link(closed / "f", top / "source" / "g")
    for path in (closed.parent, closed, closed / "f"):
        own(path)
    os.chmod(closed, 0)
    os.chmod(closed.parent, 0o200)
    before = snapshot(str(top / "source"))
    run_as_user(top)
    assert differences(before, snapshot(str(top / "source"))) == []
    assert differences(before, snapshot(str(top / "target"))) == []


def test_what_is_not_wanted_goes_from_directories_that_are_closed_to_writers(top: Path) -> None:
    """Also a whole tree, and also from the root."""
    (top / "source" / "d").mkdir()
    own(top / "source" / "d")
    for directory in (top / "target", top / "target" / "d"):
        (directory / "old" / "deeper").mkdir(parents=True)
        (directory / "old file").touch()
    for path in (top / "target").rglob("*"):
        own(path)
    os.chmod(top / "target" / "d", 0o500)
    os.chmod(top / "target", 0o500)
    before = snapshot(str(top / "source"))
    run_as_user(top)
    assert differences(before, snapshot(str(top / "target"))) == []


@pytest.mark.parametrize("name", ["file", "directory"])
def test_what_may_not_be_read_fails_by_path(top: Path, name: str) -> None:
    path = top / "source" / name
    path.mkdir() if name == "directory" else path.touch()
    os.chmod(path, 0)
    assert run_as_user(top) == {"failed": [name, 13]}


def test_trusted_attributes_are_not_seen(top: Path) -> None:
    (top / "source" / "f").touch()
    own(top / "source" / "f")
    os.setxattr(top / "source" / "f", "trusted.a", b"1")
    assert run_as_user(top)["counters"] == [0, 0]
