"""Tokens under attack: forged, changed, of the wrong kind, of a key that is gone, of somebody else."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from tests.identity.conftest import OPERATOR, Node, Person, StartNode, register

ME = "/v1/users/me"
Forge = Any


@pytest.fixture
async def ada(node: Node) -> Person:
    return await register(node)


def _key(node: Node) -> Any:
    signer = node.services.identity.ring.signer(time.time())
    assert signer is not None
    return signer


def _forged(node: Node, ada: Person, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """Ada's access token with changes, signed with the real key: only the changes can be what is wrong."""
    key = _key(node)
    good = jwt.decode(ada.access, options={"verify_signature": False})
    changed = {name: value for name, value in {**good, **claims}.items() if value is not ...}
    return jwt.encode(
        changed, key.private, algorithm="EdDSA", headers={"kid": key.kid, "typ": "at+jwt", **(header or {})}
    )


async def test_a_forged_token_without_changes_is_good(node: Node, ada: Person) -> None:
    assert await node.code("GET", ME, token=_forged(node, ada)) == (200, "")


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", ""])
async def test_sec01_unsigned_tokens_are_refused(node: Node, ada: Person, algorithm: str) -> None:
    header = _part({"alg": algorithm, "typ": "at+jwt", "kid": _key(node).kid})
    for signature in ("", ada.access.split(".")[2]):
        token = ".".join((header, ada.access.split(".")[1], signature))
        assert await node.code("GET", ME, token=token) == (401, "invalid_token")


async def test_sec02_signed_with_the_public_key_as_a_secret(node: Node, ada: Person) -> None:
    public = _key(node).public
    jwks = (await node.call("GET", "/.well-known/jwks.json"))[1]["keys"][0]
    payload = jwt.decode(ada.access, options={"verify_signature": False})
    for secret in (public.public_bytes_raw(), jwks["x"].encode(), public.public_bytes(Encoding.Raw, PublicFormat.Raw)):
        for algorithm in ("HS256", "HS512"):
            token = jwt.encode(
                payload, secret + bytes(64), algorithm=algorithm, headers={"kid": jwks["kid"], "typ": "at+jwt"}
            )
            assert await node.code("GET", ME, token=token) == (401, "invalid_token")


async def test_sec03_keys_that_a_token_brings_along_are_not_used(node: Node, ada: Person) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"keys": []})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    mine = Ed25519PrivateKey.generate()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": _b64(mine.public_key().public_bytes_raw()), "kid": "mine"}
    url = str(server.make_url("/jwks"))
    payload = jwt.decode(ada.access, options={"verify_signature": False})
    for kid in ("mine", _key(node).kid):
        for extra in ({"jwk": jwk}, {"jku": url}, {"x5u": url}, {"x5c": ["AAAA"]}):
            headers = {"kid": kid, "typ": "at+jwt", **extra}
            token = jwt.encode(payload, mine, algorithm="EdDSA", headers=headers)
            assert await node.code("GET", ME, token=token) == (401, "invalid_token")
    assert asked == []
    await server.close()


@pytest.mark.parametrize("kid", ["../../etc/passwd", "' OR 1=1 --", "x" * 4_000, "", None, 7, ["a"], {"a": 1}])
async def test_sec04_a_hostile_key_id_finds_nothing(node: Node, ada: Person, kid: Any) -> None:
    parts = ada.access.split(".")
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": kid}
    assert await node.code("GET", ME, token=".".join((_part(header), *parts[1:]))) == (401, "invalid_token")


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"exp": 1_000_000_000}, "token_expired"),
        ({"exp": ...}, "invalid_token"),
        ({"exp": "9999999999"}, "invalid_token"),
        ({"exp": 9_999_999_999}, "invalid_token"),
        ({"exp": 1e308}, "invalid_token"),
        ({"nbf": 9_999_999_999}, "invalid_token"),
        ({"iat": 9_999_999_999}, "invalid_token"),
        ({"iat": ...}, "invalid_token"),
        ({"aud": "others"}, "invalid_token"),
        ({"aud": ["aura", "others"]}, "invalid_token"),
        ({"aud": ...}, "invalid_token"),
        ({"iss": "others"}, "invalid_token"),
        ({"iss": ...}, "invalid_token"),
        ({"sub": ...}, "invalid_token"),
        ({"sub": 7}, "invalid_token"),
        ({"sub": str(uuid.UUID(int=7))}, "invalid_token"),
        ({"sid": str(uuid.UUID(int=7))}, "token_revoked"),
        ({"sid": "' OR 1=1"}, "invalid_token"),
        ({"tid": "demo"}, "token_revoked"),
        ({"tid": None}, "invalid_token"),
    ],
)
async def test_sec05_sec06_claims_that_are_not_right(
    node: Node, ada: Person, claims: dict[str, Any], code: str
) -> None:
    assert await node.code("GET", ME, token=_forged(node, ada, **claims)) == (401, code)


async def test_l07_sec06_a_token_of_the_other_kind_is_told_so(node: Node, ada: Person) -> None:
    assert await node.code("GET", ME, token=ada.refresh) == (401, "invalid_token_type")
    assert await node.code("POST", "/v1/auth/refresh", {"refresh_token": ada.access}) == (401, "invalid_token_type")
    for kind in ("JWT", "rt+jwt", ""):
        assert await node.code("GET", ME, token=_forged(node, ada, {"typ": kind})) == (401, "invalid_token_type")


async def test_sec07_one_flipped_bit_anywhere_is_refused(node: Node, ada: Person) -> None:
    for part in range(3):
        parts = [base64.urlsafe_b64decode(one + "==") for one in ada.access.split(".")]
        for position in (0, len(parts[part]) // 2, len(parts[part]) - 1):
            changed = [bytearray(one) for one in parts]
            changed[part][position] ^= 1
            token = ".".join(_b64(bytes(one)) for one in changed)
            assert await node.code("GET", ME, token=token) == (401, "invalid_token"), (part, position)


@pytest.mark.parametrize(
    "text", ["x", "a.b.c", "....", "ak_", "ak_default.0123456789abcdef.short", "\udcff", "a" * 8000]
)
async def test_u03_what_is_no_token_at_all_is_refused(node: Node, text: str) -> None:
    status, answer, headers = await node.call("GET", ME, token=text)
    assert status == 401 and answer["code"] in ("invalid_token", "api_key_invalid")
    assert headers["WWW-Authenticate"].startswith("Bearer")


async def test_sec08_keys_rotate_without_a_restart(node: Node, start_node: StartNode, ada: Person) -> None:
    other = await start_node()
    old = _key(node).kid
    status, answer, _ = await node.call("POST", "/v1/signing-keys", {"at_once": True}, token=OPERATOR)
    assert status == 201
    for one in (node, other):
        _, jwks, _ = await one.call("GET", "/.well-known/jwks.json")
        assert {old, answer["kid"]} <= {key["kid"] for key in jwks["keys"]}
        assert not any("d" in key for key in jwks["keys"])
        assert await one.code("GET", ME, token=ada.access) == (200, "")
    _, fresh, _ = await other.call("POST", "/v1/auth/refresh", {"refresh_token": ada.refresh})
    assert jwt.get_unverified_header(fresh["access_token"])["kid"] == answer["kid"]

    assert (await node.code("DELETE", f"/v1/signing-keys/{old}", token=OPERATOR))[0] == 200

    for one in (other, node):
        assert await one.code("GET", ME, token=ada.access) == (401, "invalid_token")
        assert await one.code("GET", ME, token=fresh["access_token"]) == (200, "")
        _, jwks, _ = await one.call("GET", "/.well-known/jwks.json")
        assert old not in {key["kid"] for key in jwks["keys"]}


async def test_l05_our_tokens_verify_with_the_published_keys(node: Node, ada: Person) -> None:
    _, jwks, _ = await node.call("GET", "/.well-known/jwks.json")
    kid = jwt.get_unverified_header(ada.access)["kid"]
    key = next(jwt.PyJWK(one) for one in jwks["keys"] if one["kid"] == kid)
    claims = jwt.decode(ada.access, key.key, algorithms=["EdDSA"], audience="aura", issuer="aura")
    assert claims["sub"] == ada.id


# --- external issuers (S09) -----------------------------------------------------------------------------------------


class Issuer:
    """An OIDC issuer as Cognito is one: RS256, JWKS over HTTP, access tokens with client_id and token_use."""

    url = "https://cognito-idp.eu-west-1.example.com/pool"

    def __init__(self) -> None:
        self.keys = {"k1": generate_private_key(65537, 2048)}
        self.asked = 0
        self.is_up = True
        self.says: bytes | None = None
        """What it answers instead of its keys."""
        self.pieces = 1

    async def jwks(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if not self.is_up:
            return web.Response(status=500)
        keys = [
            {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": kid, "alg": "RS256", "use": "sig"}
            for kid, key in self.keys.items()
        ]
        body = json.dumps({"keys": keys}).encode() if self.says is None else self.says
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        size = len(body) // self.pieces + 1
        for start in range(0, len(body), size):
            await response.write(body[start : start + size])
            await asyncio.sleep(0.05 if self.pieces > 1 else 0)
        return response

    def token(self, subject: str, *, kid: str = "k1", key: RSAPrivateKey | None = None, **claims: Any) -> str:
        now = int(time.time())
        good = {
            "iss": self.url,
            "sub": subject,
            "client_id": "app1",
            "token_use": "access",
            "scope": "openid",
            "jti": str(uuid.uuid4()),
            "iat": now,
            "exp": now + 3600,
        }
        changed = {name: value for name, value in {**good, **claims}.items() if value is not ...}
        return jwt.encode(changed, key or self.keys[kid], algorithm="RS256", headers={"kid": kid})


@pytest.fixture
async def issuer_and_node(start_node: StartNode) -> Any:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", issuer.jwks)
    server = TestServer(app)
    await server.start_server()
    setting = {
        "issuer": issuer.url,
        "tenant": "demo",
        "audience": "app1",
        "jwks_url": str(server.make_url("/jwks")),
    }
    node = await start_node(oidc_issuers=[setting])
    yield issuer, node
    await server.close()


async def test_s09_a_token_of_the_issuer_is_a_login_of_its_tenant(issuer_and_node: tuple[Issuer, Node]) -> None:
    issuer, node = issuer_and_node
    subject = f"user-{uuid.uuid4().hex[:8]}"

    status, me, _ = await node.call("GET", ME, token=issuer.token(subject))

    assert (status, me["tenant"], me["roles"], me["email"]) == (200, "demo", ["user"], None)
    again = (await node.call("GET", ME, token=issuer.token(subject)))[1]
    assert again["id"] == me["id"]
    assert (await node.call("GET", ME, token=issuer.token(subject + "x")))[1]["id"] != me["id"]
    assert issuer.asked == 1
    account = {"asset": "USD"}
    status, opened, _ = await node.call("POST", "/v1/accounts", account, token=issuer.token(subject))
    assert (status, opened["customer"], opened["tenant"]) == (201, me["customer"], "demo")


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"client_id": "other"}, "invalid_token"),
        ({"client_id": ...}, "invalid_token"),
        ({"aud": "other"}, "invalid_token"),
        ({"iss": "https://evil.example.com"}, "invalid_token"),
        ({"token_use": "id", "aud": "app1"}, "invalid_token_type"),
        ({"nonce": "n", "aud": "app1", "token_use": ...}, "invalid_token_type"),
        ({"exp": 1_000_000_000}, "token_expired"),
        ({"exp": ...}, "invalid_token"),
        ({"exp": 9_999_999_999}, "invalid_token"),
        ({"sub": ""}, "invalid_token"),
        ({"sub": 7}, "invalid_token"),
    ],
)
async def test_s09_sec06_what_is_not_for_us_is_refused(
    issuer_and_node: tuple[Issuer, Node], claims: dict[str, Any], code: str
) -> None:
    issuer, node = issuer_and_node
    assert await node.code("GET", ME, token=issuer.token("someone", **claims)) == (401, code)


async def test_s09_forged_keys_unknown_ids_and_a_flood_of_them(issuer_and_node: tuple[Issuer, Node]) -> None:
    issuer, node = issuer_and_node
    thief = generate_private_key(65537, 2048)
    assert await node.code("GET", ME, token=issuer.token("a", key=thief)) == (401, "invalid_token")
    for number in range(20):
        token = issuer.token("a", kid=f"k{number + 2}", key=thief)
        assert await node.code("GET", ME, token=token) == (401, "invalid_token")
    assert issuer.asked == 1


async def test_s09_sec56_without_the_issuers_keys_nobody_is_let_in(issuer_and_node: tuple[Issuer, Node]) -> None:
    issuer, node = issuer_and_node
    issuer.is_up = False
    assert await node.code("GET", ME, token=issuer.token("a")) == (503, "service_unavailable")


async def test_s09_keys_that_arrive_in_pieces_are_read_whole(issuer_and_node: tuple[Issuer, Node]) -> None:
    issuer, node = issuer_and_node
    issuer.pieces = 5
    assert await node.code("GET", ME, token=issuer.token("a")) == (200, "")


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"{}",
        b'{"keys": 7}',
        b'{"keys": []}',
        b'{"keys": [7, {"kty": "RSA", "kid": "k1", "n": 1}]}',
        b"[" * 100_000,
        b'{"keys": [], "more": "' + b"x" * 300_000 + b'"}',
    ],
)
async def test_s09_sec56_what_is_no_set_of_keys_lets_nobody_in_and_breaks_nothing(
    issuer_and_node: tuple[Issuer, Node], says: bytes
) -> None:
    issuer, node = issuer_and_node
    issuer.says = says
    assert await node.code("GET", ME, token=issuer.token("a")) == (503, "service_unavailable")


async def test_sec09_an_external_login_can_be_ended(issuer_and_node: tuple[Issuer, Node], node: Node) -> None:
    issuer, here = issuer_and_node
    token = issuer.token("someone")
    assert await here.code("GET", ME, token=token) == (200, "")
    assert await here.code("POST", "/v1/auth/logout", {}, token=token) == (200, "")
    assert await here.code("GET", ME, token=token) == (401, "token_revoked")
    assert await here.code("GET", ME, token=issuer.token("someone")) == (200, "")
    # A node that was not told of the issuer does not take its tokens.
    assert await node.code("GET", ME, token=issuer.token("someone")) == (401, "invalid_token")


def _part(value: Any) -> str:
    return _b64(json.dumps(value).encode())


def _b64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
