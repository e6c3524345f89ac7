# SPDX-License-Identifier: Apache-2.0
"""Backups of a real Manila's shares, asked for at our endpoint with Keystone's tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manilaclient import exceptions

from tests.acceptance.programs import compare_trees
from tests.cloud.beside import NODE_ADDRESS, Beside
from tests.cloud.beside import beside as beside_manila
from tests.cloud.cloud import Cloud
from tests.cloud.users import ADMIN, ALT_DEMO, DEMO, DEMO_READER, SERVICE

pytestmark = [pytest.mark.full, pytest.mark.acceptance, pytest.mark.root]

SLOW_BYTES_PER_S = 1 << 20
LARGE_BYTES = 16 << 20


@pytest.fixture(scope="module")
def service(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    root = tmp_path_factory.mktemp("beside")
    with beside_manila(cloud, root, "beside", max_bytes_per_s=SLOW_BYTES_PER_S) as found:
        yield found


def fill(tree: Path) -> None:
    (tree / "directory").mkdir()
    (tree / "directory" / "file").write_bytes(os.urandom(5000))
    (tree / "link").symlink_to("directory/file")
    os.link(tree / "directory" / "file", tree / "hard")
    os.chown(tree / "directory", 1234, 5678)
    tree.chmod(0o2770)


def held(cloud: Cloud, share_id: str) -> tuple[Any, set[tuple[str, str]], list[Any]]:
    """What an operation must leave as it was: task state, rules in force, locks."""
    wanted = {"resource_id": share_id, "all_projects": 1}
    locks = cloud.client(ADMIN).resource_locks.list(search_opts=wanted)
    return cloud.share(share_id).task_state, cloud.in_force(share_id), list(locks)


def test_a_backup_is_restored_to_another_share_and_nothing_is_left(
    cloud: Cloud, service: Beside
) -> None:
    source, target = cloud.create_share(DEMO), cloud.create_share(DEMO)
    fill(cloud.tree(source))
    cloud.client(DEMO).shares.allow(source, "ip", "198.51.100.1", "rw")
    cloud.until(lambda: cloud.in_force(source), "the tenant's rule")
    before = [held(cloud, share) for share in (source, target)]
    rest = service.rest(DEMO)
    backup_id = rest.available_backup(source)
    rest.restore(backup_id, target)
    rest.until_done(backup_id)
    assert compare_trees(cloud.tree(source), cloud.tree(target)) == []
    assert [held(cloud, share) for share in (source, target)] == before
    assert before[0][1] == {("198.51.100.1", "rw")}


def test_the_backups_may_lie_in_a_share_of_manilas(cloud: Cloud, tmp_path: Path) -> None:
    """The data node has access to it while it needs it, and no longer."""
    backups_id = cloud.create_share(SERVICE)
    cloud.tree(backups_id).chmod(0o700)
    source, target = cloud.create_share(DEMO), cloud.create_share(DEMO)
    fill(cloud.tree(source))
    (cloud.tree(source) / "large").write_bytes(os.urandom(LARGE_BYTES // 4))
    options = {"backup_share_id": backups_id, "max_bytes_per_s": SLOW_BYTES_PER_S}
    with beside_manila(cloud, tmp_path, "managed", **options) as service:
        rest = service.rest(DEMO)
        backup_id = rest.create_backup(source)
        cloud.until(lambda: phase(rest, backup_id) == "copying", "the copy")
        assert cloud.in_force(backups_id) == {(NODE_ADDRESS, "rw")}
        rest.until_done(backup_id)
        assert held(cloud, backups_id) == (None, set(), [])
        rest.restored(backup_id, target)
        assert compare_trees(cloud.tree(source), cloud.tree(target)) == []
        assert held(cloud, backups_id) == (None, set(), [])


def test_another_project_sees_nothing(cloud: Cloud, service: Beside) -> None:
    source = cloud.create_share(DEMO)
    backup_id = service.rest(DEMO).available_backup(source)
    stranger = service.rest(ALT_DEMO)
    assert stranger.backups() == []
    assert stranger.call("GET", f"/share-backups/{backup_id}").status == 404
    assert stranger.call("DELETE", f"/share-backups/{backup_id}").status == 404
    assert stranger.ask_backup(source).status == 404
    assert service.rest(DEMO_READER).ask_backup(source).status == 403


def test_the_owner_cannot_disturb_a_backup_through_manila(cloud: Cloud, service: Beside) -> None:
    source = cloud.create_share(DEMO, size=2)
    (cloud.tree(source) / "large").write_bytes(os.urandom(LARGE_BYTES))
    rest = service.rest(DEMO)
    backup_id = rest.create_backup(source)
    cloud.until(lambda: phase(rest, backup_id) == "copying", "the copy")
    assert cloud.in_force(source) == {(NODE_ADDRESS, "ro")}
    demo = cloud.client(DEMO)
    attempts: dict[str, Callable[[], object]] = {
        "delete": lambda: demo.shares.delete(source),
        "soft_delete": lambda: demo.shares.soft_delete(source),
        "extend": lambda: demo.shares.extend(source, 3),
        "shrink": lambda: demo.shares.shrink(source, 1),
        "snapshot": lambda: demo.share_snapshots.create(source),
    }
    refused = {}
    for name, attempt in attempts.items():
        with pytest.raises(exceptions.ClientException) as caught:
            attempt()
        refused[name] = caught.value.http_status
    assert refused == {
        "delete": 403,
        "soft_delete": 403,
        "extend": 400,
        "shrink": 400,
        "snapshot": 400,
    }
    assert phase(rest, backup_id) == "copying"
    rest.until_done(backup_id)
    assert held(cloud, source) == (None, set(), [])
    demo.shares.delete(source)


def phase(rest: Any, backup_id: str) -> str | None:
    (operation,) = rest.get(f"/share-backups/{backup_id}/operations")["operations"]
    return operation.get("phase")
