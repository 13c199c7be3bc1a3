"""Which hard places the caller of the tests makes, and which it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hard_places import cannot_make
from hard_places.linux import CAPABILITIES
from hard_places.places import names

HERE = [name for name in names() if name.endswith("-user") or os.geteuid() == 0]


def skip_unless_made(place: str) -> None:
    """Where root has all that it takes, a place that cannot be made is a failure."""
    if why := cannot_make(place):
        (pytest.fail if _is_able() else pytest.skip)(why)


def _is_able() -> bool:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (held,) = (line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(held, 16) >> CAPABILITIES.index("SYS_ADMIN") & 1)
