"""The published schemas: equal to the code, and true of everything that is sent."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from aura_stream import schemas
from aura_stream.domain.commands import format_time
from tests.domain.world import EVENTS, HOUR, NAMES, World
from topics import ALL


def a_scenario() -> World:
    """Something of everything: all commands, refusals, repeats, returns, deadlines, dead letters."""
    world = World()
    for account in ("alice:EUR", "alice:EUR:save", "eve:EUR", "bob:EUR"):
        world.open(account, "100")
    sent = world.send("transfer.submit", "alice", from_account_id="alice:EUR", to_account_id="eve:EUR", amount="1")
    world.driver.run()
    world.again(sent)
    world.again(sent, amount="2")
    world.do("transfer.submit", "alice", from_account_id="alice:EUR", to_account_id="alice:EUR:save", amount="1")
    world.do("transfer.submit", "alice", from_account_id="alice:EUR", to_account_id="nobody:EUR", amount="1")
    world.do("transfer.submit", "alice", from_account_id="alice:EUR", to_account_id="eve:EUR", amount="1000")
    for action in ("hold.capture", "hold.release", "transaction.cancel", ""):
        hold = world.do(
            "hold.place",
            "alice",
            account_id="alice:EUR",
            to_account_id="eve:EUR",
            amount="2",
            expires_at=format_time(world.at + HOUR),
        )
        if action:
            world.do(action, "alice", transaction_id=hold.id)
    deposit = world.do("deposit.submit", "bob", account_id="bob:EUR", amount="7")
    world.do("deposit.reject", "bob", transaction_id=deposit.id)
    for step in ("freeze", "unfreeze", "close"):
        world.do(f"account.{step}", "bob", account_id="bob:EUR")
    world.raw(b"default/alice", b"no json")
    late = world.send("transfer.submit", "alice", from_account_id="alice:EUR", to_account_id="eve:EUR", amount="1")
    alice = world.driver.partitioner(late.record.key or b"")
    world.driver.step(alice)
    world.at += HOUR
    world.driver.step(alice, clock=world.at)
    world.settle()
    world.check()
    return world


def validator(file: str) -> Any:
    return jsonschema_rs.validator_for(json.loads((schemas.FOLDER / file).read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", schemas.schemas())
def test_published_schema_is_that_of_the_code(file: str) -> None:
    published = (schemas.FOLDER / file).read_text(encoding="utf-8")
    assert published == schemas.text(schemas.schemas()[file]), "run python -m aura_stream.schemas"


@pytest.mark.parametrize("file", schemas.schemas())
def test_schema_is_valid_and_so_are_its_examples(file: str) -> None:
    schema = schemas.schemas()[file]

    jsonschema_rs.meta.validate(schema)
    assert schema["examples"]
    for example in schema["examples"]:
        validator(file).validate(example)


def test_every_topic_with_a_schema_has_one() -> None:
    assert {topic.schema for topic in ALL if topic.schema} == set(schemas.schemas())


def test_everything_that_is_sent_follows_its_schema() -> None:
    world = a_scenario()
    kinds = set()
    for topic, file in ((NAMES.journal, "journal"), (NAMES.signals, "signals"), (EVENTS, "transaction-event")):
        check = validator(f"{file}.json")
        messages = [json.loads(value) for value in world.driver.values(topic)]
        assert messages
        for message in messages:
            check.validate(message)
            kinds |= {line["line"] for line in message.get("lines", [])}
    assert kinds == {"transaction", "change", "received", "account", "answer"}


@pytest.mark.parametrize(
    "change",
    [
        {"type": "transfer.undo"},
        {"tenant": "Default"},
        {"note": "x"},
        {"data": {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR"}},
        {"data": {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": 12.5}},
        {"data": {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": "12,50"}},
    ],
)
def test_schema_refuses_what_the_door_refuses(change: dict[str, Any]) -> None:
    (transfer,) = (e for e in schemas.command()["examples"] if e["type"] == "transfer.submit")
    assert not validator("command.json").is_valid(transfer | change)
