"""
Collects the site's pages: every Markdown file of the repository, at the path that it has there.

So each text has one source, and a link works alike in a checkout, on a forge and in the site.
Galenic itself prints the settings and the HTTP API, from the environment that `make setup` makes.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
GALENIC = ROOT / ".venv/bin/galenic"
SETTINGS = "docs/reference/settings.md"
SHOWN = (".md", ".png", ".svg", "deploy/tls/Caddyfile", "deploy/tls/nginx.conf")
NOT_SHOWN = ("tests/", ".github/")
SETTING = re.compile(r"^(GALENIC_\w+) = .*  \(default (.*)\)\n((?:    .*\n)+)", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    theirs = [file for file in files if not file.src_uri.endswith(".md")]
    settings = (ROOT / SETTINGS).read_text() + "".join(settings_table())
    made = [
        File.generated(config, SETTINGS, content=settings),
        File.generated(config, "docs/reference/openapi.json", content=printed("openapi")),
    ]
    pages = [
        File.generated(config, name, abs_src_path=str(ROOT / name))
        for name in shown_files()
        if name != SETTINGS
    ]
    return Files([*theirs, *pages, *made])


def shown_files() -> list[str]:
    """Return the paths of all pages and pictures that git knows or could know."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [
        name
        for name in sorted(set(listed.stdout.splitlines()))
        if name.endswith(SHOWN) and not name.startswith(NOT_SHOWN) and (ROOT / name).is_file()
    ]


def settings_table() -> Iterator[str]:
    """Yield the rows of `galenic settings`, as they are on a machine where nothing is set."""
    yield "\n| Variable | Default | Meaning |\n|---|---|---|\n"
    for name, default, meaning in SETTING.findall(printed("settings")):
        here = default.replace(f"{ROOT}/", "").replace("/~/", "~/")
        yield f"| `{name}` | `{here}` | {' '.join(meaning.split())} |\n"


def printed(command: str) -> str:
    """Return what *command* of Galenic prints in an empty environment."""
    environment = {"HOME": "/~", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [GALENIC, command], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
