# SPDX-License-Identifier: Apache-2.0
"""What every test has: a migrated database, and two rules that no test may break.

No skips where everything can run: on Debian as root a skipped test counts as failed (deselecting
by marks is allowed). No child processes and no threads left behind: a test that starts one ends it
and waits for it; what a fixture of a wider scope starts must be gone when the run ends. The copy
engine forks only where it is alone: a thread that stays changes what later tests are about.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.children import LASTING, commands
from tests.support.databases import SERVERS

pytest_plugins = [
    "tests.support.schedule",
    "tests.support.running",
    "tests.cloud.fixtures",
    "tests.nfs.fixtures",
]

if TYPE_CHECKING:
    from manila_backup.db.engine import Database

MATRIX_SEED = "MANILA_BACKUP_MATRIX_SEED"
"""Which cells of the kill matrix are run."""

# --- what a run draws by chance -------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Processes of pytest-xdist inherit the seed: all must collect the same tests.

    A shell that starts us in the background has SIGINT ignored, nohup(1) SIGHUP, and so would all
    that tests start. What has a handler here does what it does by default there.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    os.environ.setdefault(MATRIX_SEED, str(random.randrange(1000)))


def pytest_report_header(config: pytest.Config) -> str:
    return f"{MATRIX_SEED}={os.environ[MATRIX_SEED]}"


# --- databases ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the newest schema and no rows. To be copied, never opened."""
    from manila_backup.db import migration
    from manila_backup.db.engine import Database

    path = tmp_path_factory.mktemp("migrated") / "state.sqlite"
    database = Database(f"sqlite:///{path}")
    migration.sync(database)
    database.close()
    # The last connection's end folds the log into the file; only then is one file all of it.
    assert not Path(f"{path}-wal").exists()
    return path


@pytest.fixture
def database_file(migrated_file: Path, tmp_path: Path) -> Path:
    """A migrated, empty SQLite file of this test's own."""
    return Path(shutil.copy(migrated_file, tmp_path / "state.sqlite"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests marked ``every_database`` run over each kind of database. Those that hold SQLite's
    clock or its file in their hands are about SQLite.
    """
    closest = metafunc.definition.get_closest_marker
    marked = closest("every_database") is not None and closest("sqlite") is None
    about_sqlite = {"clock", "database_file"} & set(metafunc.definition.fixturenames)
    if marked and "database_kind" in metafunc.fixturenames and not about_sqlite:
        servers = [pytest.param(name, marks=pytest.mark.slow) for name in SERVERS]
        metafunc.parametrize("database_kind", ["sqlite", *servers], scope="function")


@pytest.fixture
def database_kind() -> str:
    """What kind of database the test is about."""
    return "sqlite"


@pytest.fixture(scope="session")
def server_urls() -> Iterator[Callable[[str], str]]:
    """The URL of a migrated database on a real server of that kind, started at the first time."""
    from manila_backup.db import migration
    from manila_backup.db.engine import Database

    urls: dict[str, str] = {}
    with contextlib.ExitStack() as stack:

        def url(database_kind: str) -> str:
            if database_kind not in urls:
                urls[database_kind] = stack.enter_context(SERVERS[database_kind]()).url
                database = Database(urls[database_kind])
                migration.sync(database)
                database.close()
            return urls[database_kind]

        yield url


@pytest.fixture
def database_url(database_kind: str, request: pytest.FixtureRequest) -> str:
    """Of a migrated, empty database of this test's own."""
    if database_kind == "sqlite":
        return f"sqlite:///{request.getfixturevalue('database_file')}"
    found: str = request.getfixturevalue("server_urls")(database_kind)
    _empty(found)
    return found


def _empty(url: str) -> None:
    from manila_backup.db.engine import Database
    from manila_backup.db.models import Base

    database = Database(url)
    with database.writer() as session:
        for table in Base.metadata.sorted_tables:
            session.execute(table.delete())
    database.close()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty database of this test's own."""
    from manila_backup.db.engine import Database

    found = Database(database_url)
    yield found
    found.close()


@pytest.fixture
def unlocked(database_url: str, database_kind: str) -> Iterator[Database]:
    """The same rows as ``database``, where rivals may act between two statements."""
    from manila_backup.db.engine import Database
    from tests.db.rivals import EveryStatementCommits

    kind = EveryStatementCommits if database_kind == "sqlite" else Database
    found = kind(database_url)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def own_excepthook() -> Iterator[None]:
    """oslo.log's set-up takes the hook over for good, and so the news of a crash of pytest."""
    hook = sys.excepthook
    yield
    sys.excepthook = hook


# --- no skips -------------------------------------------------------------------------------------


def _everything_can_run() -> bool:
    try:
        return os.geteuid() == 0 and platform.freedesktop_os_release().get("ID") == "debian"
    except OSError:
        return False


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    expected_to_fail = hasattr(report, "wasxfail")
    if report.skipped and not expected_to_fail and _everything_can_run():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"On Debian as root nothing may be skipped. {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        pytest.skip("needs root: mounts, owners or device nodes")


# --- no processes and threads left behind ---------------------------------------------------------

_children_before_call = pytest.StashKey[dict[int, str]]()
_threads_before_call = pytest.StashKey[set[threading.Thread]]()


def _threads() -> set[threading.Thread]:
    """Without those of socketserver for one connection each: the server waits for them."""
    return {
        thread for thread in threading.enumerate() if "process_request_thread" not in thread.name
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    # Taken after the set-up: services that a wider fixture has started may live on.
    item.stash[_children_before_call] = commands()
    item.stash[_threads_before_call] = _threads()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    result = yield
    before = item.stash.get(_children_before_call, None)
    if before is not None:
        known = before.keys() | LASTING
        left = {pid: command for pid, command in commands().items() if pid not in known}
        assert not left, f"the test left child processes behind: {left}"
        threads = _threads() - item.stash[_threads_before_call]
        for thread in threads:
            thread.join(5)  # who was told to end may need a moment
        living = {thread for thread in threads if thread.is_alive()}
        assert not living, f"the test left threads behind: {living}"
    return result


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
    left = commands()
    if left:
        reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"the run left child processes behind: {left}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
