"""What this host can enforce, and what would bring more.

host().enforcement(policy, limits, identity)   how every property is held
host().check(policy, limits, identity)         the same, or UnsupportedError
host().missing                                 what is not held by default, and the remedy
"""

from __future__ import annotations

import errno
import os
import platform
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from evalbox._host import facts
from evalbox._host.cgroups import NO_CGROUPS, Cgroups, find
from evalbox._host.namespaces import Namespaces, namespaces
from evalbox._host.properties import (
    NOT_POSSIBLE,
    Held,
    Situation,
    enforcement,
    held,
    situation,
)
from evalbox._values import FrozenMap
from evalbox.compile.identity import Caller, Identity, Tier, identity_for
from evalbox.errors import SetupError, UnsupportedError
from evalbox.limits import Limits
from evalbox.output import Enforcement
from evalbox.policy import CORE, PROPERTIES, Policy
from evalbox.resolve import Program

__all__ = ["Host", "Missing", "host"]

_DEFAULT_LIMITS = Limits()
_DEFAULT_POLICY = Policy()
MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that this host does not enforce.

    Attributes:
        thing: a property; "isolation" for namespaces, "on_denied" for its value "kill",
            "workspace" for a directory to have them in, "anything" for what all runs need.
        reason: what is in the way.
        remedy: the command, setting or field that would bring it.
    """

    thing: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Host:
    """What was found on this host; nothing in it changes while it runs.

    Attributes:
        kernel: its release, as `uname -r` prints it.
        machine: "x86_64" or "aarch64".
        landlock: ABI, and the error where there is none.
        seccomp: whether filters can be installed (Linux 3.17).
        notification: whether on_denied="kill" is possible (Linux 5.0).
        proc: whether /proc is mounted; descriptors are checked and trees counted there.
        caller: who starts the runs.
        uids: the range from which root gives each run its own; None without one.
        places: directories for workspaces, the best first.
        namespaces: whether runs can have their own (tried with a real one).
        cgroups: those that may be made for runs.
    """

    kernel: str
    machine: str
    landlock: facts.Landlock
    seccomp: bool
    notification: bool
    proc: bool
    caller: Caller
    uids: range | None
    places: tuple[facts.Place, ...]
    namespaces: Namespaces
    cgroups: Cgroups

    def tier(self, policy: Policy) -> Tier:
        """How a run under this policy is isolated.

        Raises:
            UnsupportedError: it asks for namespaces, and there are none.
        """
        if policy.isolation == "process":
            return "process"
        if not self.namespaces.why_not:
            return "namespace"
        if policy.isolation == "namespace":
            raise UnsupportedError("isolation", self.namespaces.why_not, self.namespaces.remedy)
        return "process"

    def identity(self, policy: Policy, program: Program) -> Identity:
        """Who a run of this program under this policy will be.

        Raises:
            PlanError: what the policy grants cannot be reached at all.
        """
        return identity_for(policy, program, self.caller, self.tier(policy))

    def enforcement(
        self, policy: Policy, limits: Limits, identity: Identity
    ) -> FrozenMap[Enforcement]:
        """How each property of `evalbox.ALL` will be held."""
        return enforcement(self._situation(policy, limits, identity))

    def check(self, policy: Policy, limits: Limits, identity: Identity) -> FrozenMap[Enforcement]:
        """The enforcement, when it is all that the policy requires.

        Raises:
            UnsupportedError: a required property cannot be enforced.
        """
        self.check_features(policy)
        found = self.held(policy, limits, identity)
        for name in PROPERTIES:
            if name in policy.require and found[name].enforcement.level != "enforced":
                raise UnsupportedError(name, found[name].enforcement.reason, found[name].remedy)
        return self.enforcement(policy, limits, identity)

    def without_cgroups(self, reason: str) -> Host:
        """This host when no cgroup could be made after all."""
        return replace(self, cgroups=replace(NO_CGROUPS, why_not=reason))

    def check_features(self, policy: Policy) -> None:
        """That what the policy asks for is there, whoever the run will be.

        Raises:
            UnsupportedError: it is not, or nothing can be confined here.
        """
        for lacking in self.obstacles:
            raise UnsupportedError(lacking.thing, lacking.reason, lacking.remedy)
        if policy.isolation == "namespace":
            self.tier(policy)
        if policy.on_denied == "kill" and not self.notification:
            raise UnsupportedError("on_denied", *_NO_NOTIFICATION)

    @property
    def obstacles(self) -> tuple[Missing, ...]:
        """Without these nothing can be confined, whatever a policy requires."""
        no_landlock = f"Landlock is not available (errno {self.landlock.error})"
        wanted = (
            (self.machine in MACHINES, "anything", f"the machine is {self.machine}", _MACHINES),
            (self.proc, "anything", "/proc is not mounted", "mount -t proc proc /proc"),
            (
                self.seccomp,
                "prlimit",
                "seccomp filters cannot be installed",
                "CONFIG_SECCOMP_FILTER=y",
            ),
            (self.landlock.abi, "fs_read", no_landlock, facts.landlock_remedy(self.landlock)),
        )
        return tuple(Missing(*told) for is_there, *told in wanted if not is_there)

    def held(self, policy: Policy, limits: Limits, identity: Identity) -> FrozenMap[Held]:
        """How each property will be held, and what would hold it better."""
        at = self._situation(policy, limits, identity)
        found = held(at)
        if at.tier == "namespace":
            return found
        # The same run in namespaces: what it would have more is worth a remedy.
        better = held(replace(at, tier="namespace"))
        more = self.namespaces.remedy or "isolation='namespace' or 'auto'"
        return FrozenMap(
            {
                name: replace(item, remedy=_either(more, item.remedy))
                if better[name].enforcement.level == "enforced" != item.enforcement.level
                else item
                for name, item in found.items()
            }
        )

    def _situation(self, policy: Policy, limits: Limits, identity: Identity) -> Situation:
        tier = self.tier(policy)
        return situation(
            self.landlock.abi, self.seccomp, tier, policy, limits, identity, cgroups=self.cgroups
        )

    @property
    def default_identity(self) -> Identity:
        """Who a run of a program of the system is."""
        nothing = Program("/", in_workspace=True, grants=())
        return self.identity(_DEFAULT_POLICY, nothing)

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What a default run does not have as "enforced", and what would bring it."""
        found = self.held(_DEFAULT_POLICY, _DEFAULT_LIMITS, self.default_identity)
        lacking = [
            Missing(name, item.enforcement.reason, item.remedy)
            for name, item in found.items()
            if item.enforcement.level != "enforced"
        ]
        named = {item.thing for item in lacking}
        lacking += [item for item in self.obstacles if item.thing not in named]
        if self.namespaces.why_not:
            lacking.append(Missing("isolation", self.namespaces.why_not, self.namespaces.remedy))
        if not self.notification:
            lacking.append(Missing("on_denied", *_NO_NOTIFICATION))
        if self._needs_directory and not self.workspaces:
            lacking.append(Missing("workspace", self.no_workspace, _NO_WORKSPACE))
        return tuple(lacking)

    @property
    def why_cold(self) -> str:
        """Why no run of this host can be forked from a template; "" when it can."""
        abi = self.landlock.abi
        if abi >= _TEMPLATE_ABI:
            return ""
        return (
            f"Landlock ABI {abi} does not keep a run from signalling its template;"
            f" Linux 6.12 has ABI {_TEMPLATE_ABI}"
        )

    @property
    def workspaces(self) -> list[str]:
        """Directories that can hold workspaces, the best first; runs in namespaces need none."""
        return [place.path for place in self.places if not place.why_not]

    @property
    def no_workspace(self) -> str:
        """What is wrong with each directory that was looked at."""
        found = "; ".join(f"{place.path}: {place.why_not}" for place in self.places)
        return f"no directory for workspaces ({found})"

    @property
    def _needs_directory(self) -> bool:
        return self.tier(_DEFAULT_POLICY) == "process"

    @property
    def ok(self) -> bool:
        """Whether the default policy is enforced in full."""
        lacking = (CORE | {"workspace"}) & {item.thing for item in self.missing}
        return not lacking and not self.obstacles

    def to_dict(self) -> dict[str, Any]:
        """The findings as JSON-safe values."""
        report = self.enforcement(_DEFAULT_POLICY, _DEFAULT_LIMITS, self.default_identity)
        return {
            "ok": self.ok,
            "kernel": self.kernel,
            "machine": self.machine,
            "landlock_abi": self.landlock.abi,
            "seccomp": self.seccomp,
            "notification": self.notification,
            "uid": self.caller.uid,
            "own_uids": self.caller.own_uids,
            "workspaces": self.workspaces,
            "namespaces": not self.namespaces.why_not,
            "templates": not self.why_cold,
            "cgroups": self.cgroups.to_dict(),
            "enforcement": {name: item.to_dict() for name, item in report.items()},
            "missing": [
                {"thing": item.thing, "reason": item.reason, "remedy": item.remedy}
                for item in self.missing
            ],
        }


# Signals are scoped from then on: no run can stop or end its template.
_TEMPLATE_ABI = 6
_MACHINES = " or ".join(MACHINES)
_NO_WORKSPACE = "set TMPDIR to a directory that can be written and is not mounted noexec"
_NO_NOTIFICATION = (
    "the kernel does not tell who made a denied call (SECCOMP_RET_USER_NOTIF)",
    "Linux 5.0 or newer; or on_denied='errno'",
)


def _either(more: str, remedy: str) -> str:
    return more if remedy == NOT_POSSIBLE else f"{more}; or {remedy}"


@cache
def host() -> Host:
    """This host; looked at once per process.

    Raises:
        SetupError: it cannot be looked at just now.
    """
    try:
        return _looked_at()
    except OSError as error:
        if isinstance(error, SetupError):
            raise
        raise SetupError("host", error.errno or errno.EIO, error.strerror) from error


def _looked_at() -> Host:
    who, uids = facts.caller(), facts.uids()
    return Host(
        kernel=platform.release(),
        machine=platform.machine(),
        landlock=facts.landlock(),
        seccomp=facts.seccomp_filter(),
        notification=facts.seccomp_notification(),
        proc=os.path.exists("/proc/self/fd"),
        caller=who,
        uids=uids,
        places=tuple(facts.places()),
        namespaces=namespaces(who, uids),
        cgroups=find(),
    )
