"""Charts as SVG text, without a library: bars, stacked bars, ranges and lines, in light and dark by one style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 860
LEFT, RIGHT, TOP = 150, 120, 84
ROW, GAP = 22, 14
NOTE_CHAR = 7.2  # what a character of a note is wide, in the widest of the usual fonts

_STYLE = """
.card { fill: #ffffff; stroke: #d5dae3; } text { fill: #1b2433; } .note { fill: #566176; font-size: 12px; }
.title { font-size: 16px; font-weight: 600; } .grid { stroke: #e4e8ef; } .axis { stroke: #8793a8; }
.line { fill: none; stroke-width: 2.2; } text.on { fill: #ffffff; font-weight: 600; }
.dot { stroke: #ffffff; stroke-width: 1.2; }
"""
_DARK = """
.card { fill: #0f141d; stroke: #2b3547; } text { fill: #e6eaf2; } .note { fill: #9aa6bd; }
.grid { stroke: #202938; } .axis { stroke: #65728a; } .dot { stroke: #0f141d; } text.on { fill: #0f141d; }
"""
_COLOURS = (
    ("#3b6fd4", "#6d9bf1"),
    ("#2c8a52", "#55bd80"),
    ("#c2820f", "#dda548"),
    ("#8a55c4", "#b48be6"),
    ("#c4446a", "#ec7f9f"),
    ("#2b8f9c", "#5cc3d0"),
)


class Drawing:
    """Parts of a chart, in the order in which they are painted."""

    def __init__(self, title: str, note: str, height: int) -> None:
        self._title, self._note, self._height = title, note, height
        self._parts: list[str] = []

    def text(self, x: float, y: float, text: str, *, anchor: str = "start", kind: str = "") -> None:
        """A line of text."""
        of_kind = f' class="{kind}"' if kind else ""
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{of_kind}>{escape(text)}</text>')

    def rect(self, x: float, y: float, width: float, height: float, colour: int) -> None:
        """A filled box."""
        size = f'width="{max(0.0, width):.1f}" height="{height:.1f}"'
        self._parts.append(f'<rect class="f{colour}" x="{x:.1f}" y="{y:.1f}" {size} rx="2"/>')

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline class="{kind}" fill="none" points="{path}"/>')

    def dot(self, x: float, y: float, colour: int, radius: float = 4.5) -> None:
        """A point."""
        self._parts.append(f'<circle class="dot f{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>')

    def legend(self, names: Sequence[str]) -> None:
        """What the colours mean, below the title."""
        x = 24.0
        for number, name in enumerate(names):
            self.rect(x, 55, 12, 12, number)
            self.text(x + 18, 65.5, name, kind="note")
            x += 34 + NOTE_CHAR * len(name)

    def svg(self) -> str:
        """The whole picture."""
        light = "".join(
            f".f{number} {{ fill: {colour}; }} .s{number} {{ stroke: {colour}; }}\n"
            for number, (colour, _) in enumerate(_COLOURS)
        )
        dark = "".join(
            f".f{number} {{ fill: {colour}; }} .s{number} {{ stroke: {colour}; }}\n"
            for number, (_, colour) in enumerate(_COLOURS)
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" role="img" '
            'aria-labelledby="title desc" font-family="system-ui, -apple-system, \'Segoe UI\', Roboto, sans-serif" '
            'font-size="13">\n'
            f'<title id="title">{escape(self._title)}</title>\n<desc id="desc">{escape(self._note)}</desc>\n'
            f"<style>{_STYLE}{light}@media (prefers-color-scheme: dark) {{{_DARK}{dark}}}</style>\n"
            f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{self._height - 1}" rx="10"/>\n'
            f'<text class="title" x="24" y="28">{escape(self._title)}</text>\n'
            f'<text class="note" x="24" y="46">{escape(self._note)}</text>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )


def bars(title: str, note: str, groups: Mapping[str, Sequence[tuple[float, str]]], names: Sequence[str]) -> str:
    """Horizontal bars: per group one bar for each name, with its value and what stands behind it."""
    height = TOP + sum(len(group) * ROW + GAP for group in groups.values()) + 14
    drawing = Drawing(title, note, height)
    drawing.legend(names)
    most = max(value for group in groups.values() for value, _ in group)
    behind = max(len(label) for group in groups.values() for _, label in group) * NOTE_CHAR + 32
    y = float(TOP)
    for group, values in groups.items():
        drawing.text(LEFT - 12, y + len(values) * ROW / 2 + 4, group, anchor="end")
        for number, (value, label) in enumerate(values):
            width = value / most * (WIDTH - LEFT - behind)
            drawing.rect(LEFT, y + 2, width, ROW - 4, number)
            drawing.text(LEFT + width + 8, y + ROW / 2 + 4, label, kind="note")
            y += ROW
        y += GAP
    return drawing.svg()


def stacked(title: str, note: str, groups: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """Horizontal bars made of parts: per group one part for each name, and the sum behind it."""
    height = TOP + len(groups) * (ROW + 8 + GAP) + 14
    drawing = Drawing(title, note, height)
    drawing.legend(names)
    most = max(sum(values) for values in groups.values())
    y = float(TOP)
    for group, values in groups.items():
        drawing.text(LEFT - 12, y + 19, group, anchor="end")
        x = float(LEFT)
        for number, value in enumerate(values):
            width = value / most * (WIDTH - LEFT - RIGHT)
            drawing.rect(x, y, width - 1, ROW + 8, number)
            if width > 44:
                drawing.text(x + 8, y + 19, f"{value:,.0f}", kind="on")
            x += width
        drawing.text(x + 8, y + 19, f"{sum(values):,.0f}", kind="note")
        y += ROW + 8 + GAP
    return drawing.svg()


def ranges(
    title: str, note: str, rows: Mapping[str, tuple[Sequence[float], int]], points: Sequence[str], *, unit: str
) -> str:
    """Per row some growing values on a logarithmic axis, joined by a line; the number is the row's colour."""
    values = [value for row, _ in rows.values() for value in row]
    scale = Log(min(values), max(values), LEFT + 40, WIDTH - 50)
    bottom = TOP + len(rows) * (ROW + 8)
    drawing = Drawing(title, note, bottom + 40)
    for tick in scale.ticks():
        drawing.line([(scale.at(tick), TOP - 14), (scale.at(tick), bottom)], "grid")
        drawing.text(scale.at(tick), bottom + 18, f"{tick:,g}{unit}", anchor="middle", kind="note")
    drawing.text(24, 66, "from left to right: " + ", ".join(points), kind="note")
    for number, (name, (row, colour)) in enumerate(rows.items()):
        y = TOP + number * (ROW + 8) + ROW / 2
        drawing.text(LEFT + 22, y + 4, name, anchor="end")
        drawing.line([(scale.at(row[0]), y), (scale.at(row[-1]), y)], f"line s{colour}")
        for place, value in enumerate(row):
            drawing.dot(scale.at(value), y, colour, 6.5 if place == 0 else 4.5)
        drawing.text(scale.at(row[0]), y - 9, _figures(row[0]), anchor="middle", kind="note")
    return drawing.svg()


def lines(
    title: str,
    note: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_name: str,
    x_ticks: bool = False,
) -> str:
    """Lines over a logarithmic x axis; y from zero. `x_ticks` marks just the values measured."""
    height, bottom = 400, 340
    drawing = Drawing(title, note, height)
    drawing.legend(list(series))
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points]
    across = Log(xs[0], xs[-1], 90, WIDTH - 50)
    up = Linear(max(ys), bottom, TOP + 6)
    for tick in up.ticks():
        drawing.line([(80, up.at(tick)), (WIDTH - 40, up.at(tick))], "grid")
        drawing.text(72, up.at(tick) + 4, f"{tick:,g}", anchor="end", kind="note")
    drawing.line([(80, bottom), (WIDTH - 40, bottom)], "axis")
    for tick in xs if x_ticks else across.ticks():
        drawing.text(across.at(tick), bottom + 20, _short(tick), anchor="middle", kind="note")
    drawing.text((80 + WIDTH - 40) / 2, bottom + 42, x_name, anchor="middle", kind="note")
    for number, points in enumerate(series.values()):
        placed = [(across.at(x), up.at(y)) for x, y in sorted(points)]
        drawing.line(placed, f"line s{number}")
        for x, y in placed:
            drawing.dot(x, y, number)
    return drawing.svg()


class Linear:
    """A scale from zero."""

    def __init__(self, most: float, begin: float, end: float) -> None:
        step = 10.0 ** math.floor(math.log10(most))
        self._step = next(step * part for part in (0.1, 0.2, 0.5, 1, 2) if most / (step * part) <= 6)
        self._most = math.ceil(most / self._step) * self._step
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        """The place of a value."""
        return self._begin + (self._end - self._begin) * value / self._most

    def ticks(self) -> list[float]:
        """Round values."""
        return [number * self._step for number in range(round(self._most / self._step) + 1)]


class Log:
    """A logarithmic scale."""

    def __init__(self, least: float, most: float, begin: float, end: float) -> None:
        least, most = max(least, 1e-9), max(most, 1e-9)
        if most < least * 3:
            least, most = least / 1.7, most * 1.7
        self._least, self._most = math.log10(least), math.log10(most)
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        """The place of a value."""
        share = (math.log10(max(value, 1e-9)) - self._least) / (self._most - self._least)
        return self._begin + (self._end - self._begin) * share

    def ticks(self) -> list[float]:
        """Powers of ten, and what lies between them when those are few."""
        few = self._most - self._least < 2.5
        return [
            part * 10.0**power
            for power in range(math.floor(self._least), math.ceil(self._most) + 1)
            for part in ((1, 2, 5) if few else (1,))
            if self._least - 1e-9 <= math.log10(part * 10.0**power) <= self._most + 1e-9
        ]


def _figures(value: float) -> str:
    """Three figures at least, and never a power of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:,.3g} M"
    return f"{value / 1e3:,.3g} k" if value >= 1e3 else f"{value:g}"
