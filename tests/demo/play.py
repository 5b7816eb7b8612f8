"""The demo without services: its plan is played to the ledger in memory, and its book reads what comes out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import orjson

from agents.ledger import Ledger
from aura_stream.demo.book import Book
from aura_stream.demo.plan import Plan
from aura_stream.demo.steps import RawRecord, Step
from aura_stream.demo.verdict import Stored
from aura_stream.domain.ids import id_text
from aura_stream.domain.state import Rules
from aura_stream.engine.driver import Driver, LogRecord
from aura_stream.engine.unit import Names
from tables.balances import BALANCES
from tables.transactions import TRANSACTIONS
from topics import ACCOUNT_EVENTS, COMMANDS, DEAD_LETTERS, JOURNAL, SIGNALS, TRANSACTION_EVENTS
from topics.changelog import CHANGELOG

START_MS = 1_800_000_000_000
PARTITIONS = 4


@dataclass(frozen=True)
class Sent:
    """A step that was sent, and the record that it became."""

    step: Step
    record: LogRecord


class Play:
    """Sends steps to a ledger in memory. `tell` hands the book all that came out, `stored` what the tables hold."""

    def __init__(self) -> None:
        rules = Rules(("default", "demo"), "sandbox")
        names = Names(COMMANDS.name, SIGNALS.name, JOURNAL.name, DEAD_LETTERS.name, CHANGELOG.name)
        self.driver = Driver(Ledger(rules), names, partitions=PARTITIONS, rules=msgspec.json.encode(rules))
        self.book = Book()
        self.sent: list[Sent] = []

    def send(self, steps: Iterable[Step]) -> None:
        """Sends steps, at their times, as Kafka records; requests that break the contract never become one."""
        for step in steps:
            at = START_MS + int(step.at * 1000)
            now = datetime.fromtimestamp(at / 1000, UTC)
            self.book.sent(step, now)
            if step.expect.outcome == "bad_request":
                continue
            key, value = step.record(now)
            partition = self.driver.partitioner(key or b"")
            if isinstance(step.raw, RawRecord):
                partition = (partition + step.raw.partition_shift) % PARTITIONS
            record = self.driver.append(COMMANDS.name, partition, key, value, at)
            self.sent.append(Sent(step, record))
        self.driver.run()

    def rest(self, at_s: float) -> None:
        """Lets the clock go on to this second of the load, until nothing moves."""
        self.driver.run()
        for partition in range(PARTITIONS):
            while self.driver.step(partition, clock=START_MS + int(at_s * 1000)):
                self.driver.run()

    def tell(self, *, commands_last: bool = False) -> None:
        """Tells the book everything, as a consumer of the topics would."""
        if not commands_last:
            self._commands()
        self._journal()
        self._events()
        if commands_last:
            self._commands()

    def _commands(self) -> None:
        for sent in self.sent:
            try:
                message = orjson.loads(sent.record.value or b"")
            except orjson.JSONDecodeError:
                message = None
            number = sent.step.number if sent.step.door == "kafka" else -1
            self.book.command(sent.record.partition, sent.record.offset, number, message)

    def _journal(self) -> None:
        for partition, records in self.driver.topics[JOURNAL.name].items():
            for record in records:
                for line in orjson.loads(record.value or b"")["lines"]:
                    self.book.line(partition, line)

    def _events(self) -> None:
        for topic in (TRANSACTION_EVENTS, ACCOUNT_EVENTS):
            for value in self.driver.values(topic.name):
                self.book.event(orjson.loads(value))
        for records in self.driver.topics[DEAD_LETTERS.name].values():
            for record in records:
                headers = dict(record.headers)
                place = int(headers["aura-partition"]), int(headers["aura-offset"])
                self.book.dead_letter(*place, headers["aura-reason"].decode(), record.key, record.value)

    def stored(self) -> Stored:
        """What Postgres would hold of it."""
        transactions, balances = {}, {}
        for store in self.driver.stores:
            for full, value in store.scan(TRANSACTIONS.prefix, bytes([TRANSACTIONS.prefix[0] + 1])):
                row = TRANSACTIONS.decode(value)
                transactions[id_text(full[1:])] = (row.status, row.state, row.reason)
            for full, value in store.scan(BALANCES.prefix, bytes([BALANCES.prefix[0] + 1])):
                account = BALANCES.decode(value)
                tenant, _, name = full[1:].decode().partition("/")
                posted = account.available + account.held
                balances[tenant, name] = (account.available, posted, account.pending_in)
        return Stored(transactions, balances, {"EUR": 0}, {"EUR": 0}, 100, 50)


def played(seed: int, count: int, *, commands_last: bool = False) -> Play:
    """A whole demo of `count` steps of load at 220 a second, told to its book."""
    plan = Plan(seed, 200, 20)
    play = Play()
    for wave in plan.opening():
        play.send(wave)
    steps = [plan.next() for _ in range(count)]
    steps += plan.closing()
    # In small pieces: commands, deadlines and money under way meet as they do when the clock runs.
    for place in range(0, len(steps), 50):
        play.send(steps[place : place + 50])
    play.rest(steps[-1].at + 10 if steps else 0)
    play.tell(commands_last=commands_last)
    return play
