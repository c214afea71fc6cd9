"""Tokens of an OpenID Connect provider, which really runs, on loopback."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jwt
import pytest
from pydantic import ValidationError

from galenic_adapters.errors import Unavailable
from galenic_adapters.refs import SHARED
from galenic_server.settings import Settings
from galenic_server.tenancy.keys import Role
from galenic_server.tenancy.tokens import Bearer, Provider, Tokens
from tests.support.provider import AUDIENCE, ISSUER, OidcProvider, provider
from tests.support.serving import eventually

Start = Callable[[Provider], Tokens]
NORTHS = Bearer("jwt:dr.jones", "north", Role.CALLER)


@pytest.fixture
def oidc() -> Iterator[OidcProvider]:
    with provider() as running:
        yield running


@pytest.fixture
def rules(oidc: OidcProvider) -> Provider:
    return Provider(ISSUER, AUDIENCE, oidc.url, new_keys_seconds=0.05)


@pytest.fixture
def start(oidc: OidcProvider) -> Iterator[Start]:
    """Starts one, and waits until it has the provider's keys."""
    started: list[Tokens] = []

    def start_one(rules: Provider) -> Tokens:
        started.append(Tokens(rules))
        eventually(lambda: has_keys(started[-1], oidc), seconds=30)
        return started[-1]

    yield start_one
    for tokens in started:
        tokens.close()


def has_keys(tokens: Tokens, oidc: OidcProvider) -> bool:
    try:
        tokens.read(oidc.token())
    except Unavailable:
        return False
    return True


@pytest.fixture
def tokens(rules: Provider, start: Start) -> Tokens:
    return start(rules)


def encoded(part: Any) -> str:
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


class TestAGoodToken:
    def test_stands_for_its_tenant_and_role(self, oidc: OidcProvider, tokens: Tokens):
        """
        Roles by their names, one or several; the highest counts, an unknown one is a caller's.
        """
        assert NORTHS == tokens.read(oidc.token())
        for said, role in (
            ("tenant-admin", Role.TENANT_ADMIN),
            (["viewer", "tenant-admin", "caller"], Role.TENANT_ADMIN),
            ("nurse", Role.CALLER),
            ({"admin": 1}, Role.CALLER),
            ([["admin"]], Role.CALLER),
        ):
            assert replace(NORTHS, role=role) == tokens.read(oidc.token(role=said))

    def test_makes_no_admin_unless_the_operator_says_so(
        self, oidc: OidcProvider, rules: Provider, tokens: Tokens, start: Start
    ):
        """
        A provider's role named admin is nothing; one that the operator maps to it opens all.
        """
        for role in ("admin", "auditor", "metrics"):
            assert NORTHS == tokens.read(oidc.token(role=role))
        mapped = start(replace(rules, roles={"galenic-ops": Role.ADMIN}))
        admin = mapped.read(oidc.token(role="galenic-ops", tenant=None))
        assert Bearer("jwt:dr.jones", SHARED, Role.ADMIN) == admin

    def test_is_read_as_the_operator_says(self, oidc: OidcProvider, rules: Provider, start: Start):
        """
        Claims inside of others, and the provider's own words for roles.
        """
        keycloak = start(
            replace(
                rules,
                tenant_claim="org.id",
                role_claim="realm_access.roles",
                roles={"hospital-it": Role.TENANT_ADMIN},
            )
        )
        said = {"org": {"id": "south"}, "realm_access": {"roles": ["offline", "hospital-it"]}}
        found = keycloak.read(oidc.token(tenant=None, **said))
        assert Bearer("jwt:dr.jones", "south", Role.TENANT_ADMIN) == found
        assert keycloak.read(oidc.token(role="admin")) is None

    def test_does_not_bring_its_name_into_logs_unless_it_is_one(
        self, oidc: OidcProvider, tokens: Tokens
    ):
        """
        A subject of any other form is told by its hash.
        """
        found = tokens.read(oidc.token(sub='x"\n{"level": "error"}'))
        assert found is not None
        assert found.subject.removeprefix("jwt:").isalnum()
        assert tokens.read(oidc.token(sub="\ud800")) is not None


class TestABadToken:
    """Case 8: whatever is wrong with it, it is nobody's."""

    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": int(time.time()) - 60},
            {"exp": None},
            {"exp": "never"},
            {"exp": int(time.time()) + 2 * 86_400},  # none can be revoked
            {"exp": 1e30},
            {"nbf": int(time.time()) + 86_400},
            {"iss": "https://login.elsewhere.example"},
            {"iss": None},
            {"aud": "another-service"},
            {"aud": None},
            {"sub": None},
            {"tenant": None},
            {"tenant": "../north"},
            {"tenant": ["north"]},
            {"tenant": "n" * 65},
        ],
    )
    def test_says_what_it_must_not(self, oidc: OidcProvider, tokens: Tokens, claims: Any):
        """
        Case 8: expired, not yet valid, another issuer or audience, or something left out.
        """
        assert NORTHS == tokens.read(oidc.token())
        assert tokens.read(oidc.token(**claims)) is None

    def test_is_not_signed(self, oidc: OidcProvider, tokens: Tokens):
        """
        Case 8: alg none in any spelling, with and without a signature's place filled.
        """
        claims = jwt.decode(oidc.token(), options={"verify_signature": False})
        for name in ("none", "None", "NONE", "", None, "HS256"):
            header = {"alg": name, "typ": "JWT", "kid": "first"}
            for end in ("", "AAAA"):
                forged = f"{encoded(header)}.{encoded(claims)}.{end}"
                assert tokens.read(forged) is None

    def test_is_signed_with_the_public_key_as_if_it_were_a_secret(
        self, oidc: OidcProvider, tokens: Tokens
    ):
        """
        Case 8: RS to HS. The key's bytes are public in every form that somebody may hash with.
        """
        oidc.add_rsa("rsa")
        eventually(lambda: tokens.read(oidc.token(kid="rsa")), seconds=30)
        claims = encoded(jwt.decode(oidc.token(), options={"verify_signature": False}))
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = oidc.keys["rsa"].public_key()
        forms = [public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)]
        forms += [public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)]
        forms += [json.dumps(oidc.jwks()["keys"][-1]).encode()]
        assert NORTHS == tokens.read(oidc.token(kid="rsa"))
        for form in forms:
            head = encoded({"alg": "HS256", "typ": "JWT", "kid": "rsa"})
            mac = hmac.new(form, f"{head}.{claims}".encode(), hashlib.sha256).digest()
            assert tokens.read(f"{head}.{claims}.{encoded(mac)}") is None

    def test_is_of_a_key_that_it_brings_itself(self, oidc: OidcProvider, tokens: Tokens):
        """
        Case 8: jku, jwk, x5u and an unknown kid; nothing that a token names is fetched.
        """
        with provider() as attacker:
            attacker.keys = {"evil": attacker.keys["first"]}
            own = attacker.jwks()["keys"][0]
            for header in ({"jku": attacker.url}, {"x5u": attacker.url}, {"jwk": own}):
                assert tokens.read(attacker.token(header=header)) is None
                assert tokens.read(attacker.token(header=header | {"kid": "first"})) is None
            assert 0 == attacker.num_fetches

    def test_was_changed(self, oidc: OidcProvider, tokens: Tokens):
        """
        Any other payload under the signature of a good one.
        """
        head, payload, signature = oidc.token().split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
        forged = f"{head}.{encoded(claims | {'role': 'admin'})}.{signature}"
        assert tokens.read(forged) is None

    @pytest.mark.parametrize(
        "text", ["..", "a.b.c", "e30.e30.", "\ud800.a.b", "a" * 9000 + ".b.c", "é.é.é"]
    )
    def test_is_none(self, tokens: Tokens, text: str):
        """
        The provider is not asked about it.
        """
        assert tokens.read(text) is None


class TestTheProvidersKeys:
    def test_are_kept(self, oidc: OidcProvider, tokens: Tokens):
        """
        A hundred tokens, one fetch; and while it is away, those kept go on.
        """
        assert all(tokens.read(oidc.token(sub=f"s{i}")) for i in range(100))
        oidc.is_away = True
        assert NORTHS == tokens.read(oidc.token())
        assert 1 == oidc.num_fetches

    def test_are_asked_for_again_when_they_rotate(self, oidc: OidcProvider, tokens: Tokens):
        """
        A new key works soon after its first token, and the one that is gone no longer.
        """
        old = oidc.token()
        assert NORTHS == tokens.read(old)
        oidc.rotate("second")
        eventually(lambda: NORTHS == tokens.read(oidc.token()), seconds=30)
        assert tokens.read(old) is None

    def test_are_not_asked_for_at_every_strangers_word(
        self, oidc: OidcProvider, rules: Provider, start: Start
    ):
        """
        Made-up key ids do not become a flood of fetches.
        """
        tokens = start(replace(rules, new_keys_seconds=60))
        assert tokens.read(oidc.token())
        for i in range(50):
            assert tokens.read(oidc.token(header={"kid": f"made-up-{i}"})) is None
        assert 1 == oidc.num_fetches

    def test_that_cannot_be_had_are_nobodys_fault(self, oidc: OidcProvider, rules: Provider):
        """
        A 503, not a 401: the same token is good later.
        """
        oidc.is_away = True
        tokens = Tokens(rules)
        with pytest.raises(Unavailable, match="issuer's keys"):
            tokens.read(oidc.token())
        oidc.is_away = False
        eventually(lambda: has_keys(tokens, oidc), seconds=30)
        assert NORTHS == tokens.read(oidc.token())
        tokens.close()

    def test_are_waited_for_by_nobody(self, oidc: OidcProvider, rules: Provider, tokens: Tokens):
        """
        The provider hangs: strangers' tokens are nobody's and good ones are good, all the same.
        """
        oidc.goes_on.clear()
        eventually(lambda: _is_nobodys(tokens, oidc) and oidc.num_hanging, seconds=30)
        told = [tokens.read(oidc.token(header={"kid": f"made-up-{i}"})) for i in range(60)]

        assert [None] * 60 == told
        assert NORTHS == tokens.read(oidc.token())
        assert 1 == oidc.num_hanging


def _is_nobodys(tokens: Tokens, oidc: OidcProvider) -> bool:
    return tokens.read(oidc.token(header={"kid": "made-up"})) is None


class TestItsAddress:
    @pytest.mark.parametrize(
        ("url", "is_taken"),
        [
            ("https://login.north.example/keys", True),
            ("http://127.0.0.1:8080/keys", True),
            ("http://localhost/keys", True),
            ("http://login.north.example/keys", False),
            ("file:///etc/keys", False),
        ],
    )
    def test_is_one_that_nobody_on_the_way_can_answer_for(self, url: str, is_taken: bool):
        """
        By https, or this machine's own.
        """
        given = {"jwt_issuer": ISSUER, "jwt_jwks_url": url}
        if is_taken:
            assert Settings(**given).provider is not None
        else:
            with pytest.raises(ValidationError, match="https"):
                Settings(**given)
