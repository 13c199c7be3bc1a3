"""What a program may do, and which promises must hold for it to start.

A Policy is a value: it names paths and system calls, it opens nothing. Two
policies that mean the same have the same `digest`, under which their compiled
form is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from evalbox import _syscall_table
from evalbox._values import (
    JsonObject,
    StrPath,
    absolute_path,
    boolean,
    choice,
    instance,
    json_fields,
    several,
    store,
    text,
    unknown,
)
from evalbox.errors import PlanError

Isolation = Literal["auto", "process", "namespace"]
OnDenied = Literal["errno", "kill"]
NetworkMode = Literal["none", "host"]

# In the order in which reports list them.
PROPERTIES = (
    "fs_read",
    "fs_write",
    "fs_metadata",
    "signals",
    "ptrace",
    "prlimit",
    "unix_path",
    "unix_abstract",
    "tcp",
    "udp",
    "proc_view",
    "processes",
    "memory",
    "cpu",
    "disk",
    "output",
    "wall_time",
    "tree_kill",
)
ALL = frozenset(PROPERTIES)
CORE = ALL - {"fs_metadata", "proc_view", "processes", "memory", "cpu", "disk"}

ISOLATIONS = ("auto", "process", "namespace")
ON_DENIED = ("errno", "kill")
NETWORK_MODES = ("none", "host")
SYSCALL_NAMES = frozenset(name for table in _syscall_table.NUMBERS.values() for name in table)


def _paths(value: object, what: str) -> tuple[str, ...]:
    # Sorted and without repeats: the order of grants means nothing.
    return tuple(sorted({absolute_path(path, what) for path in several(value, what)}))


def _properties(value: object) -> frozenset[str]:
    return frozenset(choice(name, "property in require", ALL) for name in several(value, "require"))


def _syscall_names(value: object, what: str) -> frozenset[str]:
    names = frozenset(text(name, what) for name in several(value, what))
    for name in sorted(names - SYSCALL_NAMES):
        raise unknown("system call", name, SYSCALL_NAMES)
    return names


def _digest(policy: dict[str, Any]) -> str:
    canonical = json.dumps(policy, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class Network:
    """What the program may reach; made with `Network.none()` or `Network.host()`."""

    mode: NetworkMode

    def __post_init__(self) -> None:
        choice(self.mode, "network mode", NETWORK_MODES)

    @classmethod
    def none(cls) -> Network:
        """No sockets at all."""
        return cls("none")

    @classmethod
    def host(cls) -> Network:
        """The network of the host, this machine's own services included."""
        return cls("host")

    def to_dict(self) -> dict[str, str]:
        return {"mode": self.mode}

    @classmethod
    def from_dict(cls, data: JsonObject) -> Network:
        return cls(json_fields(data, "network", ("mode",)).get("mode", "none"))


# What the default allows and `Syscalls.compute` does not.
_NOT_FOR_COMPUTING: Final = frozenset(
    (
        *("clone", "fork", "vfork", "wait4", "waitid", "setpgid", "setsid", "getpgid", "times"),
        *("getresuid", "getresgid", "setuid", "setgid", "setresuid", "setresgid", "tkill"),
        *("rename", "renameat", "renameat2", "rmdir", "link", "linkat", "symlink", "symlinkat"),
        *("unlink", "unlinkat", "mkdir", "mkdirat", "mknodat", "creat", "truncate", "utimensat"),
        *("chmod", "fchmod", "fchmodat", "chdir", "fchdir", "umask", "statfs", "fstatfs"),
        *("flock", "fsync", "fdatasync", "fallocate", "sendfile", "socketpair", "shutdown"),
        *("sendto", "recvfrom", "sendmsg", "recvmsg", "getsockname", "getsockopt", "setsockopt"),
        *("setpriority", "getpriority", "personality", "sched_setaffinity"),
    )
)


@dataclass(frozen=True, slots=True)
class Syscalls:
    """Changes to the default rules for system calls.

    `Syscalls().allow("ptrace").deny("fork", "vfork")`: each call returns a new
    value, and for a name the last call wins. An unknown name is a PlanError; a
    name that only the other architecture has is accepted and means nothing here.
    """

    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        allowed = _syscall_names(self.allowed, "syscalls.allowed")
        denied = _syscall_names(self.denied, "syscalls.denied")
        if both := allowed & denied:
            raise PlanError(f"both allowed and denied: {', '.join(sorted(both))}")
        if "execve" in denied:
            raise PlanError("execve cannot be denied: the program itself is started with it")
        store(self, allowed=allowed, denied=denied)

    @classmethod
    def compute(cls) -> Syscalls:
        """For a program that reads, computes and writes: fewer than 100 system calls.

        It starts no process and no thread, changes no files but those that it opens
        for writing, and uses no socketpair. A shell, make or numpy does not get far with
        it; a compiled program or a plain Python script that solves a task does.
        """
        return cls(denied=_NOT_FOR_COMPUTING)

    def allow(self, *names: str) -> Syscalls:
        """The same rules with these system calls allowed."""
        chosen = _syscall_names(names, "names")
        return Syscalls(self.allowed | chosen, self.denied - chosen)

    def deny(self, *names: str) -> Syscalls:
        """The same rules with these system calls denied."""
        chosen = _syscall_names(names, "names")
        return Syscalls(self.allowed - chosen, self.denied | chosen)

    def to_dict(self) -> dict[str, list[str]]:
        return {"allowed": sorted(self.allowed), "denied": sorted(self.denied)}

    @classmethod
    def from_dict(cls, data: JsonObject) -> Syscalls:
        return cls(**json_fields(data, "syscalls", ("allowed", "denied")))


_NO_NETWORK = Network.none()
_DEFAULT_SYSCALLS = Syscalls()


@dataclass(frozen=True, slots=True, init=False)
class Policy:
    """What a program may do beyond what every program needs.

    Attributes:
        read: absolute paths that may be read and executed, with all below them.
        write: absolute paths that may also be changed.
        network: `Network.none()` or `Network.host()`.
        syscalls: changes to the default rules for system calls.
        isolation: "process" (Landlock, seccomp, rlimits, own uid when root),
            "namespace" (that and namespaces) or "auto", the strongest there is.
        require: properties without which the run must not start; one that the
            host cannot give as "enforced" is an UnsupportedError.
        on_denied: "errno" refuses a denied system call, "kill" ends the run.
        system: whether what a program needs to run at all (libraries, basic
            devices, interpreters) is granted too.
        digest: hexadecimal, equal for equal policies on every machine.
    """

    read: tuple[str, ...]
    write: tuple[str, ...]
    network: Network
    syscalls: Syscalls
    isolation: Isolation
    require: frozenset[str]
    on_denied: OnDenied
    system: bool
    digest: str = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        *,
        read: Iterable[StrPath] = (),
        write: Iterable[StrPath] = (),
        network: Network = _NO_NETWORK,
        syscalls: Syscalls = _DEFAULT_SYSCALLS,
        isolation: Isolation = "auto",
        require: Iterable[str] = CORE,
        on_denied: OnDenied = "errno",
        system: bool = True,
    ) -> None:
        store(
            self,
            read=_paths(read, "read"),
            write=_paths(write, "write"),
            network=instance(network, "network", Network, "Network.host() or Network.none()"),
            syscalls=instance(syscalls, "syscalls", Syscalls, "Syscalls().allow('name')"),
            isolation=choice(isolation, "isolation", ISOLATIONS),
            require=_properties(require),
            on_denied=choice(on_denied, "on_denied", ON_DENIED),
            system=boolean(system, "system"),
        )
        store(self, digest=_digest(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """The policy as JSON-safe values, in one canonical order."""
        return {
            "read": list(self.read),
            "write": list(self.write),
            "network": self.network.to_dict(),
            "syscalls": self.syscalls.to_dict(),
            "isolation": self.isolation,
            "require": sorted(self.require),
            "on_denied": self.on_denied,
            "system": self.system,
        }

    @classmethod
    def from_dict(cls, data: JsonObject) -> Policy:
        """The reverse of `to_dict`; what is absent has its default."""
        given = json_fields(data, "policy", POLICY_FIELDS)
        if "network" in given:
            given["network"] = Network.from_dict(given["network"])
        if "syscalls" in given:
            given["syscalls"] = Syscalls.from_dict(given["syscalls"])
        return cls(**given)


POLICY_FIELDS = tuple(field.name for field in fields(Policy) if field.init)
