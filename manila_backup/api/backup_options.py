# SPDX-License-Identifier: Apache-2.0
"""``backup_options`` of a create request: which keys mean something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manila_backup import exception
from manila_backup.api.options import Settings
from manila_backup.api.validation import join

MAX_VALUE_LENGTH = 255
_PREFIX = "share_backup.backup_options"


def read_options(given: Mapping[str, Any] | None, settings: Settings) -> dict[str, str]:
    """The options for the driver. Ignored keys are dropped, with whatever values they have.

    :raises InvalidInput: naming all keys that nobody knows, or the one whose value is no text.
    """
    options = {
        key: value
        for key, value in (given or {}).items()
        if key not in settings.ignored_backup_options
    }
    unknown = sorted(set(options) - set(settings.known_backup_options))
    if unknown:
        names = ", ".join(join("", [key]) for key in unknown)
        raise exception.InvalidInput(field=_PREFIX, reason=f"these keys are not known: {names}.")
    for key, value in options.items():
        if not isinstance(value, str) or len(value) > MAX_VALUE_LENGTH:
            raise exception.InvalidInput(
                field=join(_PREFIX, [key]),
                reason=f"must be a string of at most {MAX_VALUE_LENGTH} characters.",
            )
    return options
