# SPDX-License-Identifier: Apache-2.0
"""keystonemiddleware's auth_token in front of the application, answering in our error format.

Its delayed mode, in which the application refuses, is not used: there a Keystone that is away looks
like a wrong token, and clients would ask for new tokens in vain. So auth_token refuses by itself,
and what it says is put into Manila's words here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from oslo_config import cfg
from oslo_log import log as logging

from manila_backup.api.context import ENV_REQUEST_ID
from manila_backup.api.errors import HttpError, error_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOG = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset({"/", "/v2", "/v2/", "/v2/openapi.json"})
"""What clients read before they have a token."""

_REACHED = "manila_backup.reached"


class KeystoneFront:
    """Lets public paths pass, and the rest through auth_token.

    :param conf: with the group [keystone_authtoken], which the middleware registers by itself.
    """

    def __init__(self, app: WSGIApplication, conf: cfg.ConfigOpts) -> None:
        from keystonemiddleware import auth_token

        self._app = app
        self._protected = auth_token.AuthProtocol(self._reach, {"oslo_config_config": conf})

    def _reach(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ[_REACHED] = True
        return self._app(environ, start_response)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ.pop(_REACHED, None)
        if environ.get("PATH_INFO") in PUBLIC_PATHS:
            # auth_token removes what clients forge; here nobody does, and nobody is asked for.
            environ.pop("HTTP_X_IDENTITY_STATUS", None)
            return self._app(environ, start_response)
        refusal: list[tuple[int, dict[str, str]]] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if environ.get(_REACHED):
                return start_response(status, headers, exc_info)
            refusal.append((int(status[:3]), dict(headers)))
            return lambda data: None

        try:
            body = self._protected(environ, start)
        except Exception:
            # Ours catches everything, so this is the middleware: wrongly configured, for example.
            LOG.exception("Tokens cannot be checked")
            refusal.append((503, {}))
            body = ()
        if not refusal:
            return body  # type: ignore[no-any-return]
        _close(body)
        response = error_response(_error(*refusal[-1]), environ.get(ENV_REQUEST_ID))
        return response(environ, start_response)


def _close(body: object) -> None:
    """As a server does with a response that it has done with."""
    close = getattr(body, "close", None)
    if close is not None:
        close()


def _error(status: int, headers: dict[str, str]) -> HttpError:
    if status == 401:
        kept = {key: value for key, value in headers.items() if key == "WWW-Authenticate"}
        return HttpError(401, "unauthenticated", "A valid token is needed.", kept)
    if status == 503:
        return HttpError(
            503, "identity_away", "The identity service is not available; please try again later."
        )
    return HttpError(status, "identity_refused", "The identity service refuses the request.")
