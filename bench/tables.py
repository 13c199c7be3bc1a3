"""Statistics, tables and the description of the machine: no measuring here."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the per-round ratios to the floor, and their quartiles."""

    median: float
    low: float
    high: float
    absolute: float  # median of the rounds: microseconds, or runs per second

    @classmethod
    def of(cls, values: Sequence[float], floor: Sequence[float], scale: float) -> Ratio:
        ratios = [value / base for value, base in zip(values, floor, strict=True)]
        low, median, high = quartiles(ratios)
        return cls(median, low, high, statistics.median(values) * scale)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up on a terminal."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def ratio_table(title: str, results: Mapping[str, Mapping[str, Ratio]], unit: str) -> str:
    """Rows are what was run, columns the contestants; a cell is ratio (quartiles), absolute."""
    names = list(dict.fromkeys(name for row in results.values() for name in row))
    rows = []
    for program, found in results.items():
        cells = (found.get(name) for name in names)
        shown = [f"{cell}, {cell.absolute:.0f} {unit}" if cell else "-" for cell in cells]
        rows.append([program, *shown])
    return f"{title}\n\n{markdown(['', *names], rows)}\n"


def cpu_table(title: str, cpu: Mapping[str, Mapping[str, float]]) -> str:
    rows = [[who, f"{us['host']:.0f}", f"{us['launcher']:.0f}"] for who, us in cpu.items()]
    return f"{title}\n\n{markdown(['', 'this process', 'launcher and inits'], rows)}\n"


def as_json(results: Mapping[str, Mapping[str, Ratio]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        column: {name: asdict(ratio) for name, ratio in row.items()}
        for column, row in results.items()
    }


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "CPU part")):
            return line.partition(":")[2].strip()
    return platform.machine()


def machine() -> dict[str, str | int]:
    """What a reader needs to judge the figures; nothing that names the host."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 0,
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "ordinary",
    }


def replace_between_marks(text: str, fresh: str) -> str:
    """`text` with what stands between the bench marks replaced; ValueError without marks."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"no {BEGIN} ... {END} to write to")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{fresh.strip()}\n{END}{rest.partition(END)[2]}"
