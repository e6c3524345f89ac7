# SPDX-License-Identifier: Apache-2.0
"""The contract of a share provider: where shares come from and how access to them is given.

Every sentence here has a test in ``tests/share/test_provider_contract.py``, which runs over all
providers. A provider keeps no state about operations; what must be undone after a crash is written
down by the caller before it calls.
"""

from __future__ import annotations

from typing import Protocol

from manila_backup.context import RequestContext
from manila_backup.types import AccessLevel, Grant, Mount, Share


class ShareProvider(Protocol):
    """Access to shares. Instances are shared between threads."""

    def get(self, context: RequestContext, share_id: str) -> Share:
        """The share as the user of ``context`` may see it now.

        Private shares of other projects are not seen unless the context is an administrator's.
        :raises ShareNotFound: there is none, or the user may not know of it.
        :raises TransientError: the provider is away.
        """
        ...

    def mark(self, share: Share, operation_id: str, status: str) -> None:
        """Make the share busy for ``operation_id``, so that its owner cannot disturb the work.

        ``status`` is ``backup_creating`` or ``backup_restoring``. Idempotent for the same
        operation. While marked, the provider refuses what would change or remove the share, but
        access rules go on working.
        :raises ShareBusy: another operation or task of the provider holds it; nothing was changed.
        :raises ShareNotFound: the share is gone.
        """
        ...

    def unmark(self, share_id: str, operation_id: str) -> None:
        """Take the mark of ``operation_id`` off. Idempotent; a mark of another is left alone, and
        a share that is gone counts as unmarked.
        """
        ...

    def grant(self, share: Share, address: str, level: AccessLevel) -> Grant:
        """Give ``address`` access; returns when it works.

        A sufficient rule of the tenant for the same address is reused (``ours`` False) and an
        insufficient one is refused; the tenant's rules are never changed. Idempotent: a rule that
        an earlier call of ours left is found again and returned as ours.
        :raises GrantFailed: it could not be given.
        """
        ...

    def revoke(self, grant: Grant) -> None:
        """Take our rule away; returns when it is certain that it is gone, or raises.

        Idempotent. A grant that is not ours is left alone. A share that is gone has no rules.
        :raises GrantFailed: it may still be there; to be called again.
        """
        ...

    def mounts(self, share: Share) -> list[Mount]:
        """The ways to mount the share, preferred first; never empty.

        :raises ShareNotFound: the share is gone.
        """
        ...
