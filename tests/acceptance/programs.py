# SPDX-License-Identifier: Apache-2.0
"""The programs under test: they lie beside the Python that runs the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.rest import ADMIN

BIN = Path(sys.executable).parent
TOOLS = Path(__file__).resolve().parents[2] / "tools"
TIMEOUT_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    user: int | None = None,
) -> Ended:
    """Run a program to its end, as another user if one is named."""
    done = subprocess.run(
        [os.fspath(argument) for argument in argv],
        env=dict(os.environ if env is None else env),
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    return Ended(status=done.returncode, out=done.stdout, err=done.stderr)


@dataclass(frozen=True)
class OpenStack:
    """The real ``openstack`` client, a process of its own per command."""

    endpoint: str
    token: str = ADMIN

    def _env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        auth = {"OS_AUTH_TYPE": "none"}
        if self.token != ADMIN:
            auth = {"OS_AUTH_TYPE": "admin_token", "OS_TOKEN": self.token}
        return {
            **kept,
            **auth,
            "OS_ENDPOINT": self.endpoint,
            "PYTHONWARNINGS": "ignore",
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "200",
        }

    def run(self, command: str, *arguments: str) -> Ended:
        """``command`` is the words of the subcommand, split at spaces."""
        argv: list[str | Path] = [BIN / "openstack", *command.split(), *arguments]
        return run(argv, env=self._env())

    def json(self, command: str, *arguments: str) -> Any:
        """What a command that succeeds shows."""
        ended = self.run(command, *arguments, "-f", "json")
        assert ended.status == 0, ended.err
        return json.loads(ended.out)

    def quiet(self, command: str, *arguments: str) -> None:
        """A command that succeeds and shows nothing."""
        ended = self.run(command, *arguments)
        assert (ended.status, ended.out, ended.err) == (0, "", "")

    def fails(self, command: str, *arguments: str) -> str:
        """What a command that fails says."""
        ended = self.run(command, *arguments)
        assert ended.status != 0, ended.out
        return ended.err

    def script(self, lines: Sequence[str]) -> list[Any]:
        """Many commands in one client process, which reads them as from a terminal.

        It knows no quotes, and its exit status at the end of the input is 1 in any case.
        :returns: what those that show JSON have shown, in order. None may complain.
        """
        ended = run([BIN / "openstack"], env=self._env(), stdin="\n".join([*lines, ""]))
        assert ended.err == ""
        return _documents(ended.out)


def _documents(text: str) -> list[Any]:
    """One JSON document after another."""
    decoder = json.JSONDecoder()
    found = []
    rest = text.lstrip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found


@dataclass(frozen=True)
class Manage:
    """``manila-backup-manage`` for one state directory."""

    state: Path

    def run(self, command: str, *arguments: str | Path) -> Ended:
        return run(
            [BIN / "manila-backup-manage", "--state-dir", self.state, *command.split(), *arguments]
        )

    def json(self, command: str, *arguments: str | Path) -> Any:
        """What a command that succeeds shows."""
        ended = self.run(command, *arguments, "--format", "json")
        assert ended.status == 0, ended.err
        return json.loads(ended.out)


def compare_trees(original: Path | str, other: Path | str, *, user: int | None = None) -> list[str]:
    """The differences that the independent comparer finds."""
    ended = run([sys.executable, TOOLS / "compare_trees.py", original, other], user=user)
    assert ended.status in (0, 1), ended.err
    *differences, closing = ended.out.splitlines()
    assert closing.endswith(f" {len(differences)} differences"), closing
    assert bool(differences) == bool(ended.status)
    return differences
