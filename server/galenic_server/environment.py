"""
Reads the settings from the environment, and names variables that are mistyped or invalid.

``python -m galenic_server.environment``, which `galenic settings` runs, prints all settings.
"""

import difflib
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from galenic_adapters.progress import Say
from galenic_server.settings import PREFIX, Settings

READ_ELSEWHERE = (
    "API_KEY",
    "CACHE",
    "DEVICE",
    "LITELLM_TESTS",
    "OSV_URL",
    "PIP_ARGS",
    "PYTHON",
    "URL",
)
"""Variables that other programs read: setup, audit, backbone cache, client and tests."""
SERVICE_LINK = re.compile(r"PORT_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?|SERVICE_(HOST|PORT(_\w+)?)")
"""
Variables that Kubernetes sets in every pod beside a Service called galenic.
"""


def read_settings(say: Say) -> Settings | None:
    """Read the settings, and say what is wrong with them; returns None if some are invalid."""
    for problem in unknown(os.environ):
        say(f"galenic: {problem}")
    try:
        return Settings()
    except ValidationError as error:
        for fault in faults_of(error):
            say(f"galenic: {fault}")
        return None


def faults_of(error: ValidationError) -> Iterator[str]:
    """Name the variables with invalid values; never the values, which may be secret."""
    for fault in error.errors(include_input=False):
        name = str(next(iter(fault["loc"]), "")).upper()
        yield f"{PREFIX}{name or 'settings'}: {fault['msg']}"


def unknown(environment: Mapping[str, str]) -> Iterator[str]:
    """Name every ``GALENIC_`` variable that nothing reads, and the closest one that is read."""
    known = [name.upper() for name in (*Settings.model_fields, *READ_ELSEWHERE)]
    for name in sorted(environment):
        own = name.upper().removeprefix(PREFIX)
        is_ours = own != name.upper() and not SERVICE_LINK.fullmatch(own)
        if is_ours and own not in known:
            close = difflib.get_close_matches(own, known, n=1)
            hint = f"did you mean {PREFIX}{close[0]}?" if close else "`galenic settings` lists all"
            yield f"{name} is no setting; {hint}"


def listing(settings: Settings) -> Iterator[str]:
    """Yield each setting's name, value, default and description; secrets are hidden."""
    for name, field in Settings.model_fields.items():
        value, default = getattr(settings, name), field.get_default(call_default_factory=True)
        yield f"{PREFIX}{name.upper()} = {_shown(value)}  (default {_shown(default)})"
        indent = " " * 4
        yield textwrap.fill(
            field.description or "", 96, initial_indent=indent, subsequent_indent=indent
        )


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "unset"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, SecretStr):
        return "hidden"
    if isinstance(value, Enum | str | Path):
        return str(value)
    return json.dumps(value)


def main() -> int:
    settings = read_settings(lambda text: sys.stderr.writelines((text, "\n")))
    if settings is None:
        return 1
    sys.stdout.writelines(f"{line}\n" for line in listing(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
