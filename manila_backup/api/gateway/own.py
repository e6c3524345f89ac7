# SPDX-License-Identifier: Apache-2.0
"""Requests to our own API in the same process, in the caller's name.

The caller's headers go along, so that identity, policy and validation are those of every request.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from werkzeug import Response

from manila_backup.api.gateway import versions
from manila_backup.api.gateway.request import GatewayRequest
from manila_backup.api.request import ENV_DRY_RUN
from manila_backup.api.versions import MAX_VERSION

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class OwnApi:
    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def ask(
        self,
        request: GatewayRequest,
        method: str,
        path: str,
        *,
        query: str = "",
        body: Any = None,
        dry_run: bool = False,
    ) -> Response:
        """The whole answer.

        :param path: percent-encoded, with ``/v2``.
        :param dry_run: only check whether the request would be carried out.
        """
        environ = dict(request.environ)
        if request.version > MAX_VERSION:
            environ = versions.with_version(environ, MAX_VERSION)
        for name in ("HTTP_TRANSFER_ENCODING", "CONTENT_TYPE", "CONTENT_LENGTH", ENV_DRY_RUN):
            environ.pop(name, None)
        data = b"" if body is None else json.dumps(body).encode()
        if body is not None:
            environ |= {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(data))}
        if dry_run:
            environ[ENV_DRY_RUN] = True
        environ |= {
            "REQUEST_METHOD": method,
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "REQUEST_URI": environ.get("SCRIPT_NAME", "") + path + (f"?{query}" if query else ""),
            "wsgi.input": io.BytesIO(data),
            "wsgi.input_terminated": True,
        }
        return Response.from_app(self._app, environ, buffered=True)
