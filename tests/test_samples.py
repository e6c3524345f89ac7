# SPDX-License-Identifier: Apache-2.0
"""The samples under etc/ say what the code says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ETC = Path(__file__).parent.parent / "etc"


def generate(program: str, *arguments: str) -> str:
    command = Path(sys.executable).with_name(program)
    done = subprocess.run(
        [command, *arguments], capture_output=True, text=True, check=True, env={"LANG": "C.UTF-8"}
    )
    return done.stdout


def test_every_option_of_ours_stands_in_the_sample_as_it_is() -> None:
    """Regenerate: oslo-config-generator --config-file etc/oslo-config-generator/manila-backup.conf

    Only our own options are compared: those of the libraries change with their versions.
    """
    sample = (ETC / "manila-backup.conf.sample").read_text()
    ours = generate("oslo-config-generator", "--namespace", "manila_backup", "--wrap-width", "79")
    paragraphs = [part for part in ours.split("\n\n") if part.lstrip("# \n").strip()]
    assert len(paragraphs) > 20
    missing = [part for part in paragraphs if part.strip() not in sample]
    assert missing == []


def test_the_sample_for_manila_conf_is_what_the_code_has() -> None:
    """Regenerate: oslo-config-generator --config-file .../manila-backup-adapter.conf"""
    arguments = ("--namespace", "manila_backup.adapter", "--wrap-width", "79")
    ours = generate("oslo-config-generator", *arguments)
    assert (ETC / "manila-backup-adapter.conf.sample").read_text() == ours


@pytest.mark.parametrize("group", ["database", "keystone_authtoken", "oslo_policy"])
def test_the_sample_has_the_libraries_options_too(group: str) -> None:
    assert f"\n[{group}]\n" in (ETC / "manila-backup.conf.sample").read_text()


def test_the_policy_sample_is_what_the_code_has() -> None:
    """Regenerate: oslopolicy-sample-generator --config-file etc/oslo-policy-generator/..."""
    ours = generate("oslopolicy-sample-generator", "--namespace", "manila_backup")
    assert (ETC / "policy.yaml.sample").read_text().strip() == ours.strip()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manila-backup-api", "manila-backup-data"])
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    """With the programs where they are here, and a user that is here."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    text = (ETC / "systemd" / f"{name}.service").read_text()
    text = text.replace("/usr/local/bin", str(Path(sys.executable).parent))
    unit = tmp_path / f"{name}.service"
    unit.write_text(text.replace("User=manila-backup", "User=root"))
    done = subprocess.run(
        [analyze, "verify", unit], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


_SAY = """
import logging, sys
from manila_backup import config
conf = config.load(sys.argv[1:])
config.set_up_logging(conf)
for name in ("manila_backup.data.manager", "sqlalchemy.engine", "some.library"):
    logging.getLogger(name).info("told by %s", name)
    logging.getLogger(name).warning("warned by %s", name)
logging.getLogger("manila_backup").debug("debugged")
"""


def test_the_logging_sample_says_where_messages_go(tmp_path: Path) -> None:
    log, sample, config = (tmp_path / name for name in ("log", "logging.ini", "conf"))
    text = (ETC / "logging.ini.sample").read_text()
    sample.write_text(text.replace("/var/log/manila-backup/manila-backup.log", str(log)))
    config.write_text(f"[DEFAULT]\nlog_config_append = {sample}\n")
    command = [sys.executable, "-c", _SAY, "--config-file", config]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = log.read_text().splitlines()
    assert done.stderr.splitlines() == lines
    assert [line.partition(" [-] ")[2] for line in lines] == [
        "told by manila_backup.data.manager",
        "warned by manila_backup.data.manager",
        "warned by sqlalchemy.engine",
        "warned by some.library",
    ]
