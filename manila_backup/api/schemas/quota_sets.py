# SPDX-License-Identifier: Apache-2.0
"""Of ``/quota-sets`` and ``/limits``."""

from __future__ import annotations

from typing import Any

from manila_backup.api.schemas.common import TEXT, exact, obj, said, wrapped

MAX_LIMIT = 2**31 - 1
_LIMIT: dict[str, Any] = {
    "type": "integer",
    "minimum": -1,
    "maximum": MAX_LIMIT,
    "description": "-1 is unlimited.",
}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_STRING: dict[str, Any] = {"type": "string"}

UPDATE = wrapped(
    "quota_set",
    obj(
        {
            "backups": _LIMIT,
            "backup_gigabytes": _LIMIT,
            "force": said({"type": "boolean"}, "Also below what is used already."),
            "tenant_id": said(TEXT, "Clients repeat the project here; the path decides."),
        }
    ),
)

_NO_PARTS = said(TEXT, "Refused: backup quotas are of projects.")
QUERY = obj({"user_id": _NO_PARTS, "share_type": _NO_PARTS})

_PLAIN = {"id": _STRING, "backups": _LIMIT, "backup_gigabytes": _LIMIT}
_USED = exact({"limit": _LIMIT, "in_use": _COUNT, "reserved": said(_COUNT, "Always 0.")})

# The two figures are there from 2.80.
RESPONSE = wrapped("quota_set", exact(_PLAIN, "backups", "backup_gigabytes"))
DETAIL_RESPONSE = wrapped(
    "quota_set",
    exact(
        {"id": _STRING, "backups": _USED, "backup_gigabytes": _USED},
        "backups",
        "backup_gigabytes",
    ),
)
UPDATE_RESPONSE = wrapped("quota_set", exact({"backups": _LIMIT, "backup_gigabytes": _LIMIT}))

_ABSOLUTE = {
    "maxTotalShareBackups": _LIMIT,
    "maxTotalBackupGigabytes": _LIMIT,
    "totalShareBackupsUsed": _COUNT,
    "totalBackupGigabytesUsed": _COUNT,
}
LIMITS_RESPONSE = wrapped(
    "limits",
    exact(
        {
            "rate": {"type": "array", "maxItems": 0},
            "absolute": exact(_ABSOLUTE, *_ABSOLUTE),
        }
    ),
)
