"""
Runs blocking work for tenants in threads, so that no tenant's work blocks another's.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

T = TypeVar("T")


class TenantThreads:
    """Runs some work at a time, and one piece of each tenant's."""

    def __init__(self, most: int) -> None:
        self._limiter = CapacityLimiter(most)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, tenant: str, work: Callable[[], T]) -> T:
        async with self._turns.setdefault(tenant, asyncio.Lock()):
            return await run_sync(work, limiter=self._limiter)
