"""What a tenant may use: requests and tokens a minute, requests at once."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from galenic_adapters.errors import BadInput, LimitReached
from galenic_server.tenancy.keys import Role
from galenic_server.tenancy.limiter import Limiter
from galenic_server.tenancy.limits import Limits
from tests.support.held import held
from tests.support.serving import Running, eventually

NER = {"documents": [{"text": "He has gout."}], "max_tokens": 8}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(clock)


def ask(limiter: Limiter, limits: Limits, count: int, tenant: str = "A") -> None:
    for _ in range(count):
        with limiter.open(tenant, limits):
            pass


class TestRequestsAMinute:
    LIMITS = Limits(requests_per_minute=60)

    def test_are_as_many_as_were_set(self, limiter: Limiter):
        """
        The next is refused, and says when there is room for one.
        """
        ask(limiter, self.LIMITS, 60)
        with pytest.raises(LimitReached, match="60 requests a minute are used") as refused:
            ask(limiter, self.LIMITS, 1)

        assert 1.0 == pytest.approx(refused.value.retry_after_seconds)

    def test_come_back_evenly(self, limiter: Limiter, clock: Clock):
        """
        One a second here, and never more than a minute's worth.
        """
        ask(limiter, self.LIMITS, 60)
        clock.now += 3
        ask(limiter, self.LIMITS, 3)
        with pytest.raises(LimitReached):
            ask(limiter, self.LIMITS, 1)
        clock.now += 3600
        ask(limiter, self.LIMITS, 60)
        with pytest.raises(LimitReached):
            ask(limiter, self.LIMITS, 1)

    def test_are_each_tenants_own(self, limiter: Limiter):
        """
        What A used up is none of B's.
        """
        ask(limiter, self.LIMITS, 60)
        ask(limiter, self.LIMITS, 60, tenant="B")

    def test_change_when_the_limit_does(self, limiter: Limiter):
        """
        No restart is needed.
        """
        ask(limiter, self.LIMITS, 60)
        ask(limiter, Limits(requests_per_minute=120), 120)
        ask(limiter, Limits(), 1000)


class TestTokensAMinute:
    LIMITS = Limits(tokens_per_minute=600)

    def test_run_into_debt_that_the_next_request_meets(self, limiter: Limiter, clock: Clock):
        """
        What an answer will cost is known when it is made; then one waits until it is paid.
        """
        ask(limiter, self.LIMITS, 1)
        limiter.spend("A", 800)
        with pytest.raises(LimitReached, match="600 tokens a minute") as refused:
            ask(limiter, self.LIMITS, 1)
        assert 20.1 == pytest.approx(refused.value.retry_after_seconds)
        clock.now += 20.1

        ask(limiter, self.LIMITS, 1)

    def test_headers_tell_what_is_left(self, limiter: Limiter, clock: Clock):
        """
        Their names and forms are those of OpenAI.
        """
        both = Limits(requests_per_minute=60, tokens_per_minute=600)
        with limiter.open("A", both) as first:
            pass
        limiter.spend("A", 595)

        assert {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-limit-tokens": "600",
            "x-ratelimit-remaining-tokens": "600",
            "x-ratelimit-reset-tokens": "0ms",
        } == first
        assert "5" == limiter.headers("A")["x-ratelimit-remaining-tokens"]
        assert "1m0s" == limiter.headers("A")["x-ratelimit-reset-tokens"]
        assert {} == limiter.headers("B")


class TestRequestsAtOnce:
    def test_are_as_many_as_were_set(self, limiter: Limiter):
        """
        One that ends makes room for one.
        """
        limits = Limits(concurrent=3)
        with ExitStack() as held:
            for _ in range(3):
                held.enter_context(limiter.open("A", limits))
            with pytest.raises(LimitReached, match="3 requests of this tenant are open"):
                ask(limiter, limits, 1)
            ask(limiter, limits, 1, tenant="B")

        ask(limiter, limits, 1)


class TestLimits:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"requests_per_minute": 0},
            {"tokens_per_minute": -1},
            {"concurrent": 2**31},
            {"weight": 0.0},
            {"weight": float("nan")},
        ],
    )
    def test_are_numbers_that_can_be_kept_to(self, wrong):
        """
        The error names the field.
        """
        with pytest.raises(BadInput, match=next(iter(wrong))):
            Limits(**wrong)


@pytest.fixture
def limit(running: Running) -> Iterator[str]:
    """Where to set the limits of tenant ``limited``; they are dropped afterwards."""
    url = "/admin/v1/tenants/limited/limits"
    yield url
    running.admin.delete(url)


class TestOverHttp:
    def test_one_request_too_many_is_a_429(self, running: Running, limit: str):
        """
        It has Retry-After and what is left, in the form that OpenAI's clients wait by.
        """
        client = running.client("limited")
        free = client.post("/v1/ner", json=NER)
        running.admin.put(limit, json={"requests_per_minute": 2}).raise_for_status()
        replies = [client.post("/v1/ner", json=NER) for _ in range(3)]
        elsewhere = running.client("north").post("/v1/ner", json=NER)

        assert [200, 200, 429] == [reply.status_code for reply in replies]
        assert "x-ratelimit-limit-requests" not in free.headers
        assert ["1", "0", "0"] == [
            reply.headers["x-ratelimit-remaining-requests"] for reply in replies
        ]
        assert 25 <= int(replies[2].headers["retry-after"]) <= 30
        error = replies[2].json()["error"]
        assert ("rate_limit_error", "rate_limit_exceeded") == (error["type"], error["code"])
        assert 200 == elsewhere.status_code

    def test_tokens_are_those_of_text_and_answer(self, running: Running, limit: str):
        """
        Charged as they were counted; other routes' requests meet the debt too.
        """
        client = running.client("limited")
        running.admin.put(limit, json={"tokens_per_minute": 10_000}).raise_for_status()
        first = client.post("/v1/ner", json=NER)
        second = client.post("/v1/ner", json=NER)
        running.admin.put(limit, json={"tokens_per_minute": 1}).raise_for_status()
        third = client.post("/v1/ner", json=NER)
        models = client.get("/v1/models")

        used = first.json()["usage"]["total_tokens"]
        left = int(second.headers["x-ratelimit-remaining-tokens"])
        assert 10_000 - used <= left <= 10_000 - used + 500  # it fills up meanwhile
        assert [200, 429] == [third.status_code, models.status_code]
        assert int(models.headers["retry-after"]) > 60

    def test_a_stream_is_open_until_its_last_byte(self, vllm_running: Running):
        """
        The stream counts as open after its first byte, until its last.
        """
        client = vllm_running.client("limited")
        limit = "/admin/v1/tenants/limited/limits"
        vllm_running.admin.put(limit, json={"concurrent": 1}).raise_for_status()
        chat = {"model": "tiny-llama", "messages": [{"role": "user", "content": "a"}]}
        body = chat | {"stream": True, "max_tokens": 8}
        with (
            held(vllm_running) as engine,
            client.stream("POST", "/v1/chat/completions", json=body) as stream,
        ):
            lines = stream.iter_lines()  # kept: without a reader the client has left
            next(lines)
            meanwhile = client.post("/v1/ner", json=NER)
            engine.let_go()
        eventually(lambda: client.post("/v1/ner", json=NER).is_success)
        vllm_running.admin.delete(limit).raise_for_status()

        assert 429 == meanwhile.status_code
        assert "1" == meanwhile.headers["retry-after"]

    def test_an_admin_sets_a_tenants_admin_sees_and_nobody_else_does(
        self, running: Running, limit: str
    ):
        """
        What was set is told, what is not set is the settings'.
        """
        chief, stranger = (running.client(it, Role.TENANT_ADMIN) for it in ("limited", "north"))
        default = running.admin.get(limit).json()
        put = running.admin.put(limit, json={"concurrent": 7, "weight": 2.5})

        assert 512 == default["concurrent"]
        assert put.json() == chief.get(limit).json()
        assert ("limited", 7, 2.5, None) == tuple(
            put.json()[name] for name in ("tenant", "concurrent", "weight", "tokens_per_minute")
        )
        assert 403 == chief.put(limit, json={}).status_code
        assert 403 == chief.delete(limit).status_code
        assert 403 == stranger.get(limit).status_code
        assert 403 == running.client("limited").get(limit).status_code
        assert 422 == running.admin.put(limit, json={"concurrent": 0}).status_code
        assert 204 == running.admin.delete(limit).status_code
        assert 404 == running.admin.delete(limit).status_code
        assert default == chief.get(limit).json()

    def test_a_flood_over_http_is_counted_right(self, running: Running, limit: str):
        """
        Exactly ten of thirty at once get through.
        """
        key = {"authorization": f"Bearer {running.key('limited')}"}
        running.admin.put(limit, json={"requests_per_minute": 10}).raise_for_status()
        seen: list[int] = []

        def one() -> None:
            seen.append(httpx.get(f"{running.url}/v1/models", headers=key).status_code)

        threads = [threading.Thread(target=one) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert (10, 20) == (seen.count(200), seen.count(429))
