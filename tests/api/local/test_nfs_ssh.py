# SPDX-License-Identifier: Apache-2.0
"""The shares API over shares of an NFS server, behind Debian's sshd and exportfs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.test import Client

from manila_backup import config, service
from manila_backup.share.base import ShareProvider
from manila_backup.share.nfs_ssh.provider import NfsSshShareProvider
from manila_backup.share.nfs_ssh.store import MARKER
from manila_backup.wsgi import build_from_conf
from tests.acceptance.waiting import until
from tests.api.harness import Api
from tests.api.local.harness import SharesApi
from tests.share.nfs_ssh_harness import NfsSshHarness, harness_over
from tests.share.ssh_server import SshServer

pytestmark = [pytest.mark.slow, pytest.mark.root]


@pytest.fixture
def sshd() -> Iterator[SshServer]:
    with SshServer() as server:
        yield server


@pytest.fixture
def harness(sshd: SshServer) -> Iterator[NfsSshHarness]:
    found = harness_over(sshd)
    yield found
    found.store.close()


@pytest.fixture
def shares(api: Api, harness: NfsSshHarness) -> SharesApi:
    api.provider, api.store = harness.provider, harness.store  # type: ignore[assignment]
    return SharesApi(api)


def test_a_share_is_made_shown_listed_and_removed(
    sshd: SshServer, harness: NfsSshHarness, shares: SharesApi
) -> None:
    shown = shares.create(name="one", metadata={"a": "b"})
    shares.create(name="two")
    tree = sshd.root / "shares" / shown["id"]
    assert tree.is_dir()
    assert not shown["snapshot_support"]
    (location,) = shares.ok("GET", f"/shares/{shown['id']}/export_locations")["export_locations"]
    assert location["path"] == f"127.0.0.1:{tree}"
    assert sorted(shares.names()) == ["one", "two"]
    assert shares.names(f"?export_location_path={location['path']}") == ["one"]
    assert shares.call("DELETE", f"/shares/{shown['id']}").status_code == 202
    assert shares.call("GET", f"/shares/{shown['id']}").status_code == 404
    assert not tree.exists()


def test_access_rules_are_entries_of_exportfs(harness: NfsSshHarness, shares: SharesApi) -> None:
    share_id = shares.create()["id"]
    rule = shares.allow(share_id, "2001:db8::/64", access_level="ro")
    assert harness.in_force(share_id) == {("2001:db8::/64", "ro")}
    path = f"/share-access-rules/{rule['id']}"
    shares.ok("PUT", path, {"update_access": {"access_level": "rw"}})
    assert harness.in_force(share_id) == {("2001:db8::/64", "rw")}
    assert shares.act(share_id, "deny_access", {"access_id": rule["id"]}).status_code == 202
    assert harness.in_force(share_id) == set()


def test_what_the_administrator_exports_is_not_a_tenants_to_change(
    sshd: SshServer, harness: NfsSshHarness, shares: SharesApi
) -> None:
    share_id = shares.create()["id"]
    tree = harness.store.tree(share_id)
    sshd.as_administrator("exportfs", "-o", "ro,sync", f"192.0.2.1:{tree}")
    answer = shares.act(share_id, "allow_access", {"access_type": "ip", "access_to": "192.0.2.1"})
    assert (answer.status_code, "192.0.2.1 already (ro)" in answer.text) == (400, True)
    assert harness.live(share_id) == {("192.0.2.1", "ro")}
    assert harness.store.get(share_id).access_rules == ()


def test_an_interface_behind_an_address_is_refused(
    harness: NfsSshHarness, shares: SharesApi
) -> None:
    share_id = shares.create()["id"]
    answer = shares.act(
        share_id, "allow_access", {"access_type": "ip", "access_to": "fe80::1%$(id)"}
    )
    assert answer.status_code == 400
    assert harness.store.get(share_id).access_rules == ()


def test_there_are_no_snapshots(shares: SharesApi) -> None:
    share_id = shares.create()["id"]
    answer = shares.call("POST", "/snapshots", {"snapshot": {"share_id": share_id}})
    assert (answer.status_code, "no snapshots" in answer.text) == (400, True)
    assert shares.ok("GET", "/snapshots")["snapshots"] == []


def test_when_the_server_is_away_it_is_503_and_not_404(
    harness: NfsSshHarness, shares: SharesApi
) -> None:
    share_id = shares.create()["id"]
    harness.put_away()
    one = f"/shares/{share_id}"
    for method, path in (("GET", one), ("GET", "/shares"), ("DELETE", one)):
        assert shares.call(method, path).status_code == 503


def test_any_wsgi_server_serves_them_and_takes_up_what_was_left(
    sshd: SshServer,
    harness: NfsSshHarness,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = harness.create_share()
    harness.store.begin_delete(left)
    options = tmp_path / "manila-backup.conf"
    options.write_text(
        f"""\
[DEFAULT]
share_provider = nfs_ssh
use_bus = false
[database]
connection = {database_url}
[api]
auth_strategy = noauth
[nfs_ssh]
host = 127.0.0.1
port = {sshd.port}
key_files = {sshd.key}
known_hosts_file = {sshd.known_hosts}
root = {sshd.root}
"""
    )
    made: list[ShareProvider] = []
    build = service.build_provider
    monkeypatch.setattr(service, "build_provider", lambda conf: made.append(build(conf)) or made[0])
    client = Client(build_from_conf(config.load([], files=[str(options)])))
    (provider,) = made
    assert isinstance(provider, NfsSshShareProvider)
    try:
        until(lambda: not (sshd.root / "shares" / left).exists(), "the end of the deletion")
        headers = {"X-Auth-Token": "root:p:admin", "X-OpenStack-Manila-API-Version": "2.99"}
        answer = client.get("/v2/shares", headers=headers)
        assert (answer.status_code, answer.json) == (200, {"shares": []})
        assert (sshd.root / MARKER).exists()
    finally:
        until(lambda: not list((sshd.root / "records").iterdir()), "the record's end")
        provider.store.close()
