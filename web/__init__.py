"""The HTTP door: `openapi.yaml` says what it is, one file per resource does it, `tail.py` knows what was decided."""

from __future__ import annotations
