# SPDX-License-Identifier: Apache-2.0
"""A share driver for Manila whose shares and snapshots are directories of this machine.

Below ``directory_driver_root``:

- ``shares/<share instance>``, ``snapshots/<snapshot instance>``: their content
- ``access/<share>``: the rules in force, a JSON list of [type, to, level], written at each change
- ``refuse_access``: while it is there, no change of rules succeeds; its text is the reason
- ``hold_access``: while it is there, changes of rules wait

Exports look like NFS exports but nothing serves them: tests mount the directories themselves.
"""

import json
import os
import pathlib
import shutil
import time

from manila import exception
from manila.share import driver
from oslo_config import cfg

OPTS = [cfg.StrOpt("directory_driver_root", help="Directory for shares, snapshots and rules.")]

HOSTS = (  # (host, for administrators only, preferred)
    ("127.0.0.3", True, False),
    ("127.0.0.2", False, False),
    ("127.0.0.1", False, True),
)

HOLD_S = 120


class DirectoryDriver(driver.ShareDriver):
    def __init__(self, *args, **kwargs):
        super().__init__(False, *args, config_opts=[OPTS], **kwargs)
        # Without it Manila leaves rules for IPv6 addresses out, and calls them active all the same.
        self.ipv6_implemented = True
        self._root = pathlib.Path(self.configuration.directory_driver_root)

    def do_setup(self, context):
        for name in ("shares", "snapshots", "access"):
            (self._root / name).mkdir(parents=True, exist_ok=True)

    def check_for_setup_error(self):
        pass

    def _update_share_stats(self, data=None):
        super()._update_share_stats(
            {
                "storage_protocol": "NFS_CIFS",
                "vendor_name": "tests",
                "driver_version": "1",
                "total_capacity_gb": 1000,
                "free_capacity_gb": 1000,
                "snapshot_support": True,
                "create_share_from_snapshot_support": True,
                "revert_to_snapshot_support": True,
                "mount_snapshot_support": True,
            }
        )

    # --- shares -----------------------------------------------------------------------------------

    def _share(self, share):
        return self._root / "shares" / share["id"]

    def _exports(self, path):
        return [
            {
                "path": f"{host}:{path}",
                "is_admin_only": is_admin_only,
                "metadata": {"preferred": preferred},
            }
            for host, is_admin_only, preferred in HOSTS
        ]

    def create_share(self, context, share, share_server=None):
        self._share(share).mkdir()
        return self._exports(self._share(share))

    def create_share_from_snapshot(
        self, context, share, snapshot, share_server=None, parent_share=None
    ):
        _copy(self._snapshot(snapshot), self._share(share))
        return self._exports(self._share(share))

    def delete_share(self, context, share, share_server=None):
        shutil.rmtree(self._share(share), ignore_errors=True)
        (self._root / "access" / share["share_id"]).unlink(missing_ok=True)

    def extend_share(self, share, new_size, share_server=None):
        pass

    def shrink_share(self, share, new_size, share_server=None):
        pass

    def ensure_shares(self, context, shares):
        return {
            share["id"]: {"export_locations": self._exports(self._share(share))} for share in shares
        }

    def get_backend_info(self, context):
        return {"root": os.fspath(self._root)}

    # --- snapshots --------------------------------------------------------------------------------

    def _snapshot(self, snapshot):
        return self._root / "snapshots" / snapshot["id"]

    def create_snapshot(self, context, snapshot, share_server=None):
        _copy(self._share(snapshot["share"]), self._snapshot(snapshot))
        return {"export_locations": self._snapshot_exports(snapshot)}

    def _snapshot_exports(self, snapshot):
        path = self._snapshot(snapshot)
        return [{"path": f"127.0.0.1:{path}", "is_admin_only": False}]

    def delete_snapshot(self, context, snapshot, share_server=None):
        shutil.rmtree(self._snapshot(snapshot), ignore_errors=True)

    def revert_to_snapshot(
        self, context, snapshot, share_access_rules, snapshot_access_rules, share_server=None
    ):
        share = self._share(snapshot["share"])
        for entry in os.scandir(share):
            _remove(entry)
        _copy(self._snapshot(snapshot), share)

    # --- access -----------------------------------------------------------------------------------

    def update_access(  # noqa: PLR0917 - Manila's signature
        self,
        context,
        share,
        access_rules,
        add_rules,
        delete_rules,
        update_rules=None,
        share_server=None,
    ):
        until_s = time.monotonic() + HOLD_S
        while (self._root / "hold_access").exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        refusal = self._root / "refuse_access"
        if refusal.exists():
            raise exception.ShareBackendException(msg=refusal.read_text())
        rules = [
            [rule["access_type"], rule["access_to"], rule["access_level"]] for rule in access_rules
        ]
        written = self._root / "access" / share["share_id"]
        new = written.with_name(f".{share['share_id']}")
        new.write_text(json.dumps(sorted(rules)))
        new.rename(written)

    def snapshot_update_access(  # noqa: PLR0917 - Manila's signature
        self, context, snapshot, access_rules, add_rules, delete_rules, share_server=None
    ):
        pass

    def get_configured_ip_versions(self):
        return [4, 6]


def _copy(source, target):
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def _remove(entry):
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    else:
        os.unlink(entry.path)
