"""The loads: which commands are sent, encoded beforehand so that sending them costs little.

    one-hop   between two accounts of one customer: one unit of work, one journal
    between   from any of 1,000 customers to any other: two units of work, two journals, three signals' worth of work
    hot       from any customer to the same one

Everything follows from the number of the section, so that a run can be repeated.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from aura_stream.domain.ids import derived_id, id_text, record_key
from aura_stream.engine.partitioner import Partitioner

ONE_HOP, BETWEEN, HOT = "one-hop", "between", "hot"
LOADS = (ONE_HOP, BETWEEN, HOT)
MEANING = {
    ONE_HOP: "between two accounts of one customer",
    BETWEEN: "between customers, uniform over 1,000",
    HOT: "to one hot receiver",
}
TENANT = "default"
CUSTOMERS = 1_000
FUNDS = "100000000.00"  # no account runs dry, whatever the loads draw
AMOUNT = "0.01"

Command = tuple[bytes, bytes]
"""Key and value of a record of the commands topic."""


def customer(number: int) -> str:
    """The name of a customer."""
    return f"bench-{number:04d}"


def current(name: str) -> str:
    """A customer's first account."""
    return f"{name}:EUR"


def savings(name: str) -> str:
    """A customer's second account."""
    return f"{name}:EUR:savings"


def command_id(section: int, index: int) -> str:
    """The id of a command, and its idempotency key: a UUID from which :func:`index_of` reads the index."""
    return f"{section:08x}-0000-4000-8000-{index:012x}"


def index_of(section: int, text: str) -> int | None:
    """The index of a command of this section; None for any other id."""
    return int(text[24:], 16) if text.startswith(f"{section:08x}-0000-4000-8000-") else None


def encoded(section: int, index: int, kind: str, name: str, data: str) -> Command:
    """One command; `data` is JSON. Formatting is twice as fast as an encoder, and nothing here needs escaping."""
    number = command_id(section, index)
    value = (
        f'{{"id":"{number}","type":"{kind}","tenant":"{TENANT}","customer":"{name}","idempotency_key":"{number}",'
        f'"issued_at":"2026-01-01T00:00:00Z","data":{data}}}'
    )
    return record_key(TENANT, name), value.encode()


def openings(section: int, customers: int = CUSTOMERS) -> Iterator[Command]:
    """Opens and funds two accounts of every customer: six commands each."""
    index = 0
    for number in range(customers):
        name = customer(number)
        for account, data in (
            (current(name), '{"asset":"EUR"}'),
            (savings(name), '{"asset":"EUR","name":"savings"}'),
        ):
            yield encoded(section, index, "account.open", name, data)
            yield encoded(
                section, index + 1, "deposit.submit", name, f'{{"account_id":"{account}","amount":"{FUNDS}"}}'
            )
            deposit = id_text(derived_id(TENANT, name, command_id(section, index + 1)))
            yield encoded(section, index + 2, "deposit.confirm", name, f'{{"transaction_id":"{deposit}"}}')
            index += 3


def accounts(section: int, count: int) -> Iterator[Command]:
    """Opens one account for each of `count` further customers."""
    for index in range(count):
        yield encoded(section, index, "account.open", f"many-{index}", '{"asset":"EUR"}')


def holds(section: int, count: int) -> Iterator[Command]:
    """Holds that wait for long: for the customer's other account, each with a deadline of its own, decades away."""
    pick = random.Random(f"holds/{section}")
    for index in range(count):
        name = customer(pick.randrange(CUSTOMERS))
        expires_at = f"20{pick.randrange(60, 99)}-{pick.randrange(1, 13):02d}-{pick.randrange(1, 29):02d}"
        yield encoded(
            section,
            index,
            "hold.place",
            name,
            f'{{"account_id":"{current(name)}","amount":"{AMOUNT}","to_account_id":"{savings(name)}",'
            f'"expires_at":"{expires_at}T00:00:{index % 60:02d}Z"}}',
        )


def transfers(load: str, section: int, count: int, customers: int = CUSTOMERS) -> Iterator[Command]:
    """The transfers of a load."""
    pick = random.Random(f"{load}/{section}")
    for index in range(count):
        sender = pick.randrange(customers)
        name = customer(sender)
        source = current(name)
        if load == ONE_HOP:
            target = savings(name)
            if pick.random() < 0.5:
                source, target = target, source
        elif load == BETWEEN:
            target = current(customer((sender + 1 + pick.randrange(customers - 1)) % customers))
        else:
            name = customer(1 + pick.randrange(customers - 1))
            source, target = current(name), current(customer(0))
        yield encoded(
            section,
            index,
            "transfer.submit",
            name,
            f'{{"from_account_id":"{source}","to_account_id":"{target}","amount":"{AMOUNT}"}}',
        )


def own_transfers(section: int, count: int, customers: Sequence[str]) -> Iterator[Command]:
    """Transfers of these customers in turns, each from the first of its accounts to the second."""
    for index in range(count):
        name = customers[index % len(customers)]
        data = f'{{"from_account_id":"{current(name)}","to_account_id":"{savings(name)}","amount":"{AMOUNT}"}}'
        yield encoded(section, index, "transfer.submit", name, data)


def by_partition(commands: Iterator[Command], partitions: int) -> dict[int, list[Command]]:
    """Commands by the partition that their key belongs to, in order."""
    partition_of = Partitioner(partitions)
    shared: dict[int, list[Command]] = {number: [] for number in range(partitions)}
    for command in commands:
        shared[partition_of(command[0])].append(command)
    return shared
