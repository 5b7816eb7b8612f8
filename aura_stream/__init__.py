"""Aura Stream: a real-time, exactly-once stream processor for money."""

from __future__ import annotations

__version__ = "0.1.0"
