"""Settlements: how many per second through a bank and a chain, and whether a bank that hangs slows another one down.

Banks are the mock bank, which costs CPU as any process here; the chain is the local node, a block every second.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from aura_stream import SetupError
from aura_stream.bench.figures import latency
from aura_stream.bench.kafka import produce
from aura_stream.bench.loads import TENANT, Command, by_partition, command_id, current, customer, encoded
from aura_stream.bench.machine import Meter, cpu_s
from aura_stream.chain.rpc import ChainError, ChainNode
from aura_stream.chain.setup import token_address
from aura_stream.chain.signer import derived, load_key
from aura_stream.domain.ids import bank_reference, derived_id, id_text
from aura_stream.ledger.connection import READER, connect

if TYPE_CHECKING:
    from aura_stream.bench.run import Bench

RATE: Final = 10.0
"""Payouts a second to the bank that is well, and collections from the bank that hangs: both far below what it can."""
CUSTOMERS: Final = 100
WARM_UP_SHARE: Final = 20
MINTED: Final = "AEUR"
LIMITS: Final = {
    "answer_ms": 2_000,
    "open_ms": 1_000,
    "inquire_every_ms": 500,
    "backoff_ms": 200,
    "inquiries": 100,
    "longest_delay_ms": 3_000,  # true of a bank that hangs: it does nothing with what it takes
}
"""So that the lane of the bank that hangs gives up, opens and tries again often: more work than with the usual ones."""
STALL_S: Final = 60.0
TURNS: Final = {"alone": "", "quiet": "calm", "hanging": "hanging"}
"""How bank-a is in each turn of a round; "" = nothing is asked of it."""
_IBAN: Final = "DE89370400440532013000"
_PUSHERS: Final = 8
_TOOK = """
SELECT extract(epoch FROM a.ended_at - t.created_at)::float8 * 1e6 FROM settlement.attempts a
JOIN ledger.transactions t USING (transaction_id)
WHERE a.transaction_id = ANY($1::uuid[]) AND a.kind = 'submit' AND a.answer IN ('accepted', 'settled')
"""
_UNANSWERED = "SELECT count(*) FROM settlement.attempts WHERE lane = 'bank:bank-a' AND answer = 'lost'"
_LEFT = "SELECT count(*) FROM ledger.transactions WHERE transaction_id = ANY($1::uuid[]) AND state = ANY($2)"
_HISTORY = "SELECT history FROM ledger.transactions WHERE transaction_id = ANY($1::uuid[])"


async def isolation(bench: Bench) -> None:
    """Payouts by bank-b while nothing is asked of bank-a, while it answers, and while it takes every call and answers
    none, in turns.

    Collections go to bank-a in the last two, so that these differ by nothing but bank-a.
    """
    async with Town(bench, chain=False) as town:
        count = bench.options.settlements
        await town.open_accounts("USD")
        await town.banks("POST", "/v1/simulate/banks/bank-b/incoming", town.money("1000000.00", "the bench's"))
        await town.payouts(max(10, count // WARM_UP_SHARE))
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in TURNS}
        for number in range(bench.options.turns):
            for name, profile in TURNS.items():
                await town.banks("PUT", "/v1/simulate/banks/bank-a/profile", {"name": profile or "calm"})
                collecting = asyncio.create_task(town.collections(count if profile else 0))
                turns[name].append(await town.payouts(count))
                await town.banks("PUT", "/v1/simulate/banks/bank-a/profile", {"name": "calm"})
                await town.until_left(await collecting, ("submitting",))
            calls = await town.fetch(_UNANSWERED)
            bench.say(
                f"round {number + 1}: payouts by bank-b p50 "
                + ", ".join(f"{found[-1]['p50_ms']:.1f} ms {name}" for name, found in turns.items())
                + f" ({calls[0][0]} calls to bank-a without an answer so far)"
            )
        hanging = [one["p50_ms"] for one in turns["hanging"]]
        ratios = {
            name: [one / other["p50_ms"] for one, other in zip(hanging, turns[name], strict=True)]
            for name in ("alone", "quiet")
        }
        bench.results.isolation = {
            "count": count,
            "rate": RATE,
            **turns,
            "ratios": ratios["quiet"],
            "ratio": median(ratios["quiet"]),
            "ratio_alone": median(ratios["alone"]),
            "without_answer": calls[0][0],
        }


async def settlements(bench: Bench) -> None:
    """Money in by SCT Inst and minted, and tokens burnt and paid out: each a backlog, until the last has ended."""
    async with Town(bench, chain=True) as town:
        count = bench.options.settlements
        await town.open_accounts(MINTED)
        for asked in (count // WARM_UP_SHARE, count):  # the first does not count
            if asked:
                found = [await town.deposits(asked), await town.withdrawals(asked)]
        bench.results.settlements = {"count": count, "runs": found}
        for run in found:
            bench.say(
                f"{run['what']}: {run['per_second']:.1f} settlements/s, cores "
                + ", ".join(f"{name} {cores:.2f}" for name, cores in run["cores"].items())
            )


class Town:
    """A fresh ledger with connectors, banks and, if wanted, a chain; the roles end with the block."""

    def __init__(self, bench: Bench, *, chain: bool) -> None:
        self._bench, self._with_chain = bench, chain
        self._numbers = itertools.count()

    async def __aenter__(self) -> Town:
        bench = self._bench
        await bench.fresh(bench.options.partitions)
        if not any(process.name == "mock-bank" for process in bench.stack.roles.processes):
            await asyncio.to_thread(bench.stack.start_mock_bank)
        env = {
            "AURA_BANK_LIMITS": json.dumps(dict.fromkeys(("bank-a", "bank-b"), LIMITS)),
            "AURA_CHAIN_RPC_URL": bench.stack.chain.rpc_url,
            "AURA_LOG_LEVEL": "WARNING",
        }
        starting = [bench.start("api", 1), bench.start("bank", 1, env=env)]
        if self._with_chain:
            await asyncio.to_thread(bench.stack.chain.start)
            starting.append(bench.start("chain", 1, env=env))
        await asyncio.gather(*starting)
        known = json.loads((bench.stack.home / "mock-bank" / "credentials.json").read_text())
        self._url = known["url"]
        self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {known['operator_token']}"})
        self._reader = await connect(
            bench.stack.environment()["AURA_POSTGRES_READ_DSN"], READER, application_name="aura bench"
        )
        if self._with_chain:
            await self._token_is_there()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._reader.close(timeout=5)
        for role in ("api", "bank", "chain"):
            self._bench.stop(role)

    # --- asking ------------------------------------------------------------------------------------------------------

    async def banks(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """The banks' operator does something."""
        async with self._session.request(method, self._url + path, json=body) as answer:
            found = await answer.json()
            if answer.status >= 300:
                raise SetupError("The mock bank refuses.", where=path, why=str(found), fix="report it")
            return found

    def money(self, amount: str, reference: str) -> dict[str, Any]:
        """A payment to us."""
        return {
            "account_id": "trust-eur",
            "amount": amount,
            "rail": "sepa_instant",
            "reference": reference,
            "sender": {"name": "Alice Example"},
        }

    async def fetch(self, sql: str, *arguments: object) -> list[Any]:
        """Rows."""
        return list(await self._reader.fetch(sql, *arguments))

    async def open_accounts(self, asset: str) -> None:
        """Accounts for what is paid with."""
        section = next(self._bench.sections)
        opened = (
            encoded(section, number, "account.open", customer(number), json.dumps({"asset": asset}))
            for number in range(CUSTOMERS)
        )
        await produce(self._bench.bootstrap, by_partition(opened, self._bench.partitions))

    def _commands(self, type_: str, count: int, data: Callable[[str], dict[str, Any]]) -> list[tuple[str, Command]]:
        """Commands of customers in turns, each with the id of its transaction."""
        section, found = next(self._bench.sections), []
        for index in range(count):
            name = customer(index % CUSTOMERS)
            id_ = id_text(derived_id(TENANT, name, command_id(section, index)))
            found.append((id_, encoded(section, index, type_, name, json.dumps(data(name)))))
        return found

    async def _send(self, commands: Sequence[tuple[str, Command]]) -> list[str]:
        chosen = by_partition(iter([command for _, command in commands]), self._bench.partitions)
        await produce(self._bench.bootstrap, chosen)
        return [id_ for id_, _ in commands]

    async def _send_paced(self, commands: Sequence[tuple[str, Command]]) -> list[str]:
        began, sent = time.monotonic(), 0
        while sent < len(commands):
            due = min(len(commands), int((time.monotonic() - began) * RATE) + 1)
            if due > sent:
                await self._send(commands[sent:due])
                sent = due
            await asyncio.sleep(0.01)
        return [id_ for id_, _ in commands]

    async def payouts(self, count: int) -> dict[str, Any]:
        """Payouts by bank-b at a fixed rate: from Kafka's stamp of each command to the bank's word in its lane, ms."""

        def data(name: str) -> dict[str, Any]:
            party = {"name": "Bob Example", "account": _IBAN}
            asked = {"account_id": current(name), "amount": "1.00", "rail": "sepa_instant"}
            return asked | {"beneficiary": party}

        ids = await self._send_paced(self._commands("withdrawal.submit", count, data))
        took: list[float] = []

        async def left() -> int:
            took[:] = [row[0] for row in await self._reader.fetch(_TOOK, ids)]
            return count - len(took)

        await self._until(left, f"{count} payouts by bank-b")
        found = latency(took)
        assert found is not None
        return asdict(found)

    async def collections(self, count: int) -> list[str]:
        """Debits that bank-a shall collect, at the same rate."""

        def data(name: str) -> dict[str, Any]:
            payer = {"name": "Bob Example", "account": "021000021/123456789"}
            return {"account_id": f"{name}:USD", "amount": "1.00", "rail": "ach", "payer": payer}

        return await self._send_paced(self._commands("deposit.submit", count, data))

    # --- settling ----------------------------------------------------------------------------------------------------

    async def deposits(self, count: int) -> dict[str, Any]:
        """Pushes that are minted, timed from the first payer's order on."""

        def data(name: str) -> dict[str, Any]:
            asked = {"account_id": current(name), "amount": "10.00", "rail": "sepa_instant"}
            return asked | {"mint_to": f"{name}:{MINTED}"}

        ids = await self._send(self._commands("deposit.submit", count, data))
        await self.until_there(ids, "awaiting_funds")

        async def pay() -> None:
            waiting = iter(ids)

            async def payer() -> None:
                for id_ in waiting:
                    reference = bank_reference(id_, "deposit")
                    await self.banks("POST", "/v1/simulate/banks/bank-b/incoming", self.money("10.00", reference))

            await asyncio.gather(*(payer() for _ in range(_PUSHERS)))

        return await self._timed("paid by SCT Inst and minted", ids, pay())

    async def withdrawals(self, count: int) -> dict[str, Any]:
        """Tokens that are burnt and paid out, timed from the first command on."""

        def data(name: str) -> dict[str, Any]:
            asked = {"account_id": f"{name}:{MINTED}", "amount": "1.00", "rail": "sepa_instant"}
            return asked | {"beneficiary": {"name": "Bob Example", "account": _IBAN}}

        commands = self._commands("withdrawal.submit", count, data)
        return await self._timed("burnt and paid by SCT Inst", [id_ for id_, _ in commands], self._send(commands))

    async def _timed(self, what: str, ids: list[str], begin: Any) -> dict[str, Any]:
        meter, began = self._meter(), time.monotonic()
        await begin
        asked_s = time.monotonic() - began
        await self.until_there(ids, "completed")
        seconds, cpu = time.monotonic() - began, meter.read()
        rows = await self._reader.fetch(_HISTORY, ids)
        processes = {name: used for name, used in cpu.items() if not name.endswith("_percent")}
        return {
            "what": what,
            "count": len(ids),
            "seconds": seconds,
            "asked_s": asked_s,
            "per_second": len(ids) / seconds,
            "cpu": cpu,
            "cores": {name: used / seconds for name, used in processes.items()},
            "waits_ms": dict(waits(json.loads(row["history"]) for row in rows)),
        }

    def _meter(self) -> Meter:
        bench = self._bench
        sources: dict[str, Callable[[], float]] = {
            role: lambda processes=processes: sum(cpu_s(one.pid) for one in processes)  # type: ignore[misc]
            for role, processes in bench.roles.items()
        }
        bank = next(one for one in bench.stack.roles.processes if one.name == "mock-bank")
        return Meter(
            sources
            | {
                "mock bank": lambda: cpu_s(bank.pid),
                "chain's node": lambda: cpu_s(bench.stack.chain.process.pid),
                "kafka": lambda: cpu_s(bench.stack.kafka.pid),
                "postgres": lambda: cpu_s(bench.stack.postgres.pid, family=True),
            }
        )

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def until_there(self, ids: list[str], state: str) -> None:
        """Until all are in a state."""

        async def left() -> int:
            return len(ids) - int(await self._reader.fetchval(_LEFT, ids, [state]))

        await self._until(left, f"{len(ids)} settlements that are {state}")

    async def until_left(self, ids: list[str], states: tuple[str, ...]) -> None:
        """Until all are there, and in none of the states."""

        async def left() -> int:
            missing = len(ids) - int(
                await self._reader.fetchval(
                    "SELECT count(*) FROM ledger.transactions WHERE transaction_id = ANY($1)", ids
                )
            )
            return missing + int(await self._reader.fetchval(_LEFT, ids, list(states)))

        await self._until(left, f"{len(ids)} settlements that are no longer {' or '.join(states)}")

    async def _until(self, left: Callable[[], Any], what: str) -> None:
        fewest, moved_at = None, time.monotonic()
        while missing := await left():
            if fewest is None or missing < fewest:
                fewest, moved_at = missing, time.monotonic()
            if time.monotonic() - moved_at > STALL_S:
                raise SetupError(
                    f"The benchmark waited in vain for {what}.",
                    where="ledger.transactions",
                    why=f"{missing} are left, and nothing has moved for {STALL_S:g} s",
                    fix="read the logs of bank, chain and ledger in the directory of the run (--keep)",
                )
            await asyncio.sleep(0.05)

    async def _token_is_there(self) -> None:
        settings = self._bench.settings
        address = token_address(derived(load_key(settings), MINTED))
        give_up = time.monotonic() + STALL_S
        async with ChainNode(self._bench.stack.chain.rpc_url) as node:
            while True:
                try:
                    await node.total_supply(address, "latest")
                    return
                except ChainError as error:
                    if time.monotonic() > give_up:
                        raise SetupError(
                            "The token was not put on the chain.", where=address, why=str(error), fix="run with --keep"
                        ) from error
                await asyncio.sleep(0.2)


def waits(histories: Iterator[Sequence[Mapping[str, Any]]]) -> Iterator[tuple[str, float]]:
    """How long settlements stay in each state, in the order of the states: medians in ms."""
    found: dict[str, list[float]] = {}
    for events in histories:
        for one, following in itertools.pairwise(events):
            found.setdefault(one["state"], []).append(following["at"] - one["at"])
    for state, took in found.items():
        yield state, median(took)


__all__ = ["isolation", "settlements", "waits"]
