"""The outside: sends a mixed load through both doors and journals what it asked for and what it was told.

The journal is kept apart from the system: it is what the invariants hold the system to. What is sent follows from the
seed; what an intent may lead to (`may`) and what it moves is known here, computed by nothing of the product.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from tests.e2e.stack import PARTITIONS, until

COMMANDS = "aura.commands.v1"
NAMESPACE = uuid.UUID("6f0f7f6e-8f5b-5d0c-9a57-0c1f6a3f5a10")
"""As published; not imported, so that a change of it is noticed."""
SCALES = {"EUR": 2, "JPY": 0, "BTC": 8}
FAR = "2199-01-01T00:00:00Z"
CUSTOMERS = tuple(f"c{number}" for number in range(8))
TENANTS = ("default", "demo")
HTTP_GIVE_UP_S = 90.0
IN_PROGRESS = "idempotency_in_progress"

Door = Literal["kafka", "http"]


def partition_of(tenant: str, customer: str) -> int:
    """Where a customer's commands belong: the rule of Kafka's Java client."""
    return int((murmur2(f"{tenant}/{customer}".encode()) & 0x7FFFFFFF) % PARTITIONS)


@dataclass(slots=True)
class Attempt:
    """One time that something was sent, and what came back. Times are monotonic seconds."""

    door: Door
    began: float
    command_id: str = ""  # "" when the API made it and did not tell
    ended: float = 0.0  # 0 while nothing is known
    partition: int = -1  # where Kafka acknowledged it
    offset: int = -1
    value: bytes | None = b""
    status: int = 0  # of HTTP; 0 when no answer came
    body: dict[str, Any] = field(default_factory=dict)
    retry_after: str | None = None
    replayed: bool = False

    @property
    def acknowledged(self) -> bool:
        """Whether the system has taken responsibility: Kafka's acknowledgement, or an outcome over HTTP."""
        if self.door == "kafka":
            return self.offset >= 0
        return self.status in (200, 201, 202) or self.decided

    @property
    def decided(self) -> bool:
        """Whether it is an HTTP answer that will not change: the outcome, or a refusal by business."""
        if self.door != "http" or self.status in (0, 202, 400, 401, 503):
            return False
        return self.body.get("code") != IN_PROGRESS


@dataclass(slots=True)
class Intent:
    """Something that is wanted, once, however often it is sent: a command and what it may lead to.

    `may`: of a submit `status/state` with `:reason`; of an action or an account command `done` or `refused:reason`.
    """

    type: str
    tenant: str
    customer: str
    key: str
    data: dict[str, Any]
    may: frozenset[str]
    times: int = 1
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def submits(self) -> bool:
        """Whether it makes a transaction."""
        return self.type in ("deposit.submit", "transfer.submit", "hold.place", "withdrawal.submit")

    @property
    def by_bank(self) -> bool:
        """Whether a bank has a part in it."""
        return "rail" in self.data

    @property
    def transaction_id(self) -> str:
        """The transaction that it makes or acts upon."""
        if not self.submits:
            return str(self.data.get("transaction_id", ""))
        return str(uuid.uuid5(NAMESPACE, f"{self.tenant}/{self.customer}/{self.key}"))

    @property
    def address(self) -> tuple[str, str, str]:
        """The scope of idempotency."""
        return self.tenant, self.customer, self.key

    def minor(self, amount: str | None = None) -> int:
        """Its amount, or another of the same asset, in minor units."""
        account = str(self.data.get("account_id") or self.data["from_account_id"])
        return minor(amount if amount is not None else str(self.data["amount"]), account.split(":")[1])


@dataclass(slots=True)
class Malformed:
    """Bytes that are no command, and the reason with which they must end as a dead letter."""

    key: bytes | None
    value: bytes | None
    partition: int
    reason: str
    attempt: Attempt | None = None


@dataclass(slots=True)
class Read:
    """One read of a transaction over HTTP."""

    transaction_id: str
    began: float
    ended: float
    code: int
    seq: int = 0
    status: str = ""
    problem: str = ""
    retry_after: str | None = None


def minor(amount: str, asset: str) -> int:
    """Minor units of a decimal string, by text alone."""
    whole, _, places = amount.partition(".")
    return int(whole + places.ljust(SCALES[asset], "0"))


def major(units: int, asset: str) -> str:
    """The decimal string of minor units."""
    scale = SCALES[asset]
    digits = str(units).rjust(scale + 1, "0")
    return f"{digits[:-scale]}.{digits[-scale:]}" if scale else digits


Story = list[Intent | Malformed]


class History:
    """What a client wants, asks and is told, on disk before it goes on: its witness, should the client itself die."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def note(self, kind: str, *values: Any, sync: bool = True) -> None:
        """One line."""
        self._file.write(json.dumps([kind, *values], default=_plain).encode() + b"\n")
        if sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends it."""
        self._file.close()


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{value!r} has no place in a history")


def _object(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value


class Client:
    """Sends stories (a few intents that belong together) and remembers everything, in a history on disk if one is set.

    :meth:`recall` makes a client anew from such a history: it knows all that the first one did.
    """

    def __init__(
        self,
        bootstrap: str,
        api_url: str,
        api_key: str,
        *,
        seed: int,
        http_share: float = 0.25,
        history: History | None = None,
    ) -> None:
        self.history = history
        self.bootstrap, self.api_url, self.seed, self.http_share = bootstrap, api_url, seed, http_share
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self.random = random.Random(seed)
        self.intents: list[Intent] = []
        self.malformed: list[Malformed] = []
        self.reads: list[Read] = []
        self.answers: Counter[int] = Counter()
        self.acknowledged = 0
        self._producer: Any = None
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(6)
        self._load: asyncio.Task[None] | None = None
        self._numbers: dict[int, int] = {}  # where an intent or malformed bytes stand in their list, by identity

    # --- the history -----------------------------------------------------------------------------------------------

    def recall(self, path: Path) -> None:
        """Takes over what another client has noted."""
        for line in path.read_bytes().splitlines():
            kind, *values = json.loads(line, object_hook=_object)
            if kind == "intent":
                self.intents.append(Intent(**(values[0] | {"may": frozenset(values[0]["may"]), "attempts": []})))
            elif kind == "attempt":
                number, place, attempt = values
                attempts = self.intents[number].attempts
                attempts[place : place + 1] = [Attempt(**attempt)]
            elif kind == "malformed":
                number, malformed = values
                attempt = Attempt(**malformed.pop("attempt"))
                self.malformed[number : number + 1] = [Malformed(**malformed, attempt=attempt)]
            else:
                self.reads.append(Read(**values[0]))

    def _remember(self, intent: Intent, attempt: Attempt) -> None:
        if self.history is not None:
            number = self._numbers[id(intent)]
            self.history.note("attempt", number, intent.attempts.index(attempt), asdict(attempt))

    def _remember_malformed(self, one: Malformed) -> None:
        if self.history is not None:
            self.history.note("malformed", self._numbers[id(one)], asdict(one))

    # --- sending ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """A producer and a session for what is sent inside; at the end all has got through."""
        if self._producer is not None:
            yield
            return
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            enable_idempotence=True,
            linger_ms=2,
            # Patient: the steps of a story must arrive in their order, all of them, however long a broker is away.
            request_timeout_ms=120_000,
            metadata_max_age_ms=5_000,
            # So that what is too large is refused by the broker and not here.
            max_request_size=32 << 20,
        )
        self._slots = asyncio.Semaphore(6)
        try:
            await producer.start()
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=40)) as session:
                self._producer, self._session = producer, session
                yield
                await producer.flush()
        finally:
            self._producer = self._session = None
            await producer.stop()

    async def load(self, stories: int, *, per_second: float = 100.0, reading: bool = True) -> None:
        """Sends so many stories at a pace, waits for what HTTP answers, and reads transactions meanwhile."""
        async with self.connected():
            stop = asyncio.Event()
            reader = asyncio.create_task(self._read_on(stop)) if reading else None
            try:
                await self._tell_many(per_second, lambda told: told < stories)
            finally:
                stop.set()
                if reader is not None:
                    await reader

    @asynccontextmanager
    async def loading(self, *, per_second: float = 30.0) -> AsyncIterator[None]:
        """Load for as long as the block takes, however slow the machine is; at its end all has been answered."""
        async with self.connected():
            stop = asyncio.Event()
            reader = asyncio.create_task(self._read_on(stop))
            self._load = asyncio.create_task(self._tell_many(per_second, lambda _: not stop.is_set()))
            try:
                yield
            finally:
                stop.set()
                await asyncio.gather(reader, self._load)
                self._load = None

    async def _tell_many(self, per_second: float, goes_on: Callable[[int], bool]) -> None:
        waiting: list[asyncio.Task[None]] = []
        told = 0
        while goes_on(told):
            door: Door = "http" if self.random.random() < self.http_share else "kafka"
            story = self.story(door)
            if door == "http":
                waiting.append(asyncio.create_task(self.tell(story, door)))
            else:
                await self.tell(story, door)
            told += 1
            await asyncio.sleep(1 / per_second)  # the pace of the load
        await asyncio.gather(*waiting)

    async def prepare(self) -> None:
        """Opens the accounts of all customers and puts money on them: before anything else, and to be waited for."""
        async with self.connected():
            for tenant in TENANTS:
                for customer in CUSTOMERS:
                    for asset, name in (("EUR", ""), ("EUR", "save"), ("JPY", ""), ("BTC", "")):
                        await self.put(self.open(tenant, customer, asset, name))
                        if not name:
                            units = 50_000 if tenant == "default" else 30_000
                            for intent in self.paid_in(tenant, customer, asset, units):
                                await self.put(intent)

    async def tell(self, story: Story, door: Door) -> None:
        """Sends the steps of a story in order."""
        if door == "http":
            async with self._slots:
                for step in story:
                    assert isinstance(step, Intent)
                    for _ in range(step.times):
                        await self.post(step)
            return
        for step in story:
            if isinstance(step, Malformed):
                await self.put_raw(step)
            else:
                for _ in range(step.times):
                    await self.put(step)

    async def put(self, intent: Intent, *, command_id: str = "") -> Attempt:
        """Sends it to Kafka; the acknowledgement is noted when it comes."""
        self._note(intent)
        # The same intent repeated is the same bytes: the id too.
        first = next((one for one in intent.attempts if one.door == "kafka"), None)
        command_id = command_id or (first.command_id if first else self._uuid())
        value = envelope(intent, command_id)
        attempt = Attempt("kafka", time.monotonic(), command_id, value=value)
        intent.attempts.append(attempt)
        self._remember(intent, attempt)
        key = f"{intent.tenant}/{intent.customer}".encode()
        await self._send(attempt, key, value, None, lambda: self._remember(intent, attempt))
        return attempt

    async def flood(self, each: int) -> list[Intent]:
        """A backlog in every partition: a transfer, `each` repeats of its bytes, and a transfer behind them.

        Only the transfers are journaled: that each repeat was read and answered, the records of the log tell.
        """
        assert self._producer is not None, "inside `connected` only"
        ends: list[Intent] = []
        for partition in range(PARTITIONS):
            customer = next(one for one in CUSTOMERS if partition_of("default", one) == partition)
            first, last = (
                self.transfer(
                    "default", f"{customer}:EUR", f"{customer}:EUR:save", "0.01", "completed/completed",
                    "failed/refused:insufficient_funds",
                )
                for _ in range(2)
            )  # fmt: skip
            value = (await self.put(first)).value
            for _ in range(each):
                await self._producer.send(COMMANDS, value, f"default/{customer}".encode())
            await self.put(last)
            ends += [first, last]
        await self._producer.flush()
        return ends

    async def put_raw(self, bytes_: Malformed) -> None:
        """Sends bytes to a partition as they are."""
        self._numbers[id(bytes_)] = len(self.malformed)
        self.malformed.append(bytes_)
        bytes_.attempt = Attempt("kafka", time.monotonic(), value=bytes_.value)
        self._remember_malformed(bytes_)

        def remember() -> None:
            self._remember_malformed(bytes_)

        await self._send(bytes_.attempt, bytes_.key, bytes_.value, bytes_.partition, remember)

    async def _send(
        self,
        attempt: Attempt,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        remember: Callable[[], None],
    ) -> None:
        assert self._producer is not None, "inside `connected` only"
        try:
            future = await self._producer.send(COMMANDS, value, key, partition)
        except KafkaError:
            return  # not known: it may be there or not

        def acknowledged(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and done.exception() is None:
                attempt.ended = time.monotonic()
                attempt.partition, attempt.offset = done.result().partition, done.result().offset
                remember()
                self.acknowledged += 1

        future.add_done_callback(acknowledged)

    async def post(self, intent: Intent, *, retry: bool = True, wait: str = "") -> Attempt:
        """Sends it to the API, again with the same key until there is an answer that says what became of it."""
        assert self._session is not None, "inside `connected` only"
        self._note(intent)
        path, body = _http(intent)
        headers = self._headers | {"Idempotency-Key": intent.key, "Aura-Tenant": intent.tenant}
        if wait:
            headers["Prefer"] = wait
        give_up = time.monotonic() + HTTP_GIVE_UP_S
        while True:
            attempt = Attempt("http", time.monotonic())
            intent.attempts.append(attempt)
            self._remember(intent, attempt)
            try:
                async with self._session.post(self.api_url + path, json=body, headers=headers) as answer:
                    attempt.body = await answer.json(content_type=None)
                    attempt.status = answer.status
                    attempt.retry_after = answer.headers.get("Retry-After")
                    attempt.replayed = answer.headers.get("Idempotent-Replayed") == "true"
                    attempt.command_id = str(attempt.body.get("command_id", ""))
            except (aiohttp.ClientError, TimeoutError, OSError):
                attempt.status, attempt.body = 0, {}
            attempt.ended = time.monotonic()
            self._remember(intent, attempt)
            self.answers[attempt.status] += 1
            if attempt.acknowledged:
                self.acknowledged += 1
            is_answered = attempt.status not in (0, 503) and attempt.body.get("code") != IN_PROGRESS
            if is_answered or not retry:
                return attempt
            assert time.monotonic() < give_up, f"no answer to {intent} within {HTTP_GIVE_UP_S} s"
            await asyncio.sleep(0.2)  # a polite client

    async def read(self, transaction_id: str, tenant: str) -> Read | None:
        """Reads a transaction and notes what was told; None when no answer came."""
        assert self._session is not None, "inside `connected` only"
        began = time.monotonic()
        try:
            async with self._session.get(
                f"{self.api_url}/v1/transactions/{transaction_id}", headers=self._headers | {"Aura-Tenant": tenant}
            ) as answer:
                body = await answer.json(content_type=None)
                found = Read(
                    transaction_id,
                    began,
                    time.monotonic(),
                    answer.status,
                    int(body.get("seq", 0)),
                    str(body["status"]) if answer.status == 200 else "",
                    str(body.get("code", "")),
                    answer.headers.get("Retry-After"),
                )
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        self.reads.append(found)
        if self.history is not None:
            self.history.note("read", asdict(found), sync=False)
        return found

    async def get(self, path: str, tenant: str = "default") -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, body and headers of a read."""
        assert self._session is not None, "inside `connected` only"
        async with self._session.get(self.api_url + path, headers=self._headers | {"Aura-Tenant": tenant}) as answer:
            return answer.status, await answer.json(content_type=None), dict(answer.headers)

    async def _read_on(self, stop: asyncio.Event) -> None:
        choose = random.Random(self.seed)
        while not stop.is_set():
            known = [one for one in self.intents[-300:] if one.submits and any(a.acknowledged for a in one.attempts)]
            if known:
                one = choose.choice(known)
                await self.read(one.transaction_id, one.tenant)
            await asyncio.sleep(0.05)  # the pace of the reader

    async def replay(self, count: int = 8) -> None:
        """Repeats answered requests, and their keys with other content; the invariants compare the answers."""
        answered = [
            one
            for one in self.intents
            if any(attempt.decided for attempt in one.attempts) and "refused:idempotency_key_reused" not in one.may
        ]
        async with self.connected():
            for one in self.random.sample(answered, min(count, len(answered))):
                for _ in range(2):
                    await self.post(one, wait="wait=20")
                if "amount" in one.data:
                    other = Intent(
                        one.type,
                        one.tenant,
                        one.customer,
                        one.key,
                        one.data | {"amount": "7" + one.data["amount"].lstrip("-")},
                        frozenset({"refused:idempotency_key_reused"}),
                    )
                    answer = await self.post(other, wait="wait=20")
                    assert (answer.status, answer.body.get("code")) == (422, "idempotency_key_reused"), answer

    async def resend(self) -> int:
        """Produces all the bytes that Kafka ever took from here once more, in another order."""
        again = [(i, a) for i in self.intents for a in i.attempts if a.door == "kafka" and a.acknowledged]
        bad = [one for one in self.malformed if one.attempt is not None and one.attempt.acknowledged]
        self.random.shuffle(again)
        async with self.connected():
            for intent, attempt in again:
                await self.put(intent, command_id=attempt.command_id)
            for one in bad:
                await self.put_raw(Malformed(one.key, one.value, one.partition, one.reason))
        return len(again) + len(bad)

    async def reached(self, acknowledged: int, logs: Callable[[], str] = str) -> None:
        """Waits until so many more requests have been acknowledged: the middle of a load."""
        goal = self.acknowledged + acknowledged

        def there() -> bool:
            if self._load is not None and self._load.done():
                self._load.result()
            return self.acknowledged >= goal

        await until(there, 60, f"{acknowledged} more acknowledged", logs)

    def _note(self, intent: Intent) -> None:
        if not intent.attempts:
            self._numbers[id(intent)] = len(self.intents)
            self.intents.append(intent)
            if self.history is not None:
                self.history.note("intent", asdict(intent), sync=False)  # its first attempt syncs

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    # --- what is wanted --------------------------------------------------------------------------------------------

    def intent(self, type_: str, tenant: str, customer: str, data: dict[str, Any], *may: str, times: int = 1) -> Intent:
        """An intent with a fresh key."""
        return Intent(type_, tenant, customer, self._uuid(), data, frozenset(may), times)

    def open(self, tenant: str, customer: str, asset: str = "EUR", name: str = "") -> Intent:
        """`account.open`."""
        data = {"asset": asset} | ({"name": name} if name else {})
        return self.intent("account.open", tenant, customer, data, "done")

    def paid_in(self, tenant: str, customer: str, asset: str, units: int) -> list[Intent]:
        """A deposit and its confirmation."""
        data = {"account_id": f"{customer}:{asset}", "amount": major(units, asset)}
        deposit = self.intent("deposit.submit", tenant, customer, data, "completed/credited")
        return [deposit, self.act("deposit.confirm", deposit, "done")]

    def act(self, type_: str, on: Intent, *may: str, times: int = 1, **data: str) -> Intent:
        """An action on a transaction of the same customer."""
        return self.intent(
            type_, on.tenant, on.customer, {"transaction_id": on.transaction_id, **data}, *may, times=times
        )

    def transfer(
        self, tenant: str, from_account: str, to_account: str, amount: str, *may: str, times: int = 1
    ) -> Intent:
        """`transfer.submit`."""
        data = {"from_account_id": from_account, "to_account_id": to_account, "amount": amount}
        customer = from_account.split(":")[0]
        return self.intent("transfer.submit", tenant, customer, data, *may, times=times)

    def story(self, door: Door = "kafka") -> Story:
        """The next story of the mixed load."""
        chance = self.random
        tenant, customer = chance.choice(TENANTS), chance.choice(CUSTOMERS)
        other = chance.choice([one for one in CUSTOMERS if one != customer])
        asset = chance.choice(("EUR", "EUR", "EUR", "JPY", "BTC"))
        amount = major(chance.randint(1, 2_000), asset)
        mine, theirs = f"{customer}:{asset}", f"{other}:{asset}"
        done, poor = "completed/completed", "failed/refused:insufficient_funds"
        times = chance.choice((1, 1, 1, 1, 1, 2, 3))
        kinds = {"deposit": 16, "hop": 22, "pay": 26, "hold": 10, "refused": 12, "action": 8, "malformed": 6}
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        if kind == "deposit":
            deposit, confirm = self.paid_in(tenant, customer, asset, chance.randint(1, 3_000))
            deposit.times = times
            end = chance.choice(("confirm", "confirm", "confirm", "reject", "cancel", "wait"))
            if end == "confirm":
                confirm.times = times
                return [deposit, confirm]
            deposit.may = frozenset(
                {
                    "reject": ("failed/rejected:rejected",),
                    "cancel": ("canceled/canceled",),
                    "wait": ("processing/awaiting_funds",),
                }[end]
            )
            type_ = {"reject": "deposit.reject", "cancel": "transaction.cancel"}.get(end)
            return [deposit, self.act(type_, deposit, "done")] if type_ else [deposit]
        if kind == "hop":
            pair = [f"{customer}:EUR", f"{customer}:EUR:save"]
            chance.shuffle(pair)
            amount = major(chance.randint(1, 2_000), "EUR")
            return [self.transfer(tenant, pair[0], pair[1], amount, done, poor, times=times)]
        if kind == "pay":
            return [self.transfer(tenant, mine, theirs, amount, done, poor, times=times)]
        if kind == "hold":
            return self._hold(tenant, customer, chance.choice((theirs, theirs, f"{customer}:{asset}:none")), asset)
        if kind == "refused":
            return [
                chance.choice(
                    (
                        lambda: self.transfer(tenant, mine, theirs, major(10**12, asset), poor, times=times),
                        lambda: self.transfer(
                            tenant, mine, f"nobody:{asset}", amount, "failed/returned:account_not_found", poor
                        ),
                        lambda: self.transfer(tenant, mine, mine, amount, "failed/refused:self_transfer"),
                        lambda: self.transfer(
                            tenant, f"{customer}:EUR", f"{other}:JPY", "5", "failed/refused:currency_mismatch"
                        ),
                        lambda: self.transfer(tenant, mine, theirs, "-5", "failed/refused:negative_amount"),
                        lambda: self.transfer(tenant, mine, theirs, "0", "failed/refused:negative_amount", times=times),
                        lambda: self.open_again(tenant, customer),
                    )
                )()
            ]
        if kind == "action":
            deposit, confirm = self.paid_in(tenant, customer, asset, chance.randint(1, 500))
            return [
                deposit,
                confirm,
                chance.choice(
                    (
                        self.act("deposit.confirm", deposit, "refused:already_processed", times=times),
                        self.act("deposit.reject", deposit, "refused:invalid_state_transition", times=times),
                        self.act("hold.release", deposit, "refused:invalid_state_transition"),
                        self.intent(
                            "deposit.confirm",
                            tenant,
                            other,
                            {"transaction_id": deposit.transaction_id},
                            "refused:transaction_not_found",
                        ),
                        self.intent(
                            "transaction.cancel",
                            tenant,
                            customer,
                            {"transaction_id": self._uuid()},
                            "refused:transaction_not_found",
                        ),
                    )
                ),
            ]
        if door == "http":
            # What is malformed gets a 400 there and leaves no trace; a plain transfer stands in for it.
            return [self.transfer(tenant, mine, theirs, amount, done, poor)]
        return [self.random.choice(self.bad_bytes(tenant, customer))]

    def open_again(self, tenant: str, customer: str) -> Intent:
        """`account.open` of an account that is there."""
        return self.intent("account.open", tenant, customer, {"asset": "EUR"}, "refused:account_already_exists")

    def _hold(self, tenant: str, customer: str, target: str, asset: str) -> Story:
        units = self.random.randint(2, 1_500)
        part = major(self.random.randint(1, units), asset)
        own = target.split(":")[0] == customer
        data = {"account_id": f"{customer}:{asset}", "amount": major(units, asset), "to_account_id": target}
        hold = self.intent("hold.place", tenant, customer, data | {"expires_at": FAR})
        if own:
            # An own account can be seen at once: there is none of this name.
            hold.may = frozenset({"failed/refused:account_not_found"})
            return [hold]
        poor, no = "failed/refused:insufficient_funds", "refused:invalid_state_transition"
        end = self.random.choice(("capture", "part", "release", "cancel", "stay", "twice"))
        if end == "stay":
            hold.may = frozenset({"processing/held", poor})
            return [hold]
        if end in ("release", "cancel"):
            type_, state = {"release": ("hold.release", "released"), "cancel": ("transaction.cancel", "canceled")}[end]
            hold.may = frozenset({f"canceled/{state}", poor})
            return [hold, self.act(type_, hold, "done", no)]
        hold.may = frozenset({"completed/captured", poor})
        if end == "capture":
            return [hold, self.act("hold.capture", hold, "done", no, times=self.random.choice((1, 2)))]
        capture = self.act("hold.capture", hold, "done", no, amount=part)
        if end == "part":
            return [hold, capture]
        return [hold, capture, self.act("hold.capture", hold, "refused:already_processed", no)]

    def bad_bytes(self, tenant: str = "default", customer: str = "c0") -> list[Malformed]:
        """One of every kind of bytes that are no command, with the reason that they must get."""
        key, where = f"{tenant}/{customer}".encode(), partition_of(tenant, customer)
        good = self.transfer(tenant, f"{customer}:EUR", f"{customer}:EUR:save", "1.00")
        whole: dict[str, Any] = json.loads(envelope(good, self._uuid()))

        def put(**changes: Any) -> bytes:
            return json.dumps(whole | changes).encode()

        def data(**changes: Any) -> bytes:
            return put(data=whole["data"] | changes)

        def without(name: str) -> bytes:
            return json.dumps({field: value for field, value in whole.items() if field != name}).encode()

        elsewhere = next(one for one in CUSTOMERS if partition_of(tenant, one) != where)
        stranger = put(tenant="nowhere")
        values: list[tuple[bytes | None, str]] = [
            (b"\x00\xff\xfe garbage", "invalid_json"),
            (None, "invalid_json"),
            (b"", "invalid_json"),
            (put()[:-20], "invalid_json"),
            (b"[" * 50_000, "invalid_json"),
            (data(amount=[[[[1]]]]), "invalid_amount_format"),
            (b"[]", "invalid_field"),
            (without("idempotency_key"), "missing_fields"),
            (without("type"), "missing_fields"),
            (put(type="money.print"), "invalid_type"),
            (put(colour="red"), "unknown_field"),
            (put(__faust={"ns": "os.system"}), "unknown_field"),
            (put(id="no uuid"), "invalid_uuid_format"),
            (put(issued_at="yesterday"), "invalid_datetime_format"),
            (data(effective_at=FAR), "effective_at_in_future"),
            (data(amount=12.5), "invalid_amount_format"),
            (data(amount=True), "invalid_amount_format"),
            (data(amount="0.125"), "invalid_amount_format"),
            (data(amount="1e3"), "invalid_amount_format"),
            (data(amount="١.٠٠"), "invalid_amount_format"),
            (data(amount=0).replace(b'"amount": 0', b'"amount": NaN'), "invalid_amount_format"),
            (data(amount=0).replace(b'"amount": 0', b'"amount": 1e400'), "invalid_amount_format"),
            (data(to_account_id="no account"), "invalid_account_id"),
            (data(to_account_id=f"{customer}:DOGE"), "unsupported_asset"),
        ]
        found = [Malformed(key, value, where, reason) for value, reason in values]
        return [
            *found,
            Malformed(f"{tenant}/{elsewhere}".encode(), put(), partition_of(tenant, elsewhere), "wrong_key"),
            Malformed(None, put(), where, "wrong_key"),
            Malformed(key, put(), (where + 1) % PARTITIONS, "wrong_partition"),
            Malformed(f"nowhere/{customer}".encode(), stranger, partition_of("nowhere", customer), "tenant_not_found"),
        ]


def envelope(intent: Intent, command_id: str) -> bytes:
    """The bytes of a command."""
    return json.dumps(
        {
            "id": command_id,
            "type": intent.type,
            "tenant": intent.tenant,
            "customer": intent.customer,
            "idempotency_key": intent.key,
            "issued_at": "2026-11-20T10:00:00Z",
            "data": intent.data,
        }
    ).encode()


def _http(intent: Intent) -> tuple[str, dict[str, Any]]:
    """Path and body of a command over HTTP."""
    if intent.type == "account.open":
        return "/v1/accounts", {"customer": intent.customer, **intent.data}
    if intent.submits:
        return {"deposit": "/v1/deposits", "transfer": "/v1/transfers", "hold": "/v1/holds"}[
            intent.type.partition(".")[0]
        ], intent.data
    data = {name: value for name, value in intent.data.items() if name != "transaction_id"}
    noun, verb = intent.type.split(".")
    return f"/v1/{noun}s/{intent.transaction_id}/{verb}", {"customer": intent.customer, **data}
