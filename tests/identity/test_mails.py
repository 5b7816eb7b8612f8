"""Mails: a real conversation with a mail server, the development mailbox, a password that was forgotten."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from aura_stream.settings import SettingsError, load_settings
from tests.identity.conftest import OPERATOR, PASSWORD, Node, StartNode, address, login, register, staff
from tests.security.test_brokers import certificate

if TYPE_CHECKING:
    import asyncpg

    Owner = asyncpg.Connection[asyncpg.Record]

NEW = "a password that is new"


@dataclass
class Server:
    """A mail server of this process (RFC 5321, as much as is spoken here)."""

    port: int = 0
    busy: int = 0
    """So many mails are put off first."""
    unknown: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    got: list[EmailMessage] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(text: str) -> None:
            writer.write(text.encode() + b"\r\n")

        say("220 mail.example")
        while line := (await reader.readline()).decode().strip():
            word = line.partition(" ")[0].upper()
            if word == "EHLO":
                say("250-mail.example\r\n250 AUTH PLAIN")
            elif word == "AUTH":
                self.users.add(base64.b64decode(line.split()[2]).decode().split("\0")[1])
                say("235 welcome")
            elif word == "RCPT" and any(one in line for one in self.unknown):
                say("550 nobody here")
            elif word == "DATA":
                say("354 go on")
                raw = await reader.readuntil(b"\r\n.\r\n")
                if self.busy:
                    self.busy -= 1
                    say("451 come again")
                else:
                    self.got.append(message_from_bytes(raw[:-3], policy=policy.default))
                    say("250 taken")
            elif word == "QUIT":
                say("221 bye")
                break
            else:
                say("250 good")
            await writer.drain()
        writer.close()

    def to(self, email: str) -> list[EmailMessage]:
        return [one for one in self.got if one["To"] == email]


@asynccontextmanager
async def mail_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    made = Server()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


async def until(what: Callable[[], Any]) -> Any:
    """What `what` finds, as soon as it does; it may be a coroutine."""
    async with asyncio.timeout(30):
        while True:
            found = what()
            if isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.02)


async def _is(owner: Owner, user_id: str, *state: Any) -> bool:
    """Whether the person's mail is in this state: tries, whether it is done, the last failure."""
    return await _state(owner, user_id) == state


async def _state(owner: Owner, user_id: str) -> tuple[int, bool, str | None]:
    row = await owner.fetchrow(
        "SELECT tries, done_at IS NOT NULL AS done, failure FROM identity.outbox WHERE user_id = $1 AND kind = 'mail'",
        uuid.UUID(user_id),
    )
    assert row is not None
    return row["tries"], row["done"], row["failure"]


async def test_l94_l101_a_mail_goes_by_tls_and_its_link_verifies_the_address(
    start_node: StartNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path, "mail"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "mail.crt"))
    async with mail_server(context) as server:
        node = await start_node(
            smtp_url=SecretStr(f"smtps://post%40man:p%2Fw@127.0.0.1:{server.port}"),
            mail_from="Example Bank <no-reply@bank.example>",
            mail_link="https://app.bank.example/{template}?token={token}",
        )
        ada = await register(node)
        (mail,) = await until(lambda: server.to(ada.email))

        assert (mail["From"], mail["Subject"]) == (
            "Example Bank <no-reply@bank.example>",
            "Confirm your e-mail address",
        )
        assert mail["Message-ID"].endswith("@bank.example>") and server.users == {"post@man"}
        link = re.search(r"https://app\.bank\.example/verify_email\?token=(\S+)", mail.get_content())
        assert link is not None
        assert (await node.call("POST", "/v1/auth/verify-email", {"token": link[1]}))[1]["verified"] is True


async def test_l94_what_a_server_puts_off_is_sent_later_once_and_what_it_refuses_is_not(
    start_node: StartNode, owner: Owner
) -> None:
    async with mail_server() as server:
        server.busy, nobody = 1, address()
        server.unknown.add(nobody)
        node = await start_node(smtp_url=SecretStr(f"smtp+plain://127.0.0.1:{server.port}"))
        ada = await register(node)
        await until(lambda: _is(owner, ada.id, 1, False, "the server refuses the mail (451)"))
        assert server.got == []
        # Its next try is due in ten seconds; the test does not wait for that.
        await owner.execute("UPDATE identity.outbox SET next_at = now() WHERE user_id = $1", uuid.UUID(ada.id))
        (mail,) = await until(lambda: server.to(ada.email))
        assert "Token: " in mail.get_content()

        lost = await register(node, email=nobody)
        await until(lambda: _is(owner, lost.id, 1, True, "the server refuses the address (550)"))
        await asyncio.sleep(1.2)  # one more look of the sender: nothing is sent twice
        assert await _state(owner, ada.id) == (2, True, None) and len(server.to(ada.email)) == 1


async def test_l94_a_server_that_is_away_loses_no_mail(start_node: StartNode, owner: Owner) -> None:
    async with mail_server() as server:
        port = server.port
    node = await start_node(smtp_url=SecretStr(f"smtp+plain://127.0.0.1:{port}"))
    ada = await register(node)
    await until(lambda: _is(owner, ada.id, 1, False, "ConnectionRefusedError"))
    next_in = await owner.fetchval(
        "SELECT extract(epoch FROM next_at - now())::float FROM identity.outbox WHERE user_id = $1 AND kind = 'mail'",
        uuid.UUID(ada.id),
    )
    assert 0 < next_in <= 10
    await owner.execute("DELETE FROM identity.outbox WHERE user_id = $1", uuid.UUID(ada.id))


async def _mail_of(node: Node, email: str, template: str, *, other_than: str = "") -> str:
    """The newest token of a kind that the development mailbox has for an address."""
    async with asyncio.timeout(30):
        while True:
            _, box, _ = await node.call("GET", "/v1/mailbox?limit=200", token=OPERATOR)
            for one in box["items"]:
                if (one["to"], one["template"]) == (email, template) and one["token"] != other_than:
                    return str(one["token"])
            await asyncio.sleep(0.02)


async def test_l94_a_forgotten_password_is_chosen_anew_by_the_mailbox_of_the_sandbox(node: Node) -> None:
    ada = await register(node)
    body = {"email": ada.email, "tenant_code": "default"}
    status, answer, _ = await node.call("POST", "/v1/auth/forgot-password", body)
    assert (status, answer) == (202, {"sent": True})
    assert (await node.call("POST", "/v1/auth/forgot-password", body | {"email": address()}))[:2] == (status, answer)
    token = await _mail_of(node, ada.email, "reset_password")

    reset = {"token": token, "new_password": "short"}
    assert await node.code("POST", "/v1/auth/reset-password", reset) == (400, "invalid_password_format")
    reset = {"token": token, "new_password": NEW, "password_confirmation": NEW}
    assert await node.code("POST", "/v1/auth/verify-email", {"token": token}) == (404, "token_not_found")
    assert (await node.call("POST", "/v1/auth/reset-password", reset))[1] == {"changed": True}

    assert await node.code("GET", "/v1/users/me", token=ada.access) == (401, "token_revoked")
    old = {"email": ada.email, "password": PASSWORD, "tenant_code": "default"}
    assert await node.code("POST", "/v1/auth/login", old) == (401, "invalid_credentials")
    assert (await login(node, ada.email, password=NEW)).user["verified"] is True
    assert await node.code("POST", "/v1/auth/reset-password", reset) == (404, "token_not_found")


async def test_l94_one_new_password_uses_up_all_its_mails_and_a_verifying_token_sets_none(node: Node) -> None:
    ada = await register(node)
    first = last = ""
    for _ in range(2):
        await node.call("POST", "/v1/auth/forgot-password", {"email": ada.email})
        first, last = await _mail_of(node, ada.email, "reset_password", other_than=first), first
    reset = {"new_password": NEW}
    verify = await _mail_of(node, ada.email, "verify_email")
    assert await node.code("POST", "/v1/auth/reset-password", reset | {"token": verify}) == (404, "token_not_found")
    assert (await node.call("POST", "/v1/auth/reset-password", reset | {"token": first}))[0] == 200
    assert await node.code("POST", "/v1/auth/reset-password", reset | {"token": last}) == (404, "token_not_found")


async def test_l94_the_mailbox_is_for_operators_in_the_sandbox(node: Node, start_node: StartNode) -> None:
    admin, ada = await staff(node, "admin"), await register(node)
    for who in (admin, ada):
        assert await node.code("GET", "/v1/mailbox", token=who.access) == (403, "insufficient_permissions")
    assert await node.code("GET", "/v1/mailbox") == (401, "invalid_token")
    _, there, _ = await node.call("GET", "/v1/mailbox", token=OPERATOR, Aura_Tenant="demo")
    assert ada.email not in {one["to"] for one in there["items"]}


async def test_sec10_a_mailbox_is_not_filled_by_others(start_node: StartNode) -> None:
    small = await start_node(login_limit=2)
    body = {"email": address()}
    codes = [(await small.call("POST", "/v1/auth/forgot-password", body))[0] for _ in range(4)]
    assert codes == [202, 202, 429, 429]


@pytest.mark.parametrize("url", ["smtp+plain://mail.example.com", "http://mail.example.com", "smtp://"])
def test_l94_a_mail_server_without_tls_is_refused_in_live_mode(url: str) -> None:
    live = {"mode": "live", "api_key": bytes(range(16)).hex(), "identity_secret": bytes(range(32)).hex()}
    with pytest.raises(SettingsError, match="AURA_SMTP_URL"):
        load_settings(**live, smtp_url=url)
    assert load_settings(**live, smtp_url="smtp://mail.example.com:587").smtp_url
