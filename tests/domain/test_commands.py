"""The door: any bytes are a command or `Invalid`, never anything else; amounts and ids are exact."""

from __future__ import annotations

import json
import uuid
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_stream import schemas
from aura_stream.domain import ids
from aura_stream.domain.assets import SCALES, format_amount, parse_amount
from aura_stream.domain.commands import (
    COMMAND_TYPES,
    AccountOpen,
    ClockAdvance,
    Command,
    DepositSubmit,
    TenantOpen,
    fingerprint,
    format_time,
    parse_command,
    parse_time,
)
from aura_stream.domain.reasons import REASONS, Invalid, Refused
from aura_stream.domain.requests import (
    ActionCommand,
    ChildCommand,
    PauseCommand,
    SubmitCommand,
    read_account,
    read_action,
    read_child,
    read_submission,
)
from aura_stream.domain.state import Rules

EXAMPLES: list[dict[str, Any]] = schemas.command()["examples"]
RULES = Rules(("default",), "sandbox")
NOW = parse_time("2026-11-20T10:00:00Z")


def understood(value: bytes) -> Command | None:
    """The command in the bytes, read to the end, or None; any other exception fails the test."""
    try:
        command = parse_command(value)
        if isinstance(command, SubmitCommand):
            read_submission(command, "id", fingerprint(command), NOW)
        elif isinstance(command, ActionCommand):
            read_action(command, NOW, RULES)
        elif isinstance(command, ChildCommand):
            read_child(command)
        elif not isinstance(command, PauseCommand | TenantOpen | ClockAdvance):
            read_account(command)
    except Invalid as error:
        assert error.reason in REASONS
        assert error.pointer == "" or error.pointer[0] == "/"
        return None
    return command


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_understood_or_invalid(value: bytes) -> None:
    understood(value)


@given(st.sampled_from(EXAMPLES), st.integers(0, 400), st.binary(max_size=3))
def test_a_damaged_command_is_understood_or_invalid(example: dict[str, Any], place: int, damage: bytes) -> None:
    value = json.dumps(example).encode()
    place %= len(value)
    understood(value[:place] + damage + value[place + len(damage) :])


@given(st.sampled_from(EXAMPLES), st.data(), json_values)
def test_a_command_with_any_value_anywhere_is_understood_or_invalid(
    example: dict[str, Any], data: st.DataObject, value: Any
) -> None:
    message = json.loads(json.dumps(example))
    where = message if data.draw(st.booleans()) else message["data"]
    field = data.draw(st.sampled_from([*where, "extra"]))
    where[field] = value
    understood(json.dumps(message).encode())


@given(st.sampled_from(EXAMPLES), st.text(max_size=80) | st.from_regex(ids.ACCOUNT_ID_PATTERN))
def test_any_text_as_an_id_or_amount_is_understood_or_invalid(example: dict[str, Any], text: str) -> None:
    for field in example["data"]:
        understood(json.dumps(example | {"data": example["data"] | {field: text}}).encode("utf-8", "surrogatepass"))


def test_every_type_has_an_example_that_is_understood() -> None:
    assert {example["type"] for example in EXAMPLES} == set(COMMAND_TYPES)
    for example in EXAMPLES:
        assert understood(json.dumps(example).encode()) is not None


@given(st.sampled_from(list(SCALES)), st.integers(0, 10**38 - 1))
def test_x20_amounts_are_exact_both_ways(asset: str, minor: int) -> None:
    minor %= 10 ** (20 + SCALES[asset])
    text = format_amount(minor, asset)

    assert parse_amount(text, asset) == minor
    assert Fraction(text) * 10 ** SCALES[asset] == minor
    assert parse_amount(format_amount(-minor, asset), asset) == -minor


@pytest.mark.parametrize(
    ("minor", "asset", "text"),
    [
        (0, "EUR", "0.00"),
        (5, "EUR", "0.05"),
        (-5, "EUR", "-0.05"),
        (1250, "EUR", "12.50"),
        (7, "JPY", "7"),
        (1, "ETH", "0.000000000000000001"),
    ],
)
def test_amounts_show_all_places_of_the_asset(minor: int, asset: str, text: str) -> None:
    assert format_amount(minor, asset) == text


@given(st.sampled_from(["default", "demo"]), st.from_regex(ids.CUSTOMER_PATTERN, fullmatch=True), st.text(max_size=255))
def test_transaction_id_is_a_plain_uuid5(tenant: str, customer: str, key: str) -> None:
    key = key.encode(errors="replace").decode()
    derived = ids.derived_id(tenant, customer, key)

    assert uuid.UUID(bytes=derived) == uuid.uuid5(ids.NAMESPACE, f"{tenant}/{customer}/{key}")
    assert ids.id_bytes(ids.id_text(derived)) == derived


@pytest.mark.parametrize(
    "text", ["", "x" * 36, "{89a07ac3-7127-5e3e-b4ae-b51cd89c8ffa}", "89a07ac371275e3eb4aeb51cd89c8ffa"]
)
def test_only_the_usual_form_of_a_uuid_is_taken(text: str) -> None:
    with pytest.raises(Invalid):
        ids.id_bytes(text)


@pytest.mark.parametrize(
    ("text", "reason"), [("demo/alice:EUR", "cross_tenant"), ("@clearing:EUR", "account_not_found")]
)
def test_account_ids_that_no_customer_may_use_are_refused(text: str, reason: str) -> None:
    with pytest.raises(Refused) as refusal:
        ids.parse_account_id(text)
    assert refusal.value.reason == reason


def test_times_are_read_with_any_zone_and_written_in_utc() -> None:
    assert parse_time("2026-11-20T11:00:00.5+01:00") == NOW + 500
    assert format_time(NOW + 500) == "2026-11-20T10:00:00.500Z"
    assert parse_time("2026-11-20t10:00:00z") == NOW


def _with_twice(value: Any, path: tuple[str, ...], first: str) -> str:
    """JSON of `value` in which the member at `path` stands twice, first as `first` (JSON)."""
    members = []
    for name, one in value.items():
        inner = _with_twice(one, path[1:], first) if path[0] == name and len(path) > 1 else json.dumps(one)
        if path == (name,):
            members.append(f"{json.dumps(name)}:{first}")
        members.append(f"{json.dumps(name)}:{inner}")
    return "{" + ",".join(members) + "}"


def _members(value: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, one in value.items():
        found.append((*above, name))
        if isinstance(one, dict):
            found += _members(one, (*above, name))
    return found


@pytest.mark.parametrize("example", EXAMPLES, ids=[one["type"] for one in EXAMPLES])
def test_sec53_no_member_of_any_command_stands_twice(example: dict[str, Any]) -> None:
    plain = json.dumps(example, separators=(",", ":"))
    parse_command(plain.encode())
    for path in _members(example):
        for first in ("1", "null", '""', "{}", "[]", '"other"', '"\\u0061"', '"a\\"b"'):
            with pytest.raises(Invalid) as invalid:
                parse_command(_with_twice(example, path, first).encode())
            assert invalid.value.reason == "invalid_json", (path, first)


def test_sec53_a_name_that_is_escaped_is_the_same_name() -> None:
    example = next(one for one in EXAMPLES if one["type"] == "transfer.submit")
    twice = json.dumps(example).replace('"amount":', '"am\\u006funt": "1.00", "amount":').encode()
    with pytest.raises(Invalid) as invalid:
        parse_command(twice)
    assert invalid.value.reason == "invalid_json" and "amount" in invalid.value.detail
    # One time escaped, and an optional field that is null, are nothing twice.
    once = json.dumps(example).replace('"amount":', '"effective_at": null, "am\\u006funt":').encode()
    assert parse_command(once).type == "transfer.submit"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"type": "money.print"}, "invalid_type: 'money.print' is not a command type (at /type)"),
        ({"type": "\u00e9\U0001fae8"}, "invalid_type: '\\xe9\\U0001fae8' is not a command type (at /type)"),
        ({"id": 5}, "invalid_uuid_format: id is not a string (at /id)"),
        ({"customer": "\u00f6"}, "invalid_field: customer does not have the right form (at /customer)"),
        ({"idempotency_key": ""}, "idempotency_key_invalid: idempotency_key does not have the right form"),
        ({"data": 7}, "invalid_field: data is not an object (at /data)"),
        ({"data": {"account_id": "", "amount": "1"}}, "invalid_account_id: account_id is too short (at /data/"),
        ({"data": {"account_id": "a" * 257, "amount": "1"}}, "invalid_account_id: account_id is too long (at /data/"),
        (
            {"data": {"account_id": "a:EUR", "amount": "1", "rail": "pigeon"}},
            "invalid_field: rail is none of those that are known here (at /data/rail)",
        ),
        ({"data": {"account_id": "a:DOGE", "amount": "1"}}, "unsupported_asset: 'DOGE' is not an asset (at /data/"),
        ({"type": "account.open", "data": {"asset": "DOGE"}}, "unsupported_asset: 'DOGE' is not an asset (at /data/"),
        (
            {"data": {"account_id": "a:EUR", "amount": "1", "effective_at": "2026-02-30T00:00:00Z"}},
            "invalid_datetime_format: '2026-02-30T00:00:00Z' is no time with a zone in the years 1 to 9999",
        ),
    ],
)
def test_n34_what_is_recorded_of_what_is_wrong_is_the_same_in_every_version(change: dict[str, Any], told: str) -> None:
    """It stands in the journal: neither which types, assets and rails there are nor a library's words may be in it."""
    good = {
        "id": "018f2d3c-8a6e-7c3e-9a51-3f1c2b7e9d10",
        "type": "deposit.submit",
        "tenant": "default",
        "customer": "a",
        "idempotency_key": "k",
        "issued_at": "2026-11-20T10:00:00Z",
        "data": {"account_id": "a:EUR", "amount": "1"},
    }
    with pytest.raises(Invalid) as refused:
        command = parse_command(json.dumps(good | change).encode())
        if isinstance(command, AccountOpen):
            read_account(command)
        else:
            assert isinstance(command, DepositSubmit)
            read_submission(command, "", "", NOW)
    assert str(refused.value).startswith(told)


def test_n34_no_parser_s_words_are_recorded_of_what_is_no_json() -> None:
    for garbage in (None, b"", b"{", b"nul", b"\xff", b"[" * 50_000):
        with pytest.raises(Invalid) as refused:
            parse_command(garbage)
        assert str(refused.value) == "invalid_json: not JSON in UTF-8"
