# SPDX-License-Identifier: Apache-2.0
"""The manila provider for machines whose kernel has no NFS: what the tests' share driver exports as
``127.0.0.1:<directory>`` is bind-mounted. Found by its entry point where this directory is on
PYTHONPATH."""

from manila_backup.share.manila.provider import ManilaShareProvider
from manila_backup.types import Mount, Share


class BindManilaProvider(ManilaShareProvider):
    def mounts(self, share: Share) -> list[Mount]:
        return [
            Mount(proto="bind", export=mount.export.partition(":")[2])
            for mount in super().mounts(share)
        ]
