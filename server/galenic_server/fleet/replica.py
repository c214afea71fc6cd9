"""
Runs one server of the fleet from its start to its end.
"""

import asyncio
from collections.abc import Callable

import structlog

from galenic_server import logs
from galenic_server.engine.contract import Engine
from galenic_server.fleet.follower import Follower
from galenic_server.fleet.residents import Residents

log = structlog.get_logger(__name__)


class Replica:
    """Runs the engine, preloads the store's adapters, and follows changes."""

    def __init__(self, engine: Engine, residents: Residents, follower: Follower) -> None:
        self.engine = engine
        self.residents = residents
        self._follower = follower
        self._is_open = False

    async def live(
        self, *, on_ready: Callable[[], None], on_failed_start: Callable[[], None]
    ) -> None:
        """
        Start the engine, preload adapters, follow changes, and stop when cancelled.

        Changes are followed from the beginning, so the fleet waits for this replica even before it
        opens. If the engine does not start, the log says why and the replica stays closed.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follower.run())
                try:
                    await self._start()
                except Exception as error:  # noqa: BLE001  the operator has to see any of them
                    log.critical("engine did not start", message=str(error), **logs.where(error))
                    on_failed_start()
                    return
                on_ready()
        finally:
            self._is_open = False
            await self.engine.stop()

    async def _start(self) -> None:
        """Return once the engine has answered, and holds the adapters to preload."""
        log.info("engine starting", backbone=self.engine.config.backbone)
        await self.engine.start()
        await self.residents.load()
        self._is_open = True
        log.info("engine ready")

    def is_open(self) -> bool:
        """Tell whether the engine has started, and has not been stopped."""
        return self._is_open

    async def is_ready(self) -> bool:
        """Tell whether a request sent now would be answered."""
        return self._is_open and await self.engine.healthy()
