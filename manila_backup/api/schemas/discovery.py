# SPDX-License-Identifier: Apache-2.0
"""Of the version documents."""

from __future__ import annotations

from manila_backup.api.schemas.common import LINKS, exact, wrapped

_STRING = {"type": "string"}

VERSIONS = wrapped(
    "versions",
    {
        "type": "array",
        "items": exact(
            {
                "id": _STRING,
                "status": {"type": "string", "enum": ["CURRENT"]},
                "version": _STRING,
                "min_version": _STRING,
                "updated": _STRING,
                "links": LINKS,
                "media-types": {
                    "type": "array",
                    "items": exact({"base": _STRING, "type": _STRING}),
                },
            }
        ),
    },
)
