# SPDX-License-Identifier: Apache-2.0
"""Checking what clients send against JSON schemas, with errors that name the field.

A message names the JSON path and what is wanted there; it never repeats the value, which is the
client's and may be a hundred kilobytes of anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from manila_backup import exception

Schema = Mapping[str, Any]

_INTEGER_DIGITS = 9
MAX_DEPTH = 32
"""Deepest nesting of a body. Nothing here needs more than 5; a deeper one is an attack on the
stack."""


class Validator:
    """One schema, compiled once."""

    def __init__(self, schema: Schema) -> None:
        Draft202012Validator.check_schema(schema)
        self.schema = schema
        self._validator = Draft202012Validator(schema)

    def check(self, instance: Any, *, prefix: str = "") -> None:
        """:raises InvalidInput: naming the JSON path, ``prefix`` in front."""
        error = best_match(self._validator.iter_errors(instance))
        if error is None:
            return
        path = join(prefix, error.absolute_path)
        if error.validator == "additionalProperties":
            unknown = sorted(set(error.instance) - set(error.schema.get("properties", {})))
            path = join(path, unknown[:1])
        raise exception.InvalidInput(field=path or "body", reason=_reason(error))


def join(prefix: str, path: Iterable[str | int]) -> str:
    """``share_backup.name``, ``items[3].id``. Strange keys are escaped and cut."""
    text = prefix
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part.isascii() and part.isprintable() else ascii(part)
            text += ("." if text else "") + name[:100]
    return text


_TYPE_NAMES = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def _type_reason(value: Any) -> str:
    kinds = [value] if isinstance(value, str) else value
    return "must be " + " or ".join(_TYPE_NAMES[kind] for kind in kinds) + "."


_REASONS: dict[str, Callable[[Any], str]] = {
    "type": _type_reason,
    "additionalProperties": lambda _: "this key is not known.",
    "minLength": lambda value: f"must have at least {value} character(s).",
    "maxLength": lambda value: f"must have at most {value} characters.",
    "enum": lambda value: "must be one of " + ", ".join(json.dumps(item) for item in value) + ".",
    "minimum": lambda value: f"must be at least {value}.",
    "maximum": lambda value: f"must be at most {value}.",
    "minProperties": lambda value: f"must have at least {value} key(s).",
    "maxProperties": lambda value: f"must have at most {value} keys.",
}


def _reason(error: ValidationError) -> str:
    """What is wanted, without the value that was sent."""
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"the key {missing!r} is missing."
    say = _REASONS.get(str(error.validator))
    if say is None:
        return str(error.schema.get("x-reason", "does not have the form that is wanted."))
    return say(error.validator_value)


def parse_json(data: bytes) -> dict[str, Any]:
    """A request body: one JSON object in UTF-8.

    :raises InvalidInput: not JSON, not an object, nested too deeply, or with text that cannot be
        stored; names the field as far as there is one.
    """
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise exception.InvalidInput(field="body", reason="is nested too deeply.") from None
    except ValueError:
        # UnicodeDecodeError, JSONDecodeError, an integer of thousands of digits.
        raise exception.InvalidInput(
            field="body", reason="must be a JSON object in UTF-8."
        ) from None
    if not isinstance(body, dict):
        raise exception.InvalidInput(field="body", reason="must be a JSON object.")
    check_text(body)
    return body


def _no_constant(name: str) -> None:
    raise ValueError(name)


def check_text(body: Any) -> None:
    """Refuse NUL and lone surrogates anywhere, keys included.

    PostgreSQL stores neither, no database encodes the latter, and both break logs and terminals.
    Walks with a list of its own, not by recursion: the depth is the client's choice.
    """
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), body)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > MAX_DEPTH:
            raise exception.InvalidInput(field="body", reason="is nested too deeply.")
        if isinstance(value, str):
            _check_string(value, path)
        elif isinstance(value, dict):
            for key, item in value.items():
                _check_string(key, (*path, key))
                waiting.append(((*path, key), item))
        elif isinstance(value, list):
            waiting.extend(((*path, number), item) for number, item in enumerate(value))


def _check_string(value: str, path: tuple[str | int, ...]) -> None:
    reason = None
    if "\0" in value:
        reason = "must not contain the NUL character."
    else:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            reason = "must not contain a lone surrogate."
    if reason is not None:
        raise exception.InvalidInput(field=join("", path) or "body", reason=reason)


def parse_query(
    arguments: Mapping[str, str], schema: Schema, validator: Validator
) -> dict[str, Any]:
    """The parameters that ``schema`` knows, converted and checked; others are ignored, as Manila
    does. An empty value counts as absent.

    :raises InvalidInput: naming the parameter.
    """
    found: dict[str, Any] = {}
    for name, rule in schema.get("properties", {}).items():
        text = arguments.get(name)
        if text is None or text == "":
            continue
        _check_string(text, (name,))
        found[name] = _convert(name, text, rule.get("type"))
    validator.check(found)
    return found


_BOOLEANS = {
    **dict.fromkeys(("1", "t", "true", "on", "y", "yes"), True),
    **dict.fromkeys(("0", "f", "false", "off", "n", "no"), False),
}


def _convert(name: str, text: str, kind: Any) -> Any:
    if kind == "integer":
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _INTEGER_DIGITS):
            raise exception.InvalidInput(field=name, reason="must be an integer.")
        return int(text)
    if kind == "boolean":
        value = _BOOLEANS.get(text.lower())
        if value is None:
            raise exception.InvalidInput(field=name, reason="must be true or false.")
        return value
    return text
