"""
The documentation, as `make docs` builds it: no link leads nowhere, and no command is made up.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer

from galenic_adapters.cli.main import app
from galenic_server.environment import READ_ELSEWHERE
from galenic_server.settings import Settings
from tests.support.tools import ROOT, tools

LOADS = {"script": "src", "img": "src", "iframe": "src", "link": "href"}
COMMAND = re.compile(r"(?:^    |`)galenic ((?:[^`\n#]|\\\n)+)", re.MULTILINE)
SETTING = re.compile(r"\bGALENIC_([A-Z_]*[A-Z])\b")
STYLE_LOADS = re.compile(r"(?:url\(|@import )[\"']?(?:https?:)?//")


@dataclass
class Page(HTMLParser):
    """Collects what one page of the site links to, loads, and can be linked to by."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[name] or "" for name in ("id", "name") if name in given}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        if given.get(LOADS.get(tag, "")) and given.get("rel") != "canonical":
            self.loads.append(given[LOADS[tag]] or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a link between Markdown files that leads nowhere ends the build."""
    folder = tmp_path_factory.mktemp("site")
    made = tools()
    built = subprocess.run(
        [made / "bin/mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


class TestTheSite:
    def test_has_no_dead_link(self, site, pages):
        """
        Each link within the site leads to a file that is there, and to an anchor in it.
        """
        dead = [
            f"{page.path.name}: {link}"
            for page in pages.values()
            for link in (*page.links, *page.loads)
            if not _is_elsewhere(link) and not _leads_somewhere(site, page.path, link, pages)
        ]

        assert len(pages) > 30
        assert [] == dead

    def test_loads_nothing_from_elsewhere(self, site, pages):
        """
        Fonts, scripts, styles and pictures are all in it, so it works where there is no network.
        """
        loaded = [load for page in pages.values() for load in page.loads]
        styles = [
            style
            for path in site.rglob("*.css")
            if STYLE_LOADS.search(path.read_text())
            for style in [path.name]
        ]

        assert ([], []) == ([load for load in loaded if _is_elsewhere(load)], styles)

    def test_shows_every_page_of_the_repository(self, pages, site):
        listed = subprocess.run(
            ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        names = [
            name.replace("README.md", "index.md")
            for name in listed.stdout.splitlines()
            if not name.startswith((".github/", "tests/"))
        ]

        assert [] == [name for name in names if site / f"{name[:-3]}.html" not in pages]

    def test_shows_every_setting(self, site):
        shown = (site / "docs/reference/settings.html").read_text()

        for name in Settings.model_fields:
            assert f"<code>GALENIC_{name.upper()}</code>" in shown

    def test_shows_every_route(self, site):
        """
        The HTTP API is the one that the app describes.
        """
        document = json.loads((site / "docs/reference/openapi.json").read_text())

        assert {"/v1/ner", "/v1/chat/completions", "/admin/v1/adapters/{name}"} <= set(
            document["paths"]
        )

    def test_shows_the_clients_methods(self, site):
        shown = (site / "docs/reference/client.html").read_text()

        for name in ("ner", "chat", "push", "set_limits", "NerAnswer", "Unreachable"):
            assert f".{name}" in shown


def _is_elsewhere(link: str) -> bool:
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def _leads_somewhere(site: Path, page: Path, link: str, pages: dict[Path, Page]) -> bool:
    split = urlsplit(link)
    path = unquote(split.path)
    base = site if path.startswith("/") else page.parent
    target = (base / path.lstrip("/")).resolve() if path else page
    if target.is_dir():
        target /= "index.html"
    if target not in pages:
        return target.is_file()
    anchor = unquote(split.fragment)
    return not anchor or anchor in pages[target].anchors


def texts() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if not name.endswith(("LOG.md", "CHANGELOG.md")):  # they tell of earlier days too
            yield name, (ROOT / name).read_text()


class TestACommandInAPage:
    def test_exists_with_its_options(self):
        """
        Each `galenic …` that a reader may paste is known to the command, option by option.
        """
        found = [(name, line) for name, text in texts() for line in COMMAND.findall(text)]
        faults = [f"{name}: {line}: {fault}" for name, line in found for fault in _faults_of(line)]

        assert len(found) > 50
        assert [] == faults

    @pytest.mark.parametrize("line", ["pushh x", "push x --dryrun", "alias move a b"])
    def test_that_does_not_exist_is_found(self, line):
        assert 1 == len(list(_faults_of(line)))


def _faults_of(line: str) -> Iterator[str]:
    """Name what the command line does not know: a subcommand, or an option."""
    command: Any = typer.main.get_command(app)
    words = line.split()
    while hasattr(command, "commands") and words and re.fullmatch(r"[a-z-]+", words[0]):
        known = command.commands.get(words.pop(0))
        if known is None:
            yield "no such command"
            return
        command = known
    if not command.context_settings.get("ignore_unknown_options"):
        options = {
            name for known in command.params for name in (*known.opts, *known.secondary_opts)
        }
        yield from (word for word in words if word.startswith("--") and word not in options)


class TestASettingInAPage:
    def test_exists(self):
        """
        A variable that a page names is one that the server or another program of ours reads.
        """
        known = {name.upper() for name in (*Settings.model_fields, *READ_ELSEWHERE)}
        named = {(name, found) for name, text in texts() for found in SETTING.findall(text)}

        assert [] == sorted(one for one in named if one[1] not in known)
