"""Every edge of the machines has a golden scenario: those that the code has, and those that the diagrams draw.

The drawing itself is read: an arrow begins at the word before it, or at the word above its branch.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import pytest

from tests.domain.edges import MACHINES, Edge, edges_of, explore
from tests.domain.golden import FOLDER

pytestmark = pytest.mark.timeout(600)
"""The search goes through some thousand states; on a busy machine that takes minutes."""

Pair = tuple[str, str]

STARTS = {
    "deposit": ("submitting", "awaiting_funds", "mint_queued"),
    "withdrawal": ("tokens_held", "payout_submitting"),
}
WITH_A_DEAD_MINT = ("mint_queued", "mint_broadcast", "mint_confirming")
STAYS = {
    "unknown": "unknown_outcome",
    "failed for good": "requires_attention",
    "returned": "return_noted",
    "reorged": "mint_reorged",
    "confirmed": "mint_reconfirmed",
    "mint_again": "minting_again",
}
"""The event of an arrow that leads back to where it comes from."""
PASSED_THROUGH = "burnt"
"""Nothing waits there: what burns goes on to its payout in the same unit, and only that is drawn."""
IN_WORDS = {
    "deposit": {("", "tokens_received")},  # where the tokens come from is no step of ours
    "withdrawal": set(),
}
"""What the text around the diagram says and no arrow shows."""


class Arrow(NamedTuple):
    """From these states, by this word, to that one. "" is where everything begins."""

    sources: tuple[str, ...]
    label: str
    target: str


def drawn(head: str) -> list[Arrow]:
    """All arrows of a head."""
    rows = head.partition("    Any wait")[0].splitlines()
    return [_arrow(rows, number, found.start()) for number, row in enumerate(rows) for found in re.finditer("▶ ", row)]


def _arrow(rows: list[str], number: int, tip: int) -> Arrow:
    row = rows[number]
    target = re.match(r"\(start\)|same state|[a-z_]+", row[tip + 2 :])
    assert target is not None, row
    start = max(row.rfind(one, 0, tip) for one in "├└▶")
    if start >= 0 and row[start] != "▶":
        label, above = row[start + 1 : tip], number - 1
        while rows[above][start] in "│├└":
            above -= 1
        words = re.finditer(r"\(start\) [a-z-]+|[a-z_]+", rows[above])
        source = next(word[0] for word in words if word.start() <= start < word.end())
    else:
        source, _, label = row[start + 1 : tip].strip().partition(" ─")
    if source.startswith("same state"):  # what follows it begins where it began
        return Arrow(_arrow(rows, number, start).sources, label.strip("─ "), target[0])
    sources = [one for one in source.split(", ") if re.fullmatch(r"[a-z_]+|\(start\) [a-z-]+", one)]
    more = WITH_A_DEAD_MINT if "with a dead mint" in source else ()
    return Arrow(
        (*("" if one == "submit" or one[0] == "(" else one for one in sources), *more), label.strip("─ "), target[0]
    )


def pairs(type_: str) -> set[Pair]:
    """Where the arrows lead from and to."""
    found = set()
    for arrow in drawn(MACHINES[type_].__doc__ or ""):
        for source in arrow.sources:
            targets = STARTS[type_] if arrow.target == "(start)" else (arrow.target,)
            found |= {(source, source if target == "same state" else target) for target in targets}
    return found


@cache
def golden() -> frozenset[Edge]:
    """Every step of every golden scenario."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.txt"))]
    return frozenset(edge for text in texts for edge in edges_of(text))


def state_of(edge: Edge) -> str:
    """Where it leads, without the status."""
    return edge.after.partition("/")[2]


def passed(found: set[Pair]) -> set[Pair]:
    """Pairs, with what leads through a state where nothing waits as one."""
    into = {source for source, target in found if target == PASSED_THROUGH}
    onward = {target for source, target in found if source == PASSED_THROUGH}
    return {one for one in found if PASSED_THROUGH not in one} | {(a, b) for a in into for b in onward}


@pytest.mark.parametrize("type_", ["deposit", "withdrawal"])
def test_a08_every_edge_of_a_machine_has_a_golden_scenario(type_: str) -> None:
    """The edges are those of the code, found by trying all; the states are those that its head draws."""
    edges = explore(type_)

    assert sorted(set(edges) - golden()) == [], "python -m tests.domain.edges, and read what it adds"
    assert len(edges) > 80
    head = MACHINES[type_].__doc__ or ""
    states = {edge.before for edge in edges} | {state_of(edge) for edge in edges}
    assert {state for state in states if state not in head} == set()


def test_a_diagram_is_read_as_it_is_drawn() -> None:
    head = """
    submit ─screening─▶ first ──goes on──▶ second ─▶ third
       │                 │ └─no──▶ gone        (failed)
       │                 └─perhaps─▶ same state
       └──later─▶ second
    second, third ──back──▶ same state; then ─▶ first
    Any wait ─▶ is no arrow
    """

    assert drawn(head) == [
        Arrow(("",), "screening", "first"),
        Arrow(("first",), "goes on", "second"),
        Arrow(("second",), "", "third"),
        Arrow(("first",), "no", "gone"),
        Arrow(("first",), "perhaps", "same state"),
        Arrow(("",), "later", "second"),
        Arrow(("second", "third"), "back", "same state"),
        Arrow(("second", "third"), "", "first"),
    ]


@pytest.mark.parametrize("type_", ["deposit", "withdrawal"])
def test_a08_every_edge_that_is_drawn_has_a_golden_scenario(type_: str) -> None:
    arrows = drawn(MACHINES[type_].__doc__ or "")
    mine = {(edge.before, edge.event, state_of(edge)) for edge in golden() if edge.event.startswith(f"{type_}.")}
    seen = passed({(before, after) for before, _, after in mine})

    assert len(arrows) >= 24
    assert sorted(pairs(type_) - seen) == []
    for arrow in arrows:
        for source in arrow.sources:
            if arrow.target in ("same state", source):
                assert (source, f"{type_}.{STAYS[arrow.label]}", source) in mine, arrow


@pytest.mark.parametrize("type_", ["deposit", "withdrawal"])
def test_a18_a08_the_code_has_no_edge_that_is_not_drawn(type_: str) -> None:
    """A fact may overtake others: what leads along several arrows is drawn too."""
    shown = pairs(type_) | IN_WORDS[type_]
    while further := {(a, d) for a, b in shown for c, d in shown if b == c and a} - shown:
        shown |= further
    code = passed({(edge.before, state_of(edge)) for edge in explore(type_)})

    assert sorted(one for one in code - shown if one[0] != one[1]) == []
    assert IN_WORDS[type_] - code == set(), "an arrow shows it by now, or it is gone"
