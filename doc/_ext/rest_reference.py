# SPDX-License-Identifier: Apache-2.0
"""``{rest-reference}``: a section for each request of the service, made from the table of routes,
the schemas, the policies and the samples. ``openapi.json`` is written beside the pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from pieces import json_block, paragraph, rubric, section, table
from rest_samples import ERRORS, SAMPLES, Exchange, exchanges, read_sample
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from manila_backup import policies
from manila_backup.api import openapi
from manila_backup.api.errors import ERRORS as ERROR_TABLE
from manila_backup.api.errors import FAULT_NAMES
from manila_backup.api.routes import ROUTES
from manila_backup.api.versions import text as version_text

Schema = Mapping[str, Any]
DOCUMENT = openapi.build((*ROUTES, *openapi.routes(ROUTES)))
TYPES = {"null": "null", "object": "object", "array": "list"}


class RestReference(SphinxDirective):
    """One section per request; to be used at the end of a page."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(__file__)
        for sample in SAMPLES.iterdir():
            self.env.note_dependency(str(sample))
        try:
            return [_section(exchange) for exchange in exchanges(ROUTES)]
        except FileNotFoundError as missing:
            raise self.error(f"there is no sample {missing.filename}") from missing


class RestErrors(SphinxDirective):
    """The statuses and codes of errors, and samples of their bodies."""

    def run(self) -> list[nodes.Node]:
        codes: dict[int, list[str]] = {}
        for status, code in ERROR_TABLE.values():
            codes.setdefault(status, []).append(f"`{code}`")
        answered = {405} | codes.keys()
        for item in DOCUMENT["paths"].values():
            answered |= {int(code) for one in item.values() for code in one["responses"]}
        rows = [
            (f"{status}", f"`{name}`", ", ".join(sorted(set(codes.get(status, [])))))
            for status, name in FAULT_NAMES.items()
            if status in answered
        ]
        found: list[nodes.Node] = [table(("status", "key of the body", "codes"), rows)]
        return found + [json_block(read_sample(name)) for name in ERRORS]


# --- one request ----------------------------------------------------------------------------------


def _section(exchange: Exchange) -> nodes.section:
    content: list[nodes.Node] = [paragraph(f"`{exchange.route.method} {exchange.path}`")]
    content.append(table(("", ""), _facts(exchange)))
    parameters = exchange.route.query_schema.get("properties", {})
    if parameters:
        rows = [
            (f"`{name}`", _kind(schema), _about(schema))
            for name, schema in sorted(parameters.items())
        ]
        content += [rubric("Query"), table(("parameter", "type", ""), rows)]
    for title, optional, schema, sample in (
        ("Request", "Optional.", exchange.request_schema, exchange.request_sample),
        ("Response", "Not always there.", exchange.response_schema, exchange.response_sample),
    ):
        if schema is not None and sample is not None:
            content.append(rubric(title))
            rows = list(_fields(schema, "", optional=optional))
            if rows:
                content.append(table(("field", "type", ""), rows))
            content.append(json_block(read_sample(sample)))
    return section(exchange.summary, exchange.name, *content)


def _facts(exchange: Exchange) -> Iterator[tuple[str, str]]:
    if exchange.versions is None:
        yield "Microversions", "none needed"
    else:
        first, last = (version_text(version) for version in exchange.versions)
        yield "Microversions", f"{first} to {last}{_experimental(exchange)}"
    if exchange.policy is None:
        yield "Who may", "anybody, without a token"
    else:
        yield "Who may", f"{_who(exchange.policy)} Policy `{exchange.policy}`."
    operation = DOCUMENT["paths"][exchange.path][exchange.route.method.lower()]
    errors = sorted(code for code in operation["responses"] if int(code) >= 400)
    yield "Answers", f"{exchange.status}; errors: {', '.join(errors)}"


def _experimental(exchange: Exchange) -> str:
    return ", experimental" if exchange.experimental else ""


def _who(policy: str) -> str:
    """What the description of the rule says by which this policy is decided."""
    rules = {rule.name: rule for rule in policies.list_rules()}
    check = str(rules[policy].check_str)
    base = rules.get(check.removeprefix("rule:"))
    return f"`{check}`." if base is None else str(base.description)


# --- schemas --------------------------------------------------------------------------------------


def _fields(schema: Schema, above: str, *, optional: str) -> Iterator[tuple[str, str, str]]:
    """A row per field, depth first; items of a list are written ``list[].field``. ``optional`` is
    what to say of a field that may be left out."""
    if "properties" not in schema:
        items = schema.get("items")
        if items is not None:
            yield from _fields(items, f"{above}[]", optional=optional)
        return
    required = schema.get("required", ())
    for name, inner in schema["properties"].items():
        path = f"{above}.{name}" if above else name
        about = _about(inner) if name in required else f"{optional} {_about(inner)}".rstrip()
        yield f"`{path}`", _kind(inner), about
        yield from _fields(inner, path, optional=optional)


def _kind(schema: Schema) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kinds = schema.get("type", "anything")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(TYPES.get(kind, kind) for kind in kinds)


def _about(schema: Schema) -> str:
    """What is said of a value besides its type, in sentences."""
    parts = [schema["description"]] if "description" in schema else []
    if "minimum" in schema and "maximum" in schema:
        parts.append(f"{schema['minimum']} to {schema['maximum']}.")
    elif schema.get("minimum", 0):
        parts.append(f"At least {schema['minimum']}.")
    if "maxLength" in schema:
        parts.append(f"At most {schema['maxLength']} characters.")
    return " ".join(parts)


# --- Sphinx ---------------------------------------------------------------------------------------


def _write_openapi(app: Sphinx, failure: Exception | None) -> None:
    if failure is None and app.builder.format == "html":
        Path(app.outdir, "openapi.json").write_text(json.dumps(DOCUMENT, indent=1) + "\n")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("rest-reference", RestReference)
    app.add_directive("rest-errors", RestErrors)
    app.connect("build-finished", _write_openapi)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
