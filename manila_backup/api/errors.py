# SPDX-License-Identifier: Apache-2.0
"""The one table from errors to HTTP: class -> (status, stable code), and Manila's error bodies.

The body is ``{"<fault>": {"code": <status>, "message": "..."}}`` exactly as Manila writes it, so
the stable code travels in the header ``X-OpenStack-Manila-Backup-Error``: programs may rely on it
where messages may change.
"""

from __future__ import annotations

import json

from oslo_db import exception as db_exc
from werkzeug import Response

from manila_backup import exception

CODE_HEADER = "X-OpenStack-Manila-Backup-Error"


class HttpError(Exception):
    """A refusal that only exists in HTTP (a method, a header, a size).

    :param headers: further response headers, ``Allow`` for example.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}


FAULT_NAMES = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    406: "notAcceptable",
    409: "conflictingRequest",
    411: "lengthRequired",
    413: "overLimit",
    415: "badMediaType",
    422: "unprocessableEntity",
    500: "computeFault",
    501: "notImplemented",
    502: "badGateway",
    503: "serviceUnavailable",
    504: "gatewayTimeout",
}
"""HTTP status -> the key of the error body. 406, 411, 422, 502 and 504 are names of ours; Manila
has none."""

ERRORS: dict[type[Exception], tuple[int, str]] = {
    exception.Invalid: (400, "invalid"),
    exception.InvalidInput: (400, "invalid_input"),
    exception.InvalidShare: (400, "invalid_share"),
    exception.InvalidBackup: (400, "invalid_backup"),
    exception.Unauthenticated: (401, "unauthenticated"),
    exception.Forbidden: (403, "forbidden"),
    exception.PolicyNotAuthorized: (403, "policy_not_authorized"),
    exception.NotFound: (404, "not_found"),
    exception.BackupNotFound: (404, "backup_not_found"),
    exception.ShareNotFound: (404, "share_not_found"),
    exception.ShareSnapshotNotFound: (404, "share_snapshot_not_found"),
    exception.OperationNotFound: (404, "operation_not_found"),
    exception.MessageNotFound: (404, "message_not_found"),
    exception.ShareBusy: (409, "share_busy"),
    exception.IllegalTransition: (409, "illegal_transition"),
    exception.StaleRow: (409, "changed_by_another"),
    exception.QuotaExceeded: (413, "quota_exceeded"),
    exception.BackupLimitExceeded: (413, "backup_limit_exceeded"),
    exception.BackupGigabytesExceeded: (413, "backup_gigabytes_exceeded"),
    # The provider of shares is away, or the database is: not the caller's fault, and not for ever.
    exception.TransientError: (503, "transient"),
    # The store was asked for a manifest and cannot be read; the text is fit for tenants.
    exception.OperationError: (500, "operation_error"),
    db_exc.DBConnectionError: (503, "database_away"),
    db_exc.DBNonExistentDatabase: (503, "database_missing"),
    db_exc.DBDeadlock: (503, "database_busy"),
}


def status_and_code(error: Exception) -> tuple[int, str]:
    """Of the nearest class in the table; (500, "internal") when there is none."""
    if isinstance(error, HttpError):
        return error.status, error.code
    for cls in type(error).__mro__:
        if cls in ERRORS:
            return ERRORS[cls]
    return 500, "internal"


def error_body(status: int, message: str) -> dict[str, dict[str, object]]:
    name = FAULT_NAMES.get(status, "computeFault")
    fault: dict[str, object] = {"code": status, "message": message}
    if status == 413:
        # Manila says this with each 413: asking again is up to the client.
        fault["retryAfter"] = "0"
    return {name: fault}


def error_response(error: Exception, request_id: str | None) -> Response:
    """What the client is told. Of an error that is not in the table, only the request id."""
    status, code = status_and_code(error)
    if code == "internal":
        message = f"The server has met an unexpected error. Request id: {request_id}."
    elif isinstance(error, db_exc.DBError):
        # Its text names hosts, users and statements.
        message = "The database of the service is not available; please try again later."
    else:
        message = str(error)
    response = Response(
        json.dumps(error_body(status, message)), status=status, content_type="application/json"
    )
    response.headers[CODE_HEADER] = code
    if status == 413:
        response.headers["Retry-After"] = "0"
    if isinstance(error, HttpError):
        response.headers.update(error.headers)
    return response
