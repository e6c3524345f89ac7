# SPDX-License-Identifier: Apache-2.0
"""Who asks: from a request to a RequestContext, without Keystone or with it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Protocol

from werkzeug import Request

from manila_backup import exception
from manila_backup.api.errors import HttpError
from manila_backup.context import RequestContext

ENV_REQUEST_ID = "openstack.request_id"
ENV_GLOBAL_REQUEST_ID = "openstack.global_request_id"

DEFAULT_USER = "user"
DEFAULT_PROJECT = "default"

IMPLIED_ROLES = {"admin": ("member", "reader"), "member": ("reader",)}
"""As Keystone sets roles up: an administrator is a member, a member is a reader."""

MAX_USER_LENGTH = 255
_PROJECT = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_ROLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Authenticator(Protocol):
    def check_origin(self, request: Request) -> None:
        """Refuse what cannot come from a client, before anything is answered.

        :raises HttpError:
        """
        ...

    def context(self, request: Request) -> RequestContext:
        """Who asks. The context always has a user and a project.

        :raises Unauthenticated: nobody that we know.
        """
        ...


def usable_project(project_id: str) -> bool:
    """Whether the id can name a directory in the store (``doc/format.md``)."""
    return _PROJECT.fullmatch(project_id) is not None and project_id not in {".", ".."}


class NoAuth:
    """The caller is whoever the token says: ``user:project:role1,role2``.

    No token, or ``notused`` (which keystoneauth's ``none`` plug-in sends), is user ``user`` of the
    project ``default`` with the roles admin, member and reader. ``user:project`` is a member. Roles
    imply others as Keystone's do.

    Since nobody is checked, a web page in a browser on this machine must not be taken for a
    client: its Host header is not ours (DNS rebinding), and it sends an Origin header.

    :param hosts: names and addresses allowed in Host besides loopback ones; ``*`` allows all.
    """

    def __init__(self, hosts: tuple[str, ...] = ()) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)

    def check_origin(self, request: Request) -> None:
        if not self._known_host(request.environ.get("HTTP_HOST", "")):
            raise HttpError(
                403,
                "unknown_host",
                "Without authentication, requests are taken only for loopback names and addresses; "
                "see the option noauth_hosts.",
            )
        if "HTTP_ORIGIN" in request.environ:
            raise HttpError(
                403, "browser", "Without authentication, requests of web pages are not taken."
            )

    def _known_host(self, header: str) -> bool:
        if "*" in self._hosts:
            return True
        host = _host_name(header)
        if host is None:
            return False
        if host == "localhost" or host in self._hosts:
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def context(self, request: Request) -> RequestContext:
        user, project, roles = _read_token(request.headers.get("X-Auth-Token", ""))
        return RequestContext(
            user_id=user, project_id=project, roles=roles, **_request_ids(request.environ)
        )


def _host_name(header: str) -> str | None:
    """The name in a Host header, lower case, without port and brackets."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]/@\s]+))(?::[0-9]{1,5})?", header)
    if match is None:
        return None
    return (match[1] or match[2]).lower()


def _read_token(token: str) -> tuple[str, str, list[str]]:
    if token in {"", "notused"}:
        return DEFAULT_USER, DEFAULT_PROJECT, ["admin", "member", "reader"]
    user, _, rest = token.partition(":")
    project, _, role_list = rest.partition(":")
    roles = role_list.split(",") if role_list else ["member"]
    if (
        not (0 < len(user) <= MAX_USER_LENGTH and user.isprintable())
        or not usable_project(project)
        or not all(_ROLE.fullmatch(role) for role in roles)
    ):
        raise exception.Unauthenticated(
            reason="without Keystone a token has the form user:project:role1,role2."
        )
    for role in tuple(roles):
        roles.extend(more for more in IMPLIED_ROLES.get(role, ()) if more not in roles)
    return user, project, roles


class KeystoneAuth:
    """Reads what keystonemiddleware's auth_token has put into the environment.

    The middleware runs in front (``api/keystone.py``) and removes these headers from what clients
    send.
    """

    def check_origin(self, request: Request) -> None:
        """A browser holds no token that it would send by itself."""

    def context(self, request: Request) -> RequestContext:
        environ = request.environ
        if environ.get("HTTP_X_IDENTITY_STATUS") != "Confirmed":
            raise exception.Unauthenticated(reason="no valid token was given.")
        context = RequestContext.from_environ(environ, **_request_ids(environ))
        # Isolation is by project everywhere, so a token of a system or a domain is of no use.
        if not context.project_id or not context.user_id:
            raise exception.Forbidden(reason="A token with the scope of a project is needed.")
        if not usable_project(context.project_id):
            raise exception.Forbidden(reason="The id of the project cannot name a directory.")
        found: RequestContext = context
        return found


def _request_ids(environ: Mapping[str, Any]) -> dict[str, str | None]:
    return {
        "request_id": environ.get(ENV_REQUEST_ID),
        "global_request_id": environ.get(ENV_GLOBAL_REQUEST_ID),
    }
