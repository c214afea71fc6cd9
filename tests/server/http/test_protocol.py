"""How long a client may take: real sockets, and a server with half a second of patience."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from galenic_server.http.protocol import MAX_HEAD_BYTES, Crowd
from tests.support.serving import Running, eventually, make_parts, package, serving

PATIENCE_SECONDS = 0.5
BODY = {"documents": [{"text": "He has gout."}], "adapter": "mine", "max_tokens": 8}


@pytest.fixture(scope="module")
def impatient(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("impatient")
    parts = make_parts(backbone, home, patience_seconds=PATIENCE_SECONDS)
    with serving(parts) as server:
        server.publish("north", "mine", package())
        yield server


@contextlib.contextmanager
def connected(server: Running, *, buffer_bytes: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as made:
        if buffer_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        made.settimeout(20)
        made.connect(("127.0.0.1", httpx.URL(server.url).port))
        yield made


def is_cut_off(connection: socket.socket) -> bool:
    """Whether the server ends the connection, once what it sent is read."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def send_until_cut_off(
    connection: socket.socket, what: bytes, times: int, pause_seconds: float
) -> bool:
    """Whether the connection ends before so many are sent."""
    connection.settimeout(1)
    for _ in range(times):
        try:
            connection.sendall(what)
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        time.sleep(pause_seconds)
    return False


def head(server: Running, num_bytes: int, *more: str) -> bytes:
    lines = [
        "POST /v1/ner HTTP/1.1",
        "host: a",
        f"authorization: Bearer {server.key('north')}",
        "content-type: application/json",
        f"content-length: {num_bytes}",
        *more,
    ]
    return "\r\n".join((*lines, "", "")).encode()


class TestASlowHead:
    def test_is_cut_off(self, impatient: Running):
        """
        Slow-loris: a byte now and then does not keep a connection.
        """
        began = time.monotonic()
        with connected(impatient) as connection:
            sent = 0
            with contextlib.suppress(ConnectionError):
                for byte in b"POST /v1/ner HTTP/1.1\r\nhost: a\r\nx-a: " + b"b" * 1000:
                    connection.sendall(bytes([byte]))
                    sent += 1
                    time.sleep(0.02)
            assert sent < 1000
            assert is_cut_off(connection)

        assert time.monotonic() - began < 15

    def test_is_cut_off_where_nothing_is_sent(self, impatient: Running):
        """
        An open connection alone is no request.
        """
        with connected(impatient) as connection:
            assert is_cut_off(connection)

    def test_without_an_end_fills_no_memory(self, impatient: Running):
        """
        A head of more than 64 KiB is not collected.
        """
        with connected(impatient) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\nx-a: ")
            for _ in range(4 * MAX_HEAD_BYTES // 4096):
                connection.sendall(b"a" * 4096)
                time.sleep(0.001)
            pytest.fail("256 KiB of a head were taken")

    def test_is_cut_off_after_an_answer_too(self, impatient: Running):
        """
        Bytes that begin no request move no hour: line ends, or what is left of a body.
        """
        asked = b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n"
        refused = (
            b"POST /v1/ner HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"
        )
        for request, more in ((asked, b"\r\n"), (refused, b"1\r\na\r\n")):
            with connected(impatient) as connection:
                connection.sendall(request)
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1")

                assert send_until_cut_off(connection, more, 80, PATIENCE_SECONDS / 10)

    def test_is_no_burden_where_one_follows_another(self, impatient: Running):
        """
        A connection is kept for the next request, also for longer than a head may take.
        """
        with connected(impatient) as connection:
            for _ in range(2):
                connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n")
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
                time.sleep(2 * PATIENCE_SECONDS)


class TestTrailers:
    @pytest.mark.parametrize("path", ["/v1/ner", "/health/live", "/nowhere"])
    def test_are_refused(self, impatient: Running, path: str):
        """
        Nothing reads them, and they would be kept as long as the connection.
        """
        lines = [f"POST {path} HTTP/1.1", "host: a", "transfer-encoding: chunked", "", "0", ""]
        with connected(impatient) as connection:
            connection.sendall("\r\n".join(lines).encode())

            assert send_until_cut_off(connection, b"x-a: " + b"b" * 9000 + b"\r\n", 200, 0.001)

    def test_without_an_end_fill_no_memory(self, impatient: Running):
        """
        One line of more than 64 KiB is cut off like a head.
        """
        lines = ["POST /v1/ner HTTP/1.1", "host: a", "transfer-encoding: chunked", "", "0", "x: "]
        with connected(impatient) as connection:
            connection.sendall("\r\n".join(lines).encode())

            assert send_until_cut_off(connection, b"b" * 4096, 64, 0.001)


class TestACrowd:
    def test_of_one_peer_leaves_room_for_others(self):
        """
        Each address has its most, and all together too; who leaves makes room.
        """
        crowd = Crowd(most=4, most_of_peer=2)

        assert [True, True, False] == [crowd.enter("a") for _ in range(3)]
        crowd.leave("a")
        assert [True, True, False] == [crowd.enter(peer) for peer in "bcd"]
        crowd.leave("a")
        crowd.leave("d")
        assert crowd.enter("a")

    def test_is_cut_off_where_it_grows(self, backbone: str, tmp_path: Path):
        """
        One more connection than may be is ended at once, and the others are answered.
        """
        parts = make_parts(backbone, tmp_path, max_connections_of_peer=8)
        with serving(parts) as server, contextlib.ExitStack() as held:
            eventually(lambda: server.anyone.get("/health/ready").is_success)
            many = [held.enter_context(connected(server)) for _ in range(12)]

            assert is_cut_off(many[-1])
            many[0].sendall(b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n")
            assert many[0].recv(1 << 16).startswith(b"HTTP/1.1 200")


class TestASlowBody:
    def test_is_refused(self, impatient: Running):
        """
        The error is one that clients do not retry by themselves.
        """
        with connected(impatient) as connection:
            connection.sendall(head(impatient, 100_000) + b'{"documents"')
            told = connection.recv(1 << 16)

        assert told.startswith(b"HTTP/1.1 400")
        assert b"body_too_slow" in told

    def test_that_is_announced_too_large_is_refused_unread(self, impatient: Running):
        """
        It is refused at once, without waiting for a byte of it.
        """
        with connected(impatient) as connection:
            connection.sendall(head(impatient, 10**9))
            told = connection.recv(1 << 16)

        assert told.startswith(b"HTTP/1.1 413")

    def test_that_is_only_long_is_taken(self, impatient: Running):
        """
        Patience grows with what has come.
        """
        body = json.dumps(BODY).encode() + b" " * 200_000
        with connected(impatient) as connection:
            connection.sendall(head(impatient, len(body), "connection: close"))
            for start in range(0, len(body), 20_000):
                connection.sendall(body[start : start + 20_000])
                time.sleep(0.08)  # longer in all than the patience alone
            told = connection.recv(1 << 16)

        assert told.startswith(b"HTTP/1.1 200")

    def test_leaves_an_answer_its_time(self, impatient: Running):
        """
        The bound is on the client: an answer may take longer.
        """
        reply = impatient.client("north").post("/v1/ner", json=BODY | {"max_tokens": 400})

        assert 200 == reply.status_code


class TestASlowReader:
    def test_is_cut_off(self, impatient: Running):
        """
        Who asks for much and reads nothing holds no answer in memory, and no connection.
        """
        asked = head(impatient, 0).replace(b"POST /v1/ner", b"GET /openapi.json")
        with connected(impatient, buffer_bytes=4096) as connection:
            send_until_cut_off(connection, asked, 400, 0)
            time.sleep(4 * PATIENCE_SECONDS)

            assert send_until_cut_off(connection, asked, 50, 0.05)

    def test_who_reads_gets_all(self, impatient: Running):
        """
        However long it is.
        """
        eventually(lambda: impatient.anyone.get("/openapi.json").json()["paths"])


class TestARequestId:
    @pytest.mark.parametrize(
        "line",
        [
            "x-request-id: a\r\nset-cookie: b",
            "x-request-id: a\rset-cookie: b",
            "x-request-id: a\nset-cookie: b",
            "x-request-id: a\0b",
        ],
    )
    def test_splits_no_reply(self, impatient: Running, line: str):
        """
        CR and LF end the header or the request; nothing of it comes back as another header.
        """
        with connected(impatient) as connection:
            asked = f"GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{line}\r\n\r\n"
            connection.sendall(asked.encode())
            told = connection.recv(1 << 16)

        assert told.split()[1] in (b"200", b"400")
        assert b"set-cookie" not in told.lower()
