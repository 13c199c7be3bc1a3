"""A policy and a program made ready for this host, and kept.

What is expensive and the same for many runs is done once: the identity that can
reach what is granted, the descriptors of the granted paths, the filters.
"""

from __future__ import annotations

import itertools
import platform
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

from evalbox import _native
from evalbox._host import host
from evalbox._launch.warm import reason_against
from evalbox._native.tree import tree
from evalbox._values import FrozenMap
from evalbox.compile.descriptors import KEPT, PathDescriptors
from evalbox.compile.identity import Identity, Tier
from evalbox.compile.paths import HANDLED, HANDLED_NET, SCOPES, WORKSPACE
from evalbox.compile.rules import LASTING_CALLS
from evalbox.compile.syscalls import filter_specs
from evalbox.compile.tree import Mount, has_fixtures, identity_files, mounts, places
from evalbox.errors import PlanError
from evalbox.limits import Limits
from evalbox.output import Enforcement
from evalbox.plan import Plan
from evalbox.policy import Network, OnDenied, Policy, Syscalls
from evalbox.resolve import Program, resolve
from evalbox.warm import Warm

# Each keeps some two dozen descriptors.
MOST_KEPT = 6
_MOST_LIMITS = 64
_serials = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Filters:
    """What a launcher is made for: runs that are equal in this share one.

    Attributes:
        launcher, child: programs of the seccomp filters.
        listen: whether denials are told (on_denied="kill").
        identity: kind of the identity of its runs.
        tier: whether it makes namespaces.
        host_network: whether that of the host is used.
    """

    launcher: bytes
    child: bytes
    listen: bool
    identity: str
    tier: Tier
    host_network: bool


class Kit:
    """Owner of the descriptors of one policy and program.

    Attributes:
        serial: names its ruleset; never used again.
        program, tier, identity, filters: of all its runs.
        shares_count: whether the kernel counts its processes with the caller's others.
        last_job: what was sent for the plan that was run last.
        warm: what the interpreter does from which they are forked; None: they start theirs.
    """

    def __init__(self, policy: Policy, program: Program, warm: Warm | None = None) -> None:
        self.serial = next(_serials)
        self.policy = policy
        is_cold = warm is None or bool(reason_against(policy, program))
        self.warm = None if is_cold else warm
        self.program = program
        self.descriptors = PathDescriptors(policy, program)
        try:
            self.tier: Tier = host().tier(policy)
            self.identity: Identity = host().identity(policy, program)
            self.filters = _filters_of(policy, self.identity, self.tier)
            self._mounts = self._find_mounts() if self.tier == "namespace" else ()
        except BaseException:
            self.descriptors.close()
            raise
        self.shares_count = self.identity.kind == "user" and self.tier == "process"
        self.last_job: tuple[Plan, _native.Job] | None = None
        self._made = time.monotonic()
        self._enforcement: dict[Limits, FrozenMap[Enforcement]] = {}

    def enforcement(self, limits: Limits) -> FrozenMap[Enforcement]:
        """How each property will be held.

        Raises:
            UnsupportedError: a required property cannot be enforced.
        """
        found = self._enforcement.get(limits)
        if found is None:
            found = host().check(self.policy, limits, self.identity)
            if len(self._enforcement) >= _MOST_LIMITS:
                # Limits that are others for every run would stay for ever.
                self._enforcement.clear()
            self._enforcement[limits] = found
        return found

    def enforcement_without_cgroups(self, limits: Limits, reason: str) -> FrozenMap[Enforcement]:
        """The same for a run in a slot that has none although the host has some.

        Raises:
            UnsupportedError: a required property cannot be enforced so.
        """
        return host().without_cgroups(reason).check(self.policy, limits, self.identity)

    def ruleset(self, workspace: tuple[int, ...]) -> int:
        """A ruleset with these directories as well."""
        own = [(fd, int(WORKSPACE)) for fd in workspace]
        entries = [*self.descriptors.entries, *own]
        net = HANDLED_NET[self.policy.network.mode]
        return _native.ruleset(entries, int(HANDLED), net, SCOPES)

    @property
    def has_own_slots(self) -> bool:
        """Whether its slots, which have its files or its interpreter, serve no other kit."""
        return self.tier == "namespace" or self.warm is not None

    @property
    def places(self) -> dict[str, str]:
        """In namespaces: where a program sees the directories of its workspace."""
        return places(self.descriptors.rules)

    def serves_once(self, plan: Plan) -> bool:
        """Whether the init of a run cannot serve another: this one's traces could be there.

        System V objects and message queues are in no directory; and where something
        is mounted in the workspace, the host cannot empty that.
        """
        lasting = bool(self.policy.syscalls.allowed & LASTING_CALLS)
        return self.tier == "namespace" and (
            lasting or (bool(plan.collect) and has_fixtures(self._mounts))
        )

    def tree(self, uid: int, gid: int) -> tuple[bytes, tuple[Mount, ...]]:
        """What an init in namespaces is told of its files, and the same as data."""
        rules = self.descriptors.rules
        own = identity_files(rules, uid, gid, self.places["home"])
        items = (*self._mounts, *own)
        net = HANDLED_NET[self.policy.network.mode]
        return tree(items, self.serial, int(HANDLED), net, SCOPES), items

    def _find_mounts(self) -> tuple[Mount, ...]:
        descriptors = self.descriptors
        return mounts(self.policy, self.program, descriptors.rules, descriptors.identities)

    def still_holds(self) -> bool:
        """Whether its paths are what they were; who may reach them is asked once a second."""
        if not self.descriptors.still_hold():
            return False
        now = time.monotonic()
        if now - self._made <= KEPT:
            return True
        self._made = now
        return host().identity(self.policy, self.program) == self.identity

    def close(self) -> None:
        self.descriptors.close()


class Kits:
    """The kits that were used last; owner of all of them."""

    def __init__(self) -> None:
        self._kits: OrderedDict[tuple[str, Program, Warm | None], Kit] = OrderedDict()
        self._last: tuple[Plan, Kit, float] | None = None

    def of(self, plan: Plan) -> Kit:
        """The kit of a plan; valid until the next call.

        Raises:
            EvalboxError: the plan cannot be run on this host.
        """
        now = time.monotonic()
        if self._last is not None:
            last, kit, since = self._last
            # The same plan over and over: its program is there as long as the kit holds,
            # and whether PATH has another by now is asked once a second.
            if plan is last and now - since <= KEPT and kit.still_holds():
                return kit
        self._last = None
        kit = self._looked_up(plan)
        self._last = (plan, kit, now)
        return kit

    def _looked_up(self, plan: Plan) -> Kit:
        program = resolve(plan)
        key = (plan.policy.digest, program, plan.warm)
        kit = self._kits.get(key)
        if kit is not None:
            if kit.still_holds():
                self._kits.move_to_end(key)
                return kit
            del self._kits[key]
            kit.close()
        host().check_features(plan.policy)
        kit = Kit(plan.policy, program, plan.warm)
        self._kits[key] = kit
        if len(self._kits) > MOST_KEPT:
            self._kits.popitem(last=False)[1].close()
        return kit

    def close(self) -> None:
        self._last = None
        while self._kits:
            self._kits.popitem()[1].close()


def _filters_of(policy: Policy, identity: Identity, tier: Tier) -> Filters:
    return _filters(policy.network, policy.syscalls, policy.on_denied, identity.kind, tier)


@lru_cache(maxsize=64)
def _filters(
    network: Network, syscalls: Syscalls, on_denied: OnDenied, kind: str, tier: Tier
) -> Filters:
    """The filters depend on this part of a policy only."""
    policy = Policy(network=network, syscalls=syscalls, on_denied=on_denied, require=())
    launcher, child = filter_specs(
        policy,
        arch=platform.machine(),
        identity="caller_root" if kind == "caller" else "ordinary",
    )
    try:
        return Filters(
            b"" if launcher is None else _native.filter_program(launcher),
            _native.filter_program(child),
            on_denied == "kill",
            kind,
            tier,
            network.mode == "host",
        )
    except OSError as error:
        raise PlanError(f"the rules for system calls are too many: {error.strerror}") from None
