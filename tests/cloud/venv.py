# SPDX-License-Identifier: Apache-2.0
"""A virtual environment with Keystone and Manila, apart from the one that runs the tests: the
versions that they need are not to be ours."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

PINS = (
    "PyMySQL==1.2.4",
    "blake3==1.0.11",  # of our own engine, which works for manila-data there
    "gunicorn==27.0.1",
    "keystone==30.0.0",
    "manila==23.0.1",
    "python-manilaclient==6.3.0",
    "zstandard==0.25.0",
)

TEMPEST_PINS = ("manila-tempest-plugin==3.2.0", "tempest==47.0.0")


@dataclass(frozen=True)
class CloudVenv:
    path: Path

    def program(self, name: str) -> Path:
        return self.path / "bin" / name


def cloud_venv() -> CloudVenv:
    """With Keystone and Manila."""
    return _installed(CHECKOUT / ".venv-cloud", PINS)


def tempest_venv() -> CloudVenv:
    """With tempest and Manila's tests for it, which want other versions than Manila itself."""
    return _installed(CHECKOUT / ".venv-tempest", TEMPEST_PINS)


def _installed(path: Path, pins: Sequence[str]) -> CloudVenv:
    """Installed at the first time, minutes long, and again when the pins have changed.

    Safe against other processes that want the same; one that was killed in between is made good.
    """
    found = CloudVenv(path)
    wanted = hashlib.sha256(" ".join((sys.version, *pins)).encode()).hexdigest()[:16]
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = path / "installed"
        if stamp.exists() and stamp.read_text() == wanted:
            return found
        shutil.rmtree(path, ignore_errors=True)
        # Debian's Python may lack ensurepip: the pip beside the tests' Python helps out.
        _run([sys.executable, "-m", "venv", "--without-pip", path])
        _run([*_PIP, "--python", found.program("python"), "install", "--quiet", *pins])
        stamp.write_text(wanted)
    return found


_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stdout
