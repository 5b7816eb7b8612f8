"""The benchmark: how fast commands become committed rows, beside a plain SQL ledger on the same Postgres.

Reading order: `loads.py` (what is asked), `kafka.py` and `generator.py` (how it gets into Kafka), `observer.py` (when
it is in Postgres), `baseline.py` (the other ledger), `run.py` (the order of things), `figures.py` and `report.py`.
It needs nothing of the product but its topics, its command line and its tables, as anyone's own benchmark would.
"""

from __future__ import annotations
