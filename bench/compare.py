"""Measures again, as the last stored result was measured, and shows what became worse.

Compared are ratios to the floor and never absolute times; only our own.  Worse is
what has moved by more than the threshold and whose quartiles lie outside of those
that it had: what the spread of both explains is no regression.  What is worse is
measured once more, and counts when it is worse again.  Exits with 1 then.

    python bench/compare.py [--old JSON] [--new JSON] [--threshold 1.05] [--only latency]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import results
import run
import tables
from results import OURS, PARTS, Ratio, Results

THRESHOLD = 1.05


@dataclass(frozen=True, slots=True)
class Change:
    """One ratio then and now.

    Attributes:
        factor: how much more it costs now; below 1: less.
        verdict: "worse" and "better" only beyond threshold and quartiles, else "same".
    """

    part: str
    row: str
    name: str
    then: Ratio
    now: Ratio
    factor: float
    verdict: str


def change(part: str, row: str, name: str, then: Ratio, now: Ratio, threshold: float) -> Change:
    factor = now.median / then.median
    apart_above, apart_below = now.low > then.high, now.high < then.low
    if PARTS[part].better == "higher":
        factor, apart_above, apart_below = 1 / factor, apart_below, apart_above
    verdict = "same"
    if apart_above and factor > threshold:
        verdict = "worse"
    elif apart_below and factor < 1 / threshold:
        verdict = "better"
    return Change(part, row, name, then, now, factor, verdict)


def changes(then: Results, now: Results, threshold: float) -> Iterator[Change]:
    """Of every ratio of ours that both have."""
    for part in PARTS:
        before, after = then.ratios(part), now.ratios(part)
        for row in before.keys() & after.keys() if before else ():
            for name in before[row].keys() & after[row].keys():
                if OURS in name:
                    yield change(part, row, name, before[row][name], after[row][name], threshold)


def sorted_changes(then: Results, now: Results, threshold: float) -> list[Change]:
    """The worst first."""
    return sorted(changes(then, now, threshold), key=lambda one: -one.factor)


def table(found: list[Change]) -> str:
    rows = [
        [one.verdict, f"{one.factor:.2f}", one.part, one.row, one.name, f"{one.then}", f"{one.now}"]
        for one in found
    ]
    header = ["", "cost now", "part", "", "", "ratio then (quartiles)", "ratio now (quartiles)"]
    return tables.markdown(header, rows)


def differences(then: Results, now: Results) -> list[str]:
    """What a reader must know before trusting the comparison."""
    before, after = then.facts.get("machine", {}), now.facts.get("machine", {})
    told = []
    for key in ("cpu", "cores", "kernel", "libc", "python", "user", "landlock_abi"):
        if before.get(key) != after.get(key):
            told.append(f"{key} was {before.get(key)} and is {after.get(key)}")
    return told


def again(then: Results, only: str | None) -> Results:
    """Measured in the way that the stored one was, its parts only."""
    parts = only or ",".join(key for key in then.parts if not key.startswith("warm_"))
    line = ["--only", parts, "--rounds", str(then.facts["rounds"]), "--peers", ""]
    if then.facts.get("quick"):
        line.append("--quick")
    if gb := then.facts.get("host_gb"):
        line += ["--host-gb", str(gb)]
    asked = run.arguments(line)
    return run.measured(asked, parts.split(","))


def confirmed(then: Results, worse: list[Change], threshold: float) -> list[Change]:
    """Those that are worse in a second measurement as well."""
    parts = dict.fromkeys(one.part for one in worse)
    second = again(then, ",".join(part.removesuffix("_throughput") for part in parts))
    places = {(one.part, one.row, one.name) for one in worse}
    return [
        one
        for one in sorted_changes(then, second, threshold)
        if one.verdict == "worse" and (one.part, one.row, one.name) in places
    ]


def stored(asked: Path | None) -> Path:
    found = asked or results.newest(run.RESULTS) or run.KEPT
    if not found.exists():
        raise SystemExit("nothing to compare with: `make bench` stores a result")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench/compare.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--old", type=Path, help="compare with this; usually what was stored last")
    add("--new", type=Path, help="measure nothing; compare this")
    add("--threshold", type=float, default=THRESHOLD, help="a factor (1.05)")
    add("--only", help="parts, separated by commas; usually those that the old one has")
    asked = parser.parse_args()
    old = stored(asked.old)
    then = results.load(old)
    now = results.load(asked.new) if asked.new else again(then, asked.only)
    found = sorted_changes(then, now, asked.threshold)
    if not found:
        raise SystemExit("the two have no ratio in common")
    print(f"Compared with {old.name} of {then.facts['date']}\n\n{table(found)}")
    for told in differences(then, now):
        print(f"Note: {told}; ratios carry over with care")
    worse = [one for one in found if one.verdict == "worse"]
    if worse and not asked.new:
        worse = confirmed(then, worse, asked.threshold)
        print(f"\nWorse in a second measurement as well:\n\n{table(worse)}")
    print(f"{len(worse)} of {len(found)} ratios are worse")
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
