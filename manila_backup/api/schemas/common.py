# SPDX-License-Identifier: Apache-2.0
"""Pieces that the schemas of several nouns share."""

from __future__ import annotations

from typing import Any

ID: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 36}
NULLABLE_STRING: dict[str, Any] = {"type": ["string", "null"]}
NAME: dict[str, Any] = {"type": ["string", "null"], "maxLength": 255}
"""A name or a description. Both end in columns of this length, as in Manila."""
TIMESTAMP: dict[str, Any] = {
    "type": "string",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}$",
}
NULLABLE_TIMESTAMP: dict[str, Any] = {"anyOf": [TIMESTAMP, {"type": "null"}]}
LIMIT: dict[str, Any] = {
    "type": "integer",
    "minimum": 0,
    "description": "Most items of a page; 0 is the same as none given, as in Manila.",
}
OFFSET: dict[str, Any] = {
    "type": "integer",
    "minimum": 0,
    "description": "How many items to leave out.",
}
SORT_DIR: dict[str, Any] = {
    "type": "string",
    "enum": ["asc", "desc"],
    "description": "Without it desc.",
}
BOOLEAN: dict[str, Any] = {"type": "boolean"}
TEXT: dict[str, Any] = {"type": "string", "maxLength": 255}


def said(schema: dict[str, Any], description: str) -> dict[str, Any]:
    """The same with a sentence for readers; the references are made of these."""
    return {**schema, "description": description}


def obj(
    properties: dict[str, Any], *, required: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    """An object that has these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def exact(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    """An object in a response: all these keys but the ``optional`` ones are always there."""
    return obj(properties, required=tuple(key for key in properties if key not in optional))


def wrapped(key: str, schema: dict[str, Any]) -> dict[str, Any]:
    """``{"key": ...}``, the way bodies are wrapped."""
    return obj({key: schema}, required=(key,))


LINKS: dict[str, Any] = {
    "type": "array",
    "items": obj({"rel": {"type": "string"}, "href": {"type": "string"}}, required=("rel", "href")),
}
