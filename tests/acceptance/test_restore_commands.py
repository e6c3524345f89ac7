# SPDX-License-Identifier: Apache-2.0
"""``openstack share backup restore`` as tenants use it: to the source, to another share, waiting,
and what a share is like after a restore that failed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.programs import OpenStack, compare_trees
from tests.acceptance.rest import Rest
from tests.acceptance.standalone import Standalone
from tests.acceptance.trees import copy, damage, fill, fill_as_demo, flip_a_byte

pytestmark = pytest.mark.acceptance


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return fill(tmp_path / "original")


def test_restore_waits_until_the_share_is_as_it_was(
    client: OpenStack, rest: Rest, tmp_path: Path
) -> None:
    original = fill_as_demo(tmp_path / "original", 50)
    share_id = rest.create_share("wieder hergestellt")
    tree = rest.tree(share_id)
    copy(original, tree)
    backup_id = rest.available_backup(share_id, name="gesichert")
    damage_demo(Path(tree))
    assert compare_trees(original, tree) != []
    client.quiet("share backup restore", "gesichert", "--wait")
    assert rest.share_status(share_id) == "available"
    assert compare_trees(original, tree) == []
    shown = rest.backup(backup_id)
    assert (shown["status"], shown["restore_progress"]) == ("available", "100")


def damage_demo(tree: Path) -> None:
    first, *others = sorted(path for path in (tree / "real").rglob("*") if path.is_file())
    first.chmod(0o600)
    first.write_bytes(b"damaged")
    others[0].unlink()
    (tree / "left by a stranger").mkdir()
    tree.chmod(0o700)


def test_restore_to_another_share(client: OpenStack, rest: Rest, original: Path) -> None:
    share_id, target_id = rest.create_share("from here"), rest.create_share("to there", 2)
    copy(original, rest.tree(share_id))
    backup_id = rest.available_backup(share_id)
    stranger = Path(rest.tree(target_id), "was there before")
    stranger.write_bytes(b"x")
    damage(rest.tree(share_id))
    damaged = Path(rest.tree(share_id), "file").read_bytes()
    client.quiet("share backup restore", backup_id, "--target-share", "to there", "--wait")
    assert compare_trees(original, rest.tree(target_id)) == []
    assert not stranger.exists()
    # The source is not touched.
    assert Path(rest.tree(share_id), "file").read_bytes() == damaged


def test_restore_to_what_is_not_there_or_too_small(client: OpenStack, rest: Rest) -> None:
    share_id = rest.create_share("roomy", 2)
    small_id = rest.create_share("narrow", 1)
    backup_id = rest.available_backup(share_id)
    said = client.fails("share backup restore", backup_id, "--target-share", "nowhere")
    assert "No share with a name or ID of 'nowhere' exists." in said
    said = client.fails("share backup restore", backup_id, "--target-share", small_id)
    assert "Share size 1 is too small to restore backup of size 2." in said
    assert "(HTTP 400)" in said
    assert "No sharebackup" in client.fails("share backup restore", "nothing")
    assert rest.backup_status(backup_id) == "available"


def test_targets_are_refused_below_the_version_that_has_them(client: OpenStack, rest: Rest) -> None:
    backup_id = rest.available_backup(rest.create_share("before 2.91"))
    old = ("--os-share-api-version", "2.90")
    assert "2.91" in client.fails(
        f"{' '.join(old)} share backup restore", backup_id, "--target-share", "before 2.91"
    )
    client.quiet(f"{' '.join(old)} share backup restore", backup_id)
    rest.until_done(backup_id)


# --- a restore that fails -------------------------------------------------------------------------


class Failed:
    """A share into which the restore of a damaged backup has failed half way, and a good backup
    of the same.
    """

    def __init__(self, service: Standalone, original: Path, name: str) -> None:
        self.rest = service.rest()
        self.share_id = self.rest.create_share(name)
        self.tree = self.rest.tree(self.share_id)
        copy(original, self.tree)
        self.good = self.rest.available_backup(self.share_id, name=f"{name} good")
        self.bad = self.rest.available_backup(self.share_id, name=f"{name} bad")
        # A file of two names, of which "linked" is the first.
        flip_a_byte(service.store / "default" / self.bad / "1" / "data" / "linked")
        damage(self.tree)


@pytest.fixture
def failed(service: Standalone, original: Path, request: pytest.FixtureRequest) -> Failed:
    return Failed(service, original, request.node.name)


def test_a_restore_that_fails_says_so_everywhere_and_the_next_one_heals(
    client: OpenStack, failed: Failed, original: Path
) -> None:
    rest = failed.rest
    ended = client.run("share backup restore", failed.bad, "--wait")
    assert "ERROR: share is in error state." in ended.err
    assert rest.share_status(failed.share_id) == "backup_restoring_error"
    assert client.json("share show", failed.share_id)["status"] == "backup_restoring_error"
    assert rest.backup_status(failed.bad) == "available"
    operation = rest.operation(failed.bad)
    assert operation["status"] == "failed"
    assert "linked: the content" in operation["fail_reason"]
    assert rest.access_rules(failed.share_id) == []

    (message,) = client.json("share message list", "--resource-id", failed.bad)
    assert "linked: the content" in message["User Message"]
    shown = client.json("share message show", message["ID"])
    assert shown["message_level"] == "ERROR"
    assert shown["user_message"] == message["User Message"]

    said = client.fails("share backup create", failed.share_id)
    assert "'backup_restoring_error' state" in said
    assert "(HTTP 400)" in said

    client.quiet("share backup restore", failed.good, "--wait")
    assert rest.share_status(failed.share_id) == "available"
    assert compare_trees(original, failed.tree) == []


def test_an_administrator_may_take_the_share_as_it_is(client: OpenStack, failed: Failed) -> None:
    rest = failed.rest
    rest.restore(failed.bad)
    assert rest.until_ended(failed.bad)["status"] == "failed"
    assert rest.share_status(failed.share_id) == "backup_restoring_error"
    client.quiet("share set", failed.share_id, "--status", "available")
    assert rest.share_status(failed.share_id) == "available"
    rest.available_backup(failed.share_id)


def test_what_is_damaged_visibly_is_noticed_before_the_first_write(
    failed: Failed, service: Standalone
) -> None:
    rest = failed.rest
    (service.store / "default" / failed.bad / "1" / "catalog").write_bytes(b"")
    before = _listing(failed.tree)
    rest.restore(failed.bad)
    operation = rest.until_ended(failed.bad)
    assert operation["status"] == "failed"
    assert "catalog" in operation["fail_reason"]
    assert rest.share_status(failed.share_id) == "available"
    assert _listing(failed.tree) == before


def _listing(tree: str) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_ctime_ns) for path in Path(tree).rglob("*"))
