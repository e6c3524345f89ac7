# SPDX-License-Identifier: Apache-2.0
"""Stored backups that are damaged, reset to available by an administrator, restored and verified.

Each damage is named; what can be seen before the first write leaves the share as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.rest import Rest
from tests.acceptance.standalone import Standalone
from tests.acceptance.trees import flip_a_byte

pytestmark = pytest.mark.acceptance


@dataclass(frozen=True, kw_only=True)
class Damage:
    """``resettable``: the manifest is still valid. ``named`` stands in what the tenant is told.
    ``touches``: only seen when the content is read, while the share is written.
    """

    inflict: Callable[[Path, Path], object]
    named: str
    resettable: bool = True
    touches: bool = False


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _half_delete(epoch: Path) -> None:
    (epoch / "manifest.json").unlink()
    (epoch / "data" / "one").unlink()


DAMAGES = {
    "flipped byte": Damage(
        inflict=lambda epoch, other: flip_a_byte(epoch / "data" / "below" / "two"),
        named="below/two",
        touches=True,
    ),
    "missing file": Damage(
        inflict=lambda epoch, other: (epoch / "data" / "below" / "two").unlink(),
        named="below/two",
    ),
    "truncated catalog": Damage(
        inflict=lambda epoch, other: _truncate(epoch / "catalog"), named="catalog"
    ),
    "missing manifest": Damage(
        inflict=lambda epoch, other: (epoch / "manifest.json").unlink(),
        named="manifest",
        resettable=False,
    ),
    "foreign manifest": Damage(
        inflict=lambda epoch, other: shutil.copy(other / "manifest.json", epoch / "manifest.json"),
        named="manifest",
        resettable=False,
    ),
    "half deleted": Damage(
        inflict=lambda epoch, other: _half_delete(epoch), named="manifest", resettable=False
    ),
}


@pytest.fixture
def tree(rest: Rest) -> tuple[str, Path]:
    """A share of this test's own, and its directory."""
    share_id = rest.create_share("to be damaged")
    tree = Path(rest.tree(share_id))
    (tree / "below").mkdir()
    (tree / "one").write_bytes(b"1" * 5000)
    (tree / "below" / "two").write_bytes(b"2" * 5000)
    return share_id, tree


def reset(rest: Rest, backup_id: str, status: str) -> int:
    body = {"reset_status": {"status": status}}
    return rest.call("POST", f"/share-backups/{backup_id}/action", body).status


def contents(tree: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_by_reset_restore_and_verify(
    service: Standalone, rest: Rest, tree: tuple[str, Path], kind: str
) -> None:
    damage, (share_id, directory) = DAMAGES[kind], tree
    backup_id, other_id = rest.available_backup(share_id), rest.available_backup(share_id)
    epoch, other = (
        service.store / "default" / id_ / str(service.epochs(id_)[0])
        for id_ in (backup_id, other_id)
    )
    damage.inflict(epoch, other)
    (directory / "one").write_bytes(b"changed since")
    before = contents(directory)

    assert reset(rest, backup_id, "error") == 202
    assert reset(rest, backup_id, "available") == (202 if damage.resettable else 400)
    assert rest.backup_status(backup_id) == ("available" if damage.resettable else "error")

    verified = service.manage.run("backup verify", backup_id)
    assert verified.status == 1
    assert (damage.named if damage.resettable else backup_id) in verified.err

    if damage.resettable:
        rest.restore(backup_id)
        ended = rest.until_ended(backup_id)
        assert ended["status"] == "failed"
        assert damage.named in ended["fail_reason"]
        assert rest.backup_status(backup_id) == "available"
        shown = "backup_restoring_error" if damage.touches else "available"
        assert rest.share_status(share_id) == shown
        if not damage.touches:
            assert contents(directory) == before
    # A good backup of the same share heals whatever was done to it.
    rest.restored(other_id)
    assert (directory / "one").read_bytes() == b"1" * 5000
    assert rest.share_status(share_id) == "available"


@pytest.mark.parametrize("kind", [kind for kind, one in DAMAGES.items() if not one.resettable])
def test_a_lost_manifest_fails_a_restore_that_nobody_warned_of(
    service: Standalone, rest: Rest, tree: tuple[str, Path], kind: str
) -> None:
    damage, (share_id, directory) = DAMAGES[kind], tree
    backup_id, other_id = rest.available_backup(share_id), rest.available_backup(share_id)
    epoch, other = (
        service.store / "default" / id_ / str(service.epochs(id_)[0])
        for id_ in (backup_id, other_id)
    )
    damage.inflict(epoch, other)
    before = contents(directory)
    rest.restore(backup_id)
    ended = rest.until_ended(backup_id)
    assert ended["status"] == "failed"
    assert damage.named in ended["fail_reason"]
    assert contents(directory) == before
    assert rest.share_status(share_id) == "available"
