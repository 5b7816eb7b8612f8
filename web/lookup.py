"""Reading without ever going back: what the journal's tail and Postgres know together, and proof before a 404.

A transaction's id does not tell its partition. So "there is no such id" is only said when everything that had been
accepted when the question came is decided, read, and not it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from aiokafka.errors import KafkaError

from aura_stream.domain.reasons import REASONS
from aura_stream.domain.requests import MAKES
from aura_stream.domain.state import FAILED
from aura_stream.journal import ChangeLine, TransactionLine
from aura_stream.ledger.reads import NOTHING_STORED, LedgerReads, ReadsUnavailable, RefusedCommand, Stored
from web.accepted import Accepted
from web.problems import Problem, put_off
from web.recent import RecentTransaction
from web.tail import Ends, Tail
from web.views import Json, TransactionView, attempt_of_row, entry_of_row, newest, recent_entries

FRESH_S = 2.0
"""How long a read waits for the ledger to catch up before it says `ledger_behind`."""
_POLL_S = 0.01
_LOOK_CLOSER_S = 0.5
"""What is not decided by then may be no command at all."""


class Lookup:
    """Reads of transactions and the waits that make reads of Postgres fresh."""

    def __init__(self, tail: Tail, reads: LedgerReads, accepted: Accepted, *, fresh_s: float = FRESH_S) -> None:
        self._tail = tail
        self._reads = reads
        self._accepted = accepted
        self._fresh_s = fresh_s

    async def transaction(self, tenant: str, transaction_id: str) -> Json:
        """The transaction's resource with `events` and `entries`; with `attempts` if bank or chain have to do with it.

        Raises :class:`Problem`: ``transaction_not_found`` (proven), ``ledger_behind``, ``service_unavailable``.
        """
        transaction_id = transaction_id.lower()
        view = await self.known(tenant, transaction_id)
        if view is None or not view.is_terminal:
            # A terminal status is the last word; any other must be the newest anyone was told.
            found = await self._newest(tenant, transaction_id)
            if not isinstance(found, TransactionView):
                return found
            view = found
        return await self._detail(tenant, transaction_id, view)

    async def known(self, tenant: str, transaction_id: str) -> TransactionView | None:
        """What is known without asking whether there is more; None also when Postgres is away."""
        recent = self._recent(tenant, transaction_id)
        try:
            _, row = await self._reads.transaction(tenant, transaction_id)
        except ReadsUnavailable:
            row = None
        return newest(row, recent)

    async def owner(self, tenant: str, transaction_id: str) -> str:
        """The transaction's customer; it never changes, so any source will do. Raises as `transaction` does."""
        recent = self._recent(tenant, transaction_id)
        for _, _, line in recent.lines if recent else ():
            if isinstance(line, TransactionLine | ChangeLine):
                return line.customer
        accepted = self._accepted.undecided(tenant, transaction_id)
        if accepted is not None:
            return accepted.customer
        return str((await self.transaction(tenant, transaction_id))["customer"])

    async def fresh(self, partitions: Iterable[int]) -> Ends:
        """Waits until Postgres has what the journal held of these partitions when this was called.

        Returns the ends at that moment. Raises :class:`Problem` ``ledger_behind`` or ``service_unavailable``.
        """
        ends = await self.ends()
        await self.settled(partitions, ends)
        return ends

    async def settled(self, partitions: Iterable[int], ends: Ends) -> None:
        """Waits until Postgres has what lies below `ends` of these partitions' journals. Raises as `fresh` does."""
        deadline = self._deadline()
        wanted = list(partitions)
        limits = [end if one in wanted else 0 for one, end in enumerate(ends.journal)]
        if not await self._tail.caught_up(limits, deadline):
            raise _behind("the journal is not read to its end yet")
        await self._until_stored(wanted, deadline)

    async def decided(self, partition: int, ends: Ends) -> None:
        """Waits until every command of a partition below `ends` is decided, and stored. Raises ``ledger_behind``."""
        deadline = self._deadline()
        mine = [end if one == partition else 0 for one, end in enumerate(ends.commands)]
        await self._until_decided(mine, deadline)
        await self._until_stored([partition], deadline)

    async def _newest(self, tenant: str, transaction_id: str) -> TransactionView | Json:
        deadline = self._deadline()
        ends = await self.ends()
        if not await self._tail.caught_up(ends.journal, deadline):
            raise _behind("the journal is not read to its end yet")
        accepted = self._accepted.undecided(tenant, transaction_id)
        view, _ = await self._tail_and_postgres(tenant, transaction_id)
        if view is not None:
            return view
        if accepted is not None:
            return {
                "id": transaction_id,
                "tenant": tenant,
                "customer": accepted.customer,
                "type": accepted.type,
                "status": "created",
                "state": "accepted",
                "command_id": accepted.command_id,
                "events": [],
                "entries": [],
            }
        partitions = self._tail.recent.partitions
        await self._until_decided(ends.commands, deadline)
        while True:
            complete_from = [one.complete_from for one in partitions]
            view, stored = await self._tail_and_postgres(tenant, transaction_id)
            if view is not None:
                return view
            is_told = self._recent(tenant, transaction_id) is not None
            if not is_told and all(
                stored.get(p, NOTHING_STORED).next_offset >= complete_from[p] for p in range(len(partitions))
            ):
                refused = await self._refused(tenant, transaction_id)
                if refused is None:
                    raise no_transaction(transaction_id)
                return refused
            if asyncio.get_running_loop().time() >= deadline:
                raise _behind("Postgres does not have all that this node has not seen itself")
            await asyncio.sleep(_POLL_S)

    async def _refused(self, tenant: str, transaction_id: str) -> Json | None:
        """What became of an id that was given with a receipt, and whose command made no transaction.

        Raises ``paused`` and ``internal_server_error`` when the same key may be used again.
        """
        line = self._tail.recent.refused.get(transaction_id)
        if line is not None and line.tenant == tenant:
            said = RefusedCommand(line.command_type, line.customer, line.command_id, line.reason, line.detail)
        else:
            try:
                found = await self._reads.refused(tenant, transaction_id)
            except ReadsUnavailable as error:
                raise _postgres_away(error) from None
            if found is None:
                return None
            said = found
        members = {"transaction_id": transaction_id}
        if said.reason == "paused":
            raise put_off(said.detail, members)
        if said.reason == "internal_error":
            raise Problem("internal_server_error", "It was not done. See the logs.", members=members)
        reason = REASONS[said.reason]
        return {
            "id": transaction_id,
            "tenant": tenant,
            "customer": said.customer,
            "type": MAKES[said.type],
            "status": FAILED,
            "state": "refused",
            "reason": said.reason,
            "reason_title": reason.title,
            "reason_hint": said.detail or reason.hint,
            "command_id": said.command_id,
            "events": [],
            "entries": [],
        }

    async def _tail_and_postgres(
        self, tenant: str, transaction_id: str
    ) -> tuple[TransactionView | None, dict[int, Stored]]:
        # The tail first: what it drops in between, Postgres has.
        recent = self._recent(tenant, transaction_id)
        try:
            stored, row = await self._reads.transaction(tenant, transaction_id)
        except ReadsUnavailable as error:
            if recent is not None and recent.first is not None:
                return newest(None, recent), {}
            raise _postgres_away(error) from None
        return newest(row, recent), stored

    async def _detail(self, tenant: str, transaction_id: str, view: TransactionView) -> Json:
        known = recent_entries(self._recent(tenant, transaction_id))
        missing = [one for one in view.journal_ids if one not in known]
        if missing:
            try:
                for row in await self._reads.entries_of(tenant, missing):
                    known.setdefault(row["journal_id"], []).append(entry_of_row(row))
            except ReadsUnavailable as error:
                raise _postgres_away(error) from None
        entries = [entry for one in view.journal_ids for entry in known.get(one, ())]
        found = view.resource | {"events": view.events, "entries": entries}
        if "settlement" in found:
            # They have a sink of their own, and explain what happened: without them the rest is still true.
            with contextlib.suppress(ReadsUnavailable):
                found["attempts"] = [
                    attempt_of_row(row) for row in await self._reads.attempts_of(tenant, transaction_id)
                ]
        return found

    def _recent(self, tenant: str, transaction_id: str) -> RecentTransaction | None:
        recent = self._tail.recent.transaction(transaction_id)
        return recent if recent is not None and recent.lines[0][2].tenant == tenant else None

    async def _until_stored(self, partitions: list[int], deadline: float) -> None:
        progress = self._tail.recent.partitions
        # The journal's end may lie behind a marker that no row can stand for, so records are counted, not offsets.
        wanted = {one: (progress[one].last_seq, progress[one].complete_from) for one in partitions}
        while True:
            try:
                stored = await self._tail.stored()
            except ReadsUnavailable as error:
                raise _postgres_away(error) from None
            have = {one: stored.get(one, NOTHING_STORED) for one in partitions}
            if all(
                have[one].last_seq >= last_seq if last_seq else have[one].next_offset >= complete_from
                for one, (last_seq, complete_from) in wanted.items()
            ):
                return
            if asyncio.get_running_loop().time() >= deadline:
                raise _behind("Postgres does not have the journal up to this request yet")
            await asyncio.sleep(_POLL_S)

    async def _until_decided(self, ends: list[int], deadline: float) -> None:
        """Waits until every command below these offsets is decided. Raises ``ledger_behind``."""
        loop = asyncio.get_running_loop()
        partitions = self._tail.recent.partitions
        look_closer_at = loop.time() + _LOOK_CLOSER_S
        while any(one.commands_next < end for one, end in zip(partitions, ends, strict=True)):
            now = loop.time()
            if now >= deadline:
                raise _behind("commands accepted before this request are not decided yet")
            if now >= look_closer_at:
                look_closer_at = deadline
                await self._skip_markers(ends, deadline)
                continue
            await self._tail.recent.progressed(min(deadline, look_closer_at) - now)

    async def _skip_markers(self, ends: list[int], deadline: float) -> None:
        with contextlib.suppress(KafkaError, OSError, TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._tail.skip_markers(ends)

    async def ends(self) -> Ends:
        """How far journal and commands go now. Raises :class:`Problem` ``service_unavailable``."""
        try:
            return await self._tail.ends()
        except (KafkaError, OSError, TimeoutError) as error:
            raise Problem(
                "service_unavailable", f"Kafka cannot say what was decided ({type(error).__name__}).", retry_after_s=2
            ) from None

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._fresh_s


def no_transaction(transaction_id: str) -> Problem:
    """The 404 of a transaction."""
    return Problem(
        "transaction_not_found",
        f"There is no transaction {transaction_id}.",
        members={"transaction_id": transaction_id},
    )


def _behind(detail: str) -> Problem:
    return Problem("ledger_behind", f"{detail[0].upper()}{detail[1:]}.", retry_after_s=1)


def _postgres_away(error: ReadsUnavailable) -> Problem:
    kind = str(error).partition(":")[0]
    return Problem("service_unavailable", f"The ledger database does not answer ({kind}).", retry_after_s=2)
