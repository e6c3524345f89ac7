# SPDX-License-Identifier: Apache-2.0
"""From what python-manilaclient and keystoneauth raise to the errors of this service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from keystoneauth1 import exceptions as keystone
from manilaclient import exceptions as manila

from manila_backup.exception import Forbidden, TransientError, Unauthenticated
from manila_backup.names import printable

MAX_REASON = 500


@contextmanager
def faults(doing: str) -> Iterator[None]:
    """What the block does not handle by itself becomes a :class:`TransientError`.

    Also refusals: the service user may lack a role that an operator gives him later. ``doing``
    completes "could not": ``find share ...``. Messages hold no tokens: keystoneauth puts none
    into its errors.
    """
    try:
        yield
    except (manila.ClientException, manila.VersionNotFoundForAPIMethod) as exc:
        raise TransientError(reason=f"Manila could not {doing}: {said(exc)}") from exc
    except keystone.Unauthorized as exc:
        reason = f"could not {doing}: Keystone refuses the service user of group [manila]"
        raise TransientError(reason=reason) from exc
    except keystone.ClientException as exc:
        raise TransientError(reason=f"could not {doing}: {said(exc)}") from exc


@contextmanager
def user_faults() -> Iterator[None]:
    """What Manila says to a user's own token is the user's to hear."""
    try:
        yield
    except manila.Unauthorized as exc:
        raise Unauthenticated(reason="Manila does not accept the token.") from exc
    except manila.Forbidden as exc:
        raise Forbidden(reason=said(exc)) from exc


def said(error: Exception) -> str:
    """Its words, on one line and not too many: they may quote what tenants chose."""
    words = " ".join(str(error).split()) or type(error).__name__
    return printable(words.encode(errors="replace"))[:MAX_REASON]
