"""Aura Stream: a real-time, exactly-once stream processor for money."""

from __future__ import annotations

__version__ = "0.1.0"


class SetupError(Exception):
    """Something outside the program is not as it must be: what, where, why, and what mends it.

    The command line prints it without a traceback, so each part is a sentence for the person who has to act.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what]
        parts += [f"  {name}: {text}" for name in ("where", "why", "fix") if (text := getattr(self, name))]
        return "\n".join(parts)


class SettingsError(SetupError):
    """A setting is missing or has a value that cannot be used."""
