"""Policy -> the rules of its seccomp filters, as data.

A filter is installed in two parts. The launcher's is inherited by everything
that it starts and lets through what launcher and init need beyond a program; the
child's takes away exactly that, and what the policy itself denies. The kernel
takes the stricter answer of the two, and of two errnos the one of the filter
installed last, so that together they are `effective_spec`.
"""

from __future__ import annotations

from typing import Literal

from evalbox._syscall_table import LAST_NR, NUMBERS
from evalbox.compile.rules import (
    DEFAULT,
    DENIED,
    LAUNCHER_CALLS,
    NETWORK,
    NOT_FOR_UID_0,
    OWNER_CALLS,
    REFUSED,
    SCHEDULING_CALLS,
    TABLE,
    Verdicts,
)
from evalbox.compile.seccomp import (
    ALLOW,
    AUDIT_ARCH,
    ENOSYS,
    EPERM,
    KILL_PROCESS,
    NOTIFY,
    Clause,
    FilterSpec,
    Rule,
    Verdict,
    simplified,
)
from evalbox.errors import PlanError
from evalbox.policy import Policy

# "caller_root": the program keeps uid 0, without capabilities, and so owns the
# host's files; what only their owner may do is then refused as a whole.
Identity = Literal["ordinary", "caller_root"]

# The child makes these when its filter is already in force.
_START_CALLS = {
    "errno": frozenset({"execve", "prlimit64"}),
    "kill": frozenset({"execve", "prlimit64", "sendmsg", "close_range"}),
}


def _check(policy: Policy, identity: Identity) -> None:
    calls = policy.syscalls
    for name in sorted(calls.denied & _START_CALLS[policy.on_denied]):
        raise PlanError(
            f"{name} cannot be denied with on_denied={policy.on_denied!r}: the program is started"
            " with it when its rules are already in force"
        )
    if identity == "ordinary":
        return
    for name in sorted(calls.allowed & NOT_FOR_UID_0):
        raise PlanError(
            f"{name} cannot be allowed to a program that keeps uid 0: it could change files of"
            " root on this host, or leave one that runs as root; leave out the paths that only"
            " root can reach, or run as an ordinary user"
        )


def _allows(verdict: Verdict) -> bool:
    return ALLOW in verdict.actions


def _shared_verdicts(policy: Policy, arch: str) -> dict[str, Verdict]:
    """Every call that `arch` has a number for, without what the policy denies."""
    table = {**TABLE, **NETWORK[policy.network.mode]}
    table |= dict.fromkeys(policy.syscalls.allowed, Verdict(ALLOW))
    return {name: table.get(name, DEFAULT) for name in NUMBERS[arch]}


def _program_verdicts(policy: Policy, arch: str, identity: Identity) -> dict[str, Verdict]:
    """The same as the program has it. What is refused anyway keeps its answer:

    clone3 with EPERM in place of ENOSYS would leave the C library without threads.
    """
    verdicts = _shared_verdicts(policy, arch)
    if identity == "caller_root":
        verdicts |= dict.fromkeys(OWNER_CALLS & verdicts.keys(), Verdict(REFUSED))
    denied = policy.syscalls.denied & verdicts.keys()
    return verdicts | {name: Verdict(DENIED) for name in denied if _allows(verdicts[name])}


def _launcher_verdicts(policy: Policy, arch: str) -> dict[str, Verdict]:
    verdicts = _shared_verdicts(policy, arch)
    return verdicts | dict.fromkeys(LAUNCHER_CALLS & verdicts.keys(), Verdict(ALLOW))


def _concrete(verdict: Verdict, denied: int) -> Verdict:
    """The verdict with `denied` in place of DENIED."""
    chosen = {DENIED: denied}
    clauses = tuple(Clause(chosen.get(action, action), tests) for action, tests in verdict.clauses)
    return simplified(Verdict(chosen.get(verdict.action, verdict.action), clauses))


def _spec(verdicts: Verdicts, arch: str, *, denied: int, nameless: int) -> FilterSpec:
    numbers = NUMBERS[arch]
    rules = (Rule(numbers[name], _concrete(verdict, denied)) for name, verdict in verdicts.items())
    return FilterSpec(
        arch=AUDIT_ARCH[arch],
        foreign_action=KILL_PROCESS,
        default_action=nameless,
        unknown_action=nameless,
        last_nr=LAST_NR[arch],
        rules=tuple(sorted(rules)),
    )


def effective_spec(policy: Policy, *, arch: str, identity: Identity) -> FilterSpec:
    """What the program experiences, on "x86_64" or "aarch64".

    Raises:
        PlanError: for a denial without which no program could be started, and for
            allowing a program that keeps uid 0 to change the host's files.
    """
    _check(policy, identity)
    verdicts = _program_verdicts(policy, arch, identity)
    denied = NOTIFY if policy.on_denied == "kill" else EPERM
    return _spec(verdicts, arch, denied=denied, nameless=ENOSYS)


def launcher_spec(policy: Policy, *, arch: str) -> FilterSpec:
    """The part that launcher, init and program share; only for on_denied="errno"."""
    return _spec(_launcher_verdicts(policy, arch), arch, denied=EPERM, nameless=ENOSYS)


def child_spec(policy: Policy, *, arch: str, identity: Identity) -> FilterSpec:
    """What `launcher_spec` allows and `effective_spec` does not, taken away."""
    _check(policy, identity)
    launcher = _launcher_verdicts(policy, arch)
    program = _program_verdicts(policy, arch, identity)
    lost = {name: program[name] for name in program if program[name] != launcher[name]}
    return _spec(lost, arch, denied=EPERM, nameless=ALLOW)


def filter_specs(
    policy: Policy, *, arch: str, identity: Identity
) -> tuple[FilterSpec | None, FilterSpec]:
    """The filters of the launcher (None: it has none) and of the child.

    Under on_denied="kill" the child's is the whole: a filter that it shared with
    the launcher would answer EPERM, which is stricter than a notification.
    """
    if policy.on_denied == "kill":
        return None, effective_spec(policy, arch=arch, identity=identity)
    return launcher_spec(policy, arch=arch), child_spec(policy, arch=arch, identity=identity)


_HELD_BY = {
    "socket": frozenset({"tcp", "udp", "unix_path", "unix_abstract"}),
    "io_uring_setup": frozenset({"tcp", "udp", "unix_path", "unix_abstract"}),
    "socketpair": frozenset({"unix_path", "unix_abstract"}),
    "fcntl": frozenset({"memory"}),
    **dict.fromkeys(SCHEDULING_CALLS, frozenset({"prlimit"})),
}


def unfiltered(policy: Policy) -> frozenset[str]:
    """The properties that these filters do not hold, because the policy grants the calls."""
    granted = frozenset({"tcp", "udp"} if policy.network.mode == "host" else ())
    return granted.union(*(_HELD_BY.get(name, ()) for name in policy.syscalls.allowed))
