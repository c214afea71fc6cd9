"""An OpenID Connect provider on loopback: it publishes its keys, and signs what it is told to."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://login.north.example", "galenic"


class OidcProvider:
    """
    *keys* by key id; *num_fetches* of its key set; while *is_away* it answers 503, and while
    *goes_on* is not set nothing, to *num_hanging*.
    """

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.num_fetches = 0
        self.is_away = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.num_hanging = 0
        self.url = ""
        self.rotate("first")

    def rotate(self, kid: str) -> None:
        """A new key instead of all others."""
        self.keys = {kid: ec.generate_private_key(ec.SECP256R1())}

    def add_rsa(self, kid: str) -> None:
        self.keys[kid] = rsa.generate_private_key(65537, 2048)

    def jwks(self) -> dict[str, Any]:
        def public(kid: str, key: Any) -> dict[str, Any]:
            is_rsa = isinstance(key, rsa.RSAPrivateKey)
            kind: Any = RSAAlgorithm if is_rsa else ECAlgorithm
            told: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)
            return told | {"kid": kid, "use": "sig", "alg": "RS256" if is_rsa else "ES256"}

        return {"keys": [public(*pair) for pair in self.keys.items()]}

    def token(self, *, kid: str | None = None, header: Any = None, **claims: Any) -> str:
        """A good token of North's, unless *claims* say otherwise; none drops a claim."""
        kid = kid or next(iter(self.keys))
        key = self.keys[kid]
        usual = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "dr.jones",
            "tenant": "north",
            "exp": int(time.time()) + 600,
        }
        said = {name: value for name, value in (usual | claims).items() if value is not None}
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(said, key, algorithm, headers={"kid": kid} | (header or {}))


@contextmanager
def provider() -> Iterator[OidcProvider]:
    made = OidcProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.num_fetches += 1
            made.num_hanging += not made.goes_on.is_set()
            made.goes_on.wait(10)
            body = json.dumps(made.jwks()).encode()
            self.send_response(503 if made.is_away else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_port}/keys"
        try:
            yield made
        finally:
            made.goes_on.set()
            server.shutdown()
            thread.join()
