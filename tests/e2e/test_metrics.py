"""What /metrics counts is what happened."""

from collections.abc import Iterator

import pytest

from galenic_client import Client
from galenic_client.errors import NotFound
from galenic_client.types import NliDocument
from tests.support.real_server import RealServer, Zoo

NOTES: list[NliDocument] = [
    {"premise": f"Day {day}: he has gout in his left foot.", "hypothesis": "He is ill."}
    for day in range(3)
]


@pytest.fixture
def counted(server: RealServer) -> Iterator[Client]:
    """A tenant of which nobody has heard yet."""
    with server.admin() as admin:
        key = admin.create_key("counted").key
    with Client(server.url, api_key=key) as client:
        yield client


class TestMetrics:
    def test_requests_and_tokens_are_counted_by_tenant(self, server: RealServer, counted: Client):
        """
        Requests by route and status, times by task, tokens as the replies' own usage adds up.
        """
        usages = [counted.nli(NOTES, adapter="nli").usage for _ in range(2)]
        with pytest.raises(NotFound):
            counted.nli(NOTES, adapter="nobody")

        def requests(status: str) -> float:
            where = {"route": "/v1/nli", "tenant": "counted", "status": status}
            return server.metric("galenic_requests_total", **where)

        def tokens(kind: str) -> float:
            return server.metric("galenic_tokens_total", tenant="counted", kind=kind)

        assert (2, 1) == (requests("200"), requests("404"))
        assert 3 == server.metric("galenic_request_seconds_count", task="nli", tenant="counted")
        assert sum(usage.prompt_tokens for usage in usages) == tokens("prompt")
        assert sum(usage.completion_tokens for usage in usages) == tokens("completion")
        assert 0 < tokens("cached") < tokens("prompt")

    def test_an_upload_loads_a_slot_and_a_repeated_text_hits_the_cache(
        self, server: RealServer, zoo: Zoo
    ):
        """
        One load for a new adapter and none for asking it; asked again, its prompt is not computed.
        """

        def now(*names: str) -> list[float]:
            return [server.metric(f"galenic_{name}") for name in names]

        resident, loads, hits = now("resident_adapters", "slot_loads_total", "prefix_hits_total")
        with server.admin() as admin, server.client() as client:
            admin.push("counted", zoo.random_package(seed=70).data, tenant="north")
            client.nli(NOTES[:1], adapter="counted")
            cold = now("prefix_hits_total")
            client.nli(NOTES[:1], adapter="counted")

        assert [resident + 1, loads + 1] == now("resident_adapters", "slot_loads_total")
        assert [hits] == cold
        assert now("prefix_hits_total")[0] > hits
        assert now("slots") > now("resident_adapters")
