"""The arithmetic and the tables of the benchmark; it measures nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCH)
    yield __import__("tables")
    sys.modules.pop("tables", None)


def test_a_ratio_is_taken_within_its_round(tables) -> None:
    # The machine is twice as slow in the second round; the ratio is not.
    ratio = tables.Ratio.of([3.0, 6.0, 3.0], [2.0, 4.0, 2.0], 1000)
    assert (ratio.low, ratio.median, ratio.high) == (1.5, 1.5, 1.5)
    assert ratio.absolute == 3000


def test_one_round_has_no_spread(tables) -> None:
    assert tables.quartiles([2.0]) == (2.0, 2.0, 2.0)


def test_the_table_has_a_row_for_each_program_and_a_gap_for_a_missing_contestant(tables) -> None:
    ratio = tables.Ratio(1.25, 1.0, 1.5, 900)
    text = tables.ratio_table(
        "title", {"a": {"floor": ratio, "bwrap": ratio}, "b": {"floor": ratio}}, "us"
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    assert "1.25 (1.00-1.50), 900 us" in rows[1]
    assert rows[2].rstrip(" |").endswith("-")


def test_only_what_stands_between_the_marks_is_replaced(tables) -> None:
    page = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    fresh = tables.replace_between_marks(page, "new")
    assert fresh == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"
    assert tables.replace_between_marks(fresh, "new") == fresh


def test_the_readme_gets_the_first_table_only(tables, monkeypatch: pytest.MonkeyPatch) -> None:
    run = __import__("run")
    for name in ("run", "measure", "contestants"):
        monkeypatch.delitem(sys.modules, name)
    results = {"a": {"floor": tables.Ratio(1, 1, 1, 900)}}
    report = run.Report(latency=results, throughput=results)
    assert "Many at once" in report.text()
    assert report.text().startswith(report.one_after_the_other())
    assert "Many at once" not in report.one_after_the_other()


def test_a_page_without_marks_is_an_error(tables) -> None:
    with pytest.raises(ValueError, match="bench: begin"):
        tables.replace_between_marks("no marks", "new")
