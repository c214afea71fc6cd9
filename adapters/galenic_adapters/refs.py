"""
Names of adapters. Every reference is well-formed and names an adapter of its own tenant.
"""

import re
from dataclasses import dataclass
from typing import Self

from galenic_adapters.errors import BadInput

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
NAME_RULE = "a-z, 0-9 and, within, '.', '_', '-'; 1 to 64 of them"
VERSION = re.compile(r"[1-9][0-9]{0,8}")
SHARED = "galenic"
"""The tenant that owns the zoo: everyone may use it, only an admin may change it."""


def check_name(field: str, value: str) -> str:
    """Return *value*; raises `BadInput` unless it is a name (ASCII a-z 0-9 . _ -, at most 64)."""
    if not NAME.fullmatch(value):
        raise BadInput(field, f"is not a name: {NAME_RULE}")
    return value


def split_ref(text: str) -> tuple[str, int]:
    """Split ``name@version``; raises `BadInput`."""
    name, at, version = text.partition("@")
    if not at or not VERSION.fullmatch(version):
        raise BadInput("adapter", "is not name@version")
    return name, int(version)


@dataclass(frozen=True, slots=True, order=True)
class AdapterRef:
    """Names one immutable version of one tenant's adapter."""

    tenant: str
    name: str
    version: int

    def __post_init__(self) -> None:
        check_name("tenant", self.tenant)
        check_name("adapter", self.name)
        if not 1 <= self.version < 10**9:
            raise BadInput("version", f"{self.version} is not in 1 to 999999999")

    @classmethod
    def parse(cls, tenant: str, text: str) -> Self:
        """Parse ``name@version`` as a reference to *tenant*'s own adapter; raises `BadInput`."""
        return cls(tenant, *split_ref(text))

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"
