"""The modules of bench/, which is no package, for the tests of its pure parts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"


class Bench:
    """The modules of bench/, which is no package."""

    def __init__(self) -> None:
        self.before = set(sys.modules)

    def __getattr__(self, name: str):
        return __import__(name)

    def forget(self) -> None:
        own = {path.stem for path in BENCH.glob("*.py")}
        for name in own & (set(sys.modules) - self.before):
            del sys.modules[name]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCH)
    modules = Bench()
    yield modules
    modules.forget()
