"""Runs isolated in one way, whatever the host would choose by itself.

The fixture `tier` of conftest.py runs a test once for each. Hosts that a test
starts as processes of their own begin with `prelude()`, so that they do the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalbox.compile.identity import Tier
    from evalbox.executor import Executor
    from evalbox.policy import Policy

TIERS: tuple[Tier, ...] = ("process", "namespace")
_forced: list[Tier] = []
_for_good = ExitStack()


@contextmanager
def only(tier: Tier) -> Iterator[None]:
    """isolation="auto" means this one meanwhile."""
    from evalbox._host import Host  # at use: a host of its own imports this first
    from evalbox.executor import shared

    before = Host.tier
    idle: list[Executor] = []

    def forced(self: Host, policy: Policy) -> Tier:
        return tier if policy.isolation == "auto" else before(self, policy)

    Host.tier = forced  # type: ignore[method-assign]
    # What the shared executors have ready is of another tier.
    idle, shared._idle = shared._idle, idle
    _forced.append(tier)
    try:
        yield
    finally:
        _forced.pop()
        Host.tier = before  # type: ignore[method-assign]
        idle, shared._idle = shared._idle, idle
        for executor in idle:
            executor.close()


def stay(tier: Tier) -> None:
    """The same until this process ends."""
    _for_good.enter_context(only(tier))


def current() -> Tier:
    """How a run under the default policy is isolated now."""
    from evalbox import Policy
    from evalbox._host import host

    return host().tier(Policy())


def prelude() -> str:
    """Code with which a host in a process of its own does as this one."""
    if not _forced:
        return ""
    here = os.fspath(Path(__file__).parent)
    return f"import sys; sys.path.insert(0, {here!r}); import tiers; tiers.stay({_forced[-1]!r})\n"
