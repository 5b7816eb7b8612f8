"""Banks and chain on the terminal: settlements under way, the lanes with their breakers, the chain, the reserves."""

from __future__ import annotations

from typing import Any, Final

from rich.table import Table
from rich.text import Text

from aura_stream.demo.drawing import BAD, TITLE, counts, line, section
from aura_stream.demo.outside import Lane, Seen
from aura_stream.demo.settled import Settled
from aura_stream.demo.stories import BANKS
from aura_stream.domain.assets import format_amount
from aura_stream.domain.settlement import RAILS, TOKENS

_BREAKERS: Final = {"closed": "closed", "half_open": "half-open", "open": "open"}
BANK_OF: Final = {rail.token: BANKS[name] for name, rail in RAILS.items()}
"""Token -> where its fiat lies."""


def under_way(settled: Settled, room: int) -> Table:
    """How many settlements are in which state, the most frequent first."""
    return counts("Settlements under way", settled.under_way, room, "more states")


def lanes(seen: Seen) -> Table:
    """What each connector has called, and whether its breaker lets calls through."""
    table = section("Banks, chain", "breaker", "calls", "failed")
    known = {one.name: one for one in seen.lanes}
    for name in ("bank:bank-a", "bank:bank-b", *(f"chain:local:{token}" for token in sorted(TOKENS))):
        one = known.get(name, Lane(name, "closed", "", 0, 0, 0))
        breaker = Text("stopped" if one.stopped else _BREAKERS.get(one.breaker, one.breaker))
        if one.stopped or one.breaker != "closed":
            breaker.stylize(BAD)
        table.add_row(_lane(name, seen), breaker, f"{one.calls:,}", f"{one.failed:,}")
    return table


def _lane(name: str, seen: Seen) -> str:
    kind, _, rest = name.partition(":")
    if kind == "chain":
        return f"chain, {rest.partition(':')[2]}"
    behaves = seen.profiles.get(rest, "")
    return f"{rest}, {behaves}" if behaves else rest


def chain(settled: Settled, seen: Seen) -> Text:
    """How high the chain is, the last mint, and the banks' day."""
    mint = settled.last_mint
    parts = [f"block {seen.height:,}", f"{settled.mints:,} mints"]
    if mint is not None:
        parts.append(f"last {_money(format_amount(mint.amount, mint.token))} {mint.token} {mint.hash[:8]}…")
    if seen.bank_time is not None:
        parts.append(f"banks' day {seen.bank_time:%a %d %b}")
    return line(Text(", ".join(parts)))


def reserves(seen: Seen) -> Table:
    """What is owed to holders of tokens, what is on the chain, what is at the bank; and what does not agree."""
    table = section(_reserves(seen.reserves), "owed", "on chain", "in flight", "at the bank")
    report: dict[str, dict[str, Any]] = {one["token"]: one for one in seen.reserves.get("tokens", ())}
    for token, fiat in sorted(TOKENS.items()):
        one = report.get(token, {})
        cash = seen.cash.get((BANK_OF[token], fiat))
        table.add_row(
            token,
            _money(one.get("owed")),
            _money(one.get("supply")),
            f"{one['in_flight']:,} under way" if one else "-",
            "-" if cash is None else f"{_money(format_amount(cash, fiat))} {fiat}",
        )
    return table


def _money(amount: str | None) -> str:
    """A decimal text with two places and thousands apart; tokens are whole cents here."""
    if not amount:
        return "-"
    whole, _, part = amount.partition(".")
    return f"{int(whole):,}.{(part + '00')[:2]}"


def ended(settled: Settled) -> Table:
    """How many settlements ended how."""
    return counts("Settlements", settled.ended, 100)


def final_reserves(report: dict[str, Any]) -> Table:
    """The reserves at the end, to the last statement."""
    table = section(_reserves(report), "owed", "on chain", "at the bank")
    closing = {one["account"]: one["closing_balance"] for one in report.get("accounts", ())}
    for one in report.get("tokens", ()):
        name = f"@bank:{BANK_OF[one['token']]}:trust:{one['currency']}"
        cash = f"{_money(closing.get(name))} {one['currency']}"
        table.add_row(one["token"], _money(one["owed"]), _money(one["supply"]), cash)
    return table


def _reserves(report: dict[str, Any]) -> Text:
    count = int(report.get("open_breaks", 0))
    return Text(f"Reserves, {count or 'no'} open break{'' if count == 1 else 's'}", BAD if count else TITLE)
