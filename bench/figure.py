"""The chart of the README: one SVG file that needs nothing else.

Unlike the charts of the page it is an image, so it has a viewBox and its own
colours, for light and for dark.
"""

from __future__ import annotations

from collections.abc import Mapping

from charts import LogScale, tone
from evalbox.grade.markup import Html, element, style
from results import Ratio, Results, short

TITLE = "What a run costs, as a multiple of vfork, execve and wait4 in C"
_WIDTH = 720
_LABEL = 150
_RIGHT = 66
_ROW = 22
# The two that are of most use: what a run costs at least, and with an interpreter.
_SHOWN = ("/bin/true", "python3 -c pass")
_CSS = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.soft { fill: #59636e; font-size: 12px; }
.head { font-weight: 600; }
.grid { stroke: #d0d7de; } .base { stroke: #59636e; }
.bar { fill: #8c959f; } .k2 { fill: #0969da; } .k3 { fill: #1a7f37; }
.whisker { stroke: #1f2328; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .soft { fill: #9198a1; }
.grid { stroke: #30363d; } .base { stroke: #9198a1; }
.bar { fill: #6e7681; } .k2 { fill: #58a6ff; } .k3 { fill: #3fb950; }
.whisker { stroke: #e6edf3; }
}
"""


def readme_figure(results: Results) -> str:
    """Bars from 1, which is the floor, on a logarithmic scale; KeyError without the rows."""
    found = results.ratios("latency")
    shown = {name: found[name] for name in _SHOWN}
    scale = LogScale.over([ratio for row in shown.values() for ratio in row.values()])
    parts: list[Html] = []
    top = 12
    for name, row in shown.items():
        parts += _group(name, row, scale, top)
        top += 24 + _ROW * len(row) + 26
    told = "logarithmic; bars are medians, lines reach from quartile to quartile"
    parts.append(element("text", told, x=_LABEL, y=top, class_="soft"))
    svg = element(
        "svg",
        element("title", TITLE),
        style(_CSS),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {top + 8}",
        width=_WIDTH,
        role="img",
        aria_label=TITLE,
    )
    return f"{svg}\n"


def _x(scale: LogScale, value: float) -> float:
    return _LABEL + (_WIDTH - _LABEL - _RIGHT) * scale.place(value) / 100


def _group(name: str, row: Mapping[str, Ratio], scale: LogScale, top: int) -> list[Html]:
    parts = [element("text", name, x=0, y=top + 12, class_="head")]
    first, bottom = top + 22, top + 22 + _ROW * len(row)
    for tick in scale.ticks():
        x = _x(scale, tick)
        kind = "base" if tick == 1 else "grid"
        parts += [
            element("line", x1=x, x2=x, y1=first - 2, y2=bottom, class_=kind),
            element("text", f"{tick:g}×", x=x, y=bottom + 14, class_="soft", text_anchor="middle"),
        ]
    for number, (who, ratio) in enumerate(row.items()):
        parts += _bar(who, ratio, scale, first + number * _ROW)
    return parts


def _bar(name: str, ratio: Ratio, scale: LogScale, top: int) -> list[Html]:
    one, end = _x(scale, 1.0), _x(scale, ratio.median)
    low, high = _x(scale, ratio.low), _x(scale, ratio.high)
    left = min(one, end)
    return [
        element("text", name, x=0, y=top + 14),
        element(
            "rect",
            x=left,
            y=top + 4,
            width=max(2.0, abs(end - one)),
            height=12,
            class_=f"bar {tone(name)}",
        ),
        element("line", x1=low, x2=high, y1=top + 10, y2=top + 10, class_="whisker"),
        element("text", f"{short(ratio.median)}×", x=max(end, high) + 6, y=top + 14, class_="soft"),
    ]
