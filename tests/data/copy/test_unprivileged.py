# SPDX-License-Identifier: Apache-2.0
"""The engine as an ordinary user: what it can, and what it says of what it cannot."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import manila_backup
from tests.support.trees import acl, differences, snapshot

pytestmark = pytest.mark.root  # it takes root to become somebody else, and to build foreign files

USER = 65534

SCRIPT = """
import io, json, os, sys
from manila_backup.data.catalog.reader import CatalogReader
from manila_backup.data.catalog.writer import CatalogWriter
from manila_backup.data.copy.base import CopyOptions
from manila_backup.data.copy.remove import remove_tree
from manila_backup.data.copy.restore import restore_tree
from manila_backup.data.copy.tree import copy_tree
from manila_backup.exception import CopyFailed

top = sys.argv[1]
opened = lambda name: os.open(os.path.join(top, name), os.O_RDONLY | os.O_DIRECTORY)
hooks = {"progress": lambda counters: None, "cancelled": lambda: False}
sink = io.BytesIO()
writer = CatalogWriter(sink)
try:
    result = copy_tree(
        opened("source"), opened("data"), CopyOptions(plain_target=True), catalog=writer, **hooks
    )
except CopyFailed as error:
    print(json.dumps({"failed": [error.path, error.errno]}))
    sys.exit()
writer.close()
entries = lambda: iter(CatalogReader(io.BytesIO(sink.getvalue())))
exact = CopyOptions(delete=True)
restored = restore_tree(entries, opened("data"), opened("target"), exact, **hooks)
remove_tree(opened("."), b"data", cancelled=lambda: False)
print(json.dumps({
    "backup": result.losses, "restore": restored.losses,
    "counters": [result.counters.losses, restored.counters.losses],
}))
"""


def run_as_user(top: Path) -> dict[str, object]:
    import json

    argv = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", sys.executable]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(manila_backup.__path__[0]).parent),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [*argv, "-W", "error", "-c", SCRIPT, str(top)],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user")
    for above in (path, path.parent):
        os.chmod(above, 0o755)
    os.chmod(path.parent.parent, 0o755)
    for name in (".", "source", "data", "target"):
        (path / name).mkdir(exist_ok=True)
        os.chown(path / name, USER, USER)
    return path


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
    assert not (top / "data").exists()
    # The store must stay readable for the user, so it cannot have these modes.
    assert answer == {
        "backup": ["d: mode", "d/linked: mode", "d/ro: mode", "d/ro/f: mode"],
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
