# SPDX-License-Identifier: Apache-2.0
"""The devstack plugin, run phase by phase as devstack does it. See harness.sh for what is real."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from manila_backup import config
from tests.acceptance.programs import BIN, run
from tests.acceptance.waiting import until
from tests.cloud.keystone import Keystone
from tests.cloud.users import DEMO
from tests.devstack.devstack import CHECKOUT, Devstack, Killed, host
from tests.support.databases import MariaDb

MANILA = "http://127.0.0.1:9/share/v2"
INTERFACES = ("public", "internal", "admin")
ENTRIES = {"sharev2": ("public", "internal"), "shared-file-system": ("public",)}
MANILAS = {(kind, each): MANILA for kind, interfaces in ENTRIES.items() for each in interfaces}


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["devstack/plugin.sh", "devstack/settings", "tests/devstack/harness.sh"]
)
def test_shellcheck_finds_nothing(path: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (Debian: shellcheck)")
    done = run(["shellcheck", CHECKOUT / path])
    assert (done.status, done.out, done.err) == (0, "", "")


@pytest.fixture(scope="module")
def own_keystone() -> Iterator[Keystone]:
    """One whose catalog these tests may change."""
    with Keystone() as found:
        for kind, interfaces in ENTRIES.items():
            found.add_endpoint(kind, kind, MANILA, interfaces)
        yield found


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDb]:
    with MariaDb() as found:
        yield found


@pytest.fixture
def provider() -> str:
    """The plugin's default, as soon as the package has it."""
    known = entry_points(group="manila_backup.share_providers").names
    return "manila" if "manila" in known else "local"


@pytest.fixture
def devstack(
    own_keystone: Keystone, mariadb: MariaDb, provider: str, tmp_path: Path
) -> Iterator[Devstack]:
    with host(tmp_path, own_keystone, mariadb, provider) as found:
        yield found
        found.clean()


def status_of(url: str, token: str | None = None) -> int:
    headers = {
        "X-OpenStack-Manila-API-Version": "2.85",
        "X-OpenStack-Manila-API-Experimental": "true",
        **({} if token is None else {"X-Auth-Token": token}),
    }
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - a server of ours
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def assert_it_works(devstack: Devstack) -> None:
    """All that a stack is to leave behind is there."""
    conf = config.load(["--config-file", str(devstack.config)])
    assert conf.database.connection.endswith("/backup_of_devstack?charset=utf8mb4")
    assert conf.backup_mount_export == f"127.0.0.1:{devstack.export}"
    assert devstack.config.stat().st_mode & 0o777 == 0o600
    assert devstack.export.stat().st_mode & 0o777 == 0o700

    for program, words in (("status", "upgrade check"), ("manage", "service list")):
        done = run(
            [BIN / f"manila-backup-{program}", "--config-file", devstack.config, *words.split()]
        )
        assert done.status == 0, done.out + done.err

    ours = {(kind, each): devstack.url for kind in ("share-backup",) for each in INTERFACES}
    assert devstack.catalog() == {**dict.fromkeys(MANILAS, devstack.url), **ours}

    assert len(devstack.exported()) == 1
    assert devstack.exported()[0].startswith(f"{devstack.export}\t127.0.0.1(rw,sync,")
    assert "no_root_squash" in devstack.exported()[0]

    assert sorted(devstack.running) == ["manila-backup-api", "manila-backup-data"]
    assert devstack.users["manila-backup-data"] == "root"
    assert status_of(f"{devstack.url}/share-backups") == 401
    assert status_of(f"{devstack.url}/share-backups", devstack.token(DEMO)) == 200

    def up() -> bool:
        command = [BIN / "manila-backup-manage", "--config-file", devstack.config]
        return [
            row["State"] for row in run([*command, "service", "list", "--format", "json"]).json
        ] == ["up"]

    until(up, "the data node's sign of life")


@pytest.mark.root
@pytest.mark.full
@pytest.mark.acceptance
def test_stacked_twice_unstacked_stacked_again_and_cleaned(devstack: Devstack) -> None:
    assert devstack.catalog() == MANILAS

    devstack.stack()
    assert_it_works(devstack)
    assert devstack.roles("manila-backup", "service") == {"admin", "service"}
    calls = (devstack.directory / "calls").read_text().splitlines()
    assert f"setup_develop {CHECKOUT} mysql" in calls
    assert "install_package nfs-kernel-server nfs-common" in calls
    assert "start_service nfs-kernel-server" in calls

    (devstack.export / "kept").write_text("what was stored is not lost by stacking again")
    devstack.stack()
    assert_it_works(devstack)
    assert (devstack.export / "kept").exists()

    devstack.unstack()
    assert devstack.running == {}
    assert devstack.exported() == []
    assert {key: url for key, url in devstack.catalog().items() if key in MANILAS} == MANILAS
    assert (devstack.export / "kept").exists()

    devstack.stack()
    assert_it_works(devstack)

    # And so it is as it was before it was stacked first.
    devstack.clean()
    assert_nothing_is_left(devstack)
    devstack.clean()


def assert_nothing_is_left(devstack: Devstack) -> None:
    assert devstack.running == {}
    assert devstack.exported() == []
    assert devstack.catalog() == MANILAS
    assert "backup_of_devstack" not in devstack.databases()
    assert not devstack.has_user("manila-backup")
    assert list((devstack.directory / "data").iterdir()) == []
    assert not (devstack.directory / "etc").exists()
    assert list((devstack.directory / "exports.d").iterdir()) == []


@pytest.mark.root
@pytest.mark.full
@pytest.mark.acceptance
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("before 1", marks=pytest.mark.by_hand),
        "after 1",
        pytest.param("after 2", marks=pytest.mark.by_hand),
    ],
)
def test_killed_while_the_catalog_is_changed(devstack: Devstack, fault: str) -> None:
    """Whatever had been changed by then is put back."""
    with pytest.raises(Killed):
        devstack.stack(fault=fault)
    devstack.unstack()
    assert {key: url for key, url in devstack.catalog().items() if key in MANILAS} == MANILAS


@pytest.mark.root
@pytest.mark.full
@pytest.mark.acceptance
def test_without_the_gateway_the_catalog_stays(
    own_keystone: Keystone, mariadb: MariaDb, provider: str, tmp_path: Path
) -> None:
    off = {"MANILA_BACKUP_GATEWAY": "False"}
    with host(tmp_path, own_keystone, mariadb, provider, **off) as devstack:
        devstack.stack()
        assert {key: url for key, url in devstack.catalog().items() if key in MANILAS} == MANILAS
        text = devstack.config.read_text()
        assert "manila_endpoint" not in text
        assert f"endpoint_override = {MANILA}" in text
        devstack.clean()
        assert_nothing_is_left(devstack)


@pytest.mark.root
@pytest.mark.full
@pytest.mark.acceptance
def test_keystone_away_at_clean(devstack: Devstack) -> None:
    """As in clean.sh, which has stopped it: what is on this host goes all the same."""
    devstack.stack()
    devstack.unstack()
    devstack.keystone.stop()
    try:
        said = devstack.clean()
    finally:
        devstack.keystone.start()
    assert "Keystone is away" in said
    assert list((devstack.directory / "data").iterdir()) == []
    assert not (devstack.directory / "etc").exists()
