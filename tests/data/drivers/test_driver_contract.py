# SPDX-License-Identifier: Apache-2.0
"""Each sentence of ``drivers/base.py``, for every driver."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from manila_backup.data.drivers.base import BackupDriver, Progress
from manila_backup.data.drivers.tree import TreeDriver
from manila_backup.exception import (
    BackupNotStored,
    Cancelled,
    CopyFailed,
    InvalidBackup,
    MountFailed,
    NotEnoughSpace,
)
from manila_backup.types import BackupRef, MountedTree, Remarks, RestoreMode
from tests.data.drivers.conftest import SmallFs
from tests.data.drivers.operations import REF, Watch, back_up, described, other, restore
from tests.data.drivers.trees import FILES, describe, fingerprint, mount_id, mounted

DRIVERS: dict[str, tuple[str, Callable[[str], BackupDriver]]] = {"tree": ("nfs", TreeDriver)}


@pytest.fixture(params=sorted(DRIVERS))
def driver_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def driver(driver_name: str, store: Path) -> BackupDriver:
    return DRIVERS[driver_name][1](str(store))


class TestModule:
    def test_drivers_are_found_by_the_entry_point_group_and_constructed_with_path_and_mount(
        self, driver_name: str, store: Path
    ) -> None:
        entry_name, factory = DRIVERS[driver_name]
        (entry,) = entry_points(group="manila_backup.drivers", name=entry_name)
        assert entry.load() is factory
        assert list(entry.load()(str(store), mount_id=mount_id(store)).scan()) == []
        with pytest.raises(MountFailed):
            list(entry.load()(str(store), mount_id=mount_id(store) + 1).scan())

    def test_drivers_hold_no_database_session_and_know_nothing_of_shares(
        self, driver_name: str
    ) -> None:
        module = DRIVERS[driver_name][1].__module__
        forbidden = (
            "sqlalchemy oslo_db oslo_messaging werkzeug manila_backup.db manila_backup.share"
        )
        code = (
            f"import sys, {module}\n"
            f"print([name for name in {forbidden.split()!r} if name in sys.modules])"
        )
        argv = [sys.executable, "-c", code]
        assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "[]\n"

    def test_ids_that_cannot_name_directories_are_refused_before_any_path_is_touched(
        self, driver: BackupDriver, source: Path, target: Path, store: Path
    ) -> None:
        back_up(driver, source)
        before = fingerprint(store.parent)
        for bad in (
            other(project_id=".."),
            other(backup_id="."),
            other(backup_id=f"../{REF.project_id}/{REF.backup_id}"),
            other(project_id=""),
            other(backup_id="a\0b"),
            other(backup_id="a\n"),
            other(project_id="x" * 256),
            other(epoch=-1),
        ):
            for act in every_call(driver, source, target, bad):
                with pytest.raises(InvalidBackup):
                    act()
        assert fingerprint(store.parent) == before


def every_call(
    driver: BackupDriver, source: Path, target: Path, ref: BackupRef
) -> list[Callable[[], object]]:
    control = Watch().control
    return [
        lambda: back_up(driver, source, ref),
        lambda: driver.inspect(ref),
        lambda: restore(driver, target, ref),
        lambda: driver.delete(ref, control),
        lambda: driver.discard(ref, control),
        lambda: driver.verify(ref, control),
    ]


class TestControl:
    def test_progress_is_monotonic_states_its_unit_and_ends_complete(
        self, driver: BackupDriver, source: Path, target: Path
    ) -> None:
        saving, restoring, verifying = Watch(), Watch(), Watch()
        back_up(driver, source, watch=saving)
        restore(driver, target, watch=restoring)
        driver.verify(REF, verifying.control)
        for watch in (saving, restoring, verifying):
            done = [progress.done for progress in watch.progress]
            assert done == sorted(done)
            assert len(done) >= 2
            assert {progress.unit for progress in watch.progress} <= {"bytes", "entries"}
            assert len({progress.unit for progress in watch.progress}) == 1
            assert all(0 <= progress.done <= progress.total for progress in watch.progress)
            assert watch.progress[-1].done == watch.progress[-1].total > 0

    def test_progress_moves_for_empty_files_too(self, driver: BackupDriver, tmp_path: Path) -> None:
        source = tmp_path / "empties"
        source.mkdir()
        for number in range(400):
            (source / f"{number}").write_bytes(b"")
        watch = Watch()
        back_up(driver, source, watch=watch)
        assert len({progress.done for progress in watch.progress}) >= 10

    def test_progress_stays_within_its_total_while_the_tree_grows(
        self, driver: BackupDriver, source: Path
    ) -> None:
        watch = Watch()
        grown: list[None] = []

        def grow(progress: Progress) -> None:
            watch.progress.append(progress)
            if not grown:
                grown.append(None)
                for number in range(30):
                    (source / "zzz-late").mkdir(exist_ok=True)
                    (source / "zzz-late" / f"{number}").write_bytes(b"late" * 5000)

        control = replace(watch.control, progress=grow)
        driver.backup(described(), mounted(source, read_only=True), None, control)
        done = [progress.done for progress in watch.progress]
        assert done == sorted(done)
        assert all(progress.done <= progress.total for progress in watch.progress)

    def test_cancelled_is_asked_at_least_once_per_file(
        self, driver: BackupDriver, source: Path, target: Path
    ) -> None:
        acts: list[Callable[[Watch], object]] = [
            lambda watch: back_up(driver, source, watch=watch),
            lambda watch: restore(driver, target, watch=watch),
            lambda watch: driver.verify(REF, watch.control),
            lambda watch: driver.delete(REF, watch.control),
        ]
        for act in acts:
            watch = Watch()
            act(watch)
            assert watch.asked >= FILES

    def test_when_cancelled_answers_true_the_driver_stops_with_cancelled(
        self, driver: BackupDriver, source: Path, target: Path
    ) -> None:
        with pytest.raises(Cancelled):
            back_up(driver, source, other(epoch=1), Watch(cancel_after=3))
        back_up(driver, source)
        acts: list[Callable[[Watch], object]] = [
            lambda watch: restore(driver, target, watch=watch),
            lambda watch: driver.verify(REF, watch.control),
            lambda watch: driver.discard(REF, watch.control),
            lambda watch: driver.delete(REF, watch.control),
        ]
        for act in acts:
            with pytest.raises(Cancelled):
                act(Watch(cancel_after=0))

    def test_about_to_publish_is_called_once_when_all_is_stored_and_nothing_published(
        self, driver: BackupDriver, source: Path
    ) -> None:
        def look() -> None:
            assert list(driver.scan()) == []
            with pytest.raises(BackupNotStored):
                driver.inspect(REF)

        watch = Watch(at_publish=look)
        back_up(driver, source, watch=watch)
        assert watch.published == 1
        assert watch.wrote == 0

    def test_if_about_to_publish_raises_nothing_is_published(
        self, driver: BackupDriver, source: Path
    ) -> None:
        def refuse() -> None:
            raise Cancelled

        with pytest.raises(Cancelled):
            back_up(driver, source, watch=Watch(at_publish=refuse))
        with pytest.raises(BackupNotStored):
            driver.inspect(REF)
        assert list(driver.scan()) == []

    def test_about_to_write_is_called_once_before_the_first_change_of_the_target(
        self, driver: BackupDriver, source: Path, target: Path
    ) -> None:
        back_up(driver, source)
        (target / "old").write_bytes(b"old")
        before = fingerprint(target)
        seen: list[object] = []
        watch = Watch(at_write=lambda: seen.append(fingerprint(target)))
        restore(driver, target, watch=watch)
        assert seen == [before]
        assert watch.published == 0

    def test_if_about_to_write_raises_the_target_is_untouched(
        self, driver: BackupDriver, source: Path, target: Path
    ) -> None:
        back_up(driver, source)
        before = fingerprint(target)

        def refuse() -> None:
            raise Cancelled

        with pytest.raises(Cancelled):
            restore(driver, target, watch=Watch(at_write=refuse))
        assert fingerprint(target) == before


class TestBackup:
    def test_stores_the_tree_published_when_it_returns(
        self, driver: BackupDriver, source: Path
    ) -> None:
        stored = back_up(driver, source)
        assert stored.description == described()
        assert stored.counters.files == FILES
        assert stored.logical_bytes > stored.stored_bytes > 0
        assert driver.inspect(REF) == stored
        assert list(driver.scan()) == [stored]

    def test_leaves_the_source_untouched(self, driver: BackupDriver, source: Path) -> None:
        before = fingerprint(source)
        back_up(driver, source)
        assert fingerprint(source) == before

    def test_a_ref_is_written_once(self, driver: BackupDriver, source: Path, store: Path) -> None:
        back_up(driver, source)
        before = fingerprint(store)
        with pytest.raises(CopyFailed) as caught:
            back_up(driver, source)
        assert f"{REF.backup_id}/{REF.epoch}" in caught.value.path
        assert fingerprint(store) == before

    def test_what_an_error_left_is_not_published_and_goes_with_discard(
        self, driver: BackupDriver, source: Path, store: Path
    ) -> None:
        empty = describe(store, times=False)
        with pytest.raises(Cancelled):
            back_up(driver, source, watch=Watch(cancel_at_files=2))
        with pytest.raises(BackupNotStored):
            driver.inspect(REF)
        assert describe(store, times=False) != empty
        driver.discard(REF, Watch().control)
        assert describe(store, times=False) == empty

    def test_files_that_vanish_or_change_meanwhile_are_counted_never_fatal(
        self, driver: BackupDriver, source: Path, target: Path
    ) -> None:
        for number in range(40):
            (source / f"v{number:02}").write_bytes(b"x")
        watch = Watch()
        gone: list[None] = []

        def disturb(progress: Progress) -> None:
            if not gone and len(watch.progress) >= 2:
                gone.append(None)
                for number in range(40):
                    (source / f"v{number:02}").unlink()
            watch.progress.append(progress)

        control = replace(watch.control, progress=disturb)
        result = driver.backup(described(), mounted(source, read_only=True), None, control)
        stored = result.stored
        assert gone
        assert stored.counters.skipped > 0
        assert len(result.remarks.skipped) == stored.counters.skipped
        assert set(result.remarks.skipped) <= {f"v{number:02}" for number in range(40)}
        assert stored.counters.files + stored.counters.skipped == FILES + 40
        restore(driver, target)
        assert not driver.verify(REF, Watch().control).problems

    @pytest.mark.root
    def test_a_store_with_too_little_space_is_refused_before_anything_is_made(
        self, driver_name: str, source: Path, small_fs: SmallFs
    ) -> None:
        small = small_fs(size_kib=128)
        before = fingerprint(small)
        watch = Watch()
        with pytest.raises(NotEnoughSpace) as caught:
            back_up(DRIVERS[driver_name][1](str(small)), source, watch=watch)
        assert caught.value.needed > caught.value.free > 0
        assert fingerprint(small) == before
        assert watch.published == 0

    def test_an_unmounted_source_is_never_mistaken_for_the_share(
        self, driver: BackupDriver, source: Path, store: Path
    ) -> None:
        wrong = MountedTree(path=str(source), mount_id=mount_id(source) + 1, read_only=True)
        before = fingerprint(store)
        with pytest.raises(MountFailed):
            driver.backup(described(), wrong, None, Watch().control)
        assert fingerprint(store) == before


class TestInspect:
    def test_reads_the_manifest_only(self, driver: BackupDriver, source: Path, store: Path) -> None:
        stored = back_up(driver, source)
        before = fingerprint(store)
        assert driver.inspect(REF) == stored
        assert fingerprint(store) == before

    def test_what_was_never_stored_is_not_stored(self, driver: BackupDriver, source: Path) -> None:
        back_up(driver, source)
        for ref in (other(epoch=4), other(backup_id="another"), other(project_id="another")):
            with pytest.raises(BackupNotStored) as caught:
                driver.inspect(ref)
            assert caught.value.backup_id == ref.backup_id


class TestRestore:
    @pytest.mark.root
    def test_exact_makes_the_target_equal_to_the_backup(
        self, driver: BackupDriver, source: Path, target: Path
    ) -> None:
        back_up(driver, source)
        (target / "a").write_bytes(b"a file where a directory comes")
        (target / "big").mkdir()
        (target / "big" / "extra").write_bytes(b"x")
        (target / "extra").mkdir()
        (target / "extra" / "file").write_bytes(b"x")
        result = restore(driver, target)
        assert describe(target) == describe(source)
        assert result.remarks == Remarks()

    @pytest.mark.root
    def test_merge_lays_the_backup_over_the_target(
        self, driver: BackupDriver, source: Path, target: Path
    ) -> None:
        back_up(driver, source)
        (target / "deep").mkdir()
        (target / "deep" / "mine").write_bytes(b"kept")
        (target / "empty").write_bytes(b"newer")
        restore(driver, target, mode=RestoreMode.MERGE)
        assert (target / "deep" / "mine").read_bytes() == b"kept"
        (target / "deep" / "mine").unlink()
        ours, theirs = describe(target, times=False), describe(source, times=False)
        assert ours == theirs

    @pytest.mark.root
    def test_the_roots_own_metadata_is_restored(
        self, driver: BackupDriver, source: Path, target: Path
    ) -> None:
        os.chown(source, 1234, 4321)
        source.chmod(0o3751)
        os.setxattr(source, "user.root", b"yes")
        os.utime(source, ns=(10**18, 10**18 + 7))
        back_up(driver, source)
        restore(driver, target)
        assert describe(target)[b""] == describe(source)[b""]
        assert stat.S_IMODE(target.stat().st_mode) == 0o3751

    @pytest.mark.root
    @pytest.mark.parametrize("mode", RestoreMode)
    def test_a_target_with_too_little_space_is_refused_untouched(
        self, driver: BackupDriver, tmp_path: Path, small_fs: SmallFs, mode: RestoreMode
    ) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "file").write_bytes(bytes(range(256)) * 2048)
        back_up(driver, source)
        target = small_fs(size_kib=256)
        (target / "tenant's").write_bytes(b"x" * 100_000)
        before = fingerprint(target)
        watch = Watch()
        with pytest.raises(NotEnoughSpace):
            restore(driver, target, mode=mode, watch=watch)
        assert fingerprint(target) == before
        assert watch.wrote == 0

    @pytest.mark.root
    def test_a_second_run_over_an_interrupted_one_completes_it(
        self, driver: BackupDriver, source: Path, target: Path
    ) -> None:
        back_up(driver, source)
        watch = Watch()

        def stop_soon() -> None:
            watch.cancel_after = watch.asked + 3

        watch.at_write = stop_soon
        with pytest.raises(Cancelled):
            restore(driver, target, watch=watch)
        assert watch.wrote == 1
        restore(driver, target)
        assert describe(target) == describe(source)

    def test_the_backup_is_only_read(
        self, driver: BackupDriver, source: Path, target: Path, store: Path
    ) -> None:
        back_up(driver, source)
        before = fingerprint(store)
        restore(driver, target)
        assert fingerprint(store) == before

    def test_what_is_not_stored_is_not_restored(self, driver: BackupDriver, target: Path) -> None:
        before = fingerprint(target)
        with pytest.raises(BackupNotStored):
            restore(driver, target)
        assert fingerprint(target) == before


class TestDelete:
    def test_removes_the_backup_with_all_its_epochs(
        self, driver: BackupDriver, source: Path, store: Path
    ) -> None:
        empty = describe(store, times=False)
        for epoch in (1, 2, 10):
            back_up(driver, source, other(epoch=epoch))
        driver.delete(other(epoch=2), Watch().control)
        assert describe(store, times=False) == empty

    def test_leaves_other_backups_alone(
        self, driver: BackupDriver, source: Path, store: Path
    ) -> None:
        neighbours = (other(backup_id="next"), other(project_id="elsewhere"))
        kept = [back_up(driver, source, ref) for ref in neighbours]
        back_up(driver, source)
        driver.delete(REF, Watch().control)
        assert sorted(stored.description.ref.backup_id for stored in driver.scan()) == sorted(
            stored.description.ref.backup_id for stored in kept
        )
        for ref in neighbours:
            assert driver.verify(ref, Watch().control).problems == ()

    def test_is_idempotent(self, driver: BackupDriver, source: Path, store: Path) -> None:
        empty = describe(store, times=False)
        driver.delete(REF, Watch().control)
        back_up(driver, source)
        driver.delete(REF, Watch().control)
        driver.delete(REF, Watch().control)
        assert describe(store, times=False) == empty

    def test_interrupted_it_can_be_called_again_and_the_backup_is_not_half_there(
        self, driver: BackupDriver, source: Path, store: Path
    ) -> None:
        empty = describe(store, times=False)
        back_up(driver, source)
        with pytest.raises(Cancelled):
            driver.delete(REF, Watch(cancel_after=3).control)
        with pytest.raises(BackupNotStored):
            driver.inspect(REF)
        driver.delete(REF, Watch().control)
        assert describe(store, times=False) == empty


class TestDiscard:
    def test_removes_this_one_epoch_published_or_not(
        self, driver: BackupDriver, source: Path
    ) -> None:
        kept = back_up(driver, source, other(epoch=1))
        back_up(driver, source, other(epoch=2))
        with pytest.raises(Cancelled):
            back_up(driver, source, other(epoch=3), Watch(cancel_at_files=2))
        driver.discard(other(epoch=2), Watch().control)
        driver.discard(other(epoch=3), Watch().control)
        assert list(driver.scan()) == [kept]
        assert list(driver.orphans()) == []
        assert driver.verify(other(epoch=1), Watch().control).problems == ()

    def test_is_idempotent(self, driver: BackupDriver, source: Path, store: Path) -> None:
        empty = describe(store, times=False)
        driver.discard(REF, Watch().control)
        back_up(driver, source)
        driver.discard(REF, Watch().control)
        driver.discard(REF, Watch().control)
        assert describe(store, times=False) == empty


class TestVerify:
    def test_empty_problems_mean_that_every_byte_and_entry_is_as_stored(
        self, driver: BackupDriver, source: Path
    ) -> None:
        stored = back_up(driver, source)
        result = driver.verify(REF, Watch().control)
        assert result.problems == ()
        assert result.counters.files == stored.counters.files
        assert result.counters.bytes == stored.stored_bytes

    def test_changes_nothing(self, driver: BackupDriver, source: Path, store: Path) -> None:
        back_up(driver, source)
        before = fingerprint(store)
        driver.verify(REF, Watch().control)
        assert fingerprint(store) == before

    def test_damage_is_reported_not_raised(self, driver: BackupDriver, store: Path) -> None:
        result = driver.verify(REF, Watch().control)
        assert len(result.problems) == 1
        assert "manifest" in result.problems[0]


class TestScan:
    def test_finds_all_published_backups_one_each_the_highest_valid_epoch(
        self, driver: BackupDriver, source: Path
    ) -> None:
        back_up(driver, source, other(epoch=2))
        expected = {
            REF.backup_id: back_up(driver, source, other(epoch=10)),
            "second": back_up(driver, source, other(backup_id="second")),
            "third": back_up(driver, source, other(project_id="p2", backup_id="third")),
        }
        with pytest.raises(Cancelled):
            back_up(driver, source, other(epoch=11), Watch(cancel_at_files=2))
        found = list(driver.scan())
        assert len(found) == 3
        assert {stored.description.ref.backup_id: stored for stored in found} == expected

    def test_a_scan_that_is_not_read_to_its_end_leaves_nothing_open(
        self, driver: BackupDriver, source: Path
    ) -> None:
        back_up(driver, source)
        back_up(driver, source, other(backup_id="second"))
        before = sorted(os.listdir("/proc/self/fd"))
        scan = driver.scan()
        next(scan)
        scan.close()  # type: ignore[attr-defined]
        assert sorted(os.listdir("/proc/self/fd")) == before


class TestOrphans:
    def test_directories_that_hold_no_published_backup(
        self, driver: BackupDriver, source: Path
    ) -> None:
        back_up(driver, source)
        assert list(driver.orphans()) == []
        with pytest.raises(Cancelled):
            back_up(driver, source, other(epoch=9), Watch(cancel_at_files=2))
        ((path, why),) = driver.orphans()
        assert path == f"{REF.project_id}/{REF.backup_id}/9"
        assert "manifest" in why

    def test_an_epoch_that_is_being_written_is_among_them(
        self, driver: BackupDriver, source: Path
    ) -> None:
        seen: list[tuple[str, str]] = []
        back_up(driver, source, watch=Watch(at_publish=lambda: seen.extend(driver.orphans())))
        assert [path for path, _ in seen] == [f"{REF.project_id}/{REF.backup_id}/{REF.epoch}"]
