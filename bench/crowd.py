"""What an event and a run cost this process among many live runs, against beside one.

The measures are those of scale.py, which has more of them; here they are rounds
like those of the other parts, whose base is one live run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import scale
from measure import Rounds
from results import Rows
from scale import Tier

MEASURES: dict[str, Callable[[Tier, int], float]] = {"event": scale.event, "run": scale.busy}
# Each makes all of the live runs anew.
MOST_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many live runs in a tier, and what is measured beside them."""

    count: int
    tier: Tier
    measure: Callable[[Tier, int], float]

    @property
    def name(self) -> str:
        return f"{self.count} alive"

    def measured(self) -> float:
        return self.measure(self.tier, self.count)


def measure(rounds: Rounds, tiers: Sequence[Tier], counts: Sequence[int], times: int) -> Rows:
    rows: Rows = {}
    for tier in tiers:
        for what, taken in MEASURES.items():
            label = f"{what}, {tier}"
            field = [Crowd(count, tier, taken) for count in counts]
            rows[label] = rounds.of(label, field, min(times, MOST_ROUNDS), Crowd.measured)
    return rows
