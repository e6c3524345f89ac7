# SPDX-License-Identifier: Apache-2.0
"""API and data node as processes of their own, as an operator runs them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.acceptance.programs import BIN, run
from tests.acceptance.rest import Rest
from tests.acceptance.waiting import Watched, until

pytestmark = pytest.mark.acceptance

_IMPORTED = re.compile(r"^import time: +[0-9]+ \| +[0-9]+ \| +(\S+)$", re.MULTILINE)

CONFIG = """\
[DEFAULT]
host = node1
share_provider = local
use_bus = false
mount_directory = {root}/mounts
backup_mount_proto = path
backup_mount_export = {root}/store
poll_interval_s = 0.2

[database]
connection = sqlite:///{root}/db.sqlite

[local]
shares_directory = {root}/shares
bind_mounts = false

[api]
auth_strategy = noauth
listen_port = {port}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def config(tmp_path: Path, port: int) -> Path:
    for name in ("store", "shares"):
        (tmp_path / name).mkdir(mode=0o700)
    path = tmp_path / "manila-backup.conf"
    path.write_text(CONFIG.format(root=tmp_path, port=port))
    ended = run([BIN / "manila-backup-manage", "--config-file", path, "db", "sync"])
    assert ended.status == 0, ended.err
    return path


@contextmanager
def process(program: str, config: Path) -> Iterator[Path]:
    """The program with its log; asked to end, it takes everything with it."""
    log = config.with_name(f"{program}.log")
    with log.open("wb") as sink:
        started = subprocess.Popen(
            [BIN / program, "--config-file", config],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
            start_new_session=True,
        )
    log.with_suffix(".pid").write_text(str(started.pid))
    try:
        yield log
    finally:
        below = Watched(_group(started.pid))
        started.send_signal(signal.SIGTERM)
        status = started.wait(60)
        assert below.living(deadline_s=30) == []
    assert status == 0, log.read_text()


def _group(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


def _answers(rest: Rest) -> bool:
    try:
        return rest.call("GET", "/share-backups").status == 200
    except OSError:
        return False


def test_no_more_requests_at_a_time_than_it_has_threads(config: Path, port: int) -> None:
    config.write_text(config.read_text() + "threads = 1\n")
    rest = Rest(f"http://127.0.0.1:{port}/v2")
    with process("manila-backup-api", config):
        until(lambda: _answers(rest), "an answer of the API")
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as slow,
            ThreadPoolExecutor(1) as pool,
        ):
            slow.sendall(b"GET /v2/share-backups HTTP/1.1\r\n")
            waiting = pool.submit(_answers, rest)
            with pytest.raises(TimeoutError):
                waiting.result(1)
            slow.sendall(b"Host: localhost\r\nConnection: close\r\n\r\n")
            assert waiting.result(60)


def test_a_backup_goes_through_the_database_from_one_to_the_other(config: Path, port: int) -> None:
    rest = Rest(f"http://127.0.0.1:{port}/v2")
    with ExitStack() as stack:
        logs = [
            stack.enter_context(process(program, config))
            for program in ("manila-backup-data", "manila-backup-api")
        ]
        until(lambda: _answers(rest), "an answer of the API")
        share_id = rest.create_share("of its own")
        backup_id = rest.available_backup(share_id)
        rest.restored(backup_id)
        manage = [BIN / "manila-backup-manage", "--config-file", config]
        listed = run([*manage, "service", "list", "--format", "json"])
        assert [(row["Host"], row["State"]) for row in listed.json] == [("node1", "up")]
    for log in logs:
        imported = set(_IMPORTED.findall(log.read_text()))
        assert {"oslo_service.service", "cotyledon"} <= imported
        # Tried by libraries that can do without it; nothing in it may be reached.
        assert {name for name in imported if name.split(".")[0] == "eventlet"} <= {
            "eventlet",
            "eventlet.patcher",
        }


def test_the_backups_may_lie_in_a_share_of_the_share_provider(config: Path, port: int) -> None:
    """The data node and the manage command have access to it while they need it."""
    rest = Rest(f"http://127.0.0.1:{port}/v2")
    manage = [BIN / "manila-backup-manage", "--config-file", config]
    with process("manila-backup-api", config):
        until(lambda: _answers(rest), "an answer of the API")
        backups_id = rest.create_share("backups")
        Path(rest.tree(backups_id)).chmod(0o700)
        lines = [line for line in config.read_text().splitlines() if "backup_mount_" not in line]
        lines.insert(1, f"backup_share_id = {backups_id}")
        config.write_text("\n".join(lines) + "\n")
        share_id = rest.create_share("work")
        (Path(rest.tree(share_id)) / "file").write_bytes(b"content")
        with process("manila-backup-data", config):
            backup_id = rest.available_backup(share_id)
            assert not rest.access_rules(backups_id)
            (verified,) = run([*manage, "backup", "verify", backup_id, "--format", "json"]).json
            assert verified["Result"] == "as stored"
            (Path(rest.tree(share_id)) / "file").unlink()
            rest.restored(backup_id)
            assert (Path(rest.tree(share_id)) / "file").read_bytes() == b"content"
            rest.delete_backup(backup_id)
            rest.until_deleted(backup_id)
        assert not rest.access_rules(backups_id)
        assert run([*manage, "grants", "list", "--format", "json"]).json == []


@pytest.mark.parametrize("program", ["manila-backup-data", "manila-backup-api"])
def test_a_missing_option_is_named(program: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.conf"
    empty.write_text("[DEFAULT]\n")
    ended = run([BIN / program, "--config-file", empty])
    assert ended.status == 2
    assert ended.err.strip() == "error: option connection in group [database] is required"


def test_a_data_node_without_a_store_says_which_option_is_missing(config: Path) -> None:
    config.write_text(config.read_text().replace("backup_mount_export", "# "))
    ended = run([BIN / "manila-backup-data", "--config-file", config])
    assert ended.status == 2
    assert "backup_mount_export" in ended.err


def test_at_sighup_a_node_reads_its_rate_again_and_goes_on(config: Path, port: int) -> None:
    """A backup that would take a quarter of an hour is done at once then, by the same attempt."""
    options = config.read_text()
    slow = options.replace("use_bus", "max_bytes_per_s = 1000\nuse_bus")
    rest = Rest(f"http://127.0.0.1:{port}/v2")
    with process("manila-backup-api", config):
        until(lambda: _answers(rest), "an answer of the API")
        config.write_text(slow)
        with process("manila-backup-data", config) as log:
            share_id = rest.create_share("slow")
            for number in range(10):
                (Path(rest.tree(share_id)) / f"f{number}").write_bytes(b"x" * 100_000)
            backup_id = rest.create_backup(share_id)
            until(lambda: rest.backup_status(backup_id) == "creating", "the backup's begin")
            until(lambda: rest.operation(backup_id)["status"] == "running", "work")
            config.write_text(slow.replace("= 1000\n", "= 0\n"))
            launcher = int(log.with_suffix(".pid").read_text())
            os.kill(launcher, signal.SIGHUP)
            rest.until_done(backup_id)
            assert rest.operation(backup_id)["attempts"] == 1
            assert "Mutable options have been read again" in log.read_text()
