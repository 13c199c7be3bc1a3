"""Results as Markdown tables that also line up on a terminal; it measures nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from results import PARTS, Ratio, Results

BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])


def names_of(rows: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The contestants of all rows, each once, in the order in which they appear."""
    return list(dict.fromkeys(name for row in rows.values() for name in row))


def ratio_table(title: str, rows: Mapping[str, Mapping[str, Ratio]], unit: str) -> str:
    """A line for each contestant of each row."""
    lines = [
        [row, name, f"{ratio}", f"{ratio.absolute:.0f} {unit}"]
        for row, found in rows.items()
        for name, ratio in found.items()
    ]
    return f"{title}\n\n{markdown(['', '', 'ratio (quartiles)', 'median'], lines)}\n"


def cpu_table(title: str, cpu: Mapping[str, Mapping[str, float]]) -> str:
    rows = [[who, f"{us['host']:.0f}", f"{us['launcher']:.0f}"] for who, us in cpu.items()]
    return f"{title}\n\n{markdown(['', 'this process', 'launcher and inits'], rows)}\n"


def peer_table(results: Results) -> str:
    rows = [
        [
            peer["name"],
            peer.get("why_absent") or "measured",
            peer["confines"],
            peer["leaves"],
        ]
        for peer in results.peers
    ]
    header = ["sandbox", "here", "confines, as started here", "does not confine"]
    return f"What the others are, and why some are not here\n\n{markdown(header, rows)}\n"


def step_tables(steps: Mapping[str, Any], least: float) -> str:
    """Cost by step; steps of less than this share of a run are summed up."""
    told = (_step_table(tier, one, least) for tier, one in steps["tiers"].items())
    return "\n".join([f"{steps['told']}\n", *told])


def without_small(rows: Sequence[dict[str, Any]], share: float) -> list[dict[str, Any]]:
    """Those of less than this share of the whole are summed up, side by side."""
    least = share * sum(row["us"] for row in rows)
    shown: list[dict[str, Any]] = []
    for side, group in itertools.groupby(rows, key=lambda row: row["side"]):
        of_side = list(group)
        small = [row for row in of_side if row["us"] < least]
        shown += [row for row in of_side if row["us"] >= least]
        if len(small) > 1:
            sums = {key: sum(row[key] for row in small) for key in ("us", "share_of_floor")}
            told = f"{len(small)} smaller steps"
            shown.append({"side": side, "step": told, "says": "", **sums})
        else:
            shown += small
    return shown


def _step_table(tier: str, told: Mapping[str, Any], least: float) -> str:
    shown = without_small(told["rows"], least)
    rows = [
        [
            row["side"],
            row["step"],
            f"{row['us']:.1f}",
            f"{row['share_of_floor']:.3f}",
            row["says"],
        ]
        for row in shown
    ]
    total = sum(row["us"] for row in shown if row["side"] != "afterwards")
    share = total / told["floor_us"]
    rows.append(["", "before run() returns", f"{total:.1f}", f"{share:.3f}", ""])
    slower = told["total_us"] / told["unmarked_us"]
    return (
        f"{tier}\n\n{markdown(['', 'step', 'us', 'of the floor', ''], rows)}\n\n"
        f"{told['runs']} runs, {told['left_out']} left out; the floor is {told['floor_us']:.1f} us;"
        f" a run without marks takes {told['unmarked_us']:.1f} us, with them {slower:.2f} times"
        " that.\n"
    )


def readme_table(results: Results) -> str:
    """The table that fits the README, a line for each contestant."""
    part, found = PARTS["latency"], results.ratios("latency")
    rows = [
        [name, *(_cell(row.get(name), part.unit) for row in found.values())]
        for name in names_of(found)
    ]
    return f"{part.title}\n\n{markdown(['', *found], rows)}\n"


def _cell(ratio: Ratio | None, unit: str) -> str:
    return f"{ratio}, {ratio.absolute:.0f} {unit}" if ratio else "-"


def report(results: Results) -> str:
    """Everything, for the terminal."""
    blocks = []
    for key, part in PARTS.items():
        if key in results.parts:
            blocks.append(ratio_table(part.title, results.ratios(key), part.unit))
    if results.cpu:
        blocks.append(cpu_table("CPU of one run in us, 8 at once", results.cpu))
    if results.memory:
        rows = [[name, f"{kib:.0f} KiB"] for name, kib in results.memory.items()]
        title = "What a parked interpreter keeps to itself"
        blocks.append(f"{title}\n\n{markdown(['', 'private memory'], rows)}\n")
    if results.steps:
        blocks.append(step_tables(results.steps, 0.01))
    if results.peers:
        blocks.append(peer_table(results))
    if results.notes:
        blocks.append("\n".join(f"Note: {note}" for note in results.notes) + "\n")
    return "\n".join(blocks)


def replace_between_marks(text: str, fresh: str) -> str:
    """`text` with what stands between the bench marks replaced; ValueError without marks."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"no {BEGIN} ... {END} to write to")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{fresh.strip()}\n{END}{rest.partition(END)[2]}"
