"""pass@k: the chance that at least one of k samples of a task passes.

Estimated without bias from n samples of which c pass, as 1 - C(n-c, k) / C(n, k)
(Chen et al., 2021). The estimate 1 - (1 - c/n)**k would be too low.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evalbox.grade.words import counted


def pass_at_k(total: int, passed: int, k: int) -> float:
    """The estimate for one task.

    Raises:
        ValueError: not 0 <= passed <= total, or not 1 <= k <= total.
    """
    if not 0 <= passed <= total:
        raise ValueError(f"{passed} of {total} samples cannot have passed")
    if not 1 <= k <= total:
        raise ValueError(f"pass@{k} cannot be estimated from {total} samples")
    # A product of ratios close to 1: the binomials themselves would overflow a
    # float. It has min(k, passed) factors by C(n-c, k)/C(n, k) = C(n-k, c)/C(n, c).
    few, many = sorted((k, passed))
    return 1.0 - math.prod((total - many - i) / (total - i) for i in range(few))


@dataclass(frozen=True, slots=True)
class Estimate:
    """pass@k of a data set.

    Attributes:
        values: k -> the mean over the tasks.
        skipped: k -> why there is no value for it.
    """

    values: Mapping[int, float]
    skipped: Mapping[int, str]


def estimate(tallies: Mapping[str, tuple[int, int]], ks: Iterable[int]) -> Estimate:
    """pass@k for each k, from task id -> (total, passed).

    A k that is larger than the number of samples of any task is skipped: leaving
    that task out would change what the mean is about.
    """
    values: dict[int, float] = {}
    skipped: dict[int, str] = {}
    for k in ks:
        short = [task for task, (total, _) in tallies.items() if total < k]
        if short or not tallies:
            skipped[k] = _reason(k, short, tallies)
            continue
        each = [pass_at_k(total, passed, k) for total, passed in tallies.values()]
        values[k] = math.fsum(each) / len(each)
    return Estimate(values, skipped)


def _reason(k: int, short: list[str], tallies: Mapping[str, tuple[int, int]]) -> str:
    if not short:
        return f"pass@{k} skipped: nothing was graded"
    more = counted(len(short) - 1, "other task has", "other tasks have")
    others = f" and {more} too few" if len(short) > 1 else ""
    total = tallies[short[0]][0]
    return f"pass@{k} skipped: it needs {k} samples of every task; {short[0]} has {total}{others}"
