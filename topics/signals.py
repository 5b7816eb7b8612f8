"""What one partition tells another: credits between customers and their answers. Only the engine writes here."""

from __future__ import annotations

from aura_stream.engine.topics import Topic

SIGNALS = Topic(
    "aura.signals.v1", key="number of the source partition", value="packed signals, JSON", schema="signals.json"
)
