"""What a benchmark found, as the JSON beside its page: every round, and what they mean.

Everything that is shown, tables, page, README and comparison, is made from this and
from nothing else.  `Part` says how a part is read: its first series, in most parts
the floor, is what the others are divided by, round by round.
"""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA = 2
OURS = "evalbox"

# Rounds of each contestant, the first of which is the base; and these for each row.
Series = dict[str, list[float]]
Rows = dict[str, Series]


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the per-round ratios to the base, and their quartiles."""

    median: float
    low: float
    high: float
    absolute: float  # median of the rounds, in the unit of the part

    @classmethod
    def of(cls, values: Sequence[float], base: Sequence[float]) -> Ratio:
        ratios = [value / floor for value, floor in zip(values, base, strict=True)]
        low, median, high = quartiles(ratios)
        return cls(median, low, high, statistics.median(values))

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)}-{short(self.high)})"


def short(value: float) -> str:
    """Three digits, or what stands before the point: 0.05, 1.44, 53.4, 1067."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


@dataclass(frozen=True, slots=True)
class Part:
    """How to read a part: the ratio it shows, the unit of a round and which way is better."""

    title: str
    unit: str
    better: Literal["lower", "higher"]


PARTS: dict[str, Part] = {
    "latency": Part("One after the other: times the floor (quartiles), median", "us", "lower"),
    "throughput": Part(
        "Many at once: share of the floor's runs per second (quartiles)", "/s", "higher"
    ),
    "scale": Part(
        "So many alive at the same time, all started and ended: times the floor (quartiles),"
        " per run",
        "us",
        "lower",
    ),
    "crowd": Part(
        "Processor time of an event and of a run among live runs: times that beside one"
        " (quartiles)",
        "us",
        "lower",
    ),
    "host": Part("/bin/true from hosts of two sizes: times the floor (quartiles)", "us", "lower"),
    "warm": Part(
        "Python code in a warm interpreter: times a bare fork of one (quartiles), median",
        "us",
        "lower",
    ),
    "warm_throughput": Part(
        "The same, 8 at once: share of the bare forks per second (quartiles)", "/s", "higher"
    ),
}


@dataclass(slots=True)
class Results:
    """One benchmark; a part that was not chosen is not in `parts`.

    Attributes:
        facts: machine, date, version, number of rounds.
        parts: rows by the keys of PARTS.
        cpu: microseconds of processor time of one run.
        steps: cost by step (steps.py), as it prints them.
        memory: KiB that warm interpreters keep to themselves, by what they have loaded.
        peers: what each other sandbox confines and what not; or why it is not measured.
        notes: what else a reader must know.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Rows] = field(default_factory=dict)
    cpu: dict[str, dict[str, float]] = field(default_factory=dict)
    steps: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    peers: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ratios(self, part: str) -> dict[str, dict[str, Ratio]]:
        return {row: ratios_of(series) for row, series in self.parts.get(part, {}).items()}


def ratios_of(series: Mapping[str, Sequence[float]]) -> dict[str, Ratio]:
    """Each contestant of a row against the first one."""
    base = next(iter(series.values()))
    return {name: Ratio.of(values, base) for name, values in series.items()}


def as_json(results: Results) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA,
        **results.facts,
        "parts": {
            key: {"title": PARTS[key].title, "unit": PARTS[key].unit, "rounds": rows}
            for key, rows in results.parts.items()
        },
        "cpu_us_per_run": results.cpu,
        "steps": results.steps,
        "warm_private_kib": results.memory,
        "peers": results.peers,
        "notes": results.notes,
    }


def from_json(document: Mapping[str, Any]) -> Results:
    """ValueError when it is of another schema."""
    if document.get("schema_version") != SCHEMA:
        raise ValueError(f"schema {document.get('schema_version')}, {SCHEMA} needed: run it again")
    shown = {"schema_version", "parts", "cpu_us_per_run", "steps", "warm_private_kib", "peers"}
    return Results(
        facts={key: value for key, value in document.items() if key not in shown | {"notes"}},
        parts={key: part["rounds"] for key, part in document["parts"].items() if key in PARTS},
        cpu=document["cpu_us_per_run"],
        steps=document["steps"],
        memory=document["warm_private_kib"],
        peers=document["peers"],
        notes=document["notes"],
    )


def load(path: Path) -> Results:
    return from_json(json.loads(path.read_text(encoding="utf-8")))


def store(results: Results, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(as_json(results), indent=1) + "\n", encoding="utf-8")


def newest(folder: Path, *, but: Path | None = None) -> Path | None:
    """The result that was stored last, of whatever day."""
    found = [path for path in folder.glob("*.json") if path != but]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
