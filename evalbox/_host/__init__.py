"""What this host can enforce, and what would bring more.

host().enforcement(policy, limits, identity)   how every property is held
host().check(policy, limits, identity)         the same, or UnsupportedError
host().missing                                 what is not held by default, and the remedy
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from evalbox._host import facts
from evalbox._host.cgroups import NO_CGROUPS, Cgroups, find
from evalbox._host.properties import Held, Situation, enforcement, held, situation
from evalbox._values import FrozenMap
from evalbox.compile.identity import Caller, Identity, identity_for
from evalbox.errors import UnsupportedError
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
        thing: a property, or "on_denied" for its value "kill".
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
        user_namespaces: why an ordinary user gets none; empty when nothing forbids it.
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
    user_namespaces: str
    cgroups: Cgroups

    def identity(self, policy: Policy, program: Program) -> Identity:
        """Who a run of this program under this policy will be.

        Raises:
            PlanError: what the policy grants cannot be reached at all.
        """
        return identity_for(policy, program, self.caller)

    def enforcement(
        self, policy: Policy, limits: Limits, identity: Identity
    ) -> FrozenMap[Enforcement]:
        """How each property of `evalbox.ALL` will be held."""
        return enforcement(self.situation(policy, limits, identity))

    def without_cgroups(self, reason: str) -> Host:
        """This host when none could be made after all."""
        return replace(self, cgroups=replace(NO_CGROUPS, why_not=reason))

    def check(self, policy: Policy, limits: Limits, identity: Identity) -> FrozenMap[Enforcement]:
        """The same, when the policy's demands are met.

        Raises:
            UnsupportedError: a required property cannot be enforced.
        """
        self.check_features(policy)
        found = self._held(policy, limits, identity)
        for name in PROPERTIES:
            if name in policy.require and found[name].enforcement.level != "enforced":
                raise UnsupportedError(name, found[name].enforcement.reason, found[name].remedy)
        return self.enforcement(policy, limits, identity)

    def check_features(self, policy: Policy) -> None:
        if self.machine not in MACHINES:
            raise UnsupportedError(
                "anything", f"the machine is {self.machine}", " or ".join(MACHINES)
            )
        if policy.isolation == "namespace":
            raise UnsupportedError(
                "isolation", "this version has no namespace tier", "isolation='process' or 'auto'"
            )
        if policy.on_denied == "kill" and not self.notification:
            raise UnsupportedError("on_denied", *_NO_NOTIFICATION)
        # Without these nothing can be confined, whatever a policy requires.
        if not self.proc:
            raise UnsupportedError("anything", "/proc is not mounted", "mount -t proc proc /proc")
        if not self.seccomp:
            raise UnsupportedError(
                "prlimit", "seccomp filters cannot be installed", "CONFIG_SECCOMP_FILTER=y"
            )
        if not self.landlock.abi:
            reason = f"Landlock is not available (errno {self.landlock.error})"
            raise UnsupportedError("fs_read", reason, facts.landlock_remedy(self.landlock))

    def _held(self, policy: Policy, limits: Limits, identity: Identity) -> FrozenMap[Held]:
        return held(self.situation(policy, limits, identity))

    def situation(self, policy: Policy, limits: Limits, identity: Identity) -> Situation:
        return situation(
            self.landlock.abi, self.seccomp, policy, limits, identity, cgroups=self.cgroups
        )

    @property
    def default_identity(self) -> Identity:
        """Who a run of a program of the system is."""
        nothing = Program("/", in_workspace=True, grants=())
        return self.identity(_DEFAULT_POLICY, nothing)

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What a default run does not have as "enforced", and what would bring it."""
        found = self._held(_DEFAULT_POLICY, _DEFAULT_LIMITS, self.default_identity)
        lacking = [
            Missing(name, item.enforcement.reason, item.remedy)
            for name, item in found.items()
            if item.enforcement.level != "enforced"
        ]
        if not self.notification:
            lacking.append(Missing("on_denied", *_NO_NOTIFICATION))
        return tuple(lacking)

    @property
    def ok(self) -> bool:
        """Whether the default policy is enforced in full."""
        lacking = CORE & {item.thing for item in self.missing}
        return not lacking and self.proc and self.machine in MACHINES

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
            "workspaces": [place.path for place in self.places if not place.why_not],
            "user_namespaces": not self.user_namespaces,
            "cgroups": self.cgroups.to_dict(),
            "enforcement": {name: item.to_dict() for name, item in report.items()},
            "missing": [
                {"thing": item.thing, "reason": item.reason, "remedy": item.remedy}
                for item in self.missing
            ],
        }


_NO_NOTIFICATION = (
    "the kernel does not tell who made a denied call (SECCOMP_RET_USER_NOTIF)",
    "Linux 5.0 or newer; or on_denied='errno'",
)


@cache
def host() -> Host:
    """This host; looked at once per process."""
    return Host(
        kernel=platform.release(),
        machine=platform.machine(),
        landlock=facts.landlock(),
        seccomp=facts.seccomp_filter(),
        notification=facts.seccomp_notification(),
        proc=os.path.exists("/proc/self/fd"),
        caller=facts.caller(),
        uids=facts.uids(),
        places=tuple(facts.places()),
        user_namespaces=facts.user_namespaces(),
        cgroups=find(),
    )
