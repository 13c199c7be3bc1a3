"""Which hard places the caller of the tests makes, and which it cannot."""

from __future__ import annotations

import os

import pytest

from hard_places import cannot_make
from hard_places.places import names

HERE = [name for name in names() if name.endswith("-user") or os.geteuid() == 0]


def skip_unless_made(place: str) -> None:
    if why := cannot_make(place):
        pytest.skip(why)
