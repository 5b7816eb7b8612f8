"""Prometheus metrics of reconciliation, reserves and lanes: what Postgres has of them, whoever shows it.

Every API process shows them, and `aura reconcile --watch --metrics-port` does. Whoever reads the API's metrics has no
login: there are counts, ages and shares, and amounts only of what nobody can explain. What is held and owed stands in
`/v1/reserves`, and in the metrics of the watch, which listens on loopback (`amounts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Gauge

from aura_stream.domain.reconciliation import MEANING
from aura_stream.ledger import lanes as stored
from aura_stream.reconcile import store

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

_PARTS: Final = ("trust", "open_returns", "reserve", "customers", "outgoing", "suspense", "in_transit", "surplus")
_OF_TOKENS: Final = ("owed", "supply", "minting", "burning", "unconfirmed", "never_landed", "unexplained")


class ReconcileMetrics:
    """The gauges of one registry."""

    def __init__(self, registry: CollectorRegistry, *, amounts: bool = False) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self._made_at: datetime | None = None
        self._seen = gauge("aura_reconcile_seen", "1 while Postgres answers what the others say.")
        self._breaks = gauge("aura_reconcile_open_breaks", "Open breaks.", "kind")
        self._age = gauge("aura_reconcile_oldest_break_age_seconds", "Since the oldest open break was opened.", "kind")
        run = gauge("aura_reconcile_last_run_age_seconds", "Since the newest report; -1: there is none.")
        run.set_function(self._since_last_run)
        self._statement = gauge(
            "aura_reconcile_statement_age_seconds", "Since the end of the day of the newest statement.", "account"
        )
        self._problems = gauge("aura_reconcile_problems", "What the last run could not ask.")
        self._waiting = gauge(
            "aura_reconcile_settlements", "Settlements that had not ended at the last run.", "type", "waiting"
        )
        self._coverage = gauge(
            "aura_reserve_coverage_ratio", "What is held to what is owed; below 1: not backed.", "currency"
        )
        self._supply = gauge("aura_reserve_supply_unexplained", "Tokens on chain, not owed, in major units.", "token")
        self._custody = gauge("aura_reserve_custody_unexplained", "Tokens at our address, not booked.", "token")
        self._stopped = gauge("aura_lane_stopped", "1 while a lane waits for its release.", "lane")
        self._held_back = gauge("aura_lane_held_back", "1 while what is queued on a lane waits.", "lane")
        self._reserve = self._token = None
        if amounts:
            self._reserve = gauge("aura_reserve_amount", "Parts of the backing, in major units.", "currency", "part")
            self._token = gauge(
                "aura_reserve_token_amount", "A token as owed and as on chain at finality.", "token", "part"
            )

    async def refresh(self, connection: Connection) -> None:
        """Takes over what Postgres has. Raises asyncpg's errors; then say so by :meth:`away`."""
        breaks = await store.breaks_by_kind(connection)
        report = await store.last_report(connection)
        lanes = await stored.every(connection)
        now = datetime.now(UTC)
        self._seen.set(1)
        for kind in MEANING:
            count, oldest = breaks.get(kind, (0, None))
            self._breaks.labels(kind).set(count)
            self._age.labels(kind).set(0 if oldest is None else (now - oldest).total_seconds())
        for lane in lanes:
            self._stopped.labels(lane["lane"]).set(bool(lane["stopped"]))
            self._held_back.labels(lane["lane"]).set(bool(lane["held_back"]))
        if report is not None:
            self._report(report, now)

    def away(self) -> None:
        """Postgres does not answer: the others stay as they were."""
        self._seen.set(0)

    def _since_last_run(self) -> float:
        return -1 if self._made_at is None else (datetime.now(UTC) - self._made_at).total_seconds()

    def _report(self, report: Mapping[str, Any], now: datetime) -> None:
        self._made_at = datetime.fromisoformat(report["made_at"])
        self._problems.set(len(report["problems"]))
        for type_, waiting in report.get("waiting", {}).items():  # reports from before have none
            for what, count in waiting.items():
                self._waiting.labels(type_, what).set(count)
        for account in report["accounts"]:
            self._statement.labels(account["account"]).set((now - store.end_of(account["day"])).total_seconds())
        for one in report["currencies"]:
            held = Decimal(one["trust"]) + Decimal(one["open_returns"])
            owed = sum(Decimal(one[part]) for part in ("reserve", "customers", "outgoing", "suspense"))
            self._coverage.labels(one["currency"]).set(float(held / owed) if owed > 0 else 1)
            if self._reserve is not None:
                for part in _PARTS:
                    self._reserve.labels(one["currency"], part).set(float(one[part]))
        for one in report["tokens"]:
            if one["unexplained"] is not None:
                self._supply.labels(one["token"]).set(float(one["unexplained"]))
            if (custody := one.get("custody")) is not None:
                self._custody.labels(one["token"]).set(float(custody["unexplained"]))
            if self._token is not None:
                for part in _OF_TOKENS:
                    if one[part] is not None:
                        self._token.labels(one["token"], part).set(float(one[part]))
