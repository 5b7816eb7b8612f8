"""Identity as one thing: made from the settings, started and stopped with the API process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import asyncpg

from aura_stream.identity import repository, samples
from aura_stream.identity.administration import ApiKeys, SigningKeys, Tenants, Users
from aura_stream.identity.audit import AuditLog
from aura_stream.identity.authentication import Authentication
from aura_stream.identity.cleanup import Cleanup
from aura_stream.identity.database import Database, IdentityUnavailable
from aura_stream.identity.feed import Feed, Revocation
from aura_stream.identity.keychain import Keychain
from aura_stream.identity.limits import Limits
from aura_stream.identity.logins import Logins
from aura_stream.identity.mails import Mails
from aura_stream.identity.passwords import Busy, Passwords
from aura_stream.identity.privacy import Privacy
from aura_stream.identity.sealing import Sealer
from aura_stream.identity.subjects import Subjects
from aura_stream.identity.tokens import KeyRing, Tokens
from aura_stream.settings import Settings

log = logging.getLogger(__name__)

_LOOK_AT_KEYS_S = 600.0
"""How often it is asked whether the signing key is old."""


class Identity:
    """All of it. Nothing here waits at the start: while Postgres is away nobody is let in, and that is said."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.database = Database(settings.postgres_identity_dsn, settings.pool_size)
        self.ring = KeyRing()
        self.passwords = Passwords(settings.password_threads, settings.password_queue)
        sealer = Sealer()
        self.keychain = Keychain(settings, self.database, sealer)
        tokens = Tokens(
            self.ring, settings.token_issuer, access_s=settings.access_token_s, refresh_s=settings.refresh_token_s
        )
        self.sealer = sealer
        self.subjects = Subjects(sealer)
        self.authentication = Authentication(settings, self.database, tokens, self.subjects)
        self.feed = Feed(self.database, self._forget)
        self.authentication.trust(self.feed)
        self.audit = AuditLog(self.database, self.subjects)
        self.limits = Limits(self.database, sealer)
        self.logins = Logins(
            self.database,
            tokens,
            self.passwords,
            self.feed,
            self.audit,
            sealer,
            self.subjects,
            session_s=settings.session_s,
        )
        self.users = Users(self.database, self.logins, self.passwords, self.feed, self.audit, self.subjects)
        self.privacy = Privacy(self.database, self.feed, self.audit, self.subjects)
        self.tenants = Tenants(self.database, self.feed, self.audit)
        self.api_keys = ApiKeys(self.database, self.feed, self.audit)
        self.signing_keys = SigningKeys(
            self.database,
            self.feed,
            self.audit,
            sealer,
            self.ring,
            # Tokens are looked at for this long after the last was signed.
            life_s=max(settings.refresh_token_s, settings.access_token_s) + 60.0,
            days=settings.signing_key_days,
        )
        self.cleanup = Cleanup(
            self.database,
            answers_s=settings.idempotency_ttl_s,
            ended_s=settings.ended_keep_s,
            interval_s=settings.cleanup_interval_s,
        )
        self.mails = Mails(settings, self.database, sealer)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to connect."""
        self.feed.start()
        self.audit.start()
        self.cleanup.start()
        self.mails.start()
        self._task = asyncio.create_task(self._keep(), name="identity keeper")

    async def stop(self) -> None:
        """Ends all connections and threads."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.logins.stop()
        await self.mails.stop()
        await self.cleanup.stop()
        await self.audit.stop()
        await self.feed.stop()
        await self.database.close()
        self.passwords.close()

    async def _forget(self, revocation: Revocation) -> None:
        if revocation.kind == "signing_keys":
            await self.keychain.load()
            await self.signing_keys.load(time.time())
        # Last, and without a pause before the feed moves on: nothing verified before can be remembered after.
        self.authentication.forget(revocation)

    async def _keep(self) -> None:
        """Makes the tenants that the settings name, then looks at the age of the signing key from time to time."""
        wait_s = 0.5
        while True:
            try:
                for tenant in self._settings.tenants:
                    async with self.database.platform() as connection:
                        await repository.ensure_tenant(connection, tenant, is_of_settings=True)
                await self.keychain.load()
                await self.signing_keys.load(time.time())
                await samples.ensure(self._settings, self.database, self.logins, self.passwords, self.audit)
                wait_s = _LOOK_AT_KEYS_S
            except (IdentityUnavailable, Busy, asyncpg.PostgresError) as error:
                log.warning("identity: no users and keys yet: %s", error)
                wait_s = min(wait_s * 2, 5.0)
            await asyncio.sleep(wait_s)
