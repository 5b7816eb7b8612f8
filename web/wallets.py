"""Opens the account of every new user, once: the user's row and this work are one transaction, Kafka comes after.

The commands of a wallet have keys and ids derived from the user, so that sending them again, by any process, has no
second effect. In the sandbox a wallet starts with money, as a deposit that is confirmed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson

from aura_stream.domain.assets import format_amount
from aura_stream.domain.ids import NAMESPACE, derived_id, id_text, record_key
from aura_stream.identity import repository
from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.identity import Identity
from aura_stream.settings import Settings
from web.command_log import CommandLog
from web.openings import Openings
from web.problems import Problem
from web.recent import Recent
from web.views import instant

log = logging.getLogger(__name__)

ASSET: Final = "EUR"
_BATCH: Final = 50
_LOOK_S: Final = 1.0


class Wallets:
    """The relay from the outbox to the commands' topic, and the wait for a wallet."""

    def __init__(
        self, settings: Settings, identity: Identity, commands: CommandLog, recent: Recent, openings: Openings
    ) -> None:
        self._seed = settings.seed_balance_eur_cents if settings.mode == "sandbox" else 0
        self._identity = identity
        self._commands = commands
        self._recent = recent
        self._openings = openings
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to send."""
        self._task = asyncio.create_task(self._run(), name="wallets")

    async def stop(self) -> None:
        """Stops; what is not sent is sent by another process, or by the next one here."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def opened(self, user: Mapping[str, Any], wait_s: float) -> None:
        """Waits until a new user's wallet is usable, for `wait_s` at most."""
        last = self._commands_of(user["tenant_id"], str(user["user_id"]), user["customer_id"], user["created_at"])[-1]
        with self._recent.waiter(last["id"]) as outcome, contextlib.suppress(TimeoutError):
            self._wake.set()
            async with asyncio.timeout(wait_s):
                await outcome

    async def _run(self) -> None:
        is_broken = False
        while True:
            try:
                count = await self._relay() if self._commands.is_up else 0
                is_broken = False
            except (IdentityUnavailable, Problem) as error:
                if not is_broken:
                    log.warning("wallets wait: %s", error)
                count, is_broken = 0, True
            if count < _BATCH:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._wake.wait()
                self._wake.clear()

    async def _relay(self) -> int:
        """Sends what is left; how many wallets. The rows stay locked until Kafka has the commands."""
        database = self._identity.database
        async with database.nobody() as connection:
            rows = await repository.open_outbox(connection, "wallet", list(self._openings.open), _BATCH)
            records = []
            for row in rows:
                async with database.tenant(row["tenant_id"]) as own:
                    user = await repository.user(own, str(row["user_id"]))
                if user is None:
                    continue
                tenant, customer = user["tenant_id"], user["customer_id"]
                key = record_key(tenant, customer)
                records += [
                    (self._commands.partition_of(key), key, orjson.dumps(command))
                    for command in self._commands_of(tenant, str(user["user_id"]), customer, user["created_at"])
                ]
            if records:
                await self._commands.append_many(records, [("aura-source", b"wallet")])
            for row in rows:
                await repository.finish_outbox(connection, row["outbox_id"])
        return len(rows)

    def _commands_of(self, tenant: str, user_id: str, customer: str, at: datetime) -> list[dict[str, Any]]:
        """The commands that make a wallet, in order; the same whenever they are asked for."""
        keys = {step: str(uuid.uuid5(NAMESPACE, f"wallet/{user_id}/{step}")) for step in ("open", "seed", "confirm")}
        steps: list[tuple[str, str, dict[str, str]]] = [("account.open", "open", {"asset": ASSET})]
        if self._seed:
            deposit = id_text(derived_id(tenant, customer, keys["seed"]))
            amount = format_amount(self._seed, ASSET)
            steps += [
                ("deposit.submit", "seed", {"account_id": f"{customer}:{ASSET}", "amount": amount}),
                ("deposit.confirm", "confirm", {"transaction_id": deposit}),
            ]
        return [
            {
                "id": str(uuid.uuid5(NAMESPACE, f"wallet/{user_id}/{step}/command")),
                "type": type_,
                "tenant": tenant,
                "customer": customer,
                "idempotency_key": keys[step],
                "issued_at": instant(at),
                "data": data,
            }
            for type_, step, data in steps
        ]
