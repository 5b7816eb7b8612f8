"""The ledger in Postgres: its connections, migrations, the sink's writer, and the checks that prove it right."""

from __future__ import annotations
