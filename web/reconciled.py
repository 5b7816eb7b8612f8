"""Metrics of reconciliation, reserves and lanes: asked of Postgres when they are, so that every node shows the same.

Whoever reads metrics has no login: there are counts, ages and shares, and amounts only of what nobody can explain. What
is held and owed stands in `/v1/reserves`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from aura_stream.domain.reconciliation import MEANING
from aura_stream.identity.database import Database, IdentityUnavailable
from aura_stream.ledger import lanes as stored
from aura_stream.reconcile import store

_ASK_S = 2.0


class Reconciled:
    """The gauges. While Postgres is away `aura_reconcile_seen` is 0, and the others are as they were."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self._seen = gauge("aura_reconcile_seen", "1 while Postgres answers what the others say.")
        self._breaks = gauge("aura_reconcile_open_breaks", "Open breaks.", "kind")
        self._age = gauge("aura_reconcile_oldest_break_age_seconds", "Since the oldest open break was opened.", "kind")
        self._run = gauge("aura_reconcile_last_run_age_seconds", "Since the newest report; -1: there is none.")
        self._statement = gauge(
            "aura_reconcile_statement_age_seconds", "Since the end of the day of the newest statement.", "account"
        )
        self._problems = gauge("aura_reconcile_problems", "What the last run could not ask.")
        self._coverage = gauge(
            "aura_reserve_coverage_ratio", "What is held to what is owed; below 1: not backed.", "currency"
        )
        self._supply = gauge("aura_reserve_supply_unexplained", "Tokens on chain, not owed, in major units.", "token")
        self._custody = gauge("aura_reserve_custody_unexplained", "Tokens at our address, not booked.", "token")
        self._stopped = gauge("aura_lane_stopped", "1 while a lane waits for its release.", "lane")
        self._held_back = gauge("aura_lane_held_back", "1 while what is queued on a lane waits.", "lane")

    async def refresh(self, database: Database) -> None:
        """Asks Postgres; whoever reads metrics must be answered without it too."""
        try:
            async with asyncio.timeout(_ASK_S), database.platform() as connection:
                breaks = await store.breaks_by_kind(connection)
                report = await store.last_report(connection)
                lanes = await stored.every(connection)
        except (IdentityUnavailable, TimeoutError):
            self._seen.set(0)
            return
        now = datetime.now(UTC)
        self._seen.set(1)
        for kind in MEANING:
            count, oldest = breaks.get(kind, (0, None))
            self._breaks.labels(kind).set(count)
            self._age.labels(kind).set(0 if oldest is None else (now - oldest).total_seconds())
        for lane in lanes:
            self._stopped.labels(lane["lane"]).set(bool(lane["stopped"]))
            self._held_back.labels(lane["lane"]).set(bool(lane["held_back"]))
        self._run.set(-1 if report is None else (now - datetime.fromisoformat(report["made_at"])).total_seconds())
        if report is not None:
            self._report(report, now)

    def _report(self, report: Mapping[str, Any], now: datetime) -> None:
        self._problems.set(len(report["problems"]))
        for account in report["accounts"]:
            end = datetime.combine(date.fromisoformat(account["day"]) + timedelta(days=1), time(), UTC)
            self._statement.labels(account["account"]).set((now - end).total_seconds())
        for one in report["currencies"]:
            held = Decimal(one["trust"]) + Decimal(one["open_returns"])
            owed = sum(Decimal(one[part]) for part in ("reserve", "customers", "outgoing", "suspense"))
            self._coverage.labels(one["currency"]).set(float(held / owed) if owed > 0 else 1)
        for one in report["tokens"]:
            if one["unexplained"] is not None:
                self._supply.labels(one["token"]).set(float(one["unexplained"]))
            if (custody := one.get("custody")) is not None:
                self._custody.labels(one["token"]).set(float(custody["unexplained"]))
