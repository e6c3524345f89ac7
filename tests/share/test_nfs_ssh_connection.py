# SPDX-License-Identifier: Apache-2.0
"""How the nfs_ssh provider talks to its server: whom it trusts, how long it waits, what becomes of
words. Over Debian's sshd."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manila_backup.share.nfs_ssh import connection
from manila_backup.share.nfs_ssh.connection import ServerAway
from manila_backup.share.nfs_ssh.server import CommandFailed, Server
from tests.share.ssh_server import USER, SshServer, make_key
from tests.support.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.root]

HOSTILE = (
    *("$(touch {marker})", "`touch {marker}`", "; touch {marker}", "| touch {marker}"),
    *("'; touch {marker}; '", '"; touch {marker}; "', "\ntouch {marker}\n", "&& touch {marker} &&"),
    *("> {marker}", "-rf", "--", "", " ", "*", "~root", "$HOME", "!!", "\\", "a\tb", "\r\n", "é"),
    *("\udcff\udcfe", "#", "{{a,b}}", "\x1b[2J", "' \\' '"),
)


@pytest.fixture(scope="module")
def sshd() -> Iterator[SshServer]:
    """For tests that leave it as it is."""
    with SshServer() as server:
        yield server


@pytest.fixture
def own_sshd() -> Iterator[SshServer]:
    """For tests that stop, kill or stall it."""
    with SshServer() as server:
        yield server


@contextmanager
def pool(sshd: SshServer, **changes: Any) -> Iterator[Server]:
    server = Server(sshd.settings(**changes))
    try:
        yield server
    finally:
        server.close()


class TestWords:
    def test_each_word_of_a_command_stays_one_word(self, sshd: SshServer, tmp_path: Path) -> None:
        marker = tmp_path / "made-by-a-shell"
        words = [word.format(marker=marker) for word in HOSTILE]
        with pool(sshd) as server:
            said = server.run(["printf", r"%s\0", *words]).out
        assert said == b"".join(os.fsencode(word) + b"\0" for word in words)
        assert not marker.exists()

    def test_the_same_through_sudo(self, sshd: SshServer, tmp_path: Path) -> None:
        marker = tmp_path / "made-by-a-shell"
        words = [word.format(marker=marker) for word in HOSTILE]
        with pool(sshd, user=USER, use_sudo=True) as server:
            said = server.run(["printf", r"%s\0", *words]).out
            assert server.run(["id", "-u"]).out == b"0\n"
        assert said == b"".join(os.fsencode(word) + b"\0" for word in words)
        assert not marker.exists()

    def test_a_marker_would_be_made_by_a_shell(self, sshd: SshServer, tmp_path: Path) -> None:
        # What the two tests above would see if words were not quoted.
        marker = tmp_path / "made-by-a-shell"
        with pool(sshd) as server:
            server.run(["sh", "-c", f"echo $(touch {marker})"])
        assert marker.exists()

    def test_a_nul_is_refused(self, sshd: SshServer) -> None:
        with pool(sshd) as server, pytest.raises(ValueError, match="NUL"):
            server.run(["echo", "a\0b"])

    def test_words_become_a_line_in_one_place(self) -> None:
        package = Path(connection.__file__).parent
        text = {path.name: path.read_text() for path in package.glob("*.py")}
        for words in ("exec_command", "shlex.quote", "invoke_shell", "open_session"):
            assert [name for name in text if words in text[name]] in ([], ["connection.py"]), words

    def test_input_comes_through_as_it_is(self, sshd: SshServer) -> None:
        sent = bytes(range(256)) * 4096
        with pool(sshd) as server:
            assert server.run(["cat"], sent=sent).out == sent


class TestAnswers:
    def test_a_failure_names_program_status_and_words(self, sshd: SshServer) -> None:
        with pool(sshd) as server, pytest.raises(CommandFailed) as caught:
            server.run(["ls", "--", "/not/there"])
        assert (caught.value.program, caught.value.status) == ("ls", 2)
        assert "No such file" in str(caught.value)

    def test_a_program_that_is_not_there(self, sshd: SshServer) -> None:
        with pool(sshd) as server, pytest.raises(CommandFailed, match="127"):
            server.run(["manila-backup-no-such-program"])

    def test_input_that_nobody_reads_hides_no_failure(self, sshd: SshServer) -> None:
        with pool(sshd) as server, pytest.raises(CommandFailed, match="ended with status 1"):
            server.run(["false"], sent=b"x" * 8_000_000)

    def test_a_command_that_a_signal_ends_is_no_success(self, sshd: SshServer) -> None:
        with pool(sshd) as server, pytest.raises(CommandFailed):
            server.run(["sh", "-c", "kill -9 $$"])


class TestTrust:
    def test_a_server_that_is_not_known_is_refused(self, sshd: SshServer, tmp_path: Path) -> None:
        (tmp_path / "known_hosts").touch()
        with (
            pool(sshd, known_hosts_file=str(tmp_path / "known_hosts")) as server,
            pytest.raises(ServerAway, match="known_hosts_file"),
        ):
            server.run(["true"])
        assert (tmp_path / "known_hosts").read_text() == ""

    @pytest.mark.parametrize("accept_new", [False, True])
    def test_another_key_than_the_known_one_is_refused(
        self, own_sshd: SshServer, tmp_path: Path, accept_new: bool
    ) -> None:
        make_key(tmp_path / "another")
        own_sshd.write_known_hosts(tmp_path / "another.pub")
        with (
            pool(own_sshd, accept_new_hosts=accept_new) as server,
            pytest.raises(ServerAway, match="another host key"),
        ):
            server.run(["true"])

    def test_a_new_server_is_believed_once_if_so_wanted(
        self, own_sshd: SshServer, tmp_path: Path
    ) -> None:
        known = tmp_path / "known_hosts"
        for _ in range(2):
            with pool(own_sshd, known_hosts_file=str(known), accept_new_hosts=True) as server:
                server.run(["true"])
        assert len(known.read_text().splitlines()) == 1
        # From now on it is verified.
        with pool(own_sshd, known_hosts_file=str(known)) as server:
            server.run(["true"])

    def test_a_file_of_known_hosts_that_is_not_there(self, sshd: SshServer) -> None:
        with (
            pool(sshd, known_hosts_file="/not/there") as server,
            pytest.raises(ServerAway, match="known_hosts_file"),
        ):
            server.run(["true"])


class TestAuthentication:
    def test_a_key_that_the_server_does_not_know(self, sshd: SshServer, tmp_path: Path) -> None:
        make_key(tmp_path / "stranger")
        with (
            pool(sshd, key_files=(str(tmp_path / "stranger"),)) as server,
            pytest.raises(ServerAway, match="key_files"),
        ):
            server.run(["true"])

    def test_a_key_file_that_is_not_there(self, sshd: SshServer) -> None:
        with (
            pool(sshd, key_files=("/not/there",)) as server,
            pytest.raises(ServerAway, match="/not/there"),
        ):
            server.run(["true"])

    @pytest.mark.parametrize("use_agent", [True, False])
    def test_the_keys_of_an_agent(
        self,
        sshd: SshServer,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        use_agent: bool,
    ) -> None:
        with agent(tmp_path / "agent", sshd.key) as address:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(address))
            with pool(sshd, key_files=(), use_agent=use_agent) as server:
                if use_agent:
                    assert server.run(["echo", "in"]).out == b"in\n"
                else:
                    with pytest.raises(ServerAway, match="use_agent"):
                        server.run(["true"])


@contextmanager
def agent(address: Path, key: Path) -> Iterator[Path]:
    """A real ssh-agent that holds the key."""
    running = subprocess.Popen(
        ["ssh-agent", "-D", "-a", address], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        until_s = time.monotonic() + 10
        while not address.exists():
            assert time.monotonic() < until_s
            time.sleep(0.01)
        environment = {**os.environ, "SSH_AUTH_SOCK": str(address)}
        subprocess.run(["ssh-add", "-q", key], check=True, env=environment)
        yield address
    finally:
        running.kill()
        running.wait()


class TestTime:
    def test_nobody_listens(self, sshd: SshServer) -> None:
        with (
            pool(sshd, port=free_port()) as server,
            pytest.raises(ServerAway, match=r"127\.0\.0\.1"),
        ):
            server.run(["true"])

    def test_a_command_that_takes_too_long_is_ended_there(self, sshd: SshServer) -> None:
        word = "manila-backup-sleeps-here"
        started_s = time.monotonic()
        with pool(sshd, command_timeout_s=1.0) as server:
            with pytest.raises(ServerAway, match="did not end within 1 s"):
                server.run(["sh", "-c", "sleep 60; :", word])
            assert time.monotonic() - started_s < 10
            assert word not in sshd.as_administrator("ps", "-eo", "args")
            assert server.run(["echo", "on"]).out == b"on\n"

    def test_a_server_that_says_nothing_any_more(
        self, own_sshd: SshServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "GRACE_S", 0.5)
        started_s = time.monotonic()
        with pool(own_sshd, connect_timeout_s=0.5, command_timeout_s=1.0) as server:
            stall = threading.Timer(0.5, own_sshd.stall)
            stall.start()
            try:
                # In the middle of a command, and then already when it is to begin.
                for _ in range(2):
                    with pytest.raises(ServerAway):
                        server.run(["sleep", "30"])
            finally:
                stall.join()
                own_sshd.go_on()
            assert time.monotonic() - started_s < 15
            assert server.run(["echo", "on"]).out == b"on\n"


class TestLoss:
    def test_a_connection_that_dies_in_the_middle_of_a_command(
        self, own_sshd: SshServer, tmp_path: Path
    ) -> None:
        begun = tmp_path / "begun"
        with pool(own_sshd) as server, ThreadPoolExecutor(1) as thread:
            running = thread.submit(
                server.run, ["sh", "-c", 'touch "$1"; sleep 15', "x", begun.as_posix()]
            )
            while not begun.exists():
                time.sleep(0.01)
            own_sshd.end_sessions()
            with pytest.raises(ServerAway, match="lost"):
                running.result()
            assert server.run(["echo", "again"]).out == b"again\n"

    def test_a_connection_that_died_while_idle_is_replaced(self, own_sshd: SshServer) -> None:
        with pool(own_sshd) as server:
            server.run(["true"])
            own_sshd.end_sessions()
            assert server.run(["echo", "again"]).out == b"again\n"

    def test_after_a_restart_of_the_server(self, own_sshd: SshServer) -> None:
        with pool(own_sshd) as server:
            server.run(["true"])
            own_sshd.stop()
            with pytest.raises(ServerAway):
                server.run(["true"])
            own_sshd.start()
            assert server.run(["echo", "again"]).out == b"again\n"


class TestPool:
    def test_one_connection_serves_one_command_after_another(self, own_sshd: SshServer) -> None:
        with pool(own_sshd) as server:
            for _ in range(3):
                server.run(["true"])
            assert own_sshd.log().count("Accepted publickey") == 1

    def test_there_are_never_more_than_allowed(self, own_sshd: SshServer) -> None:
        with pool(own_sshd, max_connections=2) as server:
            with ThreadPoolExecutor(6) as threads:
                done = list(threads.map(lambda _: server.run(["sleep", "0.1"]).status, range(6)))
            assert done == [0] * 6
            assert own_sshd.log().count("Accepted publickey") <= 2

    def test_who_finds_all_in_use_does_not_wait_for_ever(self, own_sshd: SshServer) -> None:
        with (
            pool(own_sshd, max_connections=1, command_timeout_s=1.0) as server,
            ThreadPoolExecutor(1) as thread,
        ):
            running = thread.submit(server.run, ["sleep", "3"], timeout_s=10)
            while not own_sshd.sessions():
                time.sleep(0.01)
            with pytest.raises(ServerAway, match="in use"):
                server.run(["true"])
            assert running.result().status == 0
