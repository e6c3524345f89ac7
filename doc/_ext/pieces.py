# SPDX-License-Identifier: Apache-2.0
"""What generated pages are made of: sections, paragraphs and tables of docutils.

Text may have `code` between backticks, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from docutils import nodes


def inline(text: str) -> list[nodes.Node]:
    """Text and the code in it."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        raise ValueError(f"a backtick has no partner: {text}")
    return [
        nodes.literal(part, part) if number % 2 else nodes.Text(part)
        for number, part in enumerate(parts)
        if part
    ]


def paragraph(text: str) -> nodes.paragraph:
    return nodes.paragraph("", "", *inline(text))


def rubric(text: str) -> nodes.rubric:
    return nodes.rubric(text, text)


def section(title: str, name: str, *content: nodes.Node) -> nodes.section:
    """:param name: unique on its page; links point to it."""
    found = nodes.section(ids=[nodes.make_id(name)], names=[nodes.fully_normalize_name(name)])
    found += nodes.title("", "", *inline(title))
    found += list(content)
    return found


def json_block(text: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language="json")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> nodes.table:
    """Cells are text as above; as many in each row as in the header, which may be all empty."""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=1) for _ in header]
    if any(header):
        head = nodes.thead()
        head += _row(header)
        group += head
    body = nodes.tbody()
    body += [_row(row) for row in rows]
    group += body
    return nodes.table("", group, classes=["colwidths-auto"])


def _row(cells: Sequence[str]) -> nodes.row:
    row = nodes.row()
    row += [nodes.entry("", paragraph(cell)) for cell in cells]
    return row
