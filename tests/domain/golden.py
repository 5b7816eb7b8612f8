"""Golden scenarios: what is done, and beside it what follows: events, entries, requests. `tests/domain/golden/*.txt`.

Lines with `>` are steps; the others are made by the ledger. `python -m tests.domain.golden` writes them anew, to be
read before they are committed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from aura_stream.domain.assets import format_amount, parse_amount
from aura_stream.domain.lane_requests import Burn, Expect, Inquire, Instruct, Mint, SetPause, Withdraw
from aura_stream.domain.state import Fee, SettlementRules
from aura_stream.journal import AccountLine, AnswerLine, ChangeLine, ClockLine, Line, PauseLine, TransactionLine
from tests.domain.settlement_world import SettlementWorld
from tests.domain.world import DAY, HOUR

FOLDER = Path(__file__).parent / "golden"
UNITS = {"h": HOUR, "d": DAY}


class Player:
    """Plays the steps of one scenario, and writes down what follows."""

    def __init__(self) -> None:
        self.world = SettlementWorld()
        self.ids: list[str] = []  # transactions, in the order in which they began
        self.pause = ""
        self.seen_lines = 0
        self.seen: set[bytes] = set()
        self.told: set[tuple[int, int, int]] = set()
        self.states: dict[str, str] = {}
        self.edges: set[tuple[str, str, str]] = set()
        """Every step of a transaction that was seen: where it was, the event, status and state after."""

    @property
    def now(self) -> str:
        """The transaction that steps are about: the latest."""
        return self.ids[-1]

    @property
    def owner(self) -> str:
        """Whose the latest is: alice's, or nobody's."""
        return self.world.transaction(self.now).customer

    def play(self, text: str) -> str:
        """The scenario with what follows each step."""
        out: list[str] = []
        for line in text.splitlines():
            if line.startswith("#") or not line.strip():
                out.append(line)
            elif line.startswith(">"):  # what is not a step is what followed it when this was written
                out.append(line)
                self.step(*line[1:].split())
                out += self.news()
        self.world.check()
        self.world.check_rebuild()
        return "\n".join(out) + "\n"

    def step(self, verb: str, *words: str) -> None:
        """One step: a verb, words, and `name=value` pairs."""
        plain = [word for word in words if "=" not in word]
        named = dict(word.split("=", 1) for word in words if "=" in word)
        getattr(self, f"do_{verb}")(*plain, **named)
        self.world.driver.run()

    def submit(self, type_: str, **data: Any) -> None:
        """Sends a command that makes a transaction."""
        self.ids.append(self.world.send(type_, "alice", **data).transaction_id)

    def do_rules(self, fee: str = "0", limit: str = "", hold: str = "0", checker: str = "") -> None:
        """Begins with other rules: a fee in basis points, a limit for approval, days of hold."""
        fees = {f"{t}:{r}": Fee(basis_points=int(fee)) for t in ("deposit", "withdrawal") for r in ("ach", "sepa", "")}
        above = {"USD": int(limit), "EUR": int(limit)} if limit else {}
        rules = SettlementRules(
            fees={"default": fees},
            approval_above={"default": above},
            mint_hold_days={"default": int(hold)},
            checker_lifts=bool(checker),
        )
        self.world.check()
        self.world.check_rebuild()
        self.world = SettlementWorld(settlement=rules)
        self.ids, self.seen, self.told, self.states = [], set(), set(), {}

    def do_open(self, *accounts: str) -> None:
        """Opens accounts, without telling."""
        for account in accounts:
            if self.world.find(account) is None:
                self.world.open(account)
        self.news()

    def do_fund(self, account: str, amount: str) -> None:
        """Gives an account in fiat or tokens money, without telling."""
        is_token = account.split(":")[1][0] == "A"
        self.do_deposit("ach" if account.endswith("USD") else "sepa", amount, to=account if is_token else "")
        self.world.driver.run()
        self.do_bank("settled")
        if is_token:
            self.do_chain("confirmed")
        self.news()

    def party(self, rail: str, name: str, at: str) -> dict[str, str]:
        """The other side, with the bank account `at`, or with one that nobody has used yet."""
        number = at or f"{len(self.ids):010}"
        return {"name": name, "account": f"021000021/{number}" if rail == "ach" else f"DE893704004405{number}"}

    def do_deposit(self, rail: str, amount: str, to: str = "", name: str = "Alice", by: str = "", at: str = "") -> None:
        """`deposit.submit`, minted to `to`, from the bank account `at`."""
        fiat = "USD" if rail == "ach" else "EUR"
        data: dict[str, Any] = {"account_id": f"alice:{fiat}", "amount": amount, "rail": rail}
        data["payer"] = self.party(rail, name, at) if rail == "ach" else {"name": name}
        data |= {"mint_to": to} if to else {}
        data |= {"requested_by": by} if by else {}
        self.submit("deposit.submit", **data)

    def do_withdraw(
        self, rail: str, amount: str, account: str, name: str = "Alice", by: str = "", at: str = ""
    ) -> None:
        """`withdrawal.submit`, to the bank account `at`."""
        party = self.party(rail, name, at)
        data: dict[str, Any] = {"account_id": account, "amount": amount, "rail": rail, "beneficiary": party}
        self.submit("withdrawal.submit", **data, **({"requested_by": by} if by else {}))

    def do_retry(self, name: str = "Alice", at: str = "") -> None:
        """`withdrawal.retry` of the latest, to the bank account `at`."""
        party = self.party(self.world.settlement(self.now).rail, name, at)
        self.submit("withdrawal.retry", transaction_id=self.now, beneficiary=party)

    def do_remint(self) -> None:
        """`withdrawal.remint` of the latest."""
        self.submit("withdrawal.remint", transaction_id=self.now)

    def do_redeposit(self) -> None:
        """`deposit.retry` of the latest."""
        self.submit("deposit.retry", transaction_id=self.now)

    def do_back(self) -> None:
        """Steps are about the transaction before the latest again."""
        self.ids.pop()

    def do_approve(self, operator: str) -> None:
        """`transaction.approve`."""
        self.world.send("transaction.approve", self.owner, transaction_id=self.now, operator=operator)

    def do_reject(self, operator: str) -> None:
        """`transaction.reject`."""
        self.world.send("transaction.reject", self.owner, transaction_id=self.now, operator=operator)

    def do_cancel(self) -> None:
        """`transaction.cancel`."""
        self.world.send("transaction.cancel", "alice", transaction_id=self.now)

    def do_resolve(self, outcome: str, account: str = "", deposit: str = "") -> None:
        """`transaction.resolve` by olga; `deposit=before` is the transaction before the latest."""
        data = {"transaction_id": self.now, "operator": "olga", "outcome": outcome, "note": "seen"}
        data |= {"account_id": account} if account else {}
        data |= {"deposit_id": self.ids[-2]} if deposit else {}
        self.world.send("transaction.resolve", self.owner, **data)

    def do_bank(
        self, kind: str, code: str = "", amount: str = "", asset: str = "", ref: str = "", fact: str = ""
    ) -> None:
        """A fact of the bank."""
        what: dict[str, Any] = {"code": code} if code else {}
        what |= {"amount": int(amount)} if amount else {}
        what |= {"asset": asset} if asset else {}
        what |= {"bank_reference": ref} if ref else {}
        what |= {"fact_id": fact} if fact else {}
        self.world.bank(self.now, kind, **what)

    def do_chain(self, kind: str, gas: str = "0", tx: str = "") -> None:
        """A fact of the chain."""
        what: dict[str, Any] = {"gas": int(gas)} if int(gas) else {}
        self.world.chain(self.now, kind, **what, **({"hash": tx} if tx else {}))

    def do_tokens(self, account: str, amount: str) -> None:
        """Tokens come back from outside, to an account's deposit address."""
        self.ids.append(self.world.tokens(account, parse_amount(amount, account.split(":")[1])))

    def do_unannounced(self, bank: str, amount: str, asset: str) -> None:
        """Money comes to a bank that no reference explains."""
        self.ids.append(self.world.unannounced(bank, int(amount), asset))

    def do_wait(self, time: str = "") -> None:
        """Time passes: 3h, 7d; else until the latest's deadline."""
        if time:
            self.world.wait(int(time[:-1]) * UNITS[time[-1]])
        else:
            self.world.wait(max(self.world.transaction(self.now).deadline - self.world.at, 0))

    def do_spend(self) -> None:
        """Alice sends all that she has to bob."""
        for asset in ("USD", "AUSD", "EUR", "AEUR"):
            account = self.world.find(f"alice:{asset}")
            if account is not None and account.available:
                self.do_open(f"bob:{asset}")
                self.do_transfer(f"alice:{asset}", f"bob:{asset}", format_amount(account.available, asset))

    def do_pause(self, **scope: str) -> None:
        """`pause.set` by olga, applied by the lanes."""
        self.pause = self.world.send("pause.set", "ops", operator="olga", scope=scope).transaction_id
        self.world.driver.run()
        self.world.answer_pauses()

    def do_lift(self, operator: str = "olga") -> None:
        """`pause.lift` of the latest, applied by the lanes; what parked goes on."""
        self.world.send("pause.lift", "ops", operator=operator, pause_id=self.pause)
        self.world.driver.run()
        self.world.answer_pauses()
        self.world.at += 1
        self.world.settle()

    def do_transfer(self, source: str, target: str, amount: str) -> None:
        """`transfer.submit`."""
        customer = source.split(":")[0]
        data = {"from_account_id": source, "to_account_id": target, "amount": amount}
        self.world.send("transfer.submit", customer, **data)

    def do_close(self, account: str) -> None:
        """`account.close`."""
        self.world.send("account.close", account.split(":")[0], account_id=account)

    # --- what follows ----------------------------------------------------------------------------------------------

    def news(self) -> list[str]:
        """What is new since the last step."""
        out = []
        for partition in range(self.world.partitions):
            for unit in self.world.units(partition):
                for number, line in enumerate(unit.lines):
                    place = (partition, unit.seq, number)
                    if place not in self.told:
                        self.told.add(place)
                        out += self.shown(line)
        asked = self.world.requests()
        for request in asked:
            key = msgspec.json.encode(request)
            if key not in self.seen:
                self.seen.add(key)
                out += [f"    -> {_asked(request)}"] if not isinstance(request, SetPause) else []
        return out

    def shown(self, line: Line) -> list[str]:
        """A line of the journal, as text."""
        if isinstance(line, AnswerLine):
            return [f"  {line.kind} {line.reason}"]
        if isinstance(line, AccountLine):
            return [f"  {line.event} {line.account_id}"]
        if isinstance(line, PauseLine | ClockLine):
            return [f"  {line.event}"]
        out = []
        if isinstance(line, TransactionLine | ChangeLine):
            self.edges.add((self.states.get(line.id, ""), line.event, f"{line.status}/{line.state}"))
            self.states[line.id] = line.state
            said = [f"  {line.event}  {line.status}/{line.state}"]
            said += [f"reason={line.reason}"] if line.reason else []
            if line.by_bank is not None:
                said += [f"code={line.by_bank.code}:{line.by_bank.action}"] if line.by_bank.code else []
                said += ["parked"] if line.by_bank.parked_by else []
                said += [f"suspense={line.by_bank.suspense}"] if line.by_bank.suspense else []
            out.append(" ".join(said))
        else:
            out.append(f"  {line.event} {line.account_id}")
        for journal in line.journals:
            entries = [
                f"{e.account_id}{'' if e.layer == 'available' else '.' + e.layer} {int(e.amount):+}"
                for e in journal.entries
            ]
            out.append("    " + "  ".join(entries))
        return out


def _asked(request: Any) -> str:
    if isinstance(request, Instruct):
        return f"bank {request.step} {request.rail} {request.amount} {request.asset}"
    if isinstance(request, Expect):
        return f"bank expect {request.rail} {request.amount} {request.asset}"
    if isinstance(request, Inquire):
        return "bank inquire"
    if isinstance(request, Mint):
        return f"chain mint {request.amount} {request.token} to {request.to or 'custody'}"
    if isinstance(request, Burn):
        return f"chain burn {request.amount} {request.token}{' for a return' if request.is_return else ''}"
    assert isinstance(request, Withdraw)
    return "chain withdraw"


def played(path: Path) -> str:
    """A scenario as the ledger plays it now."""
    return Player().play(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(str(path) for path in FOLDER.glob("*.txt")):
        Path(name).write_text(played(Path(name)), encoding="utf-8")
