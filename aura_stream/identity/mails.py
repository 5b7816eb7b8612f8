"""Mails to persons: what they say, and how they get there: by SMTP, or in the sandbox into the development mailbox.

A mail is a row of the outbox, sealed under its person's key, made in the transaction that makes it necessary. Any API
process sends it. It may be sent twice (a process dies between the server's yes and its own commit), then under the same
Message-ID; it is never lost while the row is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import smtplib
import ssl
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

import asyncpg
import msgspec

from aura_stream.identity import repository
from aura_stream.identity.database import Database, IdentityUnavailable
from aura_stream.identity.sealing import Sealer, Unsealable
from aura_stream.ledger.connection import Observe
from aura_stream.settings import Settings

log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_SEND_S: Final = 4.0
"""For each step of a conversation with the server; the row stays locked meanwhile."""
_AGAIN_MIN_S: Final = 10.0
_AGAIN_MAX_S: Final = 3600.0
_GIVE_UP_S: Final = 48 * 3600.0
_PERMANENT: Final = 500
"""From here on a server's code is its last word (RFC 5321, 4.2.1)."""


class Mail(msgspec.Struct, frozen=True):
    """A mail that is to be sent. `token` is what its reader proves to have read it by."""

    to: str
    template: str
    token: str


class _Text(NamedTuple):
    subject: str
    body: str


_TEXTS: Final = {
    "verify_email": _Text(
        "Confirm your e-mail address",
        "Somebody, we hope you, has registered with this address. To confirm it:\n\n    {way}\n\n"
        "This holds for 24 hours. If it was not you, do nothing.\n",
    ),
    "reset_password": _Text(
        "Choose a new password",
        "Somebody, we hope you, has asked for a new password. To choose it:\n\n    {way}\n\n"
        "This holds for one hour, once, and ends all logins. If it was not you, do nothing: your password stays.\n",
    ),
}


def message_of(mail: Mail, sender: str, link: str, message_id: str, at: datetime) -> EmailMessage:
    """The mail as it is sent. `link` is an address with `{template}` and `{token}` in it; without it the token is."""
    text = _TEXTS[mail.template]
    way = link.replace("{template}", mail.template).replace("{token}", mail.token) if link else f"Token: {mail.token}"
    message = EmailMessage()
    message["Subject"] = text.subject
    message["From"] = sender
    message["To"] = mail.to
    message["Date"] = format_datetime(at)
    message["Message-ID"] = message_id
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.body.format(way=way))
    return message


class MailRefused(Exception):
    """The server will never take this mail."""


class Smtp:
    """A mail server: `smtp://` demands STARTTLS, `smtps://` is TLS from the start, `smtp+plain://` is neither.

    The user and the password stand in the address, percent-encoded.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._scheme, self._host = parts.scheme, parts.hostname or ""
        self._port = parts.port or {"smtps": 465, "smtp": 587}.get(parts.scheme, 25)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")

    def send(self, message: EmailMessage) -> None:
        """Sends, in this thread. Raises :class:`MailRefused`, OSError and `smtplib.SMTPException`."""
        try:
            with self._connected() as server:
                if self._user:
                    server.login(self._user, self._password)
                server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            code, _ = next(iter(error.recipients.values()))
            raise (MailRefused if code >= _PERMANENT else OSError)(f"the server refuses the address ({code})") from None
        except (smtplib.SMTPDataError, smtplib.SMTPSenderRefused) as error:
            code = error.smtp_code
            raise (MailRefused if code >= _PERMANENT else OSError)(f"the server refuses the mail ({code})") from None

    def _connected(self) -> smtplib.SMTP:
        # Who the server says it is, is checked: the token in the mail lets its reader in.
        if self._scheme == "smtps":
            return smtplib.SMTP_SSL(self._host, self._port, timeout=_SEND_S, context=ssl.create_default_context())
        server = smtplib.SMTP(self._host, self._port, timeout=_SEND_S)
        if self._scheme == "smtp":
            server.starttls(context=ssl.create_default_context())
        return server


class Mails:
    """Sends what is due, one mail after the other, from this process."""

    def __init__(self, settings: Settings, database: Database, sealer: Sealer) -> None:
        self._settings = settings
        self._database = database
        self._sealer = sealer
        url = settings.smtp_url
        self._smtp = Smtp(url.get_secret_value()) if url is not None else None
        self.observe: Observe = lambda _: None
        """Is told how long each mail took, in seconds."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to send."""
        if self._smtp is None and self._settings.mode != "sandbox":
            log.warning("mails wait: no server is set (AURA_SMTP_URL)")
            return
        self._task = asyncio.create_task(self._run(), name="mails")

    async def stop(self) -> None:
        """Stops; what is not sent is sent by another process, or by the next one here."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            is_more, began = False, loop.time()
            try:
                is_more = await self._next()
                if is_more:
                    self.observe(loop.time() - began)
            except (IdentityUnavailable, asyncpg.PostgresError) as error:
                log.debug("mails wait: %s", error)
            if not is_more:
                await asyncio.sleep(_LOOK_S)

    async def _next(self) -> bool:
        """Tries one mail; whether there was one. The row stays locked until it is noted what became of it."""
        async with self._database.nobody() as connection:
            row = await repository.take_mail(connection)
            if row is None:
                return False
            user_id, outbox_id = str(row["user_id"]), row["outbox_id"]
            key = await repository.subject_key(connection, user_id)
            again_s, failure = await self._tried(row, user_id, key)
            if failure is not None:
                # Never to whom: that is what the row keeps sealed.
                log.warning("a mail was not sent", extra={"mail": outbox_id, "reason": failure, "again_s": again_s})
            await repository.mail_tried(connection, outbox_id, again_s, failure)
        return True

    async def _tried(self, row: repository.Row, user_id: str, key: bytes | None) -> tuple[float | None, str | None]:
        """When the next try is (None: never) and why the mail was not sent (None: it was)."""
        if key is None:
            return None, "its reader is forgotten"
        try:
            mail = msgspec.json.decode(
                self._sealer.subject(user_id, key).open(row["payload_sealed"], f"mail/{user_id}"), type=Mail
            )
        except Unsealable:
            return _AGAIN_MIN_S, "it cannot be opened"
        if self._smtp is None:
            return None, None  # The mailbox is the row itself.
        sender = self._settings.mail_from
        domain = sender.rpartition("@")[2].rstrip(">") or "localhost"
        message = message_of(
            mail, sender, self._settings.mail_link, f"<{row['outbox_id']}@{domain}>", row["created_at"]
        )
        try:
            async with asyncio.timeout(2 * _SEND_S):
                await asyncio.to_thread(self._smtp.send, message)
        except MailRefused as error:
            return None, str(error)
        except (OSError, TimeoutError, smtplib.SMTPException) as error:
            reason = str(error) if type(error) is OSError else type(error).__name__
            if (datetime.now(UTC) - row["created_at"]).total_seconds() > _GIVE_UP_S:
                return None, reason
            return min(_AGAIN_MIN_S * 3 ** min(row["tries"], 10), _AGAIN_MAX_S), reason
        return None, None
