"""The bank's own books for whoever checks the ledger: what was asked, how often it was done, where the money is."""

from __future__ import annotations

from typing import Any

from aura_stream.mock_bank.bank import Bank, iso_time
from aura_stream.mock_bank.money import text_of


def summary(bank: Bank) -> dict[str, Any]:
    """Balances, counts, and every reference that was acted on more than once."""
    store = bank.store
    twice = store.rows(
        "SELECT reference, count(*) AS acted FROM transfers"
        " WHERE accepted AND reference <> '' AND direction <> 'incoming'"
        " GROUP BY reference HAVING count(*) > 1 ORDER BY reference"
    )
    acted = store.value(
        "SELECT coalesce(max(acted), 0) FROM (SELECT count(*) AS acted FROM transfers"
        " WHERE accepted AND reference <> '' AND direction <> 'incoming' GROUP BY reference)"
    )
    wrong = store.value(
        "SELECT count(*) FROM balances b WHERE b.cents <>"
        " (SELECT coalesce(sum(e.cents), 0) FROM entries e WHERE e.account_id = b.account_id)"
    )
    unbalanced = store.value("SELECT count(*) FROM (SELECT 1 FROM entries GROUP BY journal HAVING sum(cents) <> 0)")
    statuses = store.rows("SELECT status, count(*) AS n FROM transfers GROUP BY status ORDER BY status")
    deliveries = store.rows("SELECT state, count(*) AS n FROM deliveries GROUP BY state ORDER BY state")
    balances = store.rows("SELECT account_id, cents FROM balances ORDER BY account_id")
    return {
        "bank": bank.name,
        "now": iso_time(bank.clock.now()),
        "max_acted": acted,
        "acted_twice": [{"reference": row["reference"], "acted": row["acted"]} for row in twice],
        "balances": {row["account_id"]: text_of(row["cents"]) for row in balances},
        "balanced": wrong == 0 and unbalanced == 0,
        "transfers": {row["status"]: row["n"] for row in statuses},
        "webhooks": {row["state"]: row["n"] for row in deliveries},
        "events": store.value("SELECT count(*) FROM events"),
        "calls": store.value("SELECT count(*) FROM calls"),
    }


def references(bank: Bank, after: str, limit: int) -> dict[str, Any]:
    """Every reference of the client: how often it came, how often it was acted on, and what became of it."""
    rows = bank.store.rows(
        "SELECT v.reference, v.times FROM visits v WHERE v.kind = 'submit' AND v.reference > ?"
        " ORDER BY v.reference LIMIT ?",
        *(after, limit),
    )
    return {"references": [_reference(bank, row["reference"], row["times"]) for row in rows]}


def _reference(bank: Bank, reference: str, times: int) -> dict[str, Any]:
    rows = bank.store.rows(
        "SELECT * FROM transfers WHERE reference = ? AND direction <> 'incoming' ORDER BY n", reference
    )
    return {
        "reference": reference,
        "submissions": times,
        "acted": sum(row["accepted"] for row in rows),
        "transfers": [bank.view(row) for row in rows],
    }


def calls(bank: Bank, after: int, limit: int) -> dict[str, Any]:
    """The journal of calls: what came in, what befell it, whether it was acted on, how it was answered (0: not)."""
    rows = bank.store.rows("SELECT * FROM calls WHERE n > ? ORDER BY n LIMIT ?", after, limit)
    shown = [{**dict(row), "at": iso_time(row["at_ms"]), "acted": bool(row["acted"])} for row in rows]
    return {"calls": [{name: value for name, value in row.items() if name != "at_ms"} for row in shown]}


def attempts(bank: Bank, after: int, limit: int) -> dict[str, Any]:
    """Every try to deliver a webhook, with the fault that spoiled it and what the receiver said."""
    rows = bank.store.rows("SELECT * FROM attempts WHERE n > ? ORDER BY n LIMIT ?", after, limit)
    return {
        "attempts": [
            {"n": row["n"], "event_id": row["event_id"], "at": iso_time(row["at_ms"])}
            | {"fault": row["fault"], "answer": row["answer"]}
            for row in rows
        ]
    }
