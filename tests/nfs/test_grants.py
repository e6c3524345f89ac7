# SPDX-License-Identifier: Apache-2.0
"""The part of the share provider's contract that is about giving and taking access, for the nfs_ssh
provider, over sshd, exportfs and the kernel's NFS server of the virtual machine.

All of the contract: ``python -m pytest -m by_hand tests/share/test_provider_contract.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from manila_backup.types import Share
from tests.nfs.vm import Vm
from tests.share.harness import ProviderHarness
from tests.share.nfs_ssh_harness import vm_harness
from tests.share.test_provider_contract import TestRevoke

__all__ = ["TestRevoke"]

pytestmark = [pytest.mark.full, pytest.mark.root]


@pytest.fixture
def harness(vm: Vm) -> Iterator[ProviderHarness]:
    with vm_harness(vm) as found:
        yield found


@pytest.fixture
def share(harness: ProviderHarness) -> Share:
    return harness.provider.get(harness.owner, harness.create_share())
