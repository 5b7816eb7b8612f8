"""Prometheus metrics of the reconciliation: reserves as of the newest report, open breaks, and settlements that wait
for a person, for approval, or with a pause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest, start_http_server

from aura_stream.ledger.connection import RECONCILER, connect

_PARTS: Final = ("trust", "open_returns", "reserve", "customers", "outgoing", "suspense", "in_transit", "surplus")
_OF_TOKENS: Final = ("owed", "supply", "minting", "burning", "unconfirmed", "never_landed", "unexplained")
_WAITING: Final = """
SELECT type, count(*) FILTER (WHERE status = 'requires_attention') AS requires_attention,
    count(*) FILTER (WHERE status = 'requires_approval') AS requires_approval,
    count(*) FILTER (WHERE coalesce(history -> -1 -> 'by_bank' ->> 'parked_by', '') <> '') AS parked,
    count(*) FILTER (WHERE status = 'processing') AS processing
FROM ledger.transactions
WHERE type IN ('deposit', 'withdrawal', 'suspense')
    AND status IN ('requires_attention', 'requires_approval', 'processing')
GROUP BY type
"""
TYPES: Final = ("deposit", "withdrawal", "suspense")


class ReserveMetrics:
    """What a run of the reconciliation has found; amounts in whole units of the currency or token."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._reserves = self._gauge("aura_reserve", "Parts of the backing, by currency.", "currency", "part")
        self._tokens = self._gauge("aura_token", "A token as owed and as on the chain at finality.", "token", "part")
        self._breaks = self._gauge("aura_breaks_open", "Differences between books that nobody has resolved.")
        self._waiting = self._gauge("aura_settlements", "Settlements that have not ended.", "type", "waiting")
        self._made_at = self._gauge("aura_reserve_report_timestamp_seconds", "When the newest report was made.")

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)

    def serve(self, port: int) -> None:
        """Answers `/metrics` on this loopback port from now on. Raises OSError when it is taken."""
        start_http_server(port, addr="127.0.0.1", registry=self._registry)

    def show(self, report: Mapping[str, Any], waiting: Mapping[str, Mapping[str, int]], at_s: float) -> None:
        """Takes over a report of reserves, and how many settlements of each type wait for what."""
        for one in report["currencies"]:
            for part in _PARTS:
                self._reserves.labels(one["currency"], part).set(float(one[part]))
        for one in report["tokens"]:
            for part in _OF_TOKENS:
                if one[part] is not None:
                    self._tokens.labels(one["token"], part).set(float(one[part]))
        self._breaks.set(report["open_breaks"])
        for type_ in TYPES:
            for what, count in waiting[type_].items():
                self._waiting.labels(type_, what).set(count)
        self._made_at.set(at_s)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)


async def waiting_settlements(dsn: str) -> dict[str, dict[str, int]]:
    """How many settlements of each type have not ended, by what they wait for. Raises asyncpg's errors."""
    connection = await connect(dsn, RECONCILER, application_name="aura reconcile")
    try:
        rows = {row["type"]: dict(row) for row in await connection.fetch(_WAITING)}
    finally:
        await connection.close(timeout=5)
    names = ("requires_attention", "requires_approval", "parked", "processing")
    return {type_: {name: rows.get(type_, {}).get(name, 0) for name in names} for type_ in TYPES}
