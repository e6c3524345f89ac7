# SPDX-License-Identifier: Apache-2.0
"""The documentation builds without a warning, has every page, and its links lead somewhere."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import history
import pytest
from keystoneauth1.loading import get_auth_plugin_conf_options
from transitions import TABLES, statuses, transitions

from manila_backup.api import openapi
from manila_backup.api.routes import ROUTES

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "doc"
PAGES = [
    *sorted(path for path in DOC.glob("*") if path.suffix in {".md", ".rst"}),
    *sorted((DOC / "adr").glob("*.md")),
]
if not history.is_there(ROOT):
    PAGES.remove(DOC / "releasenotes.rst")
GUIDES = [path for path in PAGES if path.suffix == ".md"]


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "tools" / "docs.sh", target, source],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "DOCS_PYTHON": sys.executable},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built."""
    target = tmp_path_factory.mktemp("docs") / "html"
    done = build(DOC, target)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"built: {target}/index.html\n")
    return target


class Links(HTMLParser):
    """Where a page leads, and the places that one can be led to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.ids: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.add(str(values["id"]))
        if tag == "a" and values.get("href"):
            self.found.add(str(values["href"]))


# --- the build ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_page_can_be_reached_from_the_first(site: Path) -> None:
    """By the tables of contents alone."""
    reached: set[Path] = set()
    waiting = [site / "index.html"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        # The side bar has the whole tree; what is in it is in a table of contents.
        found = {unquote(urlsplit(link).path) for link in Links(page).found}
        targets = {(page.parent / link).resolve() for link in found if link.endswith(".html")}
        waiting += [path for path in targets if path.exists() and path not in reached]
    built = {(site / path.relative_to(DOC)).with_suffix(".html") for path in PAGES}
    assert built <= reached


@pytest.mark.slow
def test_links_lead_somewhere(site: Path) -> None:
    pages = {path: Links(path) for path in site.rglob("*.html")}
    dead = set()
    for page, links in pages.items():
        for link in links.found:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                dead.add((page.name, link))
            ids = pages[target].ids if target in pages else None
            if parts.fragment and ids is not None and unquote(parts.fragment) not in ids:
                dead.add((page.name, link))
    assert dead == set()


@pytest.mark.slow
def test_rest_reference_has_every_request_and_the_document(site: Path) -> None:
    text = (site / "rest.html").read_text()
    for path, item in json.loads((site / "openapi.json").read_text())["paths"].items():
        for method in item:
            if path != openapi.PATH:
                assert f">{method.upper()} {path}<" in re.sub(r"</?span[^>]*>", "", text)
    assert "error-413" not in text
    assert "retryAfter" in text


@pytest.mark.slow
def test_references_have_every_option_and_rule(site: Path) -> None:
    from manila_backup import config, policies

    options, rules = (site / "options.html").read_text(), (site / "policies.html").read_text()
    for _, opts in config.list_opts():
        for opt in opts:
            assert opt.dest in options, opt.name
    for rule in policies.list_rules():
        assert rule.name in rules


@pytest.mark.slow
def test_every_status_is_drawn_and_listed(site: Path) -> None:
    text = (site / "admin.html").read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == len(TABLES)
    for kind, drawing in zip(TABLES, drawings, strict=True):
        assert f"States of a {kind}" in drawing
        for status in statuses(kind):
            assert f">{status}</text>" in drawing
        for one in transitions(kind):
            assert f">{one.event}<" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("# No page leads here\n", "isn't included in any toctree"),
        ("---\norphan: true\n---\n# A\n\n[gone](gone.md)\n", "gone.md"),
        ("---\norphan: true\n---\n# A\n\n[gone](#nowhere)\n", "nowhere"),
        ("---\norphan: true\n---\n# A\n\n```{state-table} nonsense\n```\n", "no table of nonsense"),
    ],
)
def test_a_mistake_fails_the_build(tmp_path: Path, page: str, said: str) -> None:
    source = tmp_path / "doc"
    source.mkdir()
    (source / "_ext").symlink_to(DOC / "_ext")
    (source / "conf.py").write_text((DOC / "conf.py").read_text())
    (source / "index.md").write_text("# Index\n")
    (source / "page.md").write_text(page)
    done = build(source, tmp_path / "html")
    assert done.returncode != 0
    assert said in done.stderr


# --- what the pages say ---------------------------------------------------------------------------


def known_options() -> dict[str, set[str]]:
    """Group -> options, of ours and of the libraries that the sample has."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "etc" / "manila-backup.conf.sample").read_text().splitlines():
        if group := re.fullmatch(r"\[(\S+)\]", line):
            names = found.setdefault(group[1], set())
        elif option := re.match(r"#(\w+) = ?", line):
            names.add(option[1])
    for names in found.values():
        if "auth_type" in names:
            # What else there is depends on it; these are the usual ones.
            names |= {opt.dest for opt in get_auth_plugin_conf_options("password")}
    return found


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_options_in_examples_exist(path: Path) -> None:
    known = known_options()
    for block in re.findall(r"^```ini\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
        parsed = configparser.RawConfigParser(default_section="none")
        parsed.read_string(block)
        for group in parsed.sections():
            assert set(parsed[group]) <= known[group]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    named = re.findall(r"`((?:doc|etc|tools|tests|manila_backup|\.ci)/[A-Za-z0-9_./-]+)`", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)
def test_commands_of_ours_in_examples_exist(path: Path) -> None:
    """``manila-backup-manage NOUN VERB``, and ``manage NOUN VERB`` of the admin guide."""
    from manila_backup.cmd import manage

    known = {(one.noun, one.verb) for one in manage.COMMANDS}
    used = re.findall(
        r"\bmanage (?:--config-file \S+ |--state-dir \S+ )?"
        r"(db|service|operation|grants|backup|quota) ([a-z-]+)",
        path.read_text(),
    )
    assert set(used) <= known


def test_every_transition_says_who_may_fire_it() -> None:
    for kind in TABLES:
        assert all(one.who for one in transitions(kind))


def test_every_request_has_a_summary() -> None:
    for route in ROUTES:
        assert all(one.summary for one in route.actions or (route,))
