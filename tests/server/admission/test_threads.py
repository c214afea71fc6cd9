"""Blocking work of tenants, a few pieces at a time."""

import asyncio
import threading

from galenic_server.admission.threads import TenantThreads


class TestTenantThreads:
    def test_leave_a_thread_to_another_tenant(self):
        """
        However many pieces one tenant brings, they run one at a time.
        """
        stop, running = threading.Event(), list[str]()

        async def story() -> None:
            threads = TenantThreads(2)

            def stand(tenant: str) -> None:
                running.append(tenant)
                stop.wait(60)

            flood = [asyncio.create_task(threads.run("A", lambda: stand("A"))) for _ in range(50)]
            await asyncio.sleep(0)
            await threads.run("B", lambda: running.append("B"))
            stop.set()
            await asyncio.gather(*flood)

        asyncio.run(story())

        assert ["A", "B"] == sorted(running[:2])
        assert 51 == len(running)
