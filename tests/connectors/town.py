"""A whole town on ports of its own: ledger, sink, API, the two connectors, the mock bank and a chain, all real."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from aura_stream.chain.rpc import ChainError, ChainNode
from aura_stream.chain.setup import token_address
from aura_stream.chain.signer import derived, load_key
from aura_stream.embedded.anvil import AnvilServer
from aura_stream.embedded.processes import Process, free_port
from tests.e2e.client import COMMANDS, NAMESPACE, partition_of
from tests.e2e.stack import PARTITIONS, E2EStack, eventually

LIMITS = {
    "backoff_ms": 200,
    "answer_ms": 2_000,
    "open_ms": 2_000,
    "inquire_every_ms": 500,
    "inquiries": 20,
    "longest_delay_ms": 4_000,
}
"""Of both banks: a sandbox's patience, so that a test sees in seconds what takes minutes. The bank's own longest delay
is shortened to fit by no one, so tests that need `late` say so."""

SOON_S = 60.0


class Town(E2EStack):
    """The stack with banks and a chain. `env` goes to every role."""

    def __init__(self, home: Path, *, limits: Mapping[str, int] = LIMITS) -> None:
        super().__init__(home, mock_bank_port=free_port(), chain_port=free_port())
        self.env = {
            "AURA_BANK_LIMITS": json.dumps({"bank-a": limits, "bank-b": limits}),
            "AURA_BANK_POLL_S": "0.5",
            "AURA_CHAIN_RPC_URL": f"http://127.0.0.1:{self.settings.chain_port}",
            "AURA_CHAIN_CONFIRMATIONS": "2",
        }
        self.anvil = AnvilServer(home / "chain", self.settings.chain_port, block_time_s=0.25, tied=True)
        self.bank: Process | None = None

    def launch(self, role: str, slot: int = 0, **more: Any) -> Process:
        """As of any stack, with what connectors need to know."""
        return super().launch(role, slot, **{**self.env, **more})

    def open(self) -> None:
        """Starts everything."""
        self.start_services()
        self.bank = self.local.start_mock_bank()
        self.anvil.start()
        started = [self.launch(role) for role in ("ledger", "sink", "bank", "chain", "api")]
        for process in started:
            process.wait_ready(60.0)
        asyncio.run(self._settle_in())

    async def _settle_in(self) -> None:
        """The connector puts the tokens on the chain at its first look."""

        async def missing() -> str:
            try:
                return "" if [await self.supply(token) for token in ("AEUR", "AUSD")] else "?"
            except ChainError as error:
                return str(error)

        await eventually(missing, SOON_S, "the tokens are on the chain", lambda: self.logs(40))

    def close(self) -> None:
        """Ends everything."""
        super().close()
        self.anvil.stop()

    # --- the ledger's doors ------------------------------------------------------------------------------------------

    async def send(self, type_: str, customer: str, data: dict[str, Any], key: str = "") -> str:
        """Writes one command to the public topic; the id of the transaction that it begins."""
        key = key or uuid.uuid4().hex
        command = {
            "id": str(uuid.uuid4()),
            "type": type_,
            "tenant": "default",
            "customer": customer,
            "idempotency_key": key,
            "issued_at": "2026-11-20T10:00:00Z",
            "data": data,
        }
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all")
        await producer.start()
        try:
            record_key = f"default/{customer}".encode()
            where = partition_of("default", customer)
            await producer.send_and_wait(COMMANDS, json.dumps(command).encode(), record_key, where)
        finally:
            await producer.stop()
        return str(uuid.uuid5(NAMESPACE, f"default/{customer}/{key}"))

    async def customer(self, name: str, *assets: str) -> None:
        """A customer with accounts."""
        for asset in assets:
            await self.send("account.open", name, {"asset": asset})

    async def transaction(self, id_: str) -> tuple[str, str, str]:
        """Status, state and reason ("": none) of a transaction as Postgres has it; empty texts when it is not there."""
        sql = "SELECT status, state, coalesce(reason, '') FROM ledger.transactions WHERE transaction_id = $1"
        rows = await self.fetch(sql, id_)
        return tuple(rows[0]) if rows else ("", "", "")

    async def reaches(self, id_: str, *wanted: str, within_s: float = SOON_S) -> None:
        """Waits until a transaction is in one of the states."""

        async def missing() -> str:
            found = await self.transaction(id_)
            return "" if found[1] in wanted else f"{id_} is {found}"

        await eventually(missing, within_s, f"it is {' or '.join(wanted)}", lambda: self.logs(40))

    async def balance(self, account: str) -> int:
        """What is available, in minor units."""
        rows = await self.fetch("SELECT available FROM ledger.balance_as_of('default', $1)", account)
        return int(rows[0]["available"] or 0) if rows else 0

    async def attempts(self, id_: str) -> list[dict[str, Any]]:
        """The attempts of a transaction, in their order."""
        rows = await self.fetch(
            "SELECT * FROM settlement.attempts WHERE transaction_id = $1 ORDER BY started_at, number", id_
        )
        return [dict(row) for row in rows]

    async def metrics(self, name: str) -> dict[tuple[str, ...], float]:
        """What a connector tells Prometheus: values by name and its labels' values, in the order of their names."""
        port = json.loads(self.processes[name].ready_file.read_text())["web_port"]
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.status == 200
            families = text_string_to_metric_families(await answer.text())
            samples = [one for family in families for one in family.samples]
            return {(one.name, *(one.labels[name] for name in sorted(one.labels))): one.value for one in samples}

    async def told_of(self, lane: str) -> list[str]:
        """Types of the events about a lane, in their order: this town has nobody who sends them on."""
        rows = await self.fetch("SELECT type FROM events.outbox WHERE data ->> 'lane' = $1 ORDER BY outbox_id", lane)
        return [row["type"] for row in rows]

    async def events(self) -> list[dict[str, Any]]:
        """All events of transactions."""
        places = [TopicPartition("aura.transaction-events.v1", number) for number in range(PARTITIONS)]
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, isolation_level="read_committed")
        await consumer.start()
        try:
            consumer.assign(places)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(places)
            found: list[dict[str, Any]] = []
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += [json.loads(record.value) for record in records]
            return found
        finally:
            await consumer.stop()

    async def http(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """An answer of the API that is none of a refusal."""
        headers = {"Authorization": f"Bearer {self.environment['AURA_API_KEY']}", "Aura-Tenant": "default"}
        headers |= {"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, self.settings.api_url + path, json=body) as answer,
        ):
            found = await answer.json()
            assert answer.status in (200, 201, 202), found
            return found

    # --- the chain ----------------------------------------------------------------------------------------------------

    async def supply(self, token: str) -> int:
        """Units of a token that the chain itself knows."""
        key = derived(load_key(self.settings), token)
        async with ChainNode(self.anvil.rpc_url) as node:
            return await node.total_supply(token_address(key), "latest")

    # --- the bank's own doors ----------------------------------------------------------------------------------------

    async def operator(self, method: str, path: str, body: Any = None) -> Any:
        """A call with the mock bank's operator's token."""
        known = json.loads((self.local.home / "mock-bank" / "credentials.json").read_text())
        headers = {"Authorization": f"Bearer {known['operator_token']}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, known["url"] + path, json=body, headers=headers) as answer,
        ):
            found = await answer.json()
            assert answer.status < 300, found
            return found

    async def push(self, reference: str, amount: str, rail: str = "sepa_instant", bank: str = "bank-b") -> None:
        """Somebody sends money to the client."""
        currency = "usd" if rail == "ach" else "eur"
        body = {
            "account_id": f"trust-{currency}",
            "amount": amount,
            "rail": rail,
            "reference": reference,
            "sender": {"name": "Alice Example"},
        }
        await self.operator("POST", f"/v1/simulate/banks/{bank}/incoming", body)

    async def pass_time(self, seconds: int) -> None:
        """Lets the banks' time pass."""
        await self.operator("POST", "/v1/simulate/clock", {"advance_s": seconds})

    async def at_bank(self, bank: str, reference: str) -> dict[str, Any]:
        """What the bank's own books say about a reference."""
        known = await self.operator("GET", f"/v1/simulate/banks/{bank}/books/references")
        rows = known["references"] if isinstance(known, dict) else known
        return next((row for row in rows if row["reference"] == reference), {})


async def soon(missing: Any, what: str, town: Town, within_s: float = SOON_S) -> None:
    """Waits for something of the town."""
    await eventually(missing, within_s, what, lambda: town.logs(40))


__all__ = ["LIMITS", "Town", "asyncio", "soon"]
