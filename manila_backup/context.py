# SPDX-License-Identifier: Apache-2.0
"""Who asks: the request context, handed down from the API to the share provider."""

from __future__ import annotations

from typing import Any

from oslo_context import context


class RequestContext(context.RequestContext):  # type: ignore[misc]
    """oslo.context's context; ``roles`` decide what policies allow, ``is_admin`` follows them."""

    def __init__(self, **kwargs: Any) -> None:
        roles = kwargs.get("roles") or []
        kwargs.setdefault("is_admin", "admin" in roles)
        super().__init__(**kwargs)


def service_context(request_id: str | None = None) -> RequestContext:
    """The context of the service itself: an administrator without a project."""
    return RequestContext(
        user_id="manila-backup", roles=["admin"], is_admin=True, request_id=request_id
    )
