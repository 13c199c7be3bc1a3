"""Prints attack x caller x tier; with --write, puts it into docs/security-model.md.

    PYTHONPATH=.:tests python3 -m security.table [--write] [ID...]

Exits with 1 when an attack succeeds where its property is enforced, or proves nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

from security.base import ATTACKS, CALLERS, TIERS, Result, Verdict
from security.callers import TESTS, Told, callers_here, told_by
from security.catalogue import IDS

PAGE = TESTS.parent / "docs" / "security-model.md"
BEGIN, END = "<!-- attacks: begin -->\n", "<!-- attacks: end -->\n"
COLUMNS = tuple((caller, tier) for caller in CALLERS for tier in TIERS)
_HEADER = ["", "attack", "property", *(f"{caller}, {tier}" for caller, tier in COLUMNS)]
NO_TIER = "no such tier"

Cells = dict[tuple[str, str, str], str]


def cells_of(results: Iterable[Result]) -> Cells:
    return {(row.id, row.caller, row.tier): _cell(row) for row in results}


def _cell(row: Result) -> str:
    return "FAILED" if row.failure else row.verdict.value


def rows(ids: Iterable[str], cells: Cells, missing: str = NO_TIER) -> Iterator[list[str]]:
    for name in ids:
        item = ATTACKS[name]
        found = [cells.get((name, caller, tier), missing) for caller, tier in COLUMNS]
        yield [name, item.title, item.property or "", *found]


# ---- the page --------------------------------------------------------------------------------


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def generated(results: list[Result]) -> str:
    """What stands between the marks."""
    table = [_line(_HEADER), _line("---" for _ in _HEADER)]
    table += [_line(row) for row in rows(IDS, cells_of(results))]
    return "\n".join([*table, "", *_explained(results), ""])


def _explained(results: list[Result]) -> Iterator[str]:
    yield "What is allowed is what the report of that very run calls not enforced:"
    yield ""
    found: dict[tuple[str, str, str], set[str]] = {}
    for row in results:
        if row.verdict is Verdict.ALLOWED:
            name = ATTACKS[row.id].property or ""
            reason = re.sub(r" [(]started by uid .*[)]$", "", row.reason)
            found.setdefault((name, row.level, reason), set()).add(row.id)
    for (name, level, reason), ids in sorted(found.items()):
        listed = ", ".join(item for item in IDS if item in ids)
        yield f"- `{name}` is {level}: {reason} ({listed})"


def read_page(text: str) -> Cells:
    """The cells that the page has."""
    cells: Cells = {}
    for line in _between(text)[1].splitlines():
        found = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(found) == len(_HEADER) - 1 or found[0] in ("", "---") or not line.startswith("| "):
            continue
        for (caller, tier), cell in zip(COLUMNS, found[3:], strict=True):
            cells[found[0], caller, tier] = cell
    return cells


def _between(text: str) -> tuple[str, str, str]:
    before, begin, rest = text.partition(BEGIN)
    inner, end, after = rest.partition(END)
    assert end, f"{PAGE.name} has lost the marks of its table"
    return before + begin, inner, end + after


def write(results: list[Result]) -> None:
    before, _, after = _between(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(before + generated(results) + after, encoding="utf-8")


# ---- the command -----------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite the table in the docs")
    parser.add_argument("--caller", action="append", choices=CALLERS)
    parser.add_argument("--slow", type=int, default=0, metavar="N", help="the N slowest as well")
    parser.add_argument("ids", nargs="*", help="all without any")
    asked = parser.parse_args()
    if asked.write and (asked.ids or asked.caller or callers_here() != CALLERS):
        parser.error("--write takes all attacks as all callers, and so it takes root")
    told = {caller: _asked(caller, asked.ids) for caller in asked.caller or callers_here()}
    results = [row for one in told.values() for row in one.results]
    _print_table(asked.ids or IDS, results)
    _print_missing(told)
    for row in sorted(results, key=lambda row: -row.seconds)[: asked.slow]:
        print(f"{row.seconds:6.2f} s  {row.id} ({row.caller}, {row.tier})")
    failures = [row for row in results if row.failure]
    for row in failures:
        print(f"FAILED {row.id} ({row.caller}, {row.tier}): {row.failure}")
    if asked.write and not failures:
        write(results)
    return 1 if failures else 0


def _asked(caller: str, ids: list[str]) -> Told:
    print(f"as {caller} ...", file=sys.stderr, flush=True)
    return told_by(caller, ids)


def _print_table(ids: list[str], results: list[Result]) -> None:
    header = [*_HEADER[:3], *(f"{caller}/{tier[:4]}" for caller, tier in COLUMNS)]
    cells = cells_of(results)
    shown = [header, *rows(ids, cells, missing="-")]
    widths = [max(len(row[at]) for row in shown) for at in range(len(_HEADER))]
    for row in shown:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(padded).rstrip())
    counts = Counter(cells.values())
    print(f"\n{len(ids)} attacks: " + ", ".join(f"{n} {cell}" for cell, n in counts.items()))


def _print_missing(told: dict[str, Told]) -> None:
    for caller, one in told.items():
        for tier, reason in one.missing.items():
            print(f"{caller} has no {tier} tier here: {reason}")


if __name__ == "__main__":
    sys.exit(main())
