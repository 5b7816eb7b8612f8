"""The short way of a transfer leads where the long way leads: no byte that is written tells which one was taken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.ledger import Ledger
from aura_stream.domain import ids
from aura_stream.domain.commands import ADAPTER, Transfer, fingerprint, parse_command, read_transfer
from aura_stream.domain.ids import record_key
from aura_stream.domain.reasons import Invalid, Refused
from aura_stream.domain.requests import plain_transfer, read_submission
from aura_stream.domain.state import Rules
from aura_stream.domain.strict_json import refuse_twice
from aura_stream.engine.driver import Driver
from aura_stream.engine.unit import ReadsAhead, Record, Unit
from tests.domain.world import NAMES, START

PLAIN: dict[str, Any] = {
    "id": "018f2d3c-8a6e-7c3e-9a51-3f1c2b7e9d10",
    "type": "transfer.submit",
    "tenant": "default",
    "customer": "alice",
    "idempotency_key": "order-4711",
    "issued_at": "2026-11-20T10:00:00Z",
    "data": {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": "12.50"},
}
ODD = [
    *("", "alice", "alice\n", "Älice", "\ud83d\ude00", "default", "a" * 64, "a" * 65, "\x00", "~", " ", '"\\'),
    *("018F2D3C-8a6e-7c3e-9a51-3f1c2b7e9d10", "018f2d3c-8a6e-7c3e-9a51-3f1c2b7e9d1g", "0" * 36),
    *(
        "2026-11-20t10:00:00.123456789+01:00",
        "2026-99-99T99:99:99Z",
        "2026-11-20 10:00:00Z",
        "2026-11-20T10:00:0aZ",
    ),
    *(
        "2026-11-20T10:00:00Z\n",
        "2026-11-20T10:00:00.1234567890Z",
        "1970-01-01T00:00:00Z",
        "\u0662026-11-20T10:00:00Z",
    ),
    *("alice:EUR", "bob:USD", "alice:EUR:save", "alice:XXX", "demo/bob:EUR", "@clearing:EUR", "alice", "x" * 257),
    *("12.5", "12.", "0", "0.00", "-1", "1e3", "007", "12.505", "1" * 65, "\u0661"),
]
texts = st.sampled_from(ODD) | st.text(max_size=12)
values: st.SearchStrategy[Any] = texts | st.none() | st.booleans() | st.integers() | st.just({}) | st.just([])
ENVELOPE, DATA = list(PLAIN), ["from_account_id", "to_account_id", "amount", "effective_at", "extra"]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A transfer with something changed, left out, added, said twice, or in another order."""
    data = [(name, PLAIN["data"].get(name)) for name in draw(st.permutations(DATA)) if name in PLAIN["data"]]
    outer = [(name, PLAIN[name]) for name in draw(st.permutations(ENVELOPE))]
    for fields, names in ((outer, [*ENVELOPE, "extra"]), (data, DATA)):
        for _ in range(draw(st.integers(0, 2))):
            what = draw(st.sampled_from(["change", "twice", "drop"]))
            place = draw(st.integers(0, len(fields) - 1)) if fields else 0
            if what == "drop" and fields:
                del fields[place]
            elif what == "change" and fields:
                fields[place] = (fields[place][0], draw(values))
            else:
                fields.insert(place, (draw(st.sampled_from(names)), draw(values)))
    shown = [(name, f"{{{_joined(data)}}}" if value is PLAIN["data"] else json.dumps(value)) for name, value in outer]
    text = "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in shown) + "}"
    if draw(st.booleans()):
        text = text.replace("transfer.submit", draw(st.sampled_from(["transfer\\u002esubmit", "hold.place"])))
    return text.encode(errors="surrogatepass") + draw(st.sampled_from([b"", b"", b" \n", b"x", b"\xff"]))


def _joined(fields: list[tuple[str, Any]]) -> str:
    return ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in fields)


def _agree(value: bytes) -> None:
    try:
        model: Any = ADAPTER.validate_json(value)
        refuse_twice(value)
    except ValueError:
        assert read_transfer(value) is None
        with pytest.raises(Invalid):
            parse_command(value)
        return
    command: Any = parse_command(value)
    assert isinstance(command, Transfer) == (model.type == "transfer.submit")
    for name in ENVELOPE[:-1]:
        assert getattr(command, name) == getattr(model, name)
    for name in model.data.__dict__:
        assert getattr(command.data, name) == getattr(model.data, name)
    assert fingerprint(command) == fingerprint(model)


@settings(max_examples=300, deadline=None)
@given(messages())
def test_what_the_short_way_takes_is_what_the_models_take(value: bytes) -> None:
    _agree(value)


@pytest.mark.parametrize("name", [*ENVELOPE[:-1], *DATA])
def test_an_odd_text_in_one_field_is_taken_or_refused_by_both_ways(name: str) -> None:
    for text in [*ODD, *map(chr, range(0x7D, 0xA2)), "a" * 255, "a" * 256]:
        fields = {name: text} if name in ENVELOPE else {"data": PLAIN["data"] | {name: text}}
        _agree(json.dumps(PLAIN | fields).encode(errors="surrogatepass"))


def test_a_usual_transfer_takes_the_short_way_in_any_order_of_its_fields() -> None:
    for fields in (PLAIN, dict(reversed(PLAIN.items()))):
        command = read_transfer(json.dumps(fields, indent=1).encode())
        assert command is not None and command.data.amount == "12.50"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_plain_transfer_asks_for_what_a_closer_look_finds(data: st.DataObject) -> None:
    fields = {name: data.draw(texts | st.just(PLAIN["data"][name])) for name in PLAIN["data"]}
    try:
        command = parse_command(json.dumps(PLAIN | {"data": fields}).encode(errors="surrogatepass"))
        # With a time of its own no transfer is plain.
        timed = parse_command(
            json.dumps(PLAIN | {"data": fields | {"effective_at": "1970-01-01T00:00:00Z"}}).encode(
                "utf-8", "surrogatepass"
            )
        )
    except Invalid:
        return
    assert isinstance(command, Transfer) and isinstance(timed, Transfer)
    plain = plain_transfer(command, "id", "hash")
    assert plain_transfer(timed, "id", "hash") is None
    try:
        closer = read_submission(timed, "id", "hash", START)
    except (Invalid, Refused):
        assert plain is None
        return
    assert (plain is None) == (closer.refusal is not None)
    if plain is not None:
        assert msgspec.structs.replace(closer, effective_at=None) == plain


class InItsTurn(Ledger):
    """Reads each command when its turn comes."""

    read_ahead: Any = None


class Careless(Ledger):
    """Fails when it reads ahead."""

    def read_ahead(self, unit: Unit, records: Sequence[Record]) -> Any:
        raise ValueError("not now")


def _written(actor: Ledger, sent: list[tuple[bytes, bytes, int]], at_once: int) -> dict[str, Any]:
    driver = Driver(actor, NAMES, partitions=2, rules=msgspec.json.encode(actor.rules))
    for key, value, shift in sent:
        driver.append(NAMES.commands, (driver.partitioner(key) + shift) % 2, key, value, START)
    while any(driver.step(number, limit=at_once) for number in range(2)):
        pass
    stores = {f"store {number}": [*driver.stores[number].scan(b"", b"\xff")] for number in range(2)}
    return {
        topic: {n: records for n, records in logs.items() if records} for topic, logs in driver.topics.items()
    } | stores


names = st.sampled_from(["alice", "bob", "carol"])


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[bytes, bytes, int]]:
    """Accounts with money, then transfers good and bad, repeated, misled, of strangers; and bytes that are none."""
    sent: list[tuple[bytes, bytes, int]] = []

    def send(
        type_: str, customer: str, key: str, data: dict[str, Any], tenant: str = "default", shift: int = 0
    ) -> None:
        message = PLAIN | {"type": type_, "customer": customer, "idempotency_key": key, "tenant": tenant, "data": data}
        sent.append((record_key(tenant, customer), json.dumps(message).encode(), shift))

    for name in ("alice", "bob"):
        for account in (f"{name}:EUR", f"{name}:EUR:save"):
            send(
                "account.open",
                name,
                f"open {account}",
                {"asset": "EUR"} | ({"name": "save"} if "save" in account else {}),
            )
            send("deposit.submit", name, f"fund {account}", {"account_id": account, "amount": "100"})
            deposit = ids.id_text(ids.derived_id("default", name, f"fund {account}"))
            send("deposit.confirm", name, f"confirm {account}", {"transaction_id": deposit})
    for _ in range(draw(st.integers(1, 12))):
        customer, tenant = draw(names), draw(st.sampled_from(["default", "default", "default", "nobody"]))
        data = {
            "from_account_id": draw(st.sampled_from([f"{customer}:EUR", f"{customer}:EUR", "alice:EUR", "bob:USD"])),
            "to_account_id": draw(st.sampled_from(["alice:EUR", "bob:EUR:save", "bob:EUR", "carol:EUR", "x"])),
            "amount": draw(st.sampled_from(["1", "30.50", "30.5", "1000", "-1", "1.001"])),
        }
        if draw(st.integers(0, 4)) == 0:
            data["effective_at"] = draw(st.sampled_from(["2020-01-01T00:00:00Z", "9020-01-01T00:00:00Z"]))
        shift = draw(st.sampled_from([0, 0, 0, 0, 1]))
        send("transfer.submit", customer, draw(st.sampled_from("abcdefgh")), data, tenant, shift)
        if draw(st.integers(0, 6)) == 0:
            sent.append((b"default/alice", draw(st.sampled_from([b"", b'{"type":"transfer.submit"}', b"\xff"])), 0))
    return sent


@settings(max_examples=40, deadline=None)
@given(histories(), st.sampled_from([1000, 3]))
def test_a_ledger_that_reads_ahead_writes_what_one_writes_that_does_not(
    sent: list[tuple[bytes, bytes, int]], at_once: int
) -> None:
    rules = Rules(("default",), "sandbox")
    assert isinstance(Ledger(rules), ReadsAhead) and not isinstance(InItsTurn(rules), ReadsAhead)
    in_turn = _written(InItsTurn(rules), sent, at_once)
    assert _written(Ledger(rules), sent, at_once) == in_turn
    assert _written(Careless(rules), sent[-2:], at_once) == _written(InItsTurn(rules), sent[-2:], at_once)
