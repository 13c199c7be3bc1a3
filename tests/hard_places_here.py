"""The hard places that the caller of the tests can make."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

import hard_places
from hard_places.linux import CAPABILITIES
from hard_places.places import names

HERE = [name for name in names() if name.endswith("-user") or os.geteuid() == 0]


def base(place: str) -> str:
    """Its name without the caller."""
    return place.rpartition("-")[0]


def run_there(place: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return hard_places.run(place, command)
    except hard_places.CannotMake as why:
        _give_up(str(why))


def visit_there(place: str, isolation: str) -> dict[str, Any]:
    try:
        return hard_places.visit(place, isolation)
    except hard_places.CannotMake as why:
        _give_up(str(why))


def _give_up(why: str) -> NoReturn:
    """Where root has all that it takes, a place that cannot be made is a failure."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (held,) = (line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    if int(held, 16) >> CAPABILITIES.index("SYS_ADMIN") & 1:
        pytest.fail(why)
    pytest.skip(why)
