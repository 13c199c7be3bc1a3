"""All sections; importing this registers every attack."""

from __future__ import annotations

import importlib
from pathlib import Path

from security.base import ATTACKS

# In the order of the table: F files, P processes, N network, K kernel surface,
# R resources, X forging, I information.
_SECTIONS = "FPNKRXI"

for _path in sorted(Path(__file__).parent.glob("attacks_*.py")):
    importlib.import_module(f"security.{_path.stem}")


def _order(attack_id: str) -> tuple[int, int, str]:
    number, _, variant = attack_id[1:].partition(".")
    return _SECTIONS.index(attack_id[0]), int(number), variant


IDS = sorted(ATTACKS, key=_order)
