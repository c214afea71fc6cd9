"""The life of one server of the fleet."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.serving import eventually, make_parts


def live(parts: Any, until: Callable[[], bool]) -> list[str]:
    """Let the replica live until *until*, and tell what it said."""
    told: list[str] = []

    async def run() -> None:
        living = asyncio.create_task(
            parts.replica.live(
                on_ready=lambda: told.append("ready"),
                on_failed_start=lambda: told.append("failed"),
            )
        )
        await asyncio.to_thread(eventually, lambda: told and until())
        told.append("open" if parts.replica.is_open() else "closed")
        living.cancel()
        with suppress(asyncio.CancelledError):
            await living

    asyncio.run(run())
    return told


class TestAReplica:
    def test_opens_follows_and_leaves_when_it_is_cancelled(self, backbone: str, tmp_path: Path):
        """
        The store knows it while it lives, and its engine is stopped at the end.
        """
        parts = make_parts(backbone, tmp_path)
        store = parts.store
        told = live(parts, lambda: len(store.replicas.all()) == 1)

        assert ["ready", "open"] == told
        assert [] == store.replicas.all()
        assert not parts.replica.is_open()
        assert not asyncio.run(parts.replica.is_ready())
        store.close()

    def test_stays_closed_where_the_engine_does_not_start(self, backbone: str, tmp_path: Path):
        """
        It says so, and goes on following until it is cancelled.
        """
        broken = shutil.copytree(backbone, tmp_path / "broken")
        for weights in broken.glob("*.safetensors"):
            weights.unlink()
        parts = make_parts(str(broken), tmp_path)
        store = parts.store
        told = live(parts, lambda: len(store.replicas.all()) == 1)

        assert ["failed", "closed"] == told
        assert [] == store.replicas.all()
        store.close()
