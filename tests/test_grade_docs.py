"""The page about grading says what is true of the tables in the code."""

from __future__ import annotations

import re
from pathlib import Path

from evalbox.grade import DEFAULT_LIMITS, Cause
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
