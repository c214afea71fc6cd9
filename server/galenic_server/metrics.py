"""
Metrics for Prometheus: counts and times by task and tenant, and the engine's counters.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from galenic_server.admission.turns import Turns
from galenic_server.engine.contract import EngineStats

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class EngineCollector(Collector):
    """Exports the engine's counters as of the last `Metrics.page`."""

    def __init__(self) -> None:
        self.stats = EngineStats()

    def collect(self) -> Iterator[Metric]:
        stats = self.stats
        resident = stats.resident_adapters
        yield GaugeMetricFamily("galenic_resident_adapters", "Adapters in a slot", resident)
        yield GaugeMetricFamily("galenic_slots", "Slots for adapters", stats.num_slots)
        share = stats.prefix_hits / stats.prefix_queries if stats.prefix_queries else 0.0
        text = "Share of prompt tokens found in the cache since the start"
        yield GaugeMetricFamily("galenic_prefix_hit_ratio", text, share)
        for name, text, count in (
            ("galenic_slot_loads", "Factors written into a slot", stats.slot_loads),
            ("galenic_slot_evictions", "Slots taken from an adapter", stats.slot_evictions),
            (
                "galenic_prefix_queries",
                "Prompt tokens looked up in the cache",
                stats.prefix_queries,
            ),
            ("galenic_prefix_hits", "Prompt tokens found in the cache", stats.prefix_hits),
            ("galenic_engine_restarts", "Times the engine was started again", stats.restarts),
        ):
            yield CounterMetricFamily(name, text, count)


class Metrics:
    """Counts and times requests. Every app has its own, so two in one process share no count."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._engine = EngineCollector()
        self.registry.register(self._engine)
        self._requests = Counter(
            "galenic_requests",
            "Requests answered",
            ["route", "tenant", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "galenic_request_seconds",
            "From the request's first byte to the reply's last",
            ["task", "tenant"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "galenic_tokens",
            "Tokens of texts, of answers, and of texts found in the cache",
            ["tenant", "kind"],
            registry=self.registry,
        )

    def watch(self, turns: Turns) -> None:
        """Export how many requests are in the engine, and how many wait for it."""
        for name, text, count in (
            ("galenic_running", "Requests in the engine", lambda: turns.num_running),
            ("galenic_waiting", "Requests that wait their turn", lambda: turns.num_waiting),
        ):
            Gauge(name, text, registry=self.registry).set_function(count)

    def count_request(self, route: str, tenant: str, status: int) -> None:
        self._requests.labels(route, tenant, str(status)).inc()

    def observe_seconds(self, task: str, tenant: str, seconds: float) -> None:
        self._seconds.labels(task, tenant).observe(seconds)

    def count_tokens(self, tenant: str, prompt: int, completion: int, cached: int) -> None:
        for kind, count in (("prompt", prompt), ("completion", completion), ("cached", cached)):
            self._tokens.labels(tenant, kind).inc(count)

    def page(self, stats: EngineStats) -> bytes:
        """Return everything counted in Prometheus' text format."""
        self._engine.stats = stats
        return generate_latest(self.registry)
