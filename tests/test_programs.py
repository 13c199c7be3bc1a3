"""Ordinary programs do under the default policy what docs/programs.md says.

The page is written from the rows that are run here, by EVALBOX_UPDATE_DOCS=1.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import evalbox
from program_rows import ROWS, Row

PAGE = Path(__file__).parent.parent / "docs" / "programs.md"
DEFAULT = evalbox.Limits().memory


def missing(row: Row) -> str:
    """The first thing that a row needs and this machine does not have; "" when none."""
    for need in row.needs:
        module = need.removeprefix("python:")
        found = importlib.util.find_spec(module) if module != need else shutil.which(need)
        if not found:
            return need
    return ""


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_a_program_does_under_the_default_policy_what_the_page_says(row: Row, tier: str) -> None:
    if row.only not in ("", tier):
        # What it does in the other tier stands in another row.
        assert any(other.does == row.does and other.only == tier for other in ROWS)
        return
    if need := missing(row):
        pytest.skip(f"{need} is not installed")
    output = evalbox.run(row.command, files=row.files, memory=row.memory, timeout=120)
    assert output.status is evalbox.Status.EXITED, output.explain()
    stderr = output.stderr.decode(errors="replace")
    assert output.text == row.prints, stderr
    assert output.ok != bool(row.error), stderr
    assert row.error in stderr


# ---- the page ------------------------------------------------------------------------------

HEAD = """# Ordinary programs

What works under the default policy and what does not. The test suite runs every row, as root
and as an ordinary user, with the default limits unless the row names another one, and writes
this page (`EVALBOX_UPDATE_DOCS=1 make test PYTEST="-k programs"`).

A program that is not installed below `/usr` is found and granted together with its libraries
when it is the one that is run, not when another one starts it: add `read=` then.

## What works

"""
BETWEEN = """
Programs that start a thread for each processor (the Java and Node runtimes, OpenBLAS) may need
more than the default `processes=64` on a big machine.

## What does not work

"""


def page() -> str:
    works = [row for row in ROWS if not row.error]
    fails = [row for row in ROWS if row.error]
    return "".join(
        (
            HEAD,
            *_table(("program", "what was run", "to know"), works),
            BETWEEN,
            *_table(("program", "what was run", "why, and what to do instead"), fails),
        )
    )


def _table(head: tuple[str, ...], rows: list[Row]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    tiers = {"namespace": "in namespaces; ", "process": "without namespaces: ", "": ""}
    for row in rows:
        needs = "" if row.memory == DEFAULT else f"needs `memory={row.memory}`; "
        told = f"{tiers[row.only]}{needs}{row.note}".removesuffix("; ")
        yield f"| {row.program} | {row.does} | {told} |\n"


def test_the_page_is_this_table() -> None:
    if os.environ.get("EVALBOX_UPDATE_DOCS"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "EVALBOX_UPDATE_DOCS=1 writes it anew"
