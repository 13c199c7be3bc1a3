"""Runs isolated in one way, whatever the host would choose by itself.

The fixture `tier` of conftest.py runs a test once for each. Hosts that a test
starts as processes of their own begin with `prelude()`, so that they do the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evalbox.compile.identity import Tier
    from evalbox.executor import Executor
    from evalbox.policy import Policy

TIERS: tuple[Tier, ...] = ("process", "namespace")
# What the process tier can give from this ABI of Landlock on, of what is required by default.
_SINCE_ABI = {"fs_write": 3, "signals": 6, "tree_kill": 6}
_forced: list[Tier] = []
_for_good = ExitStack()


@contextmanager
def only(tier: Tier) -> Iterator[None]:
    """isolation="auto" means this one meanwhile.

    The default policy requires then what this kernel can give in it: that more is refused
    where the kernel is older is the subject of test_kernel_expectations.py alone.
    """
    from evalbox._host import Host  # at use: a host of its own imports this first
    from evalbox.executor import shared

    before, check = Host.tier, Host.check
    idle: list[Executor] = []

    def forced(self: Host, policy: Policy) -> Tier:
        return tier if policy.isolation == "auto" else before(self, policy)

    def checked(self: Host, policy: Policy, *run: Any) -> Any:
        if tier == "process" and policy.isolation == "auto":
            policy = _without_what_lacks(policy, self.landlock.abi)
        return check(self, policy, *run)

    Host.tier, Host.check = forced, checked  # type: ignore[method-assign]
    # What the shared executors have ready is of another tier.
    idle, shared._idle = shared._idle, idle
    _forced.append(tier)
    try:
        yield
    finally:
        _forced.pop()
        Host.tier, Host.check = before, check  # type: ignore[method-assign]
        idle, shared._idle = shared._idle, idle
        for executor in idle:
            executor.close()


def _without_what_lacks(policy: Policy, abi: int) -> Policy:
    from evalbox import CORE

    lacking = {name for name, since in _SINCE_ABI.items() if since > abi}
    return replace(policy, require=CORE - lacking) if policy.require == CORE else policy


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
