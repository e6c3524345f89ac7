# SPDX-License-Identifier: Apache-2.0
"""The data node under exactly the rights that its systemd unit gives it, and under one less.

setpriv(1) and unshare(1) stand for systemd here: the same bounding set, the same no_new_privs,
uid 0, and a file system that is read-only but for the state directory. The tree has what ordinary
trees of tenants have not, so that a missing right shows as a difference.
"""

from __future__ import annotations

import configparser
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from manila_backup.data.mountinfo import mounted_below
from tests.acceptance.programs import BIN, run
from tests.acceptance.rest import Rest
from tests.acceptance.waiting import Watched, until
from tests.support.ports import free_port
from tests.support.trees import Node, acl, build, differences, snapshot

pytestmark = [pytest.mark.acceptance, pytest.mark.root]

UNIT = Path(__file__).resolve().parents[2] / "etc" / "systemd" / "manila-backup-data.service"

CONFIG = """\
[DEFAULT]
host = node1
share_provider = local
use_bus = false
mount_directory = {root}/mounts
backup_mount_proto = bind
backup_mount_export = {root}/store
poll_interval_s = 0.2
reaper_interval_s = 1
max_attempts = 1

[database]
connection = sqlite:///{root}/db.sqlite

[local]
shares_directory = {root}/shares
bind_mounts = true

[api]
auth_strategy = noauth
listen_port = {port}
"""


def unit() -> configparser.SectionProxy:
    found = configparser.RawConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(UNIT)
    return found["Service"]


def capabilities() -> list[str]:
    return [word.removeprefix("CAP_").lower() for word in unit()["CapabilityBoundingSet"].split()]


# --- a tree that asks for all of them -------------------------------------------------------------

TENANT, OTHER = 1001, 2002
FILE_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""Of version 2: net_bind_service, permitted and effective (include/uapi/linux/capability.h)."""


def tree() -> Node:
    def own(kind: str, mode: int = 0o600, **values: object) -> Node:
        return Node(kind=kind, mode=mode, uid=TENANT, gid=OTHER, **values)  # type: ignore[arg-type]

    content = ((0, b"something"),)
    closed = {
        b"nobody reads": own("file", 0, chunks=content),
        b"read-only": own("file", 0o444, chunks=content, xattrs={b"user.a": b"1"}),
        b"link": own("symlink", target=b"read-only"),
    }
    return own(
        "dir",
        0o750,
        children={
            b"closed": own("dir", 0, children=closed),
            b"not written": own("dir", 0o555, children={b"in it": own("file", chunks=content)}),
            b"sticky": own("dir", 0o1777, children={b"other's": own("file", chunks=content)}),
            b"setgid": own("dir", 0o2770, children={b"in it": own("file", chunks=content)}),
            b"setuid": own("file", 0o6755, chunks=content),
            b"char": own("char", rdev=os.makedev(1, 3)),
            b"block": own("block", rdev=os.makedev(7, 200)),
            b"fifo": own("fifo"),
            b"socket": own("socket"),
            b"trusted": own("file", chunks=content, xattrs={b"trusted.t": b"kept"}),
            b"able": own(
                "file", 0o755, chunks=content, xattrs={b"security.capability": FILE_CAPABILITY}
            ),
            b"listed": own(
                "file",
                0o670,
                chunks=content,
                xattrs={b"system.posix_acl_access": acl((3003, 4), owner=6, group=0)},
            ),
        },
    )


def damage(root: Path) -> None:
    """As its tenant may do it, and as nobody but root could mend it."""
    (root / "closed" / "read-only").write_bytes(b"overwritten")
    (root / "closed" / "nobody reads").unlink()
    (root / "sticky" / "other's").rename(root / "sticky" / "moved")
    (root / "char").unlink()
    (root / "able").unlink()
    os.removexattr(root / "trusted", "trusted.t")
    os.chmod(root / "setuid", 0o755)
    (root / "not written" / "extra").mkdir(mode=0)
    for path in (root / "not written" / "extra", root / "sticky" / "moved"):
        os.chown(path, TENANT, TENANT)
    assert not (root / "char").exists()


STRICT = """\
mount --bind "$0" "$0" && mount -o remount,bind,ro / || exit
mkdir /probe 2>/dev/null && exit 9
TMPDIR=$0/tmp exec "$@"
"""
"""What ProtectSystem=strict, StateDirectory and PrivateTmp come to; the first argument is the
state directory."""

# --- a node with few rights -----------------------------------------------------------------------


@contextmanager
def service(argv: list[str | Path], log: Path) -> Iterator[None]:
    with log.open("ab") as sink:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        yield
    finally:
        watched = Watched(_session(process.pid))
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()
        assert watched.living(deadline_s=30) == []


def _session(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


@contextmanager
def running(root: Path, kept: list[str]) -> Iterator[Rest]:
    """An API with all rights, a data node with these."""
    for name in ("store", "shares"):
        (root / name).mkdir(mode=0o700)
    port = free_port()
    config = root / "manila-backup.conf"
    config.write_text(CONFIG.format(root=root, port=port))
    assert run([BIN / "manila-backup-manage", "--config-file", config, "db", "sync"]).status == 0
    bounds = ",".join(["-all", *(f"+{name}" for name in kept)])
    assert (unit()["NoNewPrivileges"], unit()["ProtectSystem"]) == ("yes", "strict")
    (root / "tmp").mkdir()
    setpriv: list[str | Path] = [
        *("unshare", "--mount", "--propagation=slave", "--", "sh", "-c", STRICT, root),
        *("setpriv", f"--bounding-set={bounds}", "--inh-caps=-all", "--no-new-privs"),
    ]
    arguments = ["--config-file", config]
    with (
        service([BIN / "manila-backup-api", *arguments], root / "api.log"),
        service([*setpriv, "--", BIN / "manila-backup-data", *arguments], root / "data.log"),
    ):
        rest = Rest(f"http://127.0.0.1:{port}/v2")
        until(lambda: _answers(rest), "an answer of the API")
        yield rest


def _answers(rest: Rest) -> bool:
    try:
        return rest.call("GET", "/share-backups").status == 200
    except OSError:
        return False


def there_and_back(root: Path, kept: list[str]) -> list[str]:
    """A backup, a restore, the removal of both; what went wrong, in the order of its happening."""
    wrong: list[str] = []
    with running(root, kept) as rest:
        share_id = rest.create_share("with everything")
        place = Path(rest.tree(share_id))
        build(str(place), tree())
        before = snapshot(str(place))
        backup_id = rest.create_backup(share_id)
        _ended(rest, backup_id, "backup", wrong)
        if not wrong:
            damage(place)
            rest.restore(backup_id)
            _ended(rest, backup_id, "restore", wrong)
            wrong += [f"restored: {line}" for line in differences(before, snapshot(str(place)))]
            rest.delete_backup(backup_id)
            until(lambda: _gone(rest, backup_id), "the end of the delete")
            wrong += [f"left: {path}" for path in root.glob(f"store/*/{backup_id}")]
        wrong += [f"mounted: {point}" for point in mounted_below(str(root / "mounts"))]
    return wrong


def _ended(rest: Rest, backup_id: str, what: str, wrong: list[str]) -> None:
    operation = rest.until_ended(backup_id)
    if operation["status"] != "done":
        wrong.append(f"{what} {operation['status']}: {operation['fail_reason']}")
    if operation["counters"]["losses"]:
        wrong.append(f"{what}: {operation['counters']['losses']} losses")


def _gone(rest: Rest, backup_id: str) -> bool:
    """Or failed to go."""
    answer = rest.call("GET", f"/share-backups/{backup_id}")
    return answer.status == 404 or "error" in answer.json["share_backup"]["status"]


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_backup_under_exactly_the_units_rights(tmp_path: Path) -> None:
    assert there_and_back(tmp_path, capabilities()) == []


@pytest.mark.full
@pytest.mark.parametrize("name", capabilities())
def test_each_of_them_is_needed(tmp_path: Path, name: str) -> None:
    kept = [other for other in capabilities() if other != name]
    wrong = there_and_back(tmp_path, kept)
    print(name, *wrong, sep="\n  ")
    assert wrong != []


def test_the_unit_runs_as_root_since_nfs_servers_go_by_the_uid() -> None:
    """See ADR 0008; mount.nfs, too, refuses everybody else, whatever capabilities they have."""
    assert "User" not in unit()
