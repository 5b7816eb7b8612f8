"""Medians, spreads, ratios and percentiles: what is said about a row of measured numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from aura_stream import SetupError

HIGHEST_US = 10 * 60 * 1_000_000  # longer than any run waits
DIGITS = 3


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some measurements, with the lowest and the highest of them."""

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds, exact to three digits."""

    count: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


def spread(values: Iterable[float]) -> Spread | None:
    """Median, lowest and highest; None when nothing was measured."""
    found = sorted(values)
    return Spread(median(found), found[0], found[-1], len(found)) if found else None


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread | None:
    """Ours over theirs, round by round when both ran in the same rounds, else of the medians.

    Neighbours in time saw the same machine, so a pair's ratio says more than the ratio of two medians.
    """
    if not ours or not theirs:
        return None
    if len(ours) == len(theirs):
        return spread(mine / other for mine, other in zip(ours, theirs, strict=True))
    value = median(ours) / median(theirs)
    return Spread(value, min(ours) / max(theirs), max(ours) / min(theirs), 1)


def latency(microseconds: Iterable[float]) -> Latency | None:
    """Percentiles of durations by an HDR histogram; None when there are none."""
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError as error:
        raise SetupError(
            "The benchmark needs a package that is missing.", where="Python", why=str(error), fix="make setup"
        ) from error
    histogram = HdrHistogram(1, HIGHEST_US, DIGITS)
    count = 0
    for value in microseconds:
        histogram.record_value(min(HIGHEST_US, max(1, round(value))))
        count += 1
    if not count:
        return None
    p50, p90, p99 = (histogram.get_value_at_percentile(percentile) / 1000 for percentile in (50, 90, 99))
    return Latency(count, p50, p90, p99, histogram.get_max_value() / 1000)
