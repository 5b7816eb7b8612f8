"""What goes wrong, and when: every choice comes from the seed.

Each seed draws a profile first, so that some runs see many faults of one kind and some only the odd one (faults that
are always all present hide each other). After :meth:`Faults.heal` nothing fails any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

Fate = Literal["ok", "lost", "reply lost", "late", "refused"]

OFF = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Profile:
    """How likely each kind is. Rates are per step of a port."""

    crash: float
    freeze: float
    request: float  # a request or its reply goes wrong
    late: float  # of those, how many arrive after their repetition
    silent: float  # of those, how many are noticed by a time-out only
    refused: float  # a produce is refused by the broker
    postgres: float
    slow: float  # a step takes hundreds of milliseconds
    outages: int
    rebalances: int
    isolations: int
    restarts: int  # of the database
    jumps: int  # of wall clocks
    skew: bool  # processes disagree about the time
    duplicates: float
    markers: float  # seconds until a transaction's markers are written

    @classmethod
    def draw(cls, random: Random) -> Profile:
        """One of many climates."""
        pick = random.choice
        return cls(
            crash=pick((0, 0.001, 0.003, 0.01)),
            freeze=pick((0, 0, 0.001, 0.004)),
            request=pick((0, 0.01, 0.04, 0.12)),
            late=pick((0, 0.3, 0.7)),
            silent=pick((0, 0.1, 0.5)),
            refused=pick((0, 0, 0.005, 0.03)),
            postgres=pick((0, 0.03, 0.1, 0.3)),
            slow=pick((0, 0.01, 0.04)),
            outages=pick((0, 0, 1, 2)),
            rebalances=pick((0, 1, 2, 5)),
            isolations=pick((0, 0, 1, 2)),
            restarts=pick((0, 0, 1, 2)),
            jumps=pick((0, 0, 1, 2, 3)),
            skew=pick((False, True)),
            duplicates=pick((0, 0.05, 0.3)),
            markers=pick((0, 0, 0.004, 0.05)),
        )


class Faults:
    """The dice."""

    def __init__(self, random: Random, profile: Profile) -> None:
        self.random, self.profile = random, profile
        self.healed = False

    def heal(self) -> None:
        """From now on everything works."""
        self.healed = True

    def happens(self, rate: float) -> bool:
        """Whether a fault of this rate strikes now."""
        return not self.healed and rate > 0 and self.random.random() < rate

    def delay(self) -> float:
        """How long a step takes: mostly nothing, sometimes enough for anything to come between."""
        drawn = self.random.random()
        if drawn < 0.5:
            return 0.0
        if drawn < 1 - self.profile.slow or self.healed:
            return drawn * 0.004
        return self.random.uniform(0.05, 1.5)

    def request(self) -> Fate:
        """What becomes of a request to a broker."""
        profile = self.profile
        if self.happens(profile.request):
            if self.happens(profile.late):
                return "late"
            return "lost" if self.random.random() < 0.5 else "reply lost"
        return "ok"

    def silence(self) -> bool:
        """Whether a failed request is noticed by a time-out only, not by a broken connection."""
        return self.happens(self.profile.silent)

    def lateness(self) -> float:
        """How long a delayed request is under way."""
        return self.random.choice((0.002, 0.02, 0.1, 0.4, 2.0))
