# SPDX-License-Identifier: Apache-2.0
"""What backup and restore over NFS keep, as the servers see it, for each version.

What a version cannot carry is measured (doc/nfs.md). What it does not show of a source nobody can
count; what the source showed and the target does not keep is counted, one for each.
"""

from __future__ import annotations

import pytest

from tests.nfs.vm import ADDRESSES, BACKUP, SOURCE, Agent

pytestmark = [pytest.mark.full, pytest.mark.root]

Changes = dict[str, set[str]]

UNSEEN: dict[str, Changes] = {
    "3": {
        "attributes": {"user.colour", "trusted.t", "security.s"},
        "capable": {"security.capability"},
        "d": {"user.of a directory"},
        "sparse": {"extents"},
        "old": {"mtime_ns"},
        "far": {"mtime_ns"},
    },
    "4.1": {
        "attributes": {"user.colour", "trusted.t", "security.s"},
        "capable": {"security.capability"},
        "d": {"user.of a directory"},
        "sparse": {"extents"},
    },
    "4.2": {
        "attributes": {"trusted.t", "security.s"},
        "capable": {"security.capability"},
    },
}
"""What a version does not show of a source: seconds below 0 and above 2^32 on v3, holes before
v4.2, attributes."""

FIRST_SECOND: Changes = {
    "empty": {"mtime_ns"},
    "link": {"mtime_ns"},
    "d/closed": {"mtime_ns"},
}
"""The server of v3 forgets nanoseconds in the first second of 1970."""

TIMES: Changes = {**FIRST_SECOND, "old": {"mtime_ns"}, "far": {"mtime_ns"}}
USER: Changes = {"attributes": {"user.colour"}, "d": {"user.of a directory"}}
INHERITED: Changes = {
    "": {"system.posix_acl_default"},
    "d/closed": {"system.posix_acl_default"},
    "named": {"system.posix_acl_default"},
}
"""What the target's root let others inherit before the restore: the server (Linux 6.1) takes an
NFSv4 ACL without any of it, and keeps it. It is made to say no more than a mode, and counted."""

ACLS: Changes = {
    "acl": {"system.posix_acl_access"},
    "named": {"system.posix_acl_access"},
    "d": {"system.posix_acl_default"},
}


def united(*some: Changes) -> Changes:
    found: Changes = {}
    for changes in some:
        for path, what in changes.items():
            found[path] = found.get(path, set()) | what
    return found


NOT_KEPT = {
    ("3", "3"): FIRST_SECOND,
    ("4.1", "4.1"): {},
    ("4.2", "4.2"): {},
    ("4.2", "3"): united(TIMES, USER, ACLS),
    ("4.1", "3"): united(TIMES, ACLS),
    ("3", "4.2"): ACLS,
    ("4.2", "4.1"): USER,
    ("4.1", "4.2"): {},
}
"""What a target of the second version does not keep of what the first showed. ACLs are those of
POSIX in v3 and of NFS in v4; neither is translated."""

SAME = [(source, backup, source) for source in UNSEEN for backup in UNSEEN]
OTHER = [("4.2", "4.2", "3"), ("4.1", "4.2", "3"), ("3", "4.2", "4.2")]
FS_TYPES = [["ext4", "xfs", "ext4"], ["xfs", "ext4", "xfs"]]


@pytest.mark.parametrize(("source", "backup", "target"), SAME + OTHER)
def test_all_that_the_versions_can_carry_is_kept_and_each_loss_is_counted(
    client: Agent, source: str, backup: str, target: str
) -> None:
    number = (SAME + OTHER).index((source, backup, target))
    done = client.call(
        "metadata.round_trip",
        source=source,
        backup=backup,
        target=target,
        fs_types=FS_TYPES[number % 2],
        addresses=[ADDRESSES[SOURCE], ADDRESSES[BACKUP]],
        name=f"metadata-{number}",
    )
    lost = NOT_KEPT[source, target]
    inherited = {} if target == "3" else INHERITED
    found = {path: set(what) for path, what in done["changes"].items()}
    assert found == united(UNSEEN[source], lost, inherited)
    # Without an NFSv4 ACL of its own a directory that inherits is not looked at.
    told = united(lost, {"": INHERITED[""]} if source == "3" and inherited else inherited)
    assert done["lost in the restore"] == sum(map(len, told.values()))
    # In the stored tree as on a share; what it lacks came back, so it is in the catalog.
    if (source, backup) in NOT_KEPT:
        assert done["lost in the backup"] == sum(map(len, NOT_KEPT[source, backup].values()))
