"""Pauses: in one row (key empty) all that this partition knows, in the others how far those set here have come.

Key of a rollout: the 16 bytes of the pause's id.
"""

from __future__ import annotations

from aura_stream.domain.pauses import Pauses, Rollout
from aura_stream.engine.table import Table

PAUSES = Table("pauses", Pauses, prefix=b"q")
ROLLOUTS = Table("rollouts", Rollout, prefix=b"r")
ALL = b""
"""The key of the one row of :data:`PAUSES`."""
