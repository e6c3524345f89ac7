# SPDX-License-Identifier: Apache-2.0
"""``{state-diagram} KIND`` and ``{state-table} KIND``: the statuses of a backup, an operation or a
share, drawn and listed from the tables of transitions.

The diagram is SVG in the page; other formats have the table only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from docutils import nodes
from pieces import paragraph, table
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from transitions import TABLES, Transition, everywhere, statuses, transitions

BOX_WIDTH, BOX_HEIGHT = 176, 36
COLUMN_WIDTH, ROW_HEIGHT = 330, 110

PLACES = {
    "backup": {
        "creating": (0, 0),
        "available": (1, 0),
        "restoring": (2, 0),
        "error": (0, 1),
        "deleting": (1, 1),
        "deleted": (2, 1),
        "error_deleting": (1, 2),
    },
    "operation": {
        "queued": (0, 0),
        "running": (1, 0),
        "done": (2, 0),
        "cancelled": (0, 1),
        "failed": (2, 1),
    },
    "share": {
        "backup_creating": (0, 0),
        "available": (1, 0),
        "backup_restoring": (2, 0),
        "backup_restoring_error": (2, 1),
    },
}
"""Kind -> status -> column and row. Only where they are drawn is said here."""


class StateTable(SphinxDirective):
    """All statuses, and all transitions with who may fire them."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        kind = self.arguments[0]
        if kind not in TABLES:
            raise self.error(f"there is no table of {kind}; there are: {', '.join(TABLES)}")
        meanings = [(f"`{name}`", text) for name, text in statuses(kind).items()]
        common = everywhere(kind)
        cells = [
            (f"`{one.before}`", f"`{one.event}`", f"`{one.after}`", one.who)
            for one in transitions(kind)
            if one.event not in common
        ]
        anywhere = {
            ("any but the last", f"`{one.event}`", f"`{one.after}`", one.who)
            for one in transitions(kind)
            if one.event in common
        }
        return [
            table(("status", "meaning"), meanings),
            table(("from", "event", "to", "who, and when"), [*cells, *sorted(anywhere)]),
        ]


class StateDiagram(SphinxDirective):
    """Boxes and arrows; arrows between the same two boxes are one with all their events."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        kind = self.arguments[0]
        unplaced = set(statuses(kind)) ^ set(PLACES[kind])
        if unplaced:
            raise self.error(f"PLACES and states.py differ in {', '.join(sorted(unplaced))}")
        common = everywhere(kind)
        cells = [one for one in transitions(kind) if one.event not in common]
        found: list[nodes.Node] = [nodes.raw("", _draw(kind, cells), format="html")]
        if common:
            names = ", ".join(f"`{event}`" for event in sorted(common))
            found.append(paragraph(f"Not drawn, since they are possible everywhere: {names}."))
        return found


# --- drawing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float


def _centre(kind: str, status: str) -> Point:
    column, row = PLACES[kind][status]
    return Point(10 + BOX_WIDTH / 2 + column * COLUMN_WIDTH, 40 + BOX_HEIGHT / 2 + row * ROW_HEIGHT)


def _draw(kind: str, cells: list[Transition]) -> str:
    arrows: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        arrows.setdefault((cell.before, cell.after), []).append(cell.event)
    columns = 1 + max(column for column, _ in PLACES[kind].values())
    rows = 1 + max(row for _, row in PLACES[kind].values())
    width = 60 + BOX_WIDTH + (columns - 1) * COLUMN_WIDTH
    height = 60 + BOX_HEIGHT + (rows - 1) * ROW_HEIGHT
    parts = [
        f'<svg class="states" viewBox="0 0 {width} {height}" width="100%" role="img" '
        f'aria-label="States of a {kind}" font-family="sans-serif" font-size="12">',
        f'<defs><marker id="tip-{kind}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
    ]
    for (before, after), events in arrows.items():
        aside = 9 if (after, before) in arrows else 0
        parts.append(_arrow(kind, before, after, events, aside=aside))
    parts += [_box(kind, status) for status in PLACES[kind]]
    return "\n".join([*parts, "</svg>"])


def _box(kind: str, status: str) -> str:
    at = _centre(kind, status)
    return (
        f'<rect x="{at.x - BOX_WIDTH / 2:.0f}" y="{at.y - BOX_HEIGHT / 2:.0f}" rx="6" '
        f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" fill="#eef3f8" stroke="#345"/>'
        f'<text x="{at.x:.0f}" y="{at.y + 5:.0f}" text-anchor="middle" font-weight="bold">'
        f"{escape(status)}</text>"
    )


def _arrow(kind: str, before: str, after: str, events: list[str], *, aside: int) -> str:
    """``aside``: how far to the left of the line between the centres, so that there and back
    differ."""
    start, end = _centre(kind, before), _centre(kind, after)
    if before == after:
        return _loop(kind, start, events)
    length = math.hypot(end.x - start.x, end.y - start.y)
    x, y = (end.y - start.y) / length * aside, -(end.x - start.x) / length * aside
    start, end = _leave(start, end), _leave(end, start)
    a, b = Point(start.x + x, start.y + y), Point(end.x + x, end.y + y)
    line = f'<path d="M{a.x:.0f},{a.y:.0f} L{b.x:.0f},{b.y:.0f}" '
    return f'{line}stroke="#345" fill="none" marker-end="url(#tip-{kind})"/>' + _label(a, b, events)


def _label(a: Point, b: Point, events: list[str]) -> str:
    """One line per event: beside the line, or above or below it where it lies."""
    middle = Point((a.x + b.x) / 2, (a.y + b.y) / 2)
    lying = abs(a.y - b.y) < 1
    if lying:
        first = middle.y - 5 - 13 * (len(events) - 1) if b.x > a.x else middle.y + 15
        return _lines(middle.x, first, "middle", events)
    if abs(a.x - b.x) < 1:
        x, anchor = (middle.x + 10, "start") if b.y > a.y else (middle.x - 8, "end")
        return _lines(x, middle.y + 4 - 6.5 * (len(events) - 1), anchor, events)
    # Where the line has not come near other labels yet, and beside it.
    near = Point(a.x + (b.x - a.x) * 0.35, a.y + (b.y - a.y) * 0.35)
    falling = (b.y - a.y) * (b.x - a.x) > 0
    return _lines(near.x + 14, near.y + (-3 if falling else 9), "start", events)


def _loop(kind: str, at: Point, events: list[str]) -> str:
    top = at.y - BOX_HEIGHT / 2
    return (
        f'<path d="M{at.x - 20:.0f},{top:.0f} c0,-26 40,-26 40,0" stroke="#345" fill="none" '
        f'marker-end="url(#tip-{kind})"/>' + _lines(at.x + 26, top - 12, "start", events)
    )


def _lines(x: float, y: float, anchor: str, events: list[str]) -> str:
    return "".join(
        f'<text x="{x:.0f}" y="{y + 13 * number:.0f}" text-anchor="{anchor}">{escape(event)}</text>'
        for number, event in enumerate(events)
    )


def _leave(box: Point, towards: Point) -> Point:
    """Where the line to another box leaves this one."""
    dx, dy = towards.x - box.x, towards.y - box.y
    scale = min(
        (BOX_WIDTH / 2 + 1) / abs(dx) if dx else math.inf,
        (BOX_HEIGHT / 2 + 1) / abs(dy) if dy else math.inf,
    )
    return Point(box.x + dx * scale, box.y + dy * scale)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("state-table", StateTable)
    app.add_directive("state-diagram", StateDiagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
