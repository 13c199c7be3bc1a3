"""The charts of a report: inline SVG, wide as the page, with text that never scales.

Positions across are percentages and positions down are pixels, and there is no
viewBox: so a phone gets narrower bars and not smaller letters. Colours are
classes of report.css; every chart carries its numbers as text as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from evalbox.grade.markup import Html, element

_ROW: Final = 40
_LABEL: Final = 38
_PLOT: Final = 220
_TOP: Final = 18
_BINS: Final = 24
_TICKS: Final = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a bar chart: its name, its share of the width, what it says, its colour."""

    label: str
    share: float
    text: str
    tone: str


def duration(seconds: float) -> str:
    """Seconds for a reader: 43 ms, 1.2 s."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"


def bars(title: str, rows: Sequence[Bar]) -> Html:
    """Horizontal bars, each in a track as wide as the page."""
    parts = [element("title", title)]
    for number, row in enumerate(rows):
        top = number * _ROW
        # A bar that is there must be seen, however short it is.
        width = max(0.6, 100 * row.share) if row.share > 0 else 0.0
        parts += [
            element("text", _short(row.label), x=0, y=top + 15, class_="label"),
            element("text", row.text, x="100%", y=top + 15, class_="value"),
            element("rect", x=0, y=top + 22, width="100%", height=10, rx=3, class_="track"),
            element(
                "rect",
                element("title", f"{row.label}: {row.text}"),
                x=0,
                y=top + 22,
                width=f"{width:.2f}%",
                height=10,
                rx=3,
                class_=f"bar {row.tone}",
            ),
        ]
    return _svg(title, parts, _ROW * len(rows))


def histogram(title: str, passed: Sequence[float], failed: Sequence[float]) -> Html:
    """How many took how long, on a logarithmic scale: passed below, failed on top."""
    scale = _Scale.over([*passed, *failed])
    counts = list(zip(scale.count(passed), scale.count(failed), strict=True))
    highest = max((sum(pair) for pair in counts), default=0) or 1
    bottom = _TOP + _PLOT
    parts = [element("title", title)]
    for value in sorted({0, highest // 2, highest}):
        y = bottom - _PLOT * value / highest
        parts.append(element("line", x1=0, x2="100%", y1=y, y2=y, class_="grid"))
        parts.append(element("text", str(value), x=0, y=y - 4, class_="tick"))
    for number, pair in enumerate(counts):
        parts += _column(scale, number, pair, _PLOT / highest)
    for tick in scale.ticks():
        x = f"{scale.place(tick):.2f}%"
        parts.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="axis"))
        parts.append(
            element("text", duration(tick), x=x, y=bottom + 20, class_="tick", text_anchor="middle")
        )
    return _svg(title, parts, bottom + 26)


def _column(scale: _Scale, number: int, pair: tuple[int, int], unit: float) -> list[Html]:
    low, high = scale.edge(number), scale.edge(number + 1)
    told = f"{duration(low)} to {duration(high)}: {pair[0]} passed, {pair[1]} failed"
    bottom, columns = float(_TOP + _PLOT), []
    for count, tone in zip(pair, ("AC", "WA"), strict=True):
        bottom -= count * unit
        if count:
            columns.append(
                element(
                    "rect",
                    element("title", told),
                    x=f"{scale.place(low) + 0.15:.2f}%",
                    y=bottom,
                    width=f"{scale.width - 0.3:.2f}%",
                    height=count * unit,
                    class_=f"bar {tone}",
                )
            )
    return columns


@dataclass(frozen=True, slots=True)
class _Scale:
    """A logarithmic axis cut into bins; positions are percent of the page's width.

    Attributes:
        first: the logarithm of the left edge, in bins.
        bins: how many there are.
        per_decade: how many bins make a factor of ten.
    """

    first: int
    bins: int
    per_decade: int

    @classmethod
    def over(cls, values: Sequence[float]) -> _Scale:
        logs = [math.log10(max(value, 1e-6)) for value in values] or [0.0]
        for per_decade in (20, 10, 5, 2, 1):
            first = math.floor(min(logs) * per_decade)
            bins = math.floor(max(logs) * per_decade) - first + 1
            if bins <= _BINS:
                break
        # A few values close together still get an axis and not one block.
        spare = max(0, 8 - bins)
        return cls(first - spare // 2, bins + spare, per_decade)

    @property
    def width(self) -> float:
        return 92 / self.bins

    def edge(self, number: int) -> float:
        return float(10 ** ((self.first + number) / self.per_decade))

    def place(self, value: float) -> float:
        return 7 + self.width * (math.log10(value) * self.per_decade - self.first)

    def count(self, values: Sequence[float]) -> list[int]:
        counts = [0] * self.bins
        for value in values:
            number = math.floor(math.log10(max(value, 1e-6)) * self.per_decade) - self.first
            counts[min(max(number, 0), self.bins - 1)] += 1
        return counts

    def ticks(self) -> list[float]:
        low, high = self.edge(0), self.edge(self.bins)
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found: list[float] = []
        for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [step * 10.0**decade for decade in decades for step in steps]
            found = [tick for tick in found if low <= tick <= high]
            if len(found) <= _TICKS:
                break
        return found


def _svg(title: str, parts: list[Html], height: float) -> Html:
    return element("svg", *parts, role="img", aria_label=title, width="100%", height=float(height))


def _short(text: str) -> str:
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"
