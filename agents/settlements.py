"""The ledger's part for deposits by bank, withdrawals and pauses: reads their rows, lets a machine decide, writes.

What banks and chain do comes as facts from their lanes; what is asked of them goes out as requests, in the unit that
decided it. A pause is a row of every partition: its command's partition tells all, and counts who has it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from types import ModuleType
from typing import Any, Final

import msgspec

from agents.writing import (
    KEY_LIFE_MS,
    begin,
    change,
    reader,
    refuse,
    send_event,
    tell_refused,
)
from aura_stream.domain import bank_deposits, beginnings, gas, redemptions, unannounced, withdrawals
from aura_stream.domain.commands import (
    DepositRetry,
    PauseLift,
    PauseSet,
    TransactionApprove,
    TransactionReject,
    TransactionResolve,
    WithdrawalRetry,
)
from aura_stream.domain.events import EventData, PauseData
from aura_stream.domain.ids import bank_lane_key, chain_lane_key, derived_id, id_bytes, id_text, parse_account_id
from aura_stream.domain.lane_requests import ENCODE as ENCODE_REQUEST
from aura_stream.domain.lane_requests import SetPause
from aura_stream.domain.ledger import Decision, owned
from aura_stream.domain.pauses import (
    DRAINED_AT_ONCE,
    Pause,
    Pauses,
    Rollout,
    Scope,
    in_force,
    lifted,
    with_pause,
)
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import ActionCommand, ChildCommand, PauseCommand, Submission
from aura_stream.domain.settlement import TOKENS, Case, Settled, attention, same_state
from aura_stream.domain.signals import (
    Answer,
    Applied,
    BankFact,
    ChainFact,
    Matched,
    NativeMoved,
    Paused,
    TokensIn,
    Unmatched,
)
from aura_stream.domain.state import (
    TERMINAL,
    IdempotencyKey,
    Rules,
    Settlement,
    Transaction,
)
from aura_stream.engine.unit import Unit
from aura_stream.journal import PauseLine
from tables.barred import BARRED, barred_key
from tables.idempotency_keys import IDEMPOTENCY_KEYS
from tables.parked import PARKED
from tables.pauses import ALL, PAUSES, ROLLOUTS
from tables.settlements import SETTLEMENTS
from tables.transactions import TRANSACTIONS
from topics.bank_requests import BANK_REQUESTS
from topics.chain_requests import CHAIN_REQUESTS

MACHINES: Final[dict[str, ModuleType]] = {
    "deposit": bank_deposits,
    "withdrawal": withdrawals,
    "suspense": unannounced,
}
COMMANDS: Final = frozenset(
    {"withdrawal.submit", "deposit.retry", "withdrawal.retry", "withdrawal.remint", "pause.set", "pause.lift"}
)
"""Command types that are decided here alone."""

PAUSES_SET: Final = "pauses"
"""The count of pauses in force that touch transfers and holds, among the shard's counters: looked up per command."""

_DRAIN: Final = b"pause/"  # + id: the deadline by which a lifted pause lets go what it parked


# --- commands --------------------------------------------------------------------------------------------------------


def submit(unit: Unit, asked: Submission, rules: Rules) -> Settled:
    """The first step of a deposit by bank or a withdrawal. Raises :class:`Refused`."""
    barred = _barred(asked.tenant, asked.customer)
    return beginnings.begin(asked, reader(asked.tenant), rules, pauses(), unit.at, barred)


def check_pauses(asked: Submission) -> None:
    """Raises :class:`Refused` ``paused`` when a transfer, hold or deposit by hand is not taken for now."""
    accounts = tuple(account for account in (asked.from_account, asked.to_account) if account)
    pause = in_force(pauses(), Scope(asked.tenant, asked.type, assets=(asked.asset,), accounts=accounts))
    if pause is not None:
        raise Refused("paused", f"pause {pause.id}" + (f": {pause.note}" if pause.note else ""))


def submit_again(unit: Unit, command: ChildCommand, key: bytes, content: str, parent_key: bytes, rules: Rules) -> None:
    """A new transaction for what came back of another.

    A refusal names the transaction that there is not: its id may have been given with a receipt already.
    """
    before, id_ = TRANSACTIONS.get(parent_key), id_text(key)
    try:
        before = owned(before, command.tenant, command.customer)
        row = SETTLEMENTS.get(parent_key)
        if row is None:
            raise Refused("invalid_state_transition", f"the transaction is a {before.type}")
        if row.child_id and _moved_nothing(row.child_id):
            row = msgspec.structs.replace(row, child_id="")
        parent = _case(unit, parent_key, before, row, rules)
        if isinstance(command, DepositRetry):
            if before.type != "deposit":
                raise Refused("invalid_state_transition", f"the transaction is a {before.type}")
            asked, s = beginnings.retry_deposit(parent, id_, content)
        elif isinstance(command, WithdrawalRetry):
            data = command.data
            party = data.beneficiary
            asked, s = beginnings.retry_withdrawal(
                parent, id_, content, data.rail or "", party.name, party.account, rules
            )
        else:
            asked, s = beginnings.remint(parent, id_, content)
        decision = beginnings.begin_again(asked, s, parent, parent.accounts, rules, unit.at)
    except Refused as refusal:
        if refusal.reason == "paused":
            tell_refused(unit, command, refusal, id_)
        else:
            refuse(unit, command, key, content, refusal, transaction_id=id_)
        return
    begin(unit, command, key, id_, decision)


def _moved_nothing(transaction_id: str) -> bool:
    """Whether a transaction has ended before it moved anything: what it was to use again is there as before."""
    child = TRANSACTIONS.get(id_bytes(transaction_id))
    return child is not None and child.state in ("denied", "canceled", "expired", "refunded")


def act(unit: Unit, command: ActionCommand, before: Transaction, key: bytes, row: Settlement, rules: Rules) -> Settled:
    """An action on a deposit by bank or a withdrawal. Raises :class:`Refused`."""
    machine, case = MACHINES[before.type], _case(unit, key, before, row, rules)
    decision: Settled
    if isinstance(command, TransactionApprove):
        decision = machine.approve(case, command.data.operator)
    elif isinstance(command, TransactionReject):
        decision = machine.reject(case, command.data.operator)
    elif isinstance(command, TransactionResolve):
        if command.data.operator == before.customer:
            raise Refused("four_eyes", "nobody decides about their own money")
        if command.data.account_id and before.type != "suspense" and before.state != "tokens_received":
            raise Refused("unknown_field", f"account_id says nothing about a {before.type} that is {before.state}")
        decision = machine.resolve(case, command.data)
    elif command.type == "transaction.cancel":
        decision = machine.cancel(case)
    else:
        raise Refused("invalid_state_transition", f"a bank says what becomes of the {before.type}")
    return decision


def go_on(unit: Unit, key: bytes, decision: Decision, rules: Rules) -> None:
    """What follows a step right away, in the same unit."""
    while isinstance(decision, Settled) and decision.goes_on:
        before, row = decision.transaction, decision.settlement
        assert row is not None
        decision = MACHINES[before.type].onward(_case(unit, key, before, row, rules))
        change(unit, key, before, decision)


# --- facts and deadlines ---------------------------------------------------------------------------------------------


def fact(unit: Unit, news: BankFact | ChainFact, rules: Rules) -> None:
    """What a bank or the chain did."""
    key = id_bytes(news.transaction_id)
    before, row = TRANSACTIONS.get(key), SETTLEMENTS.get(key)
    if before is None or row is None or before.tenant != news.tenant:
        raise LookupError(f"a fact about the unknown transaction {news.transaction_id}")
    machine, case = MACHINES[before.type], _case(unit, key, before, row, rules)
    decide = machine.bank_fact if isinstance(news, BankFact) else machine.chain_fact
    _moved(unit, key, before, decide(case, news), rules)


def answered(unit: Unit, key: bytes, before: Transaction, answer: Answer, rules: Rules) -> Settled:
    """What became of money that was nobody's, where it was matched to."""
    row = SETTLEMENTS.get(key)
    if row is None:
        raise LookupError(f"an answer to {answer.transaction_id}, which is a {before.type}")
    return unannounced.answered(_case(unit, key, before, row, rules), answer)


def check_awaited(unit: Unit, credit: Matched, rules: Rules) -> None:
    """Whether the deposit that a credit is meant for waits for it. Raises :class:`Refused`: the money goes back."""
    bank_deposits.check_awaited(_deposit_of(unit, credit, rules), credit)


def set_aside(unit: Unit, credit: Matched, rules: Rules) -> None:
    """The deposit that has waited for a credit takes it from the account, where it has just come."""
    case = _deposit_of(unit, credit, rules)
    _moved(unit, id_bytes(case.id), case.transaction, bank_deposits.found(case, credit), rules)


def _deposit_of(unit: Unit, credit: Matched, rules: Rules) -> Case:
    key = id_bytes(credit.deposit_id)
    before, row = TRANSACTIONS.get(key), SETTLEMENTS.get(key)
    before = owned(before, credit.tenant, parse_account_id(credit.to_account).customer)
    if row is None:
        raise Refused("invalid_state_transition", f"{credit.deposit_id} waits for no bank")
    return _case(unit, key, before, row, rules)


def park(unit: Unit, news: BankFact | ChainFact, rules: Rules) -> None:
    """A fact that the machine could not take: a person must look at it. Its bytes are among the dead letters."""
    key = id_bytes(news.transaction_id)
    before, row = TRANSACTIONS.get(key), SETTLEMENTS.get(key)
    if before is None or row is None:
        return
    case = _case(unit, key, before, row, rules)
    if before.status in TERMINAL:
        change(unit, key, before, same_state(case, f"{before.type}.break_opened"))
    else:
        change(unit, key, before, attention(case, "internal_error"))


def deadline(unit: Unit, key: bytes, before: Transaction, row: Settlement, rules: Rules) -> None:
    """The deadline of a deposit by bank or a withdrawal."""
    machine = MACHINES[before.type]
    _moved(unit, key, before, machine.deadline(_case(unit, key, before, row, rules)), rules)


def _moved(unit: Unit, key: bytes, before: Transaction, decision: Settled | None, rules: Rules) -> None:
    if decision is not None:
        change(unit, key, before, decision)
        go_on(unit, key, decision, rules)


def _case(unit: Unit, key: bytes, before: Transaction, row: Settlement, rules: Rules) -> Case:
    barred = _barred(before.tenant, before.customer)
    return Case(id_text(key), before, row, reader(before.tenant), rules, pauses(), unit.at, barred)


def _barred(tenant: str, customer: str) -> Callable[[str], str]:
    """The bank accounts that a customer may not use again, as the machines read them."""

    def read(account: str) -> str:
        row = BARRED.get(barred_key(tenant, customer, account))
        return "" if row is None else row.code

    return read


def unmatched(unit: Unit, news: Unmatched) -> None:
    """Money that no reference explains."""
    key = derived_id(news.tenant, unannounced.owner_of(news), news.fact_id)
    if TRANSACTIONS.get(key) is None:
        begin(unit, None, key, id_text(key), unannounced.begin(news, unit.at), idempotency_key=news.fact_id)


def native_moved(unit: Unit, news: NativeMoved) -> None:
    """Native money has come to a minter's key, or gone for gas that no fact has told of."""
    key = derived_id(news.tenant, gas.owner_of(news), news.key)
    if TRANSACTIONS.get(key) is None:
        begin(unit, None, key, id_text(key), gas.begin(news, unit.at), idempotency_key=news.key)


def tokens_in(unit: Unit, news: TokensIn) -> None:
    """Tokens that have come to a customer's deposit address."""
    key = id_bytes(news.transaction_id)
    if TRANSACTIONS.get(key) is None:
        decision = redemptions.begin(news, reader(news.tenant)(news.account), unit.at)
        # A customer's own keys are ASCII: no command can ever have this one.
        begin(unit, None, key, news.transaction_id, decision, idempotency_key=f"\u2193{news.transaction_id}")


# --- pauses ----------------------------------------------------------------------------------------------------------


def pauses() -> tuple[Pause, ...]:
    """All pauses that this partition knows."""
    row = PAUSES.get(ALL)
    return () if row is None else row.pauses


def pause(unit: Unit, command: PauseCommand, key: bytes, content: str, rules: Rules) -> None:
    """`pause.set` and `pause.lift`: tells every partition and lane. Raises nothing: a refusal is an answer."""
    at = unit.at
    if isinstance(command, PauseSet):
        if any(one.id == id_text(key) for one in pauses()):
            # The key is forgotten after a day, the pause is not: it would be told as set, and stay as it is.
            reused = Refused("idempotency_key_reused", f"the key set pause {id_text(key)} before")
            tell_refused(unit, command, reused)
            return
        data, scope = command.data, command.data.scope
        about = Scope(
            *(scope.tenant or "", scope.type or "", scope.rail or "", scope.bank or "", scope.chain or ""),
            (scope.asset,) if scope.asset else (),
            (scope.account,) if scope.account else (),
        )
        told, event = Pause(id_text(key), about, at, data.operator, data.note or ""), "pause.set"
    else:
        assert isinstance(command, PauseLift)
        wanted = id_text(id_bytes(command.data.pause_id))
        found = next((one for one in pauses() if one.id == wanted), None)
        try:
            if found is None:
                raise Refused("pause_not_found", f"{wanted} is not known here")
            if found.lifted_at:
                raise Refused("already_processed", f"{wanted} is lifted")
            if rules.settlement.checker_lifts and found.by == command.data.operator:
                raise Refused("four_eyes", f"{found.by} set it")
        except Refused as refusal:
            refuse(unit, command, key, content, refusal)
            return
        told, event = msgspec.structs.replace(found, lifted_at=at), "pause.lifted"
    asked = lanes(rules)
    for partition in range(unit.partitions):
        unit.signal_partition(partition, Paused(told, unit.partition))
    for topic, lane in asked:
        unit.ask(topic, lane, ENCODE_REQUEST(SetPause(told, unit.partition)))
    state = event.removeprefix("pause.")
    rollout = Rollout(
        told.id, command.tenant, command.customer, command.data.operator, state, unit.partitions + len(asked)
    )
    ROLLOUTS.set(id_bytes(told.id), rollout)
    # The partition of the command has it before it answers: what the sender asks next is held back already.
    _apply(unit, told)
    done = IdempotencyKey(content, "done", "", told.id, "", state, "", at + KEY_LIFE_MS)
    IDEMPOTENCY_KEYS.set(key, done)
    _tell(unit, rollout, told, command.id, command.idempotency_key)


def paused(unit: Unit, news: Paused) -> None:
    """A pause that was set or lifted somewhere."""
    _apply(unit, news.pause)
    unit.signal_partition(news.home, Applied(news.pause.id, bool(news.pause.lifted_at)))


def applied(unit: Unit, news: Applied) -> None:
    """A partition or lane has applied a pause, or its end."""
    key = id_bytes(news.pause_id)
    rollout = ROLLOUTS.get(key)
    if rollout is None or (rollout.state in ("lifted", "cleared")) != news.lifted or rollout.missing <= 0:
        return
    rollout = msgspec.structs.replace(rollout, missing=rollout.missing - 1)
    if not rollout.missing:
        rollout = msgspec.structs.replace(rollout, state="cleared" if news.lifted else "applied")
        told = next(one for one in pauses() if one.id == news.pause_id)
        _tell(unit, rollout, told, "", "")
    ROLLOUTS.set(key, rollout)


def _apply(unit: Unit, told: Pause) -> None:
    known = pauses()
    old = next((one for one in known if one.id == told.id), None)
    if told.lifted_at:
        if old is not None and old.lifted_at:
            return
        # Its end may come from another partition before it has come itself: then it never stood here.
        known = with_pause(known, told) if old is None else lifted(known, told.id, told.lifted_at)
        if old is not None:
            unit.deadline(_DRAIN + id_bytes(told.id), unit.at)
    elif old is not None:
        return
    else:
        known = with_pause(known, told)
    PAUSES.set(ALL, Pauses(known))
    standing = sum(not one.lifted_at for one in known)
    if standing:
        unit.counters[PAUSES_SET] = standing
    else:
        unit.counters.pop(PAUSES_SET, None)


def drains(key: bytes) -> bool:
    """Whether a deadline is that of a lifted pause."""
    return key.startswith(_DRAIN)


def drain(unit: Unit, key: bytes, rules: Rules) -> None:
    """Lets some of what a pause has parked go on; what another pause covers parks with that one."""
    pause_id = key[len(_DRAIN) :]
    parked = list(islice(PARKED.range(pause_id, _next(pause_id)), DRAINED_AT_ONCE))
    for where, _ in parked:
        transaction = where[len(pause_id) :]
        before, row = TRANSACTIONS.get(transaction), SETTLEMENTS.get(transaction)
        if before is None or row is None:
            raise LookupError(f"a parked transaction {id_text(transaction)} that is not there")
        machine = MACHINES[before.type]
        _moved(unit, transaction, before, machine.resume(_case(unit, transaction, before, row, rules)), rules)
    if len(parked) == DRAINED_AT_ONCE:
        unit.deadline(key, unit.at)


def _next(prefix: bytes) -> bytes:
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix) + 1, "big")[1:]


def lanes(rules: Rules) -> list[tuple[str, bytes]]:
    """Topic and key of every lane."""
    settings = rules.settlement
    banks = [(BANK_REQUESTS.name, bank_lane_key(bank)) for bank in sorted(set(settings.banks.values()))]
    return banks + [(CHAIN_REQUESTS.name, chain_lane_key(settings.chain, token)) for token in sorted(TOKENS)]


def _tell(unit: Unit, rollout: Rollout, told: Pause, command_id: str, idempotency_key: str) -> None:
    scope: dict[str, Any] = {
        name: value
        for name, value in (
            *((field, getattr(told.scope, field)) for field in ("tenant", "type", "rail", "bank", "chain")),
            *(("asset", asset) for asset in told.scope.assets),
            *(("account", account) for account in told.scope.accounts),
        )
        if value
    }
    event = f"pause.{rollout.state}"
    data = EventData(pause=PauseData(told.id, rollout.by, told.note, scope))
    send_event(unit, event, rollout.tenant, rollout.customer, "", 0, rollout.state, "", "", command_id, data)
    unit.line(
        PauseLine(
            *(told.id, rollout.tenant, rollout.customer, event, rollout.state, unit.at, rollout.by),
            command_id=command_id,
            idempotency_key=idempotency_key,
            note=told.note,
            scope=scope,
        )
    )
