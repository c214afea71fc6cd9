"""
Bounds the time that a request may take until its answer is whole.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from galenic_adapters.errors import TimedOut

T = TypeVar("T")


class Deadline:
    """Ends what a request waits for, once *seconds* have passed since it was made."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = asyncio.get_running_loop().time() + seconds

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Raise `TimedOut` from the block when the time is up."""
        try:
            async with asyncio.timeout_at(self._at) as until:
                yield
        except TimeoutError:
            if not until.expired():
                raise
            raise TimedOut(f"not answered within {self._seconds:g} s") from None

    async def kept_by(self, parts: AsyncGenerator[T]) -> AsyncGenerator[T]:
        """Yield *parts* until the time is up, then raise `TimedOut`."""
        while True:
            async with self.kept():
                try:
                    part = await anext(parts)
                except StopAsyncIteration:
                    return
            yield part
