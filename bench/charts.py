"""The charts of the page: inline SVG in the manner of evalbox.grade.chart.

Positions across are percentages and positions down are pixels, and there is no
viewBox: a phone gets narrower charts and not smaller letters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalbox.grade.markup import Html, element
from results import OURS, Ratio, short

_ROW = 40
_PLOT = 240
_TOP = 16
_STEPS = (1, 2, 5)
# Colours of the page; the same name has the same one in every chart.
_TONES = (
    "floor",
    "subprocess",
    "evalbox, process",
    "evalbox, namespace",
    "bubblewrap",
    "sandlock",
    "dmoj",
    "firejail",
    "gVisor",
)
_ALIASES = {
    "bare fork": "floor",
    "evalbox warm, process": "evalbox, process",
    "evalbox warm, namespace": "evalbox, namespace",
    "cold, subprocess": "subprocess",
    "cold, evalbox, process": "dmoj",
}


def tone(name: str) -> str:
    name = _ALIASES.get(name, name)
    return f"k{_TONES.index(name)}" if name in _TONES else "k9"


@dataclass(frozen=True, slots=True)
class LogScale:
    """Values from `low` to `high` as percent of the width."""

    low: float
    high: float

    @classmethod
    def over(cls, ratios: Sequence[Ratio]) -> LogScale:
        """Around all quartiles and 1, and never narrower than a factor of two."""
        low = min([1.0, *(ratio.low for ratio in ratios)])
        high = max([low * 2, *(ratio.high for ratio in ratios)])
        return cls(low / 1.08, high * 1.08)

    def place(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        return 100 * math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """1, 2, 5, 10 ...; only powers of ten when those are too many."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = [step * 10.0**decade for decade in decades for step in _STEPS]
        found = [tick for tick in every if self.low <= tick <= self.high]
        if len(found) <= 7:
            return found
        return [tick for tick in found if math.log10(tick).is_integer()]


def ratios(title: str, found: Mapping[str, Ratio], unit: str, suffix: str = "×") -> Html:
    """A row for each contestant: a dot at the median, a line from quartile to quartile."""
    scale = LogScale.over(list(found.values()))
    height = _ROW * len(found)
    parts = [element("title", title)]
    for number, (name, ratio) in enumerate(found.items()):
        top = number * _ROW
        shown = f"{short(ratio.median)}{suffix} · {amount(ratio.absolute, unit)}"
        parts += _ticks(scale, top)
        parts.append(element("text", name, x=0, y=top + 15))
        parts.append(element("text", shown, x="100%", y=top + 15, class_="value"))
        parts += _dot(name, ratio, scale, top + 27)
    for tick in scale.ticks():
        x, told = f"{scale.place(tick):.2f}%", f"{tick:g}{suffix}"
        parts.append(element("text", told, x=x, y=height + 14, class_="tick", text_anchor="middle"))
    return _svg(title, parts, height + 22)


def _ticks(scale: LogScale, top: int) -> list[Html]:
    """The axis of one row; between the rows there is text."""
    y = top + 27
    parts = [element("line", x1=0, x2="100%", y1=y, y2=y, class_="grid")]
    for tick in scale.ticks():
        x, kind = f"{scale.place(tick):.2f}%", "base" if tick == 1 else "grid"
        parts.append(element("line", x1=x, x2=x, y1=y - 6, y2=y + 6, class_=kind))
    return parts


def _dot(name: str, ratio: Ratio, scale: LogScale, y: int) -> list[Html]:
    low, high = (f"{scale.place(value):.2f}%" for value in (ratio.low, ratio.high))
    middle = f"{scale.place(ratio.median):.2f}%"
    told = element("title", f"{name}: {ratio}")
    return [
        element("line", x1=low, x2=high, y1=y, y2=y, class_=f"whisker {tone(name)}"),
        element("circle", told, cx=middle, cy=y, r=5, class_=f"dot {tone(name)}"),
    ]


def amount(value: float, unit: str) -> str:
    """A measured value for a reader: 643 us, 8.0 ms, 1200 /s."""
    if unit == "us" and value >= 10_000:
        return f"{value / 1000:.1f} ms"
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"


def lines(title: str, columns: Sequence[str], found: Mapping[str, Sequence[Ratio | None]]) -> Html:
    """A line for each contestant over the columns; a column that it lacks ends it."""
    highest = 1.04 * max([1.0, *(r.median for row in found.values() for r in row if r)])
    bottom = _TOP + _PLOT
    parts = [element("title", title)]
    for value in _even_ticks(highest):
        y = bottom - _PLOT * value / highest
        kind = "base" if value == 1 else "grid"
        parts.append(element("line", x1="7%", x2="100%", y1=y, y2=y, class_=kind))
        parts.append(element("text", f"{value:g}", x=0, y=y + 4, class_="tick"))
    for number, column in enumerate(columns):
        x = f"{_column(number, len(columns)):.2f}%"
        parts.append(
            element("text", column, x=x, y=bottom + 18, class_="tick", text_anchor="middle")
        )
    for name, row in found.items():
        parts += _line(name, row, len(columns), _PLOT / highest)
    return _svg(title, parts, bottom + 26)


def _column(number: int, count: int) -> float:
    return 11 + 85 * number / max(1, count - 1)


def _even_ticks(highest: float) -> list[float]:
    step = 0.25 if highest <= 1.5 else 0.5 if highest <= 3 else math.ceil(highest / 5)
    return [round(step * i, 2) for i in range(int(highest / step) + 1)]


def _line(name: str, row: Sequence[Ratio | None], count: int, unit: float) -> list[Html]:
    points = [
        (_column(number, count), _TOP + _PLOT - ratio.median * unit, ratio)
        for number, ratio in enumerate(row)
        if ratio is not None
    ]
    kind = f"run {tone(name)}{' ours' if name.startswith(OURS) else ''}"
    parts = [
        element("line", x1=f"{a:.2f}%", y1=b, x2=f"{c:.2f}%", y2=d, class_=kind)
        for (a, b, _), (c, d, _) in itertools.pairwise(points)
    ]
    parts += [
        element(
            "circle",
            element("title", f"{name}: {ratio}"),
            cx=f"{x:.2f}%",
            cy=float(y),
            r=3.5,
            class_=f"dot {tone(name)}",
        )
        for x, y, ratio in points
    ]
    return parts


def keys(names: Sequence[str]) -> Html:
    return element(
        "div",
        *(element("span", name, class_=f"key {tone(name)}") for name in names),
        class_="keys",
    )


def _svg(title: str, parts: Sequence[Html], height: float) -> Html:
    return element("svg", *parts, role="img", aria_label=title, width="100%", height=float(height))
