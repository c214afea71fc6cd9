"""
Reads If-Match and If-None-Match (RFC 9110) as preconditions of writes.
"""

import re
from typing import Annotated

from fastapi import Depends, Header

from galenic_adapters.errors import BadInput, Conflict
from galenic_server.registry.aliases import Match, absent, existing, only, unsaid

CHANGE = re.compile(r'"(\d{1,18})"')
DIGEST = re.compile(r'"(sha256:[0-9a-f]{64})"')
IfMatch = Annotated[str | None, Header(max_length=1000)]


def _alias_match(if_match: IfMatch = None, if_none_match: IfMatch = None) -> Match:
    """Match an alias by its ETag, any by ``*``, or none by If-None-Match ``*``."""
    if if_none_match is not None:
        if if_none_match.strip() != "*" or if_match is not None:
            raise BadInput("if-none-match", "is taken as * only, and without If-Match")
        return absent
    if if_match is None:
        return unsaid
    return existing if if_match.strip() == "*" else only(*map(int, _tags(CHANGE, if_match)))


def _digest(if_match: IfMatch = None) -> str | None:
    """Return the digest that a version must have, or None if any will do."""
    if if_match is None or if_match.strip() == "*":
        return None
    digests = _tags(DIGEST, if_match)
    if len(digests) != 1:
        raise Conflict("If-Match names no one version's ETag")
    return digests[0]


def _tags(form: re.Pattern[str], text: str) -> list[str]:
    """Return the strong ETags of our form in a list; weak and foreign ones match nothing."""
    found = (form.fullmatch(tag.strip()) for tag in text.split(","))
    return [match[1] for match in found if match]


MatchDep = Annotated[Match, Depends(_alias_match)]
DigestDep = Annotated[str | None, Depends(_digest)]
