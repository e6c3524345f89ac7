# SPDX-License-Identifier: Apache-2.0
"""The group [manila_backup] of manila.conf."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from oslo_config import cfg

from manila_backup.adapter import options
from manila_backup.adapter.options import GROUP, OPTS, Settings
from manila_backup.types import Mount


def settings(path: Path, *lines: str) -> Settings:
    file = path / "manila.conf"
    file.write_text("\n".join(("[manila_backup]", *lines)))
    conf = cfg.ConfigOpts()
    conf.register_opts(OPTS, group=GROUP)
    conf.register_opts([cfg.StrOpt("state_path", default="/var/lib/manila")])
    conf([], default_config_files=[str(file)])
    return Settings.from_conf(conf[GROUP], "/etc/manila/rootwrap.conf")


def test_an_export_is_one_word_and_options_are_a_list(tmp_path: Path) -> None:
    lines = ("backup_mount_export = nfs:/back ups", "backup_mount_options = vers=4.2,hard")
    found = settings(tmp_path, *lines)
    assert found.store == Mount(proto="nfs", export="nfs:/back ups", options=("vers=4.2", "hard"))
    assert found.state_directory == "/var/lib/manila/manila-backup"


def test_without_a_backup_share_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"backup_mount_export is required in group \[manila_b"):
        settings(tmp_path)


def test_who_is_not_root_asks_rootwrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = "backup_mount_export = nfs:/b"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    as_root = settings(tmp_path, export).command
    assert as_root == (sys.executable, "-P", "-m", "manila_backup.adapter.runner")
    monkeypatch.setattr(os, "geteuid", lambda: 42)
    command = ("sudo", "manila-rootwrap", "/etc/manila/rootwrap.conf", options.COMMAND)
    assert settings(tmp_path, export).command == command
    asked = settings(tmp_path, export, "root_helper = doas -n").command
    assert asked == ("doas", "-n", options.COMMAND)
