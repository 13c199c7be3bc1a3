"""Prints attack x caller x tier; with --write, puts it into docs/security-model.md.

What goes into the page is what is seen where no cgroups can be made.

    PYTHONPATH=.:tests python3 -m security.table [--write] [ID...]

Exits with 1 when an attack succeeds where its property is enforced, or proves nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from evalbox.policy import PROPERTIES
from security.base import ATTACKS, CALLERS, TIERS, Result, Verdict
from security.callers import TESTS, Told, callers_here, told_by
from security.catalogue import IDS

PAGE = TESTS.parent / "docs" / "security-model.md"
BEGIN, END = "<!-- attacks: begin -->\n", "<!-- attacks: end -->\n"
COLUMNS = tuple((caller, tier) for caller in CALLERS for tier in TIERS)
_HEADER = ["", "attack", "property", *(f"{caller}, {tier}" for caller, tier in COLUMNS)]
_LEVELS_HEADER = ["property", *_HEADER[3:]]
NO_TIER = "no such tier"

# (attack or property, caller, tier) -> verdict or level
Cells = dict[tuple[str, str, str], str]


def cells_of(results: Iterable[Result]) -> Cells:
    return {(row.id, row.caller, row.tier): _cell(row) for row in results}


def _cell(row: Result) -> str:
    return "FAILED" if row.failure else row.verdict.value


def levels_of(told: Mapping[str, Told]) -> Cells:
    """How an ordinary run of each caller in each tier reports the properties."""
    return {
        (name, caller, tier): level
        for caller, one in told.items()
        for tier, levels in one.levels.items()
        for name, level in levels.items()
    }


def rows(ids: Iterable[str], cells: Cells, missing: str = NO_TIER) -> Iterator[list[str]]:
    for name in ids:
        item = ATTACKS[name]
        found = [cells.get((name, caller, tier), missing) for caller, tier in COLUMNS]
        yield [name, item.title, item.property or "", *found]


# ---- the page --------------------------------------------------------------------------------


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def generated(results: list[Result], levels: Cells) -> str:
    """What stands between the marks."""
    lines = ["What ordinary runs reported on the machine of these tables:", ""]
    lines += [_line(_LEVELS_HEADER), _line("---" for _ in _LEVELS_HEADER)]
    for name in PROPERTIES:
        found = (levels.get((name, caller, tier), NO_TIER) for caller, tier in COLUMNS)
        lines.append(_line([f"`{name}`", *found]))
    lines += ["", "What came of the attacks there:", ""]
    lines += [_line(_HEADER), _line("---" for _ in _HEADER)]
    lines += [_line(row) for row in rows(IDS, cells_of(results))]
    return "\n".join([*lines, "", *_explained(results), ""])


def _explained(results: list[Result]) -> Iterator[str]:
    yield "What is allowed is what the report of that very run calls not enforced:"
    yield ""
    found: dict[tuple[str, str, str], set[str]] = {}
    for row in results:
        if row.verdict is Verdict.ALLOWED:
            name = ATTACKS[row.id].property or ""
            reason = re.sub(r" [(].*[)]$", "", row.reason)
            found.setdefault((name, row.level, reason), set()).add(row.id)
    for (name, level, reason), ids in sorted(found.items()):
        listed = ", ".join(item for item in IDS if item in ids)
        yield f"- `{name}` is {level}: {reason} ({listed})"


def read_page(text: str) -> tuple[Cells, Cells]:
    """The attacks' cells that the page has, and the properties' levels."""
    attacks: Cells = {}
    levels: Cells = {}
    for line in _between(text)[1].splitlines():
        found = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if len(found) == len(_LEVELS_HEADER) and found[0].startswith("`"):
            levels |= _columns(found[0].strip("`"), found[1:])
        elif len(found) == len(_HEADER) and found[0] in ATTACKS:
            attacks |= _columns(found[0], found[3:])
    return attacks, levels


def _columns(name: str, cells: list[str]) -> Cells:
    return {(name, *column): cell for column, cell in zip(COLUMNS, cells, strict=True)}


def _between(text: str) -> tuple[str, str, str]:
    before, begin, rest = text.partition(BEGIN)
    inner, end, after = rest.partition(END)
    assert end, f"{PAGE.name} has lost the marks of its table"
    return before + begin, inner, end + after


def write(told: Mapping[str, Told]) -> None:
    results = [row for one in told.values() for row in one.results]
    before, _, after = _between(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(before + generated(results, levels_of(told)) + after, encoding="utf-8")


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
    callers = asked.caller or callers_here()
    # The page is about the weaker host.
    told = {caller: _asked(caller, asked.ids, cgroups=not asked.write) for caller in callers}
    results = [row for one in told.values() for row in one.results]
    _print_table(asked.ids or IDS, results)
    _print_missing(told)
    for row in sorted(results, key=lambda row: -row.seconds)[: asked.slow]:
        print(f"{row.seconds:6.2f} s  {row.id} ({row.caller}, {row.tier})")
    failures = [row for row in results if row.failure]
    for row in failures:
        print(f"FAILED {row.id} ({row.caller}, {row.tier}): {row.failure}")
    if asked.write and not failures:
        write(told)
    return 1 if failures else 0


def _asked(caller: str, ids: list[str], *, cgroups: bool) -> Told:
    print(f"as {caller} ...", file=sys.stderr, flush=True)
    return told_by(caller, ids, cgroups=cgroups)


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
