"""What pages in a browser, probes and proxies get."""

import httpx
import pytest

from tests.support.http_fixtures import ORIGIN
from tests.support.serving import Running


def asked_first(running: Running, origin: str) -> httpx.Response:
    """Send what a browser sends before a page's request."""
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    return running.anyone.options("/v1/ner", headers=headers)


class TestAPage:
    def test_of_a_named_origin_may_call(self, running: Running):
        """Without a key: browsers send none with the question whether they may."""
        reply = asked_first(running, ORIGIN)

        assert 200 == reply.status_code
        assert ORIGIN == reply.headers["access-control-allow-origin"]
        assert "authorization" in reply.headers["access-control-allow-headers"]

    def test_reads_answers_and_errors(self, running: Running):
        """An error without the header would look like a broken network to the page."""
        for client, status in ((running.client("north"), 200), (running.anyone, 401)):
            reply = client.post(
                "/v1/ner",
                json={"documents": [{"text": "He has gout."}], "max_tokens": 4},
                headers={"origin": ORIGIN},
            )

            assert status == reply.status_code
            assert ORIGIN == reply.headers["access-control-allow-origin"]

    def test_of_another_origin_may_not(self, running: Running):
        reply = asked_first(running, "https://elsewhere.example.org")

        assert 400 == reply.status_code
        assert "access-control-allow-origin" not in reply.headers


class TestAnAddress:
    @pytest.mark.parametrize("path", ["/v1/ner/", "/health/live/"])
    def test_with_a_slash_too_many_is_unknown(self, running: Running, path: str):
        """It is not redirected: behind TLS the redirect would lead to http."""
        reply = running.anyone.post(path, headers={"x-forwarded-proto": "https"})

        assert 404 == reply.status_code
        assert "location" not in reply.headers
