"""How each property is held: the table behind every report.

A property has rows, tried in order; the first whose condition is true says how it
is held. A condition knows only the Situation, so the same table answers for a
run, for `evalbox doctor` and for a host that one does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath

from evalbox._host.cgroups import CPU, KILL, MEMORY, NO_CGROUPS, PIDS, Cgroups
from evalbox._values import FrozenMap
from evalbox.compile.identity import Identity, Tier
from evalbox.compile.syscalls import unfiltered
from evalbox.limits import Limits
from evalbox.output import Enforcement, Level
from evalbox.policy import PROPERTIES, Policy


@dataclass(frozen=True, slots=True)
class Situation:
    """All that the table asks about.

    Attributes:
        abi: of Landlock, 0 without it.
        seccomp: whether filters can be installed.
        tier: whether the run has namespaces of its own.
        identity: who the run is.
        granted: properties that the policy itself gives up.
        unlimited: properties whose limit is None.
        host_network: whether the policy grants the network of the host.
        cgroups: those that a run gets.
    """

    abi: int
    seccomp: bool
    tier: Tier
    identity: Identity
    granted: frozenset[str]
    unlimited: frozenset[str]
    host_network: bool = False
    cgroups: Cgroups = NO_CGROUPS


@dataclass(frozen=True, slots=True)
class Row:
    """`reason` says why it is not more, `remedy` what would bring more."""

    when: Callable[[Situation], bool]
    level: Level
    mechanism: str
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """How a property is held, and what would hold it better."""

    enforcement: Enforcement
    remedy: str


def situation(
    abi: int,
    seccomp: bool,
    tier: Tier,
    policy: Policy,
    limits: Limits,
    identity: Identity,
    *,
    cgroups: Cgroups = NO_CGROUPS,
) -> Situation:
    unlimited = frozenset(name for name in _LIMITED if getattr(limits, name) is None)
    granted = unfiltered(policy) | _shown(policy)
    host_network = policy.network.mode == "host"
    return Situation(abi, seccomp, tier, identity, granted, unlimited, host_network, cgroups)


def _shown(policy: Policy) -> frozenset[str]:
    """Who may list /proc sees the other processes; single files there are of the machine."""
    paths = map(PurePosixPath, (*policy.read, *policy.write))
    return frozenset({"proc_view"} if any(_PROC.is_relative_to(path) for path in paths) else ())


_PROC = PurePosixPath("/proc")


# Properties with a limit of the same name in Limits; `cpu` is called cpu_time there.
_LIMITED = ("processes", "memory", "cpu_time", "disk", "output", "wall_time")
_LIMIT_OF = {"cpu": "cpu_time"}


def _always(_: Situation) -> bool:
    return True


def _no_seccomp(at: Situation) -> bool:
    return not at.seccomp


def _namespaces(at: Situation) -> bool:
    return at.tier == "namespace"


def _shares_network(at: Situation) -> bool:
    return _namespaces(at) and at.host_network


def _has_own_count(at: Situation) -> bool:
    return _namespaces(at) and at.identity.kind == "user"


def _abi(least: int) -> Callable[[Situation], bool]:
    return lambda at: at.abi >= least


def _counted(version: int, controller: str) -> Callable[[Situation], bool]:
    return lambda at: at.cgroups.version == version and controller in at.cgroups.controllers


def _is(kind: str) -> Callable[[Situation], bool]:
    return lambda at: at.identity.kind == kind


_ROOT = "run as root, which gives each run a uid of its own"
_OWN_UID = "grant nothing that only root may read or write, so that a run gets a uid of its own"
_NO_LANDLOCK = Row(
    _always,
    "none",
    "",
    "this kernel offers no Landlock",
    "Linux 6.12 or newer with landlock among its security modules (lsm=landlock,...)",
)
_NO_FILTER = Row(
    _no_seccomp,
    "none",
    "",
    "this kernel offers no seccomp filters",
    "a kernel with CONFIG_SECCOMP_FILTER=y",
)
_WATCH = "looked at every 10 ms at the closest, so it can be passed for that long"

TABLE: dict[str, tuple[Row, ...]] = {
    "fs_read": (
        Row(_namespaces, "enforced", "mount namespace, Landlock"),
        Row(_abi(1), "enforced", "Landlock"),
        _NO_LANDLOCK,
    ),
    "fs_write": (
        Row(_namespaces, "enforced", "mount namespace, Landlock"),
        Row(_abi(3), "enforced", "Landlock"),
        Row(
            _abi(1),
            "partial",
            "Landlock",
            "before ABI 3 truncate() empties any file that the uid may write",
            "Linux 6.2 or newer",
        ),
        _NO_LANDLOCK,
    ),
    "fs_metadata": (
        Row(_namespaces, "enforced", "mount namespace"),
        Row(
            _is("own"),
            "partial",
            "own uid",
            "outside nothing is changed but the times of what every user may write, and stat()"
            " tells what exists",
        ),
        _NO_FILTER,
        Row(
            _is("caller"),
            "partial",
            "seccomp",
            "chmod, chown and utime are denied everywhere, but stat() tells what exists",
        ),
        Row(
            _is("user"),
            "none",
            "",
            "chmod and utime reach the caller's own files, and stat() tells what exists",
            _ROOT,
        ),
    ),
    "signals": (
        Row(_namespaces, "enforced", "PID namespace"),
        Row(_abi(6), "enforced", "Landlock scope"),
        Row(_is("own"), "enforced", "own uid"),
        Row(
            _always,
            "none",
            "",
            "before Landlock ABI 6 every process of the same uid can be signalled",
            f"Linux 6.12 or newer; or {_ROOT}",
        ),
    ),
    "ptrace": (
        Row(_namespaces, "enforced", "PID namespace, Landlock domain, seccomp"),
        Row(_abi(1), "enforced", "Landlock domain, seccomp"),
        _NO_LANDLOCK,
    ),
    "prlimit": (_NO_FILTER, Row(_always, "enforced", "seccomp")),
    # With the network of the host, too: a socket of this family is refused either way.
    "unix_path": (_NO_FILTER, Row(_always, "enforced", "seccomp")),
    "unix_abstract": (
        _NO_FILTER,
        Row(_abi(6), "enforced", "seccomp, Landlock scope"),
        Row(_always, "enforced", "seccomp"),
    ),
    "tcp": (_NO_FILTER, Row(_always, "enforced", "seccomp")),
    "udp": (_NO_FILTER, Row(_always, "enforced", "seccomp")),
    "proc_view": (
        Row(
            _shares_network,
            "partial",
            "PID namespace",
            "/proc/net lists the sockets of the host, whose network the policy grants",
            "Network.none()",
        ),
        Row(_namespaces, "enforced", "PID namespace"),
        Row(
            _abi(1),
            "partial",
            "Landlock",
            "nothing about other processes can be read, but which exist and whose they are",
        ),
        _NO_LANDLOCK,
    ),
    "processes": (
        Row(_counted(2, PIDS), "enforced", "cgroup v2 pids.max"),
        Row(_counted(1, PIDS), "enforced", "cgroup v1 pids.max"),
        Row(_is("own"), "enforced", "RLIMIT_NPROC of an own uid"),
        Row(_has_own_count, "enforced", "RLIMIT_NPROC in a user namespace"),
        Row(
            _is("user"),
            "partial",
            "RLIMIT_NPROC",
            "the kernel counts all processes of the caller's uid together",
            _ROOT,
        ),
        Row(_always, "none", "", "RLIMIT_NPROC is void for uid 0", _OWN_UID),
    ),
    "memory": (
        Row(_counted(2, MEMORY), "enforced", "cgroup v2 memory.max"),
        Row(_counted(1, MEMORY), "enforced", "cgroup v1 memory.limit_in_bytes"),
        Row(
            _always,
            "partial",
            "watch of the tree, RLIMIT_DATA",
            f"{_WATCH}; what lies in pipes, sockets and page tables, and shared memory that no"
            " process maps at that moment, is not seen",
        ),
    ),
    "cpu": (
        Row(_counted(2, CPU), "enforced", "cgroup v2 cpu.stat"),
        Row(_counted(1, CPU), "enforced", "cgroup v1 cpuacct.usage"),
        Row(
            _always,
            "partial",
            "watch of the tree",
            f"{_WATCH}; a process that lives for less than some 20 ms and that nobody waits for"
            " does not count",
        ),
    ),
    "disk": (
        Row(_namespaces, "enforced", "size of a tmpfs"),
        Row(
            _always,
            "partial",
            "watch of the workspace, RLIMIT_FSIZE",
            f"{_WATCH}; open files without a name, and what is written outside the workspace,"
            " do not count",
        ),
    ),
    "output": (Row(_always, "enforced", "init"),),
    "wall_time": (Row(_always, "enforced", "init"),),
    "tree_kill": (
        Row(_namespaces, "enforced", "PID namespace"),
        Row(_abi(6), "enforced", "kill(-1) inside a Landlock scope"),
        Row(_counted(2, KILL), "enforced", "cgroup v2 cgroup.kill"),
        Row(
            _always,
            "partial",
            "walk of the tree",
            "before Landlock ABI 6 a process that forks faster than it is found can get away",
            "Linux 6.12 or newer",
        ),
    ),
}

_GRANTED = Row(_always, "enforced", "granted")


@lru_cache(maxsize=256)
def held(at: Situation) -> FrozenMap[Held]:
    """How every property is held in this situation."""
    return FrozenMap({name: _held(name, _row(name, at), at) for name in PROPERTIES})


@lru_cache(maxsize=256)
def enforcement(at: Situation) -> FrozenMap[Enforcement]:
    """The same as a report has it."""
    return FrozenMap({name: item.enforcement for name, item in held(at).items()})


def _row(name: str, at: Situation) -> Row:
    if name in at.granted or _LIMIT_OF.get(name, name) in at.unlimited:
        return _GRANTED
    return next(row for row in TABLE[name] if row.when(at))


def _held(name: str, row: Row, at: Situation) -> Held:
    reason, remedies = row.reason, [row.remedy]
    if name in _BY_CGROUP and row.level != "enforced":
        reason = f"{reason}; no cgroup counts it: {at.cgroups.why_not}"
        remedies.append(at.cgroups.remedy)
    # Why the run has no uid of its own is a part of why it has no more than this.
    if name in _BY_IDENTITY and row.level != "enforced" and at.identity.reason:
        reason = f"{reason} ({at.identity.reason})"
    remedy = "; or ".join(filter(None, remedies))
    return Held(Enforcement(row.level, row.mechanism, reason), remedy or NOT_POSSIBLE)


_BY_IDENTITY = frozenset({"fs_metadata", "signals", "processes"})
_BY_CGROUP = frozenset({"processes", "memory", "cpu"})
NOT_POSSIBLE = "leave it out of `require`: nothing holds it better on this host"
