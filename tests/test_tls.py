"""
The recipes in deploy/tls, run by the programs they are for; and PostgreSQL over TLS.
"""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from galenic_adapters.errors import Unavailable
from galenic_server.database.database import Database
from tests.support.debian import program
from tests.support.postgres import Postgres
from tests.support.serving import free_port
from tests.support.tls import Authority
from tests.support.tools import ROOT

TLS = ROOT / "deploy/tls"
START_SECONDS = 30
NGINX = """
daemon off; master_process off; pid {0}/pid; error_log {0}/errors; events {{}}
http {{ access_log off; client_body_temp_path {0}/bodies; proxy_temp_path {0}/answers;
fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; include {0}/ours; }}
"""


class Echo(BaseHTTPRequestHandler):
    """Stands behind the proxy: tells the headers and the size of what came."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        size = len(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps({**{k.lower(): v for k, v in self.headers.items()}, "size": size})
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Proxy:
    url: str
    authority: Authority
    folder: Path

    def post(self, caller: tuple[Path, Path] | None, **more: object) -> httpx.Response:
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if caller:
            context.load_cert_chain(*caller)
        with httpx.Client(verify=context, trust_env=False) as client:
            return client.post(self.url, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def behind() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def placed(file: str, folder: Path, behind: int, port: int) -> Path:
    """Write a recipe with its files, host and ports replaced by those of the test."""
    text = (TLS / file).read_text()
    for old, new in {
        "/etc/galenic/tls": str(folder),
        "galenic.example.org": "localhost",
        "127.0.0.1:8000": f"127.0.0.1:{behind}",
        "listen 443": f"listen 127.0.0.1:{port}",
        "localhost:443": f"localhost:{port}",
        ":443 ": f":{port} ",
    }.items():
        text = text.replace(old, new)
    (folder / "ours").write_text(text)
    (folder / "main").write_text(NGINX.format(folder))
    return folder / "ours"


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def proxy(
    request: pytest.FixtureRequest, behind: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    authority = Authority(folder, "callers-ca")
    certificate, key = authority.sign("localhost")
    certificate.rename(folder / "server.pem")
    key.rename(folder / "server.key")
    if request.param == "nginx":
        placed("nginx.conf", folder, behind, port)
        command = [program("nginx", "nginx-light"), "-p", folder, "-c", folder / "main"]
    else:
        file = placed("Caddyfile", folder, behind, port)
        command = [program("caddy", "caddy"), "run", "--config", file, "--adapter", "caddyfile"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    proxy = Proxy(f"https://localhost:{port}/v1/ner", authority, folder)
    try:
        _wait(port, process, folder / "log")
        yield proxy
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError):
            return socket.create_connection(("127.0.0.1", port)).close()
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


class TestAProxy:
    def test_takes_a_caller_with_a_certificate(self, proxy):
        """
        A body of some megabytes too, of which no part is left on the disk.
        """
        reply = proxy.post(proxy.authority.sign("north"), content=b"canary" * 500_000)

        assert (200, 3_000_000) == (reply.status_code, reply.json()["size"])
        assert "max-age=31536000" == reply.headers["strict-transport-security"]
        written = [path for path in proxy.folder.rglob("*") if path.is_file()]
        assert [] == [path for path in written if b"canary" in path.read_bytes()]

    def test_takes_no_other(self, proxy, tmp_path):
        """
        Neither one without a certificate, nor one with a certificate of another authority.
        """
        stranger = Authority(tmp_path, "stranger").sign("north")
        for caller in (None, stranger):
            with suppress(httpx.TransportError):  # where the handshake fails already
                assert 400 == proxy.post(caller, content=b"x").status_code

    def test_tells_where_a_request_came_from(self, proxy):
        """
        Whatever the caller says about that.
        """
        sent = {"x-forwarded-for": "203.0.113.9"}
        reply = proxy.post(proxy.authority.sign("north"), content=b"x", headers=sent)

        assert "127.0.0.1" == reply.json()["x-forwarded-for"]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Where a PostgreSQL speaks TLS, as localhost; and the file of who signed its certificate."""
    authority = Authority(tmp_path_factory.mktemp("pg"), "database-ca")
    server, port = Postgres(), free_port()
    certificate, key = map(server.keep, authority.sign("localhost"))
    try:
        server.start(
            listen_addresses="localhost",
            port=str(port),
            ssl="on",
            ssl_cert_file=certificate,
            ssl_key_file=key,
        )
        yield f"port={port}&sslmode=verify-full", authority.file
    finally:
        server.close()


class TestPostgresql:
    def test_is_reached_over_tls(self, postgres):
        words, authority = postgres
        url = f"postgresql://galenic@/postgres?host=localhost&{words}&sslrootcert={authority}"
        database = Database.open(url)

        database.close()

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_is_not_if_it_cannot_prove_who_it_is(self, postgres, host, tmp_path):
        """
        By the right authority, under the name that was asked for.
        """
        words, authority = postgres
        if host == "localhost":
            authority = Authority(tmp_path, "stranger").file
        url = f"postgresql://galenic@/postgres?host={host}&{words}&sslrootcert={authority}"

        with pytest.raises(Unavailable):
            Database.open(url)
