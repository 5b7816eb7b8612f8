"""In which order the test files run: several processes at work on them should end together and start few services.

First what takes long and brings services of its own, the longest first; then what shares the one running ledger of its
process, so that it is started late and once; and last what is quick, to fill the gap until the others are done.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SECONDS = {
    "tests/bench/test_smoke.py": 230,
    "tests/e2e/test_trust.py": 220,
    "tests/simulation/test_simulation.py": 220,
    "tests/connectors/test_chain_trust.py": 210,
    "tests/torture/test_torture.py": 210,
    "tests/e2e/test_workers.py": 210,
    "tests/connectors/test_pace.py": 170,
    "tests/demo/test_demo.py": 150,
    "tests/web/test_fuzz.py": 140,
    "tests/connectors/test_chain_doors.py": 120,
    "tests/connectors/test_chain.py": 110,
    "tests/e2e/test_inputs.py": 110,
    "tests/connectors/test_banks.py": 100,
    "tests/e2e/test_services.py": 100,
    "tests/connectors/test_lanes.py": 100,
    "tests/connectors/test_magic.py": 60,
    "tests/connectors/test_settled.py": 80,
    "tests/engine/test_worker.py": 80,
    "tests/identity/test_fuzz.py": 80,
    "tests/connectors/test_settlements.py": 70,
    "tests/torture/test_attacks.py": 60,
    "tests/docs/test_running.py": 60,
    "tests/docs/test_settling.py": 60,
    "tests/services/test_development.py": 50,
    "tests/chain/test_watch.py": 40,
    "tests/services/test_cli.py": 40,
    "tests/e2e/test_start_stop.py": 40,
    "tests/services/test_aot.py": 40,
    "tests/security/test_brokers.py": 35,
    "tests/ledger/test_verify.py": 25,
    "tests/ledger/test_settlement.py": 25,
    "tests/ledger/test_schema.py": 20,
    "tests/ledger/test_writer.py": 20,
    "tests/invariants/test_planted.py": 20,
    "tests/domain/test_world.py": 20,
    "tests/events/test_bare_topics.py": 20,
    "tests/web/test_broker_death.py": 15,
    "tests/identity/test_tenancy.py": 90,
    "tests/connectors/test_clock.py": 90,
    "tests/events/test_stream.py": 60,
    "tests/events/test_webhooks.py": 40,
    "tests/events/test_log.py": 35,
    "tests/identity/test_admin.py": 35,
    "tests/web/test_manners.py": 30,
    "tests/identity/test_logins.py": 25,
    "tests/web/test_catalogue.py": 20,
    "tests/identity/test_privacy.py": 20,
    "tests/reconcile/test_web.py": 20,
}
"""About what a file takes beside two others on two cores, where it is more than some ten seconds: for the order."""


LAST = "tests/torture/test_versions.py"
"""What two versions have decided differently stays in the log of a stack that others share."""


def in_order(items: list[pytest.Item]) -> None:
    """Sorts the tests by their files; those of a file stay as they are."""
    shared = {item.path for item in items if "running_ledger" in getattr(item, "fixturenames", ())}

    def place(item: pytest.Item) -> tuple[int, int]:
        name = item.path.relative_to(ROOT).as_posix() if item.path.is_relative_to(ROOT) else ""
        seconds = SECONDS.get(name, 0)
        if name == LAST:
            return 3, 0
        if item.path in shared:
            return 1, -seconds
        return (0 if seconds else 2), -seconds

    items.sort(key=place)
