# SPDX-License-Identifier: Apache-2.0
"""Microversions: the changelog of the API, their negotiation, and the version documents.

Every version from 2.0 to the maximum is accepted, since the numbers are Manila's and mean
something for the resources that are Manila's. :data:`VERSIONS` lists those that mean something
here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import microversion_parse
from werkzeug import Response

from manila_backup.api.errors import HttpError

VERSION_HEADER = "X-OpenStack-Manila-API-Version"
STANDARD_HEADER = "OpenStack-API-Version"
EXPERIMENTAL_HEADER = "X-OpenStack-Manila-API-Experimental"
SERVICE_TYPE = "shared-file-system"

Version = tuple[int, int]

VERSIONS: list[Version] = [
    # Where Manila's second API begins. User messages (2.37), quota sets and limits answer, with
    # the keys of backups from 2.80.
    (2, 0),
    # /share-backups, experimental: create, list, show, update, delete, restore and reset_status;
    # ``backups`` and ``backup_gigabytes`` in quota sets and limits. Ours in addition: the
    # sub-resources operations and restores, and the action cancel.
    (2, 80),
    # ``backup_type`` in the detailed view of a backup.
    (2, 85),
    # ``restore`` takes the id of another share to restore to.
    (2, 91),
    # The highest that clients may ask for; nothing new here since 2.91.
    (2, 99),
]

MIN_VERSION = VERSIONS[0]
MAX_VERSION = VERSIONS[-1]
BACKUPS = (2, 80)
BACKUP_TYPE = (2, 85)
RESTORE_TO_TARGET = (2, 91)


def text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def negotiate(headers: Mapping[str, str]) -> Version:
    """The version that the request asks for; none asked for is the minimum, as in Manila.

    Manila's own header wins over the general one only when the latter does not name our service.
    :raises HttpError: 400 when malformed, 406 when out of the range.
    """
    wanted = microversion_parse.get_version(
        headers, service_type=SERVICE_TYPE, legacy_headers=[VERSION_HEADER]
    )
    if wanted is None:
        return MIN_VERSION
    if wanted == "latest":
        return MAX_VERSION
    match = re.fullmatch(r"([1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})", wanted)
    if match is None:
        raise HttpError(
            400,
            "malformed_version",
            f"API version string {wanted[:32]!a} is of invalid format. It must be of format "
            "MajorNum.MinorNum.",
        )
    version = (int(match[1]), int(match[2]))
    if not MIN_VERSION <= version <= MAX_VERSION:
        raise HttpError(
            406,
            "version_not_supported",
            f"Version {text(version)} is not supported by the API. Minimum is "
            f"{text(MIN_VERSION)} and maximum is {text(MAX_VERSION)}.",
        )
    return version


def stamp(response: Response, version: Version, *, experimental: bool) -> None:
    """Say in the response which version it was made for, and that caches must look at that."""
    response.headers[VERSION_HEADER] = text(version)
    response.headers[STANDARD_HEADER] = f"{SERVICE_TYPE} {text(version)}"
    if experimental:
        response.headers[EXPERIMENTAL_HEADER] = "true"
    response.vary.update([STANDARD_HEADER, VERSION_HEADER])


def version_document(base_url: str) -> dict[str, Any]:
    """One entry of the version documents; clients discover min_version and version by it.

    :param base_url: of the service, without a slash at its end.
    """
    return {
        "id": "v2.0",
        "status": "CURRENT",
        "version": text(MAX_VERSION),
        "min_version": text(MIN_VERSION),
        "updated": "2015-08-27T11:33:21Z",
        "links": [{"rel": "self", "href": f"{base_url}/v2/"}],
        "media-types": [
            {
                "base": "application/json",
                "type": "application/vnd.openstack.share+json;version=1",
            }
        ],
    }
