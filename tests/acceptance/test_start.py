# SPDX-License-Identifier: Apache-2.0
"""Starting: where, for whom, twice, again; and what a running service lets be seen."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.programs import compare_trees
from tests.acceptance.rest import Rest
from tests.acceptance.standalone import Standalone, arguments, refused, running
from tests.acceptance.trees import copy, damage, fill
from tests.support.as_user import NOBODY, as_user

pytestmark = pytest.mark.acceptance

is_root = os.geteuid() == 0
needs_root = [
    pytest.mark.root,
    pytest.mark.skipif(not is_root, reason="needs root to be another user"),
]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- the state directory --------------------------------------------------------------------------


def test_again_on_the_same_directory_with_all_that_is_in_it(state: Path, tmp_path: Path) -> None:
    original = fill(tmp_path / "original")
    with running(state) as service:
        rest = service.rest()
        share_id = rest.create_share("lasting")
        copy(original, rest.tree(share_id))
        backup_id = rest.available_backup(share_id, name="lasting too")
        before = rest.backup(backup_id), without_links(rest.share(share_id)), rest.usage()
    with running(state) as service:
        rest = service.rest()
        after = rest.backup(backup_id), without_links(rest.share(share_id)), rest.usage()
        assert after == before
        damage(rest.tree(share_id))
        rest.restored(backup_id)
        assert compare_trees(original, rest.tree(share_id)) == []


def without_links(shown: dict[str, Any]) -> dict[str, Any]:
    """They name the port."""
    return {key: value for key, value in shown.items() if key != "links"}


def test_it_is_made_private_even_if_it_was_not(state: Path) -> None:
    state.mkdir(mode=0o755)
    state.chmod(0o755)
    with running(state) as service:
        assert mode(state) == 0o700
        rest = service.rest()
        backup_id = rest.available_backup(rest.create_share("seen by nobody"))
        # While somebody looks, SQLite keeps the files beside the database.
        with closing(sqlite3.connect(service.database)) as looking:
            looking.execute("SELECT count(*) FROM backups")
            rest.create_backup(rest.create_share("another"))
            for suffix in ("", "-wal", "-shm"):
                assert mode(state / f"manila-backup.sqlite{suffix}") == 0o600, suffix
        assert mode(state / "manila-backup.conf") == 0o600
        for directory in (state / "mounts", service.store, service.store / "default" / backup_id):
            assert mode(directory) == 0o700, directory


def test_a_second_service_on_it_is_refused(service: Standalone) -> None:
    ended = refused(service.state)
    assert ended.status == 1
    assert f"error: another service uses the state directory {service.state}" in ended.err
    # The first has not noticed.
    assert service.rest().get("/share-backups") is not None


def test_a_file_in_its_place_is_refused(state: Path) -> None:
    state.write_bytes(b"")
    ended = refused(state)
    assert ended.status == 1
    assert "error: --state-dir" in ended.err


def test_a_link_in_its_place_is_refused(state: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    state.symlink_to(tmp_path / "real")
    ended = refused(state)
    assert ended.status == 1
    assert "is not a directory" in ended.err
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.parametrize("_", [pytest.param(None, marks=needs_root, id="root")])
def test_that_of_another_user_is_refused(state: Path, _: None) -> None:
    state.mkdir()
    os.chown(state, NOBODY, NOBODY)
    ended = refused(state)
    assert ended.status == 1
    assert "belongs to another user" in ended.err
    assert list(state.iterdir()) == []


# --- the address ----------------------------------------------------------------------------------


def test_a_port_in_use_is_refused(service: Standalone, state: Path) -> None:
    port = service.endpoint.rpartition(":")[2].partition("/")[0]
    ended = refused(state, "--port", port)
    assert ended.status == 1
    assert f"error: cannot listen on 127.0.0.1 port {port}: " in ended.err
    assert "in use" in ended.err


def test_an_address_that_others_reach_needs_an_option(state: Path) -> None:
    ended = refused(state, "--host", "0.0.0.0")  # noqa: S104 - that is the point
    assert ended.status == 2
    assert "--allow-unauthenticated-network-access" in ended.err
    assert not state.exists()


def test_with_the_option_it_listens_there_and_warns(state: Path) -> None:
    option = "--allow-unauthenticated-network-access"
    with running(state, "--host", "0.0.0.0", option) as service:  # noqa: S104 - as above
        assert "WITHOUT AUTHENTICATION" in service.log.read_text()
        port = int(service.endpoint.rpartition(":")[2].partition("/")[0])
        with socket.create_connection((own_address(), port), timeout=30):
            pass
        rest = Rest(f"http://{own_address()}:{port}/v2")
        assert rest.get("/share-backups") == {"share_backups": []}


def test_the_other_loopback_address_will_do(state: Path) -> None:
    with running(state, "--host", "::1") as service:
        assert service.endpoint.startswith("http://[::1]:")
        assert service.rest().get("/share-backups") == {"share_backups": []}
        assert service.client().json("share backup list") == []


def own_address() -> str:
    """One of this machine's that is not a loopback one; a loopback one where there is no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: this asks for the route only.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


# --- requests that no client makes ----------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8786", "127.0.0.1.evil.example", ""]
)
def test_a_name_rebound_to_this_machine_is_refused(rest: Rest, host: str) -> None:
    answer = rest.call("GET", "/share-backups", headers={"Host": host})
    assert answer.status in (400, 403)
    assert "share_backups" not in answer.text


def test_what_a_web_page_may_send_is_refused(rest: Rest) -> None:
    share_id = rest.create_share("targeted")
    body = {"share_backup": {"share_id": share_id}}
    # A page may send these without asking first; neither may reach a backup.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = rest.call("POST", "/share-backups", body, headers={"Content-Type": kind})
        assert answer.status == 415, kind
    answer = rest.call("POST", "/share-backups", body, headers={"Origin": "http://evil.example"})
    assert answer.status == 403
    assert rest.get(f"/share-backups?share_id={share_id}") == {"share_backups": []}


# --- what runs ------------------------------------------------------------------------------------

_IMPORTED = re.compile(r"^import time: +[0-9]+ \| +[0-9]+ \| +(\S+)$", re.MULTILINE)


def test_neither_service_nor_worker_imports_eventlet(state: Path) -> None:
    with running(state, env={"PYTHONPROFILEIMPORTTIME": "1"}) as service:
        rest = service.rest()
        backup_id = rest.available_backup(rest.create_share("imported"))
        rest.restored(backup_id)
        imported = _IMPORTED.findall(service.log.read_text())
    # The service and its two workers are in the list, with what they work with.
    assert imported.count("site") >= 3
    assert {"cheroot.wsgi", "manila_backup.data.manager", "oslo_service.service"} <= set(imported)
    assert {"manila_backup.data.drivers.saving", "blake3"} <= set(imported)
    # Libraries that can do without try it, which is listed too: nothing in it may be reached.
    tried = {"eventlet", "eventlet.patcher"}
    assert {name for name in imported if name.split(".")[0] == "eventlet"} <= tried


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of an ordinary user's, where he can get at it."""
    path = Path(tempfile.mkdtemp())
    if is_root:
        os.chown(path, NOBODY, NOBODY)
    yield path
    shutil.rmtree(path)


def test_an_ordinary_user_needs_nothing_else(home: Path) -> None:
    """Shares are used where they are, since only root can mount. Run as root, this test becomes
    nobody; otherwise its user is ordinary already.
    """
    prefix = as_user(NOBODY, home) if is_root else []
    with running(home / "state", prefix=prefix, log=home / "log") as service:
        assert owner(service.process.pid) != 0
        rest = service.rest()
        share_id = rest.create_share("mine")
        original = fill(home / "original")
        give_away(original)
        copy(original, rest.tree(share_id))
        backup_id = rest.available_backup(share_id)
        assert service.mounts() == []
        damage(rest.tree(share_id))
        give_away(Path(rest.tree(share_id)))
        assert compare_trees(original, rest.tree(share_id)) != []
        rest.restored(backup_id)
        assert compare_trees(original, rest.tree(share_id)) == []
        rest.delete_backup(backup_id)
        rest.until_deleted(backup_id)
        assert "proto = path" in (service.state / "manila-backup.conf").read_text()
        assert "root" not in service.log.read_text()


def give_away(tree: Path) -> None:
    """Make all of it the ordinary user's."""
    if is_root:
        subprocess.run(["chown", "-Rh", f"{NOBODY}:{NOBODY}", str(tree)], check=True)


def owner(pid: int) -> int:
    return os.stat(f"/proc/{pid}").st_uid


def test_help_says_what_the_options_do() -> None:
    said = subprocess.run(
        [*arguments(Path("unused")), "--help"], capture_output=True, text=True, check=True
    ).stdout
    for option in ("--state-dir", "--host", "--port", "--allow-unauthenticated-network-access"):
        assert option in said
