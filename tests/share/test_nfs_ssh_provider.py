# SPDX-License-Identifier: Apache-2.0
"""What the nfs_ssh provider does beyond the contract: what is on the server, and what rivals, kills
and the server's administrator make of it. Over Debian's sshd and exportfs."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manila_backup.exception import GrantFailed, Invalid, ShareNotFound, TransientError
from manila_backup.share.local.access import with_tenant_rule
from manila_backup.share.local.records import LocalAccessRule, LocalShare, RecordDamaged, dump_share
from manila_backup.share.nfs_ssh.connection import Answer, Connection, ServerAway
from manila_backup.share.nfs_ssh.exports import GIVE
from manila_backup.share.nfs_ssh.options import SshSettings, StoreSettings
from manila_backup.share.nfs_ssh.provider import NfsSshShareProvider
from manila_backup.share.nfs_ssh.server import Server
from manila_backup.share.nfs_ssh.store import MARKER, ExportedAlready, NfsSshStore
from manila_backup.types import AccessLevel, Grant, Mount, Share
from tests.share.nfs_ssh_harness import NfsSshHarness, harness_over
from tests.share.ssh_server import USER, SshServer

pytestmark = [pytest.mark.slow, pytest.mark.root]

RO, RW = AccessLevel.RO, AccessLevel.RW
NODE = "192.0.2.7"
OPTIONS = "sync,no_root_squash,subtree_check"


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
def share(harness: NfsSshHarness) -> Share:
    return harness.provider.get(harness.owner, harness.create_share())


def intent(share: Share, address: str = NODE, level: AccessLevel = RW) -> Grant:
    """As it is written down before the grant."""
    return Grant(share_id=share.id, address=address, level=level, ours=True, reference=None)


def nothing_is_left(sshd: SshServer, harness: NfsSshHarness, share: Share) -> bool:
    files = [path for path in sshd.exports.iterdir() if not path.name.startswith(".")]
    return harness.in_force(share.id) == set() and files == []


class TestOnTheServer:
    def test_a_share_is_a_directory_beside_its_record(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        tree, records = sshd.root / "shares" / share.id, sshd.root / "records"
        assert tree.is_dir()
        assert oct(tree.stat().st_mode & 0o777) == "0o755"
        assert oct(records.stat().st_mode & 0o777) == "0o700"
        assert [path.name for path in records.iterdir()] == [f"{share.id}.json"]
        assert harness.provider.mounts(share) == [Mount(proto="nfs", export=f"127.0.0.1:{tree}")]

    def test_a_server_with_an_ipv6_address(self, sshd: SshServer, harness: NfsSshHarness) -> None:
        settings = replace(harness.settings, export_address="2001:db8::1")
        provider = NfsSshShareProvider(
            NfsSshStore(harness.server, settings), mount_options=("nfsvers=4.2",)
        )
        share = provider.get(harness.owner, harness.create_share())
        tree = sshd.root / "shares" / share.id
        export = f"[2001:db8::1]:{tree}"
        assert provider.mounts(share) == [
            Mount(proto="nfs", export=export, options=("nfsvers=4.2",))
        ]

    @pytest.mark.parametrize(
        ("address", "written"),
        [
            (NODE, NODE),
            ("2001:db8::7", "2001:db8::7"),
            ("2001:DB8:0:0::7/128", "2001:db8::7"),
        ],
    )
    def test_a_grant_is_one_entry_and_one_file(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share, address: str, written: str
    ) -> None:
        harness.provider.grant(share, address, RO)
        tree = sshd.root / "shares" / share.id
        (file,) = sshd.exports.iterdir()
        assert file.read_text() == f"{tree} {written}(ro,{OPTIONS})\n"
        table = sshd.as_administrator("exportfs", "-s").splitlines()
        assert len(table) == 1
        assert table[0].startswith(f"{tree}  {written}(")
        assert {"ro", "no_root_squash"} <= set(table[0].rstrip(")").split("(")[1].split(","))

    def test_it_survives_a_reboot_of_the_server(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        harness.provider.grant(share, NODE, RW)
        harness.provider.grant(share, "2001:db8::7", RO)
        harness.add_rule(share.id, "2001:db8:1::/64", RO)
        sshd.reboot()
        granted = {(NODE, "rw"), ("2001:db8::7", "ro"), ("2001:db8:1::/64", "ro")}
        assert harness.live(share.id) == granted
        harness.provider.revoke(intent(share))
        sshd.reboot()
        assert harness.live(share.id) == granted - {(NODE, "rw")}

    def test_or_ends_with_it_where_files_are_kept_elsewhere(
        self, sshd: SshServer, harness: NfsSshHarness
    ) -> None:
        settings = replace(harness.settings, exports_directory="/run/manila-backup")
        volatile = NfsSshHarness(harness.ssh, settings)
        share = volatile.provider.get(volatile.owner, volatile.create_share())
        volatile.provider.grant(share, NODE, RW)
        assert volatile.live(share.id) == {(NODE, "rw")}
        sshd.reboot()
        assert volatile.live(share.id) == set()
        volatile.provider.revoke(intent(share))
        volatile.provider.grant(share, NODE, RW)
        assert volatile.live(share.id) == {(NODE, "rw")}
        volatile.store.close()

    def test_deletion_leaves_nothing(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        (sshd.root / "shares" / share.id / "a\nb").mkdir()
        (sshd.root / "shares" / share.id / "-rf").symlink_to(sshd.root)
        harness.add_rule(share.id, NODE, RW)
        harness.provider.grant(share, "192.0.2.8", RO)
        harness.store.begin_delete(share.id)
        assert sshd.as_administrator("exportfs", "-s") == ""
        harness.store.finish_delete(share.id)
        assert list((sshd.root / "shares").iterdir()) == []
        assert list((sshd.root / "records").iterdir()) == []
        assert list(sshd.exports.iterdir()) == []
        assert (sshd.root / MARKER).exists()

    def test_a_deletion_that_was_announced_only_is_resumed(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        other = harness.create_share()
        harness.store.begin_delete(share.id)
        harness.store.resume()
        assert [found.id for found in harness.store.shares()] == [other]

    def test_what_the_killed_have_left_is_swept_up_when_it_is_old(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        records, trees = sshd.root / "records", sshd.root / "shares"
        full, empty, fresh = (trees / str(uuid.uuid4()) for _ in range(3))
        for tree in (full, empty, fresh):
            tree.mkdir()
        (full / "file").touch()
        others = sshd.exports / ".somebody-else.new"
        half = [records / ".x.json.77.new", sshd.exports / ".manila-backup-x.77.new"]
        for path in (*half, others, records / ".y.json.78.new"):
            path.touch()
        an_hour_ago_s = time.time() - 3700
        for path in (*half, others, full, empty, trees / share.id):
            os.utime(path, (an_hour_ago_s, an_hour_ago_s))
        harness.store.resume()
        assert {path.name for path in trees.iterdir()} == {full.name, fresh.name, share.id}
        assert [path.name for path in sshd.exports.iterdir()] == [others.name]
        assert {path.name for path in records.iterdir()} == {f"{share.id}.json", ".y.json.78.new"}

    def test_what_cannot_be_removed_is_shown_and_tried_again(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        inside = sshd.root / "shares" / share.id / "mounted"
        inside.mkdir()
        sshd.as_administrator("mount", "--bind", str(sshd.exports), str(inside))
        harness.remove_share(share.id)
        assert harness.store.get(share.id).status == "error_deleting"
        sshd.as_administrator("umount", str(inside))
        harness.store.begin_delete(share.id, force=True)
        harness.store.finish_delete(share.id)
        with pytest.raises(ShareNotFound):
            harness.store.get(share.id)

    def test_another_user_than_root_works_through_sudo(self, sshd: SshServer) -> None:
        harness = harness_over(sshd, user=USER, use_sudo=True)
        share = harness.provider.get(harness.owner, harness.create_share())
        grant = harness.provider.grant(share, NODE, RW)
        assert harness.in_force(share.id) == {(NODE, "rw")}
        harness.provider.revoke(grant)
        assert nothing_is_left(sshd, harness, share)
        harness.store.close()

    def test_a_root_that_is_not_mounted_is_away_and_not_empty(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        sshd.as_administrator("mount", "-t", "tmpfs", "none", str(sshd.root))
        for ask in (
            lambda: harness.provider.get(harness.owner, share.id),
            lambda: list(harness.store.shares()),
            harness.create_share,
        ):
            with pytest.raises(TransientError, match=MARKER):
                ask()
        with pytest.raises(GrantFailed, match=MARKER):
            harness.provider.revoke(intent(share))

    def test_a_revocation_is_certain_or_raises(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share, tmp_path: Path
    ) -> None:
        grant = harness.provider.grant(share, NODE, RW)
        # An exportfs that says it has done it, and has not.
        shutil.copy2("/usr/sbin/exportfs", tmp_path / "real")
        broken = tmp_path / "exportfs"
        broken.write_text(f'#!/bin/sh\n[ "$1" = -u ] || exec {tmp_path}/real "$@"\n')
        broken.chmod(0o755)
        sshd.as_administrator("mount", "--bind", str(broken), "/usr/sbin/exportfs")
        with pytest.raises(GrantFailed, match="still shows"):
            harness.provider.revoke(grant)
        assert harness.live(share.id) == harness.after_reboot(share.id) == {(NODE, "rw")}
        sshd.as_administrator("umount", "/usr/sbin/exportfs")
        harness.provider.revoke(grant)
        assert nothing_is_left(sshd, harness, share)

    def test_a_grant_works_or_raises(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share, tmp_path: Path
    ) -> None:
        shutil.copy2("/usr/sbin/exportfs", tmp_path / "real")
        broken = tmp_path / "exportfs"
        broken.write_text(f'#!/bin/sh\n[ "$1" = -o ] || exec {tmp_path}/real "$@"\n')
        broken.chmod(0o755)
        sshd.as_administrator("mount", "--bind", str(broken), "/usr/sbin/exportfs")
        with pytest.raises(GrantFailed, match=f"does not show rw for {NODE}"):
            harness.provider.grant(share, NODE, RW)
        harness.provider.revoke(intent(share))
        assert nothing_is_left(sshd, harness, share)


class TestHostileWords:
    @pytest.mark.parametrize(
        "text", ["$(touch {0})", "`touch {0}`", "'; touch {0}; '", "\ntouch {0}\n", "--help", "-o"]
    )
    def test_none_reaches_a_shell(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share, tmp_path: Path, text: str
    ) -> None:
        word = text.format(tmp_path / "made-by-a-shell")
        provider = harness.provider
        with pytest.raises(ShareNotFound):
            provider.get(harness.admin, word)
        with pytest.raises(ShareNotFound):
            provider.mounts(replace(share, id=word))
        for address in (word, f"fe80::1%{word}", f"192.0.2.7/{word}"):
            with pytest.raises(GrantFailed, match="not an address"):
                provider.grant(share, address, RO)
            provider.revoke(intent(share, address))
        with pytest.raises(GrantFailed):
            provider.grant(replace(share, id=word), NODE, RO)
        provider.revoke(replace(intent(share), share_id=word))
        provider.unmark(word, word)
        provider.mark(share, word, word)
        provider.unmark(share.id, word)
        # What a tenant may say of his share and its rules.
        harness.store.update(
            share.id, lambda old: replace(old, name=word, description=word, metadata={word: word})
        )
        for kind, address in (("user", word), ("ip", f"fe80::1%{word}"), ("ip", word)):
            rule = LocalAccessRule(
                id=word, access_type=kind, access_to=address, access_level=RW, created_at=""
            )
            harness.store.update(share.id, lambda old, rule=rule: with_tenant_rule(old, rule))
        assert harness.store.get(share.id).name == word
        assert [found.description for found in harness.store.shares()] == [word]
        assert harness.live(share.id) == set()
        assert list(sshd.exports.iterdir()) == []
        harness.remove_share(share.id)
        assert not (tmp_path / "made-by-a-shell").exists()


class TestTenantsRules:
    def test_they_are_in_force_too(self, harness: NfsSshHarness, share: Share) -> None:
        harness.add_rule(share.id, "198.51.100.0/24", RO)
        rule = harness.add_rule(share.id, "2001:db8::/64", RW)
        assert harness.in_force(share.id) == {("198.51.100.0/24", "ro"), ("2001:db8::/64", "rw")}
        harness.remove_rule(share.id, rule)
        assert harness.in_force(share.id) == {("198.51.100.0/24", "ro")}

    def test_a_rule_beside_ours_for_the_same_address(
        self, harness: NfsSshHarness, share: Share
    ) -> None:
        grant = harness.provider.grant(share, NODE, RW)
        rule = harness.add_rule(share.id, NODE, RO)
        assert harness.live(share.id) == {(NODE, "rw")}
        harness.provider.revoke(grant)
        assert harness.live(share.id) == {(NODE, "ro")}
        harness.provider.grant(share, NODE, RO)
        harness.remove_rule(share.id, rule)
        assert harness.live(share.id) == set()


class TestTheAdministratorsOwnExports:
    def test_those_of_others_are_never_touched(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        tree = harness.store.tree(share.id)
        sshd.as_administrator("exportfs", "-o", "ro,sync", f"203.0.113.9:{tree}")
        harness.provider.revoke(harness.provider.grant(share, NODE, RW))
        harness.provider.revoke(intent(share, "203.0.113.9"))
        assert harness.live(share.id) == {("203.0.113.9", "ro")}

    def test_one_for_the_node_counts_as_a_tenants_rule(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        tree = harness.store.tree(share.id)
        sshd.as_administrator("exportfs", "-o", "rw,sync,no_root_squash", f"{NODE}:{tree}")
        grant = harness.provider.grant(share, NODE, RO)
        assert (grant.ours, grant.reference) == (False, None)
        harness.provider.revoke(grant)
        harness.provider.revoke(replace(grant, ours=True))
        assert harness.live(share.id) == {(NODE, "rw")}
        assert harness.store.get(share.id).access_rules == ()

    @pytest.mark.parametrize(
        ("options", "lacking"), [("ro,sync,no_root_squash", "rw"), ("rw,sync", "no_root_squash")]
    )
    def test_one_that_does_not_suffice_is_refused(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share, options: str, lacking: str
    ) -> None:
        tree = harness.store.tree(share.id)
        sshd.as_administrator("exportfs", "-o", options, f"{NODE}:{tree}")
        before = sshd.as_administrator("exportfs", "-s")
        with pytest.raises(GrantFailed, match=f"without {lacking}"):
            harness.provider.grant(share, NODE, RW)
        assert sshd.as_administrator("exportfs", "-s") == before

    def test_a_tenant_cannot_take_it_over(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        tree = harness.store.tree(share.id)
        sshd.as_administrator("exportfs", "-o", "ro,sync", f"{NODE}:{tree}")
        with pytest.raises(ExportedAlready):
            harness.add_rule(share.id, NODE, RW)
        assert harness.live(share.id) == {(NODE, "ro")}


class TestRivals:
    def test_a_rival_between_reading_and_writing(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        rival = harness_over(sshd)
        acted = []

        def change(current: LocalShare) -> LocalShare:
            if not acted:
                acted.append(rival.provider.mark(share, "theirs", "backup_creating"))
            return replace(current, name="ours")

        harness.store.update(share.id, change)
        found = harness.store.get(share.id)
        assert (found.name, found.mark and found.mark.operation_id) == ("ours", "theirs")
        rival.store.close()

    def test_a_share_is_made_once(self, harness: NfsSshHarness, share: Share) -> None:
        before = harness.store.get(share.id)
        with pytest.raises(TransientError):  # by its directory
            harness.store.create(replace(before, name="another"))
        assert harness.store.get(share.id) == before
        harness.provider.mounts(share)

    @pytest.mark.parametrize("moment", ["before it is in force", "when it is in force"])
    def test_a_revocation_in_the_middle_of_a_grant(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share, moment: str
    ) -> None:
        rival = harness_over(sshd)
        acted = []

        class Interrupted(Connection):
            def run(self, argv: Sequence[str], **more: Any) -> Answer:
                now = GIVE in argv and not acted
                if now and moment == "before it is in force":
                    acted.append(rival.provider.revoke(intent(share)))
                answer = super().run(argv, **more)
                if now and moment == "when it is in force":
                    acted.append(rival.provider.revoke(intent(share)))
                return answer

        interrupted = NfsSshShareProvider(
            NfsSshStore(Server(harness.ssh, Interrupted), harness.settings)
        )
        interrupted.grant(share, NODE, RW)
        interrupted.store.close()
        assert acted
        # The rival was told that it is certain, and so it is.
        assert nothing_is_left(sshd, harness, share)
        rival.store.close()

    def test_killed_after_a_revocation_in_the_middle(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        rival = harness_over(sshd)

        class Killed(Connection):
            def run(self, argv: Sequence[str], **more: Any) -> Answer:
                if GIVE not in argv:
                    return super().run(argv, **more)
                rival.provider.revoke(intent(share))
                super().run(argv, **more)
                raise ServerAway(host="127.0.0.1", reason="the test ends it here")

        killed = NfsSshShareProvider(NfsSshStore(Server(harness.ssh, Killed), harness.settings))
        with pytest.raises(GrantFailed):
            killed.grant(share, NODE, RW)
        killed.store.close()
        assert harness.live(share.id) == {(NODE, "rw")}
        # As its next process, or another node, does by the written intent.
        rival.provider.revoke(intent(share))
        assert nothing_is_left(sshd, harness, share)
        rival.store.close()


class Faulty(Connection):
    """Fails at one command of all: before it has reached the server, or after."""

    count = 0
    fail_at = 0
    after = False

    def run(self, argv: Sequence[str], **more: Any) -> Answer:
        Faulty.count += 1
        if Faulty.count != Faulty.fail_at:
            return super().run(argv, **more)
        if Faulty.after:
            super().run(argv, **more)
        raise ServerAway(host="127.0.0.1", reason="a fault of the test's")


def dies_at(
    settings: SshSettings, store: StoreSettings, number: int, *, after: bool
) -> NfsSshShareProvider:
    """A process that loses its server at a command, for good."""
    Faulty.count, Faulty.fail_at, Faulty.after = 0, number, after
    return NfsSshShareProvider(NfsSshStore(Server(settings, Faulty), store))


class TestKilled:
    """At each step of a grant or a revocation; the next process has the written intent only."""

    @pytest.mark.parametrize("after", [False, True])
    def test_in_a_grant(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share, after: bool
    ) -> None:
        for number in range(1, 30):
            killed = dies_at(harness.ssh, harness.settings, number, after=after)
            try:
                killed.grant(share, NODE, RW)
                break
            except GrantFailed:
                # What is in force is never more than what the record says.
                recorded = {rule.access_to for rule in harness.store.get(share.id).access_rules}
                assert {client for client, _ in harness.live(share.id)} <= recorded
                if number % 2:
                    again = harness.provider.grant(share, NODE, RW)
                    assert again.ours
                    assert harness.in_force(share.id) == {(NODE, "rw")}
                harness.provider.revoke(intent(share))
                assert nothing_is_left(sshd, harness, share)
            finally:
                killed.store.close()
        assert 3 < number < 29

    @pytest.mark.parametrize("after", [False, True])
    def test_in_a_revocation(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share, after: bool
    ) -> None:
        for number in range(1, 30):
            grant = harness.provider.grant(share, NODE, RW)
            killed = dies_at(harness.ssh, harness.settings, number, after=after)
            try:
                killed.revoke(grant)
                break
            except GrantFailed:
                harness.provider.revoke(intent(share))
                assert nothing_is_left(sshd, harness, share)
            finally:
                killed.store.close()
        assert 3 < number < 29
        assert nothing_is_left(sshd, harness, share)

    def test_access_that_does_not_follow_the_rules_is_healed_at_start(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        tree = harness.store.tree(share.id)
        kept = harness.create_share()
        harness.add_rule(kept, "198.51.100.0/24", RO)
        harness.add_rule(share.id, "2001:db8::/64", RO)
        harness.add_rule(share.id, NODE, RW)
        # Killed before it was in force, and before it was taken away; of a share that is gone, too.
        without = replace(harness.store.get(share.id), access_rules=())
        (sshd.root / "records" / f"{share.id}.json").write_bytes(dump_share(without))
        gone = str(uuid.uuid4())
        (sshd.root / "shares" / gone).mkdir()
        harness.store.exports.give(gone, harness.store.tree(gone), "192.0.2.9", RO)
        sshd.as_administrator("exportfs", "-u", "198.51.100.0/24:" + harness.store.tree(kept))
        next(sshd.exports.glob(f"*{kept}*")).unlink()
        sshd.as_administrator("exportfs", "-o", "ro,sync", f"203.0.113.9:{tree}")
        harness.store.resume()
        assert harness.in_force(kept) == {("198.51.100.0/24", "ro")}
        assert [path.name for path in sshd.exports.iterdir()] == [
            f"manila-backup-{kept}-198.51.100.0_24.exports"
        ]
        assert harness.live(gone) == set()
        assert harness.live(share.id) == {("203.0.113.9", "ro")}

    def test_what_is_cut_off_on_its_way_changes_nothing(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        record = sshd.root / "records" / f"{share.id}.json"
        before = record.read_bytes()

        class Cut(Connection):
            def run(self, argv: Sequence[str], *, sent: bytes, timeout_s: float) -> Answer:
                return super().run(argv, sent=sent[: len(sent) // 2], timeout_s=timeout_s)

        store = NfsSshStore(Server(harness.ssh, Cut), harness.settings)
        with pytest.raises(TransientError):
            store.update(share.id, lambda old: replace(old, name="half"))
        store.close()
        assert record.read_bytes() == before
        assert [path.name for path in record.parent.iterdir()] == [record.name]

    def test_a_damaged_record_stops_nobody_else(
        self, sshd: SshServer, harness: NfsSshHarness, share: Share
    ) -> None:
        other = harness.create_share()
        (sshd.root / "records" / f"{share.id}.json").write_bytes(b'{"format": "\xff')
        assert [found.id for found in harness.store.shares()] == [other]
        with pytest.raises(RecordDamaged, match=share.id):
            harness.store.get(share.id)


def test_there_are_no_snapshots(harness: NfsSshHarness, share: Share) -> None:
    from manila_backup.share.local.records import LocalSnapshot

    assert not harness.store.get(share.id).snapshot_support
    assert isinstance(harness.provider, NfsSshShareProvider)
    snapshots = harness.provider.snapshots
    assert list(snapshots.all()) == []
    wanted = LocalSnapshot(
        id=str(uuid.uuid4()),
        share_id=share.id,
        project_id="p",
        user_id=None,
        name=None,
        description=None,
        size_gib=1,
        created_at="",
    )
    with pytest.raises(Invalid, match="no snapshots"):
        snapshots.begin(wanted)
