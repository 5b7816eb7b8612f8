"""All edges of the machines of deposits by bank and withdrawals, found by trying.

Every reachable state meets everything that can be said to it, in the words of the golden scenarios (`golden.py`).

    edges = explore("deposit")     # edge -> the steps that lead over it, for a scenario

`python -m tests.domain.edges` writes the scenarios of those that no other scenario has, to be read. Amounts and ids do
not tell states apart, only what a machine asks: so there are some thousand, and the search ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from aura_stream.domain import bank_deposits, beginnings, redemptions, withdrawals
from aura_stream.domain.commands import Resolve
from aura_stream.domain.ids import bank_reference, chain_reference
from aura_stream.domain.pauses import Pause, Scope, lifted
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import Submission
from aura_stream.domain.settlement import Case, Settled
from aura_stream.domain.signals import BankFact, ChainFact, TokensIn
from aura_stream.domain.state import Account, Rules, Settlement, SettlementRules, Transaction
from tests.domain.golden import FOLDER, Player

MACHINES: dict[str, ModuleType] = {"deposit": bank_deposits, "withdrawal": withdrawals}
ID = "89a07ac3-7127-5e3e-b4ae-b51cd89c8ffa"
HUNDRED = 10_000
ADDRESS = "0x52908400098527886E0F7030069857D2E4169EE7"

BANK = (
    *("started", "accepted", "unknown", "undecided", "notice code=C01"),
    *("rejected code=R03", "rejected code=AB05", "rejected code=Z99"),
    *("settled", "settled amount=9900", "returned code=R01", "returned code=R01 amount=9900"),
)
CHAIN = ("broadcast", "broadcast tx=0xbumped", "mined", "confirmed", "reorged", "lost", "failed", "stuck", "withdrawn")
OPERATOR = ("inquire", "settled", "rejected", "match", "refund", "mint_again", "burn_again", "write_off")
STEPS = (
    *(f"bank {one}" for one in BANK),
    *(f"chain {one}" for one in CHAIN),
    *(f"resolve {one}" for one in OPERATOR),
    *("approve otto", "reject otto", "cancel", "wait", "pause tenant=default", "pause chain=local", "lift", "spend"),
)
LONGEST = 12


class Edge(NamedTuple):
    """One step of a machine: where it was, what it tells, where it is."""

    before: str
    event: str
    after: str


class Node(NamedTuple):
    """A transaction with all that its next step is decided from, and the steps that have led here."""

    t: Transaction
    s: Settlement
    accounts: dict[str, Account]
    pauses: tuple[Pause, ...]
    rules: Rules
    at: int
    steps: tuple[str, ...]


@cache
def explore(type_: str) -> dict[Edge, tuple[str, ...]]:
    """Every edge of a machine, with the fewest steps that lead over it."""
    edges: dict[Edge, tuple[str, ...]] = {}
    waiting: deque[Node] = deque()
    seen = set()

    def take(way: list[tuple[Edge | None, Node]]) -> None:
        for edge, node in way:
            if edge is not None:
                edges.setdefault(edge, node.steps)
        # What goes on in the same unit meets nothing in between.
        if way and len(way[-1][1].steps) <= LONGEST and (key := _key(way[-1][1])) not in seen:
            seen.add(key)
            waiting.append(way[-1][1])

    for begun in _beginnings(type_):
        take(begun)
    while waiting:
        node = waiting.popleft()
        for step in STEPS:
            take(_taken(type_, node, step))
    return edges


def _key(node: Node) -> tuple[Any, ...]:
    """What tells nodes apart."""
    t, s = node.t, node.s
    suspense = 0 if not s.suspense else 1 if s.suspense == s.amount else 2
    return (
        *(t.status, t.state, t.reason == "unknown_outcome", bool(t.deadline), s.rail, s.token, s.token_account),
        *(s.parked_by, s.is_asked, s.booked, bool(s.settled_by), s.settled_by == "by its return"),
        *(
            bool(s.write_off),
            bool(s.returned_by),
            bool(s.hash),
            suspense,
            s.is_credited,
            s.is_unconfirmed,
            s.is_dead,
            bool(s.clawed),
            s.back > 0,
        ),
        t.status == "completed" and any(account.available for account in node.accounts.values()),
        tuple((pause.scope, bool(pause.lifted_at)) for pause in node.pauses),
        bool(node.rules.settlement.mint_hold_days),
        bool(node.rules.settlement.approval_above),
    )


def _beginnings(type_: str) -> Iterator[list[tuple[Edge | None, Node]]]:
    """Each way to begin, and where it leads."""
    rails = {"ach": ("USD", "AUSD"), "sepa": ("EUR", "AEUR")}
    for rail, (fiat, token) in rails.items():
        ways = (token, "", "out") if type_ == "deposit" else (token, "")
        for way in ways:
            for name in ("Alice", "Review"):
                for hold in (
                    (0, 2) if type_ == "deposit" and rail == "ach" and way == token and name == "Alice" else (0,)
                ):
                    days = {"default": hold} if hold else {}
                    rules = Rules(("default",), "sandbox", SettlementRules(mint_hold_days=days))
                    target = {token: f"alice:{token}", "out": ADDRESS}.get(way, "")
                    if type_ == "deposit":
                        step = f"deposit {rail} 100.00" + (f" to={target}" if target else "")
                        t, s = _deposit(rail, fiat, token, way)
                    else:
                        source = f"alice:{way or fiat}"
                        step = f"withdraw {rail} 100.00 {source}"
                        t, s = _withdrawal(rail, fiat, way)
                    step += " name=Review" if name == "Review" else ""
                    s = msgspec.structs.replace(s, party_name=name)
                    yield _begun(type_, t, s, rules, (f"rules hold={hold}", step))
    if type_ == "deposit":  # a re-mint
        t, s = _deposit("", "EUR", "AEUR", "AEUR")
        t = msgspec.structs.replace(t, from_account="alice:EUR")
        for limit in ("", f" limit={HUNDRED // 2}"):
            above = {"default": {"EUR": HUNDRED // 2}} if limit else {}
            rules = Rules(("default",), "sandbox", SettlementRules(approval_above=above))
            yield _begun(type_, t, s, rules, (f"rules hold=0{limit}", "remint"))
        for account in ("alice:AUSD", "alice:AUSD:gone"):
            yield _tokens_in(account)


def _tokens_in(account: str) -> list[tuple[Edge | None, Node]]:
    """Tokens that come back from outside, to an account that there is or is not."""
    accounts = {"alice:AUSD": Account("open")}
    at, rules = 1_800_000_000_000, Rules(("default",), "sandbox")
    news = TokensIn(ID, "default", account, "local", "AUSD", HUNDRED, ADDRESS, "0xa")
    decision = redemptions.begin(news, accounts.get(account), at)
    assert decision.settlement is not None
    node = Node(decision.transaction, decision.settlement, accounts, (), rules, at, ("rules hold=0",))
    ((edge, node),) = _applied("deposit", node, decision, f"tokens {account} 25.50")
    return [(Edge("", edge.event, edge.after) if edge is not None else None, node)]


def _deposit(rail: str, fiat: str, token: str, way: str) -> tuple[Transaction, Settlement]:
    s = Settlement(
        *(rail, "bank-b", "local", fiat, token if way else "", f"alice:{fiat}"),
        *(f"alice:{token}" if way == token else "", ADDRESS if way == "out" else "", HUNDRED, 0),
    )
    return Transaction("deposit", "default", "alice", "", "", fiat, HUNDRED, "", f"alice:{fiat}", "", 0, 0), s


def _withdrawal(rail: str, fiat: str, token: str) -> tuple[Transaction, Settlement]:
    s = Settlement(
        rail, "bank-b", "local", fiat, token, f"alice:{fiat}", f"alice:{token}" if token else "", "", HUNDRED, 0
    )
    asset, amount = (token, HUNDRED * 10_000) if token else (fiat, HUNDRED)
    return Transaction("withdrawal", "default", "alice", "", "", asset, amount, f"alice:{asset}", "", "", 0, 0), s


def _begun(
    type_: str, t: Transaction, s: Settlement, rules: Rules, steps: tuple[str, str]
) -> list[tuple[Edge | None, Node]]:
    asked = Submission(
        type_, ID, "default", "alice", t.from_account, t.to_account, "alice", t.asset, t.amount, "", None, 0, None
    )
    accounts = {f"alice:{one}": Account("open") for one in ("USD", "EUR", "AUSD", "AEUR")}
    if t.from_account:
        accounts[t.from_account] = Account("open", available=t.amount)
    begin = beginnings._BEGIN[type_]
    node = Node(t, s, accounts, (), rules, 1_800_000_000_000, steps[:1])
    return _applied(type_, node, begin(asked, _case(node)), steps[1])


def _case(node: Node) -> Case:
    return Case(ID, node.t, node.s, node.accounts.get, node.rules, node.pauses, node.at)


def _taken(type_: str, node: Node, step: str) -> list[tuple[Edge | None, Node]]:
    """Where a step leads, if it leads anywhere; the edge is None when only the world around has changed."""
    verb, *words = step.split()
    plain = [word for word in words if "=" not in word]
    named = dict(word.split("=", 1) for word in words if "=" in word)
    steps = (*node.steps, step)
    if verb == "spend":
        gone = {name: msgspec.structs.replace(one, available=0) for name, one in node.accounts.items()}
        if gone != node.accounts and node.t.status == "completed":
            return [(None, node._replace(accounts=gone, steps=steps))]
        return []
    if verb == "pause":
        if not node.pauses:
            scope = Scope(tenant=named.get("tenant", ""), chain=named.get("chain", ""))
            return [(None, node._replace(pauses=(Pause("p", scope, node.at, "olga"),), steps=steps))]
        return []
    machine, at = MACHINES[type_], node.at
    if verb == "lift":
        if not node.pauses or node.pauses[0].lifted_at:
            return []
        at += 1
        node = node._replace(at=at, pauses=lifted(node.pauses, "p", at))
        if not node.s.parked_by:
            return [(None, node._replace(steps=steps, pauses=()))]
    elif verb == "wait":
        if not node.t.deadline:
            return []
        node = node._replace(at=max(at, node.t.deadline))
    case = _case(node)
    try:
        decision = _decided(machine, case, verb, plain, named, step)
    except Refused:
        return []
    return [] if decision is None else _applied(type_, node, decision, step)


def _decided(
    machine: ModuleType, case: Case, verb: str, plain: list[str], named: dict[str, str], step: str
) -> Settled | None:
    decide: Any
    news: Any
    if verb == "bank":
        if not case.settlement.rail or not _is_known(case, ("requires_approval", "submitting", "payout_submitting")):
            return None
        decide, news = machine.bank_fact, _bank_fact(case, plain[0], named)
    elif verb == "chain":
        before = ("requires_approval", "submitting", "submitted", "awaiting_funds", "funds_settled")
        if not case.settlement.token or not _is_known(case, (*before, "mint_queued", "tokens_held")):
            return None
        decide, news = machine.chain_fact, _chain_fact(case, plain[0], named)
    elif verb == "wait":
        decide, news = machine.deadline, None
    elif verb == "lift":
        decide, news = machine.resume, None
    elif verb == "cancel":
        decide, news = machine.cancel, None
    elif verb == "resolve":
        data = {"transaction_id": ID, "operator": "olga", "outcome": plain[0], "note": "seen"}
        settled: Settled | None = machine.resolve(case, Resolve.model_validate(data))
        return settled
    else:
        decide, news = getattr(machine, verb), plain[0]
    found: Settled | None = decide(case) if news is None else decide(case, news)
    return found


def _is_known(case: Case, first: tuple[str, ...]) -> bool:
    """Whether a lane can tell of it: it was asked, or it is beyond the states in which it is asked."""
    t, s = case.transaction, case.settlement
    return t.state not in first or s.is_asked


def _bank_fact(case: Case, kind: str, named: dict[str, str]) -> BankFact:
    t, s = case.transaction, case.settlement
    step = ("debit" if s.rail == "ach" else "credit") if t.type == "deposit" else "payout"
    moves = kind in ("settled", "returned")
    amount = int(named.get("amount", s.amount - s.fee)) if moves else 0
    reference = bank_reference(ID, "deposit" if t.type == "deposit" else "payout")
    return BankFact(
        *(ID, t.tenant, step, kind, reference, amount, s.fiat if moves else "", named.get("code", "")),
        fact_id=f"fact-{t.seq}" if moves else "",
    )


def _chain_fact(case: Case, kind: str, named: dict[str, str]) -> ChainFact:
    t, s = case.transaction, case.settlement
    if t.type == "withdrawal":
        step, place = "burn", "burn"
    elif t.state == "tokens_received":
        step, place = "sweep", "sweep/1"
    elif t.state == "returning":
        step, place = "burn", f"return/{s.round}"
    else:
        step, place = "mint", f"mint/{s.round}"
    hash_ = named.get("tx", f"0xb{s.round}") if kind == "broadcast" else ""
    return ChainFact(ID, t.tenant, step, kind, chain_reference(ID, place), hash_)


def _applied(type_: str, node: Node, decision: Settled, step: str) -> list[tuple[Edge | None, Node]]:
    """The node after a decision, and after what follows it in the same unit."""
    found: list[tuple[Edge | None, Node]] = []
    machine, steps = MACHINES[type_], (*node.steps, step)
    while True:
        before, t = node.t.state, decision.transaction
        assert decision.settlement is not None
        node = node._replace(t=t, s=decision.settlement, accounts={**node.accounts, **decision.accounts}, steps=steps)
        found.append((Edge(before, decision.event, f"{t.status}/{t.state}"), node))
        if not decision.goes_on:
            return found
        decision = machine.onward(_case(node))


def scenario(type_: str, steps: tuple[str, ...]) -> list[str]:
    """Steps as lines of a scenario that begins with a world of its own, and with what the first step needs."""
    rules, first, *rest = steps
    lines = [rules, "open alice:USD alice:AUSD alice:EUR alice:AEUR"]
    if type_ == "withdrawal":
        lines.append(f"fund {first.split()[3]} 100.00")
    elif first == "remint":
        is_limited = "limit=" in rules
        lines += ["fund alice:EUR 50.00"] * 2 if is_limited else ["fund alice:EUR 100.00"]
        lines += [
            "withdraw sepa 100.00 alice:EUR",
            *(["approve otto"] if is_limited else []),
            "bank rejected code=AC01",
        ]
    return [f"> {line}" for line in (*lines, first, *rest)]


def write() -> None:
    """Writes `golden/edges_<type>.txt` anew: a scenario for every edge that no scenario made by hand has."""
    by_hand = [path for path in sorted(FOLDER.glob("*.txt")) if not path.name.startswith("edges_")]
    seen = {edge for path in by_hand for edge in edges_of(path.read_text(encoding="utf-8"))}
    for type_ in MACHINES:
        lines = [f"# Each edge of the {type_}'s machine that no other scenario has, by the fewest steps."]
        found = explore(type_)
        for edge in sorted(found, key=lambda one: (-len(found[one]), one)):
            if edge not in seen:
                played = scenario(type_, found[edge])
                seen |= edges_of("\n".join(played))
                lines += ["", f"# {edge.before or '(start)'} ─{edge.event}─▶ {edge.after}", *played]
        text = "\n".join(lines) + "\n"
        (FOLDER / f"edges_{type_}.txt").write_text(Player().play(text), encoding="utf-8")


def edges_of(text: str) -> set[Edge]:
    """The edges that a scenario goes over."""
    player = Player()
    player.play(text)
    return {Edge(*one) for one in player.edges}


if __name__ == "__main__":
    write()
