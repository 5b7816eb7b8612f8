"""What goes wrong, and when: every choice comes from the seed.

Each seed draws a profile first, so that some runs see many faults of one kind and some only the odd one (faults that
are always all present hide each other). After :meth:`Faults.heal` nothing fails any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

Fate = Literal["ok", "lost", "reply lost", "late", "refused"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How likely each kind is. Rates are per step of a port."""

    crash: float
    freeze: float
    request: float  # a request or its reply goes wrong
    late: float  # of those, how many arrive after their repetition
    late_end: float  # an EndTxn is held back until the next transaction of its producer is open
    silent: float  # of those, how many are noticed by a time-out only
    refused: float  # a produce is refused by the broker
    postgres: float
    slow: float  # a step takes hundreds of milliseconds
    stall: float  # lists wait in a queue
    outages: int
    rebalances: int
    isolations: int
    restarts: int  # of the database
    jumps: int  # of wall clocks
    rewinds: int  # of the group's offsets
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
            late_end=pick((0, 0, 0.1, 0.4)),
            silent=pick((0, 0.1, 0.5)),
            refused=pick((0, 0, 0.005, 0.03)),
            postgres=pick((0, 0.03, 0.1, 0.3)),
            slow=pick((0, 0.01, 0.04)),
            stall=pick((0, 0, 0.1, 0.4)),
            outages=pick((0, 0, 1, 2)),
            rebalances=pick((0, 1, 3, 8)),
            isolations=pick((0, 0, 1, 2)),
            restarts=pick((0, 0, 1, 2)),
            jumps=pick((0, 0, 1, 2, 3)),
            rewinds=pick((0, 0, 1)),
            skew=pick((False, True)),
            duplicates=pick((0, 0.05, 0.3)),
            markers=pick((0, 0, 0.004, 0.05)),
        )


class Faults:
    """The dice."""

    def __init__(self, random: Random, profile: Profile) -> None:
        self.random, self.profile = random, profile
        self.healed = False
        self.counts: Counter[str] = Counter()  # faults that struck, by kind

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
        fate: Fate = "ok"
        if self.happens(profile.request):
            if self.happens(profile.late):
                fate = "late"
            else:
                fate = "lost" if self.random.random() < 0.5 else "reply lost"
            self.counts[f"requests {fate}"] += 1
        return fate

    def silence(self) -> bool:
        """Whether a failed request is noticed by a time-out only, not by a broken connection."""
        return self.happens(self.profile.silent)

    def lateness(self) -> float:
        """How long a delayed request is under way."""
        return self.random.choice((0.002, 0.02, 0.1, 0.4, 2.0))


CALM: Final[Mapping[str, Any]] = dict.fromkeys(Profile.__slots__, 0) | {"skew": False}
"""Nothing fails."""
CLIMATES: Final[Mapping[str, Mapping[str, Any]]] = {
    "N01 killed workers": {"crash": 0.01},
    "N02 killed at every step, slow ones too": {"crash": 0.004, "slow": 0.04, "stall": 0.1},
    "N04 zombies": {"freeze": 0.006},
    "N04 frozen while they open": {"freeze": 0.01, "late_end": 0.4, "crash": 0.002},
    "N05 rebalances": {"rebalances": 12, "stall": 0.4},
    "N06 brokers away": {"outages": 4, "request": 0.04, "silent": 0.3},
    "N07 late and lost answers of brokers": {
        "request": 0.12,
        "late": 0.7,
        "late_end": 0.4,
        "silent": 0.3,
        "markers": 0.05,
    },
    "N07 answers that never come": {"request": 0.2, "late": 0.6, "silent": 0.9, "slow": 0.04, "stall": 0.5},
    "N10 database restarts": {"restarts": 4},
    "N11 N12 commits lost": {"postgres": 0.3, "silent": 0.3, "late": 0.7},
    "N16 workers cut off": {"isolations": 6, "silent": 0.5},
    "N19 duplicates": {"duplicates": 0.5, "request": 0.1, "late": 0.5},
    "N24 clocks": {"jumps": 5, "skew": True},
    "N33 rewound groups": {"rewinds": 4, "rebalances": 3, "crash": 0.002},
}
"""One kind of fault at a time, many of it; named by the rows of the fault matrix."""


def climate(name: str) -> Profile:
    """A profile with one kind of fault."""
    return Profile(**{**CALM, **CLIMATES[name]})
