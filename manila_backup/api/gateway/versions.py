# SPDX-License-Identifier: Apache-2.0
"""Microversions between a client, this gateway and a Manila that may be older than our API.

Manila's range is advertised, widened up to :data:`WIDENED`, so that all of the backup API can be
asked for. A client then sends one version with every request, also with those that we pass on. A
version that only exists in the widened part is sent to Manila as Manila's own maximum: it is the
closest to what the client can handle, since every version includes the ones before it, and Manila
says in its answer's headers, which are passed on, which version that was. Versions that Manila
knows, and those that nobody advertised, reach it as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import microversion_parse
from urllib3 import HTTPHeaderDict

from manila_backup.api.versions import (
    MAX_VERSION,
    RESTORE_TO_TARGET,
    SERVICE_TYPE,
    STANDARD_HEADER,
    VERSION_HEADER,
    Version,
    text,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

WIDENED: Version = RESTORE_TO_TARGET
"""The version from which on nothing is new in the backup API."""

_VERSION = re.compile(r"([1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})")
_ENV_VERSION = "HTTP_" + VERSION_HEADER.upper().replace("-", "_")
_ENV_STANDARD = "HTTP_" + STANDARD_HEADER.upper().replace("-", "_")


def parse(value: str | None) -> Version | None:
    """None for what is no version, ``latest`` included: Manila knows no such word."""
    match = _VERSION.fullmatch(value.strip()) if value else None
    return None if match is None else (int(match[1]), int(match[2]))


def asked(environ: WSGIEnvironment) -> Version | None:
    """The version that Manila would read, which knows its own header only."""
    return parse(environ.get(_ENV_VERSION))


def clamp(headers: HTTPHeaderDict, manila_max: Version) -> None:
    """Replace a version of the widened part by Manila's maximum, in place."""
    version = parse(headers.get(VERSION_HEADER))
    if version is None or not manila_max < version <= WIDENED:
        return
    headers[VERSION_HEADER] = text(manila_max)
    if STANDARD_HEADER in headers:
        headers[STANDARD_HEADER] = ", ".join(
            f"{SERVICE_TYPE} {text(manila_max)}" if part.split()[:1] == [SERVICE_TYPE] else part
            for part in (part.strip() for part in headers[STANDARD_HEADER].split(","))
        )


def for_own(environ: WSGIEnvironment, manila_max: Version | None) -> Version | None:
    """The version to stamp on an answer of ours to a request that asks for more than we know.

    A Manila newer than we are advertises versions in which nothing of ours is different, so our
    highest answers for them.
    :returns: None if the request can be handed to our API as it is.
    """
    headers = {
        name: environ[key]
        for name, key in ((VERSION_HEADER, _ENV_VERSION), (STANDARD_HEADER, _ENV_STANDARD))
        if key in environ
    }
    version = _wanted(headers)
    if version is None or manila_max is None or not MAX_VERSION < version <= manila_max:
        return None
    return version


def _wanted(headers: Mapping[str, str]) -> Version | None:
    try:
        found = microversion_parse.get_version(
            dict(headers), service_type=SERVICE_TYPE, legacy_headers=[VERSION_HEADER]
        )
    except ValueError:
        return None
    return parse(found)


def with_version(environ: WSGIEnvironment, version: Version) -> WSGIEnvironment:
    """A copy of the environment that asks for this version."""
    changed = dict(environ)
    changed[_ENV_VERSION] = text(version)
    changed.pop(_ENV_STANDARD, None)
    return changed
