"""What a sender gets back: repeats, keys used again, and dead letters, each with its own reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agents import clock, settlements, tenants
from agents.ledger import ACCOUNTS, ACTIONS, SUBMITS
from aura_stream.domain.commands import COMMAND_TYPES
from aura_stream.domain.ids import derived_id, id_text
from aura_stream.domain.reasons import REASONS
from aura_stream.journal import AnswerLine, TransactionLine
from tests.domain.world import NAMES, World

ENVELOPE = {
    "id": "018f2d3c-8a6e-7c3e-9a51-3f1c2b7e9d10",
    "type": "transfer.submit",
    "tenant": "default",
    "customer": "alice",
    "idempotency_key": "k",
    "issued_at": "2026-11-20T10:00:00Z",
    "data": {"from_account_id": "alice:EUR", "to_account_id": "eve:EUR", "amount": "12.50"},
}


def with_money() -> World:
    world = World()
    world.open("alice:EUR", "100")
    return world


def a_dead_letter(
    world: World, value: bytes, key: bytes = b"default/alice", partition: int | None = None
) -> AnswerLine:
    """Sends bytes, and gives the answer to them; they must burn and change nothing."""
    before, rows = world.money(), [dict(store.scan(b"i", b"j")) for store in world.driver.stores]
    record = world.raw(key, value, partition)
    world.driver.run()
    (line,) = (
        line
        for _, line in world.lines()
        if isinstance(line, AnswerLine) and line.kind == "dead_letter" and line.offset == record.offset
    )
    copy = world.driver.topics[NAMES.dead_letters][record.partition][-1]
    assert (copy.key, copy.value) == (record.key, record.value)
    assert dict(copy.headers)["aura-reason"].decode() == line.reason
    assert world.money() == before
    assert [dict(store.scan(b"i", b"j")) for store in world.driver.stores] == rows
    assert line.reason in REASONS
    return line


def test_every_command_type_is_decided_by_something() -> None:
    assert {*SUBMITS, *ACTIONS, *ACCOUNTS, *settlements.COMMANDS, *tenants.COMMANDS, *clock.COMMANDS} == set(
        COMMAND_TYPES
    )


def test_s05_the_same_command_twice_makes_one_transaction() -> None:
    world = with_money()
    world.open("eve:EUR")
    sent = world.send("transfer.submit", "alice", key="k", **ENVELOPE["data"])  # type: ignore[arg-type]  # it is one
    world.driver.run()
    after = world.money()

    for _ in range(3):
        repeat = world.again(sent)
        assert (repeat.kind, repeat.transaction_id) == ("repeat", id_text(derived_id("default", "alice", "k")))
        assert (repeat.status, repeat.state, repeat.seq, repeat.reason) == ("completed", "completed", 2, "")
    assert world.money() == after
    assert world.types(sent.transaction_id, "alice") == ["transfer.sent", "transfer.completed"]
    world.check()


def test_same_amount_written_otherwise_is_the_same_command() -> None:
    world = with_money()
    sent = world.send("deposit.submit", "alice", account_id="alice:EUR", amount="12.50")
    world.driver.run()

    assert world.again(sent, amount="12.5").kind == "repeat"
    assert world.again(sent, amount="12.51").reason == "idempotency_key_reused"


def test_a02_key_used_for_another_request_is_refused_and_burns_nothing() -> None:
    world = with_money()
    sent = world.send("deposit.submit", "alice", account_id="alice:EUR", amount="5")
    world.driver.run()
    before = world.money()

    other = world.again(sent, amount="6")

    assert (other.kind, other.reason, other.transaction_id) == ("refused", "idempotency_key_reused", "")
    assert world.money() == before
    assert world.again(sent).kind == "repeat"
    assert [e.type for e in world.events()][-2:] == ["deposit.submitted", "command.refused"]
    world.check()


def test_a02_key_of_a_submit_cannot_be_used_for_an_action_nor_the_other_way_round() -> None:
    world = with_money()
    sent = world.send("deposit.submit", "alice", key="k", account_id="alice:EUR", amount="5")
    world.driver.run()
    data = {"transaction_id": sent.transaction_id}

    assert world.do("deposit.confirm", "alice", key="k", **data).reason == "idempotency_key_reused"
    assert world.do("deposit.confirm", "alice", key="k2", **data).event == "deposit.credited"
    reused = world.do("deposit.submit", "alice", key="k2", account_id="alice:EUR", amount="5")
    assert reused.reason == "idempotency_key_reused"


def test_a02_same_key_of_two_customers_or_tenants_are_two_keys() -> None:
    world = with_money()
    world.open("bob:EUR")
    world.open("alice:EUR", tenant="demo")

    lines = [
        world.do("deposit.submit", customer, key="k", tenant=tenant, account_id=f"{customer}:EUR", amount="5")
        for customer, tenant in (("alice", "default"), ("bob", "default"), ("alice", "demo"))
    ]

    assert len({line.id for line in lines}) == 3
    assert all(isinstance(line, TransactionLine) for line in lines)


def test_refused_submit_burns_its_key() -> None:
    world = with_money()
    sent = world.send("transfer.submit", "alice", **(ENVELOPE["data"] | {"amount": "999"}))  # type: ignore[operator]  # it is one
    world.driver.run()
    world.do("deposit.submit", "alice", account_id="alice:EUR", amount="1000")

    repeat = world.again(sent)

    assert (repeat.kind, repeat.status, repeat.reason) == ("repeat", "failed", "insufficient_funds")


def test_refused_and_done_actions_are_answered_again() -> None:
    world = with_money()
    deposit = world.do("deposit.submit", "alice", account_id="alice:EUR", amount="5")
    done = world.send("deposit.confirm", "alice", transaction_id=deposit.id)
    refused = world.send("deposit.reject", "alice", transaction_id=deposit.id)
    world.driver.run()

    again = world.again(done)
    assert (again.kind, again.transaction_id, again.state, again.reason) == ("repeat", deposit.id, "credited", "")
    again = world.again(refused)
    assert (again.kind, again.transaction_id, again.reason) == ("repeat", deposit.id, "invalid_state_transition")
    world.check()


def test_refused_command_has_an_event_with_its_reason() -> None:
    world = with_money()
    sent = world.send("account.close", "alice", account_id="alice:EUR")
    world.driver.run()

    event = world.account_events()[-1]
    assert (event.type, event.causation_id, event.seq) == ("command.refused", sent.command_id, 0)
    said = {name: event.data[name] for name in ("command_type", "account_id", "reason")}
    assert said == {"command_type": "account.close", "account_id": "alice:EUR", "reason": "account_in_use"}


def changed(**changes: Any) -> bytes:
    message = json.loads(json.dumps(ENVELOPE))
    for path, value in changes.items():
        *outer, last = path.split("__")
        where = message
        for part in outer:
            where = where[part]
        if value is None:
            del where[last]
        else:
            where[last] = value
    return json.dumps(message).encode()


@pytest.mark.parametrize(
    ("value", "reason", "place"),
    [
        (b"", "invalid_json", ""),
        (b"\xff\xfe", "invalid_json", ""),
        (b"{", "invalid_json", ""),
        (b'{"a": NaN}', "missing_fields", "/type"),
        (b"[]", "invalid_field", ""),
        (b"[" * 100_000, "invalid_json", ""),
        (b'{"type": "transfer.submit"}', "missing_fields", "/id"),
        (changed(type=None), "missing_fields", "/type"),
        (changed(type="transfer.undo"), "invalid_type", "/type"),
        (changed(type=7), "invalid_type", "/type"),
        (changed(id="7"), "invalid_uuid_format", "/id"),
        (changed(tenant="Default"), "invalid_field", "/tenant"),
        (changed(tenant="none"), "tenant_not_found", "/tenant"),
        (changed(customer="al ice"), "invalid_field", "/customer"),
        (changed(customer="@clearing"), "invalid_field", "/customer"),
        (changed(customer="alice\n"), "invalid_field", "/customer"),
        (changed(idempotency_key=""), "idempotency_key_invalid", "/idempotency_key"),
        (changed(idempotency_key="k\u0000"), "idempotency_key_invalid", "/idempotency_key"),
        (changed(issued_at="yesterday"), "invalid_datetime_format", "/issued_at"),
        (changed(issued_at="2026-11-20T10:00:00"), "invalid_datetime_format", "/issued_at"),
        (changed(note="hello"), "unknown_field", "/note"),
        (changed(data__note="hello"), "unknown_field", "/data/note"),
        (changed(data={"\u0000": "x"}), "missing_fields", "/data/from_account_id"),
        (changed(data__amount=None), "missing_fields", "/data/amount"),
        (changed(data__amount=12.5), "invalid_amount_format", "/data/amount"),
        (changed(data__amount=12), "invalid_amount_format", "/data/amount"),
        (changed(data__amount="12,50"), "invalid_amount_format", "/data/amount"),
        (changed(data__amount="1e3"), "invalid_amount_format", "/data/amount"),
        (changed(data__amount="NaN"), "invalid_amount_format", "/data/amount"),
        (changed(data__amount="12.500"), "invalid_amount_format", "/data/amount"),
        (changed(data__amount="012"), "invalid_amount_format", "/data/amount"),
        (changed(data__amount="1" * 21), "invalid_amount_format", "/data/amount"),
        (changed(data__amount="１２"), "invalid_amount_format", "/data/amount"),
        (changed(data__from_account_id="alice"), "invalid_account_id", "/data/from_account_id"),
        (changed(data__from_account_id="alice:DOGE"), "unsupported_asset", "/data/from_account_id"),
        (changed(data__to_account_id="eve:EUR:"), "invalid_account_id", "/data/to_account_id"),
        (changed(data__effective_at="2099-01-01T00:00:00Z"), "effective_at_in_future", "/data/effective_at"),
        (changed(data__effective_at="2026-02-30T00:00:00Z"), "invalid_datetime_format", "/data/effective_at"),
        (changed(data__effective_at="0001-01-01T00:00:00+14:00"), "invalid_datetime_format", "/data/effective_at"),
        (changed(type="hold.release", data={"transaction_id": "7"}), "invalid_uuid_format", "/data/transaction_id"),
        (changed(type="account.open", data={"asset": "DOGE"}), "unsupported_asset", "/data/asset"),
        (changed(type="account.open", data={"asset": "EUR", "name": "a:b"}), "invalid_field", "/data/name"),
    ],
)
def test_message_that_cannot_be_meant_is_a_dead_letter_with_its_place(value: bytes, reason: str, place: str) -> None:
    line = a_dead_letter(with_money(), value)

    assert line.reason == reason
    assert place in line.detail
    assert line.detail.isprintable()


def test_dead_letter_says_who_sent_it_as_far_as_that_can_be_read() -> None:
    line = a_dead_letter(with_money(), changed(data__amount="x"))
    assert (line.command_id, line.command_type) == (ENVELOPE["id"], "transfer.submit")
    assert (line.tenant, line.customer, line.idempotency_key) == ("default", "alice", "k")

    unreadable = changed(id="\u0000", customer="@", tenant="\u0000", idempotency_key="\u0000")
    line = a_dead_letter(with_money(), unreadable)
    assert (line.command_id, line.tenant, line.customer, line.idempotency_key) == ("", "", "", "")


def test_a_field_named_by_a_nul_does_not_reach_the_journal() -> None:
    line = a_dead_letter(with_money(), changed(data__amount="1", **{"\u0000": "x"}))

    assert line.reason == "unknown_field"
    assert "\x00" not in line.detail


@pytest.mark.parametrize("key", [b"default/bob", b"alice", b"", b"demo/alice", b"default/alice\n", b"\xff"])
def test_command_under_another_key_is_a_dead_letter(key: bytes) -> None:
    line = a_dead_letter(with_money(), changed(), key)

    assert line.reason == "wrong_key"


def test_command_without_a_key_is_a_dead_letter() -> None:
    world = with_money()
    world.driver.append(NAMES.commands, 0, None, changed(), world.at)
    world.driver.run()

    reasons = [line.reason for _, line in world.lines() if isinstance(line, AnswerLine)]
    assert reasons == ["wrong_key"]


def test_command_on_the_wrong_partition_is_a_dead_letter_that_names_the_setting() -> None:
    world = with_money()
    wrong = (world.driver.partitioner(b"default/alice") + 1) % 4

    line = a_dead_letter(world, changed(), partition=wrong)

    assert line.reason == "wrong_partition"
    assert "partitioner=murmur2_random" in line.detail


def test_dead_letter_burns_no_key() -> None:
    world = with_money()
    a_dead_letter(world, changed(data__amount="x"))

    line = world.do("transfer.submit", "alice", key="k", **ENVELOPE["data"])  # type: ignore[arg-type]  # it is one
    assert line.event == "transfer.sent"


def test_command_that_breaks_a_machine_is_a_dead_letter_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_money()
    before = world.money()

    def broken(*_: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setitem(SUBMITS, "deposit.submit", broken)
    line = world.do("deposit.submit", "alice", key="k", account_id="alice:EUR", amount="1")

    assert (line.kind, line.reason) == ("dead_letter", "internal_error")
    assert line.transaction_id == id_text(derived_id("default", "alice", "k"))  # it may have been given with a receipt
    assert world.money() == before
    world.check()
