"""Which files a program may open, as data: the rules of its Landlock ruleset.

The tables below are the promise: what every program may read without being
asked. Of /etc, /dev and /proc only single files are in them, because /etc holds
secrets, /dev the disks and /proc the other processes.

Facts that this relies on:

- Landlock judges where a path leads, so a rule is made for the real path, and a
  directory of links (/etc/alternatives) needs no rule to be walked through;
- a file that is there and cannot be opened is an error to many programs where a
  missing one is none (git and /etc/gitconfig, node and /etc/ssl/openssl.cnf, java
  and its settings): those are granted, so that an ordinary program runs;
- what is not handled is allowed, so every right that the running ABI knows is.
"""

from __future__ import annotations

import enum
import fnmatch
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from evalbox.errors import PlanError
from evalbox.policy import Policy
from evalbox.resolve import Program
from evalbox.resolve.reach import SYSTEM_ROOTS, covers, leads_out


class Access(enum.IntFlag):
    """LANDLOCK_ACCESS_FS_*, include/uapi/linux/landlock.h."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15
    RESOLVE_UNIX = 1 << 16


# Rights that the running ABI does not know are taken out in csrc/landlock.c.
HANDLED = ~Access(0)
READ = Access.READ_FILE | Access.READ_DIR
RUN = READ | Access.EXECUTE
# A device is not truncated, and its ioctls stay denied.
DEVICE = Access.READ_FILE | Access.WRITE_FILE
# Devices are neither made nor configured, and no socket of another program is reached.
CHANGE = HANDLED & ~(Access.MAKE_CHAR | Access.MAKE_BLOCK | Access.IOCTL_DEV | Access.RESOLVE_UNIX)
# The directories of a run: working directory, HOME and TMPDIR.
WORKSPACE = CHANGE
SCOPES = (1 << 0) | (1 << 1)  # LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, LANDLOCK_SCOPE_SIGNAL
_TCP = (1 << 0) | (1 << 1)  # LANDLOCK_ACCESS_NET_BIND_TCP, _CONNECT_TCP
_UDP = (1 << 2) | (1 << 3)  # LANDLOCK_ACCESS_NET_BIND_UDP, _CONNECT_SEND_UDP
HANDLED_NET = {"none": _TCP | _UDP, "host": 0}


@dataclass(frozen=True, slots=True)
class PathRule:
    """One real path and what may be done with it and with all below it."""

    path: str
    access: Access


# Patterns of what every program gets; what a host does not have is left out.
SYSTEM = (
    *((root, RUN) for root in SYSTEM_ROOTS),
    # The dynamic loader and the C library.
    ("/etc/ld.so.cache", READ),
    ("/etc/ld-musl-*.path", READ),
    ("/etc/localtime", READ),
    ("/etc/nsswitch.conf", READ),
    # Certificates of the authorities, and what OpenSSL reads at its start.
    ("/etc/ssl/certs", READ),
    ("/etc/ssl/openssl.cnf", READ),
    ("/etc/ssl/cert.pem", READ),
    ("/etc/pki/tls/certs", READ),
    ("/etc/pki/tls/cert.pem", READ),
    ("/etc/pki/tls/openssl.cnf", READ),
    ("/etc/pki/ca-trust/extracted", READ),
    ("/etc/ca-certificates/extracted", READ),
    ("/etc/crypto-policies/back-ends", READ),
    # Settings of runtimes that Debian links from /usr into /etc.
    ("/etc/python3*/sitecustomize.py", READ),
    ("/etc/java-*/security", READ),
    ("/etc/java-*/jvm-*.cfg", READ),
    ("/etc/java-*/logging.properties", READ),
    ("/etc/java-*/net.properties", READ),
    ("/etc/mime.types", READ),
    ("/etc/apache*/mime.types", READ),
    ("/etc/gitconfig", READ),
    # file reads its own list first; pip says on which system it runs.
    ("/etc/magic", READ),
    ("/etc/os-release", READ),
    ("/etc/lsb-release", READ),
    ("/etc/debian_version", READ),
    ("/etc/redhat-release", READ),
    ("/dev/null", DEVICE),
    ("/dev/zero", DEVICE),
    ("/dev/full", DEVICE),
    ("/dev/random", DEVICE),
    ("/dev/urandom", DEVICE),
    # How big the machine is; without them node counts 0 processors.
    ("/proc/cpuinfo", READ),
    ("/proc/meminfo", READ),
    ("/proc/stat", READ),
)

# Name lookup, with Network.host().
NAMES = (
    ("/etc/resolv.conf", READ),
    ("/etc/hosts", READ),
    ("/etc/services", READ),
    ("/etc/protocols", READ),
    ("/etc/host.conf", READ),
    ("/etc/gai.conf", READ),
)


def path_rules(policy: Policy, program: Program) -> tuple[PathRule, ...]:
    """Everything that a run may open outside its workspace; sorted by path.

    Raises:
        PlanError: a path of the policy itself does not exist, or a run could have
            made it lead elsewhere.
    """
    found: dict[str, Access] = {}
    for path, access in _wanted(policy, program):
        found[path] = found.get(path, Access(0)) | access
    return tuple(PathRule(path, found[path]) for path in sorted(found) if not _covered(path, found))


def _wanted(policy: Policy, program: Program) -> Iterator[tuple[str, Access]]:
    if policy.system:
        yield from _existing(SYSTEM, policy)
        if policy.network.mode == "host":
            yield from _existing(NAMES, policy)
    for path in program.grants:
        yield path, RUN
    for path in policy.read:
        yield _own(path, "read", policy), RUN
    for path in policy.write:
        yield _own(path, "write", policy), CHANGE


def _existing(rows: Iterable[tuple[str, Access]], policy: Policy) -> Iterator[tuple[str, Access]]:
    names: dict[str, list[str]] = {}
    for pattern, access in rows:
        for path in _expand("/", pattern.split("/")[1:], names):
            if os.path.exists(path):
                yield _of_system(path, policy), access


def expand(patterns: Iterable[str]) -> Iterator[str]:
    """The paths of a table that are there."""
    names: dict[str, list[str]] = {}
    for pattern in patterns:
        for path in _expand("/", pattern.split("/")[1:], names):
            if os.path.exists(path):
                yield path


def _expand(folder: str, parts: list[str], names: dict[str, list[str]]) -> Iterator[str]:
    """As glob does; but each directory is listed once, not once for each pattern."""
    for at, part in enumerate(parts):
        if "*" not in part:
            folder = os.path.join(folder, part)
            continue
        if folder not in names:
            names[folder] = _list(folder)
        for name in fnmatch.filter(names[folder], part):
            yield from _expand(os.path.join(folder, name), parts[at + 1 :], names)
        return
    yield folder


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _of_system(path: str, policy: Policy) -> str:
    real = os.path.realpath(path)
    writable = leads_out(policy, path, real)
    if writable and not covers(policy, real):
        raise PlanError(f"{_swapped(path, writable, real)}; put {real!r} into read=")
    return real


def _own(path: str, field: str, policy: Policy) -> str:
    try:
        # Once: what is granted is what was judged, whatever a live run does meanwhile.
        real = os.path.realpath(path, strict=True)
    except OSError as error:
        message = f"{field}={path}: {error.strerror}; what a policy grants must exist"
        raise PlanError(message) from None
    if writable := leads_out(policy, path, real):
        where = _swapped(f"{field}={path}", writable, real)
        raise PlanError(f"{where}; write {field}={real} if that is meant")
    return real


def _swapped(path: str, writable: str, real: str) -> str:
    return f"{path} leads through write={writable}, where a run may change its way, to {real}"


def _covered(path: str, found: dict[str, Access]) -> bool:
    """Whether a directory above already grants as much."""
    above = (found.get(os.fspath(parent), Access(0)) for parent in PurePosixPath(path).parents)
    return any(found[path] & ~access == 0 for access in above)
