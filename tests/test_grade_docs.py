"""The page about grading says what is true of the tables in the code."""

from __future__ import annotations

import re
from pathlib import Path

from evalbox.grade import DEFAULT_LIMITS, Cause, Graded, summarize
from evalbox.limits import MiB

PAGE = (Path(__file__).parent.parent / "docs" / "grading.md").read_text(encoding="utf-8")


def test_the_table_of_verdicts_is_the_one_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE, re.MULTILINE)
    assert rows == [(cause.value, cause.word) for cause in Cause]


def test_the_defaults_are_those_of_the_code() -> None:
    limits = DEFAULT_LIMITS
    assert limits.memory is not None
    assert f"included. Default {limits.wall_time:g}." in PAGE
    assert f"default {limits.memory // MiB}M." in PAGE
    assert limits.output == MiB
    assert "limited to 1 MiB" in PAGE
    assert limits.disk == 16 * MiB
    assert "files to 16 MiB" in PAGE


def test_the_fields_of_the_json_are_those_of_the_code() -> None:
    sample = Graded(
        task_id="Sum/0",
        number=0,
        cause=Cause.PASSED,
        detail="",
        wall_time=0.1,
        cpu_time=0.1,
        peak_memory=1000,
    )
    grading = summarize([sample], 1, [1], 0.1, 1).to_dict()
    _, _, item = PAGE.partition("- `--json`:")
    item, _, _ = item.partition("\n\n")
    assert re.findall(r"`(\w+)`", item) == [*grading, *sample.to_dict()]
