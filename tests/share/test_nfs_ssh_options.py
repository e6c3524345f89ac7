# SPDX-License-Identifier: Apache-2.0
"""Group [nfs_ssh] as operators write it: what is missing or wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from manila_backup import config, service
from manila_backup.share.nfs_ssh.options import settings_from_conf
from manila_backup.share.nfs_ssh.provider import NfsSshShareProvider


def written(directory: Path, *lines: str) -> str:
    path = directory / "manila-backup.conf"
    head = ["[DEFAULT]", "share_provider = nfs_ssh", "[nfs_ssh]"]
    path.write_text("\n".join([*head, *lines]))
    return str(path)


def test_little_must_be_said(tmp_path: Path) -> None:
    conf = config.load([], files=[written(tmp_path, "host = nfs.internal", "use_agent = yes")])
    ssh, store = settings_from_conf(conf)
    assert (ssh.host, ssh.port, ssh.user, ssh.use_agent) == ("nfs.internal", 22, "root", True)
    assert not ssh.accept_new_hosts
    assert store.export_address == "nfs.internal"
    # The default that keeps clients of one share out of the others.
    assert store.export_options == ("sync", "no_root_squash", "subtree_check")
    assert isinstance(service.build_provider(conf), NfsSshShareProvider)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["use_agent = yes"], "option host in group"),
        (["host = nfs"], "option key_files or use_agent in group"),
        (["host = nfs", "use_agent = yes", "root = srv"], "option root in group"),
        (["host = nfs", "use_agent = yes", "root = /srv/a b"], "option root in group"),
        (["host = nfs", "use_agent = yes", "root = /srv/../x"], "option root in group"),
        (["host = nfs", "use_agent = yes", "root = /srv/"], "option root in group"),
        (["host = nfs", "use_agent = yes", "root = /srv/$$(id)"], "option root in group"),
        (["host = nfs", "use_agent = yes", "exports_directory = etc"], "option exports_directory"),
        (["host = nfs", "use_agent = yes", "export_options = sync)"], "option export_options"),
        (["host = nfs", "use_agent = yes", "export_options = rw"], "option export_options"),
    ],
)
def test_what_is_missing_or_wrong_is_named(tmp_path: Path, lines: list[str], named: str) -> None:
    conf = config.load([], files=[written(tmp_path, *lines)])
    with pytest.raises(ValueError, match=named):
        service.build_provider(conf)
