"""NACHA files: a file written by hand from the rules, and every way of breaking one."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_stream.mock_bank.nacha import Addenda, Batch, Entry, File, NachaError, check_digit, is_routing, parse, render

# Written by hand from Appendix Three. Hash: 02100002 + 09100001 = 11200003.
GOLDEN = Path(__file__).with_name("golden.ach").read_text(encoding="ascii")
FILE = File(
    destination="061000146",
    origin="091000019",
    destination_name="ACH OPERATOR",
    origin_name="BANK A",
    created=datetime(2026, 11, 20, 9, 0),  # noqa: DTZ001  # local to the bank by definition
    modifier="A",
    batches=(
        Batch(
            company="AURA CLIENT",
            company_id="1234567890",
            sec="PPD",
            description="PAYMENT",
            effective=date(2026, 11, 23),
            odfi="09100001",
            entries=(
                Entry(
                    code=27,
                    routing="021000021",
                    account="123456789",
                    cents=1250,
                    reference="REF-1",
                    name="BOB EXAMPLE",
                    trace="091000010000001",
                ),
                Entry(
                    code=22,
                    routing="091000019",
                    account="555",
                    cents=99,
                    reference="REF-2",
                    name="CAROL EXAMPLE",
                    trace="091000010000002",
                    addenda=(Addenda(kind="05", text="INVOICE 4711"),),
                ),
            ),
        ),
    ),
)


def test_file_is_written_as_the_rules_say_and_read_back() -> None:
    assert render(FILE) == GOLDEN
    assert parse(GOLDEN) == FILE


def test_known_routing_numbers_have_their_check_digit() -> None:
    assert all(map(is_routing, ("021000021", "061000146", "011401533", "322271627")))
    assert not is_routing("021000022") and not is_routing("02100002") and not is_routing("02100002x")


def test_sec34_every_digit_of_the_controls_is_checked() -> None:
    lines = GOLDEN.splitlines()
    for number in (5, 6):
        for place, sign in enumerate(lines[number]):
            if sign == " " or (number == 5 and place in range(44, 54)):
                continue
            changed = [*lines]
            changed[number] = lines[number][:place] + ("7" if sign != "7" else "3") + lines[number][place + 1 :]
            with pytest.raises(NachaError):
                parse("\n".join(changed) + "\n")


def test_sec34_no_cut_file_is_read() -> None:
    for length in range(len(GOLDEN)):
        with pytest.raises(NachaError):
            parse(GOLDEN[:length])


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("627021000021", "627021000022", "routing number"),
        ("0000001250REF", "0000001251REF", "total of debits"),
        ("627021", "623021", "transaction code"),
        ("1091000010000002\n705", "0091000010000002\n705", "addenda indicator"),
        ("1091000010000002\n", "1091000010000001\n", "number in its addenda"),
        ("094101", "080101", "record size"),
        ("00010000002", "00020000002", "addenda sequence"),
        ("261123   1", "261323   1", "no date"),
        ("5200AURA", "5220AURA", "service class"),
        ("BOB", "B\tB", "printable"),
    ],
)
def test_broken_rule_is_named(before: str, after: str, why: str) -> None:
    assert before in GOLDEN
    with pytest.raises(NachaError, match=why):
        parse(GOLDEN.replace(before, after))


def test_entry_hash_keeps_its_last_ten_digits_and_blocks_are_full() -> None:
    entries = tuple(
        replace(FILE.batches[0].entries[0], routing="99999999" + check_digit("99999999"), trace=f"09100001{n:07d}")
        for n in range(1, 202)
    )
    text = render(replace(FILE, batches=(replace(FILE.batches[0], entries=entries),)))

    control = text.splitlines()[203]
    assert control[10:20] == str(99999999 * 201)[-10:] and len(str(99999999 * 201)) == 11
    assert len(text.splitlines()) % 10 == 0
    assert parse(text).batches[0].entries == entries


def test_amount_that_does_not_fit_is_refused() -> None:
    entry = replace(FILE.batches[0].entries[0], cents=10**10)
    with pytest.raises(NachaError, match="does not fit"):
        render(replace(FILE, batches=(replace(FILE.batches[0], entries=(entry,)),)))


TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)
ENTRIES = st.builds(
    Entry,
    code=st.sampled_from([22, 27, 32, 37, 21, 26, 31, 36]),
    routing=st.integers(0, 10**8 - 1).map(lambda n: f"{n:08d}" + check_digit(f"{n:08d}")),
    account=TEXT.map(lambda text: text[:17]),
    cents=st.integers(0, 10**10 - 1),
    reference=TEXT.map(lambda text: text[:15]),
    name=TEXT.map(lambda text: text[:22]),
    trace=st.just("091000010000001"),
    addenda=st.lists(
        st.one_of(
            st.builds(
                Addenda,
                kind=st.just("99"),
                code=st.just("R01"),
                original_trace=st.just("0" * 15),
                original_routing=st.just("0" * 8),
                text=TEXT.map(lambda text: text[:44]),
            ),
            st.builds(
                Addenda,
                kind=st.just("98"),
                code=st.just("C01"),
                original_trace=st.just("0" * 15),
                original_routing=st.just("0" * 8),
                text=TEXT.map(lambda text: text[:29]),
            ),
        ),
        max_size=1,
    ).map(tuple),
)


@given(st.lists(st.lists(ENTRIES, min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_written_is_read_back(batches: list[list[Entry]]) -> None:
    file = replace(
        FILE,
        batches=tuple(
            replace(
                FILE.batches[0],
                entries=tuple(replace(entry, trace=f"09100001{n:07d}") for n, entry in enumerate(entries, 1)),
            )
            for entries in batches
        ),
    )

    text = render(file)

    assert parse(text) == file
    assert {len(line) for line in text.splitlines()} == {94} and len(text.splitlines()) % 10 == 0


@given(st.text(max_size=300))
def test_sec34_garbage_is_refused(text: str) -> None:
    with pytest.raises(NachaError):
        parse(text)
