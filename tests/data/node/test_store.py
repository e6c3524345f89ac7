# SPDX-License-Identifier: Apache-2.0
"""Single driver calls on the backup share, and a node's settings."""

from __future__ import annotations

import os

import pytest
from oslo_config import cfg

from manila_backup import exception
from manila_backup.data.mountinfo import mounted_below
from manila_backup.data.node import OPTS, NodeSettings
from manila_backup.data.store import call_store, manifest_exists
from manila_backup.types import BackupRef, Mount
from tests.data.node.world import World
from tests.db.builders import PROJECT, new_id

pytestmark = pytest.mark.slow


def test_what_is_in_the_store_is_found_without_the_database(world: World) -> None:
    share_id = world.small_share()
    backup_id = world.backed_up(share_id)
    node = world.node()
    (found,) = call_store(node.backup_share, node.settings, "scan")
    assert found.description.ref == BackupRef(project_id=PROJECT, backup_id=backup_id, epoch=1)
    assert found.description.share_id == share_id
    assert world.mounts() == []


@pytest.mark.root
@pytest.mark.parametrize(("method", "read_only"), [("scan", True), ("discard", False)])
def test_the_backup_share_is_writable_only_for_what_writes(
    world: World, method: str, read_only: bool
) -> None:
    seen: list[bool] = []

    def look() -> None:
        (point,) = mounted_below(str(world.directory))
        seen.append(bool(os.statvfs(point).f_flag & os.ST_RDONLY))

    world.steps.before("umount", look)
    node = world.node()
    ref = BackupRef(project_id=PROJECT, backup_id=new_id(), epoch=1)
    call_store(node.backup_share, node.settings, method, *([ref] if method == "discard" else []))
    assert seen == [read_only]


def test_an_error_of_the_driver_comes_through_and_the_mount_goes(world: World) -> None:
    node = world.node()
    ref = BackupRef(project_id=PROJECT, backup_id=new_id(), epoch=1)
    with pytest.raises(exception.BackupNotStored):
        call_store(node.backup_share, node.settings, "inspect", ref)
    assert world.mounts() == []


def test_only_a_valid_manifest_counts(world: World) -> None:
    node = world.node()
    queued = world.queue_backup(world.small_share())
    unpublished = world.backup(queued.backup_id)
    assert unpublished is not None
    assert not manifest_exists(node, unpublished)
    world.work(queued)
    published = world.backup(queued.backup_id)
    assert published is not None
    assert manifest_exists(node, published)
    (world.backup_share / PROJECT / published.id / "1" / "manifest.json").write_text("{}")
    assert not manifest_exists(node, published)


def test_a_store_that_cannot_be_mounted_is_not_an_empty_one(world: World) -> None:
    node = world.node(backup_mount=Mount(proto="path", export="/nowhere"))
    queued = world.queue_backup(world.small_share())
    world.work(queued)
    backup = world.backup(queued.backup_id)
    assert backup is not None
    with pytest.raises(exception.MountFailed):
        manifest_exists(node, backup)


# --- settings -------------------------------------------------------------------------------------


def _conf(**values: object) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf.register_opts(OPTS)
    conf([], default_config_files=[])
    for name, value in values.items():
        conf.set_override(name, value)
    return conf


def test_settings_are_read_from_the_configuration() -> None:
    conf = _conf(
        host="node-a", backup_mount_export="nas:/b", backup_mount_options=["vers=4.2", "soft"]
    )
    settings = NodeSettings.from_conf(conf)
    assert settings.host == "node-a"
    assert settings.backup_mount == Mount(
        proto="nfs", export="nas:/b", options=("vers=4.2", "soft")
    )


def test_a_missing_backup_share_is_named() -> None:
    with pytest.raises(ValueError, match="backup_mount_export"):
        NodeSettings.from_conf(_conf())
