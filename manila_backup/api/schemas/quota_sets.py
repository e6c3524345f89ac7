# SPDX-License-Identifier: Apache-2.0
"""Of ``/quota-sets`` and ``/limits``."""

from __future__ import annotations

from typing import Any

from manila_backup.api.schemas.common import TEXT, exact, obj, wrapped

MAX_LIMIT = 2**31 - 1
_LIMIT: dict[str, Any] = {"type": "integer", "minimum": -1, "maximum": MAX_LIMIT}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_STRING: dict[str, Any] = {"type": "string"}

UPDATE = wrapped(
    "quota_set",
    obj(
        {
            "backups": _LIMIT,
            "backup_gigabytes": _LIMIT,
            "force": {"type": "boolean"},
            # Clients repeat the project here; the path decides.
            "tenant_id": TEXT,
        }
    ),
)

QUERY = obj({"user_id": TEXT, "share_type": TEXT})

_PLAIN = {"id": _STRING, "backups": _LIMIT, "backup_gigabytes": _LIMIT}
_USED = exact({"limit": _LIMIT, "in_use": _COUNT, "reserved": _COUNT})

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
