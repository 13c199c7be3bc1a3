"""Which uid a run gets when root starts it.

A uid of its own, that owns nothing and is in no group, is the stronger choice:
chmod and its like, prlimit and devices are closed by ordinary permissions, and
RLIMIT_NPROC counts (it is void for uid 0). It is given up only where such a uid
could not reach what the policy grants; then the run keeps uid 0 without any
capability, and the report says so.

Capabilities are what makes root reach everything: without them uid 0 is held by
the permission bits like anyone else. Access lists (ACLs) are not looked at.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from evalbox.errors import PlanError
from evalbox.policy import Policy
from evalbox.resolve import Program
from evalbox.resolve.reach import steps

# How a run is isolated: "process" in the namespaces of the host, "namespace" in its own.
Tier = Literal["process", "namespace"]

# Entries of a granted tree that are looked at; the rest is taken to be alike.
WALKED = 2000
# A directory may have become a file, or a link to itself.
_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_READ, _WRITE, _SEARCH = 4, 2, 1


@dataclass(frozen=True, slots=True)
class Caller:
    """Who starts the runs.

    Attributes:
        uid, gid: effective ones of this process.
        groups: supplementary groups.
        own_uids: whether it can give a run a uid of its own.
        why_not: why it cannot; empty when it can.
    """

    uid: int
    gid: int
    groups: frozenset[int]
    own_uids: bool
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a run is.

    Attributes:
        kind: "own": a uid of its own; "caller": root's uid 0 without capabilities;
            "user": the ordinary user that started it.
        reason: why it is not "own"; empty when it is.
    """

    kind: Literal["own", "caller", "user"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Who:
    """Whom the permission bits are asked for; uid -1 owns nothing."""

    uid: int
    groups: frozenset[int]

    def may(self, status: os.stat_result, bits: int) -> bool:
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid == self.uid:
            mode >>= 6
        elif status.st_gid in self.groups:
            mode >>= 3
        return mode & bits == bits


_NOBODY = _Who(-1, frozenset())
# Its capabilities reach in a user namespace what itself owns; asked for search only,
# which the owner of a directory has or can give itself.
_ROOT = _Who(0, frozenset({0}))


def identity_for(policy: Policy, program: Program, caller: Caller, tier: Tier) -> Identity:
    """The strongest identity with which a run can do what its policy grants.

    In namespaces only what is granted must be open to it, and not the way there:
    it is mounted at its path, and root of this host looks it up.

    Raises:
        PlanError: not even uid 0 without capabilities can reach what is granted.
    """
    if caller.uid != 0:
        return Identity("user", f"started by uid {caller.uid}; only root can give a run its own")
    obstacle = _obstacle(policy, program, tier) if caller.own_uids else caller.why_not
    if not obstacle:
        return Identity("own")
    _check_reach(policy, program, _Who(0, caller.groups | {caller.gid}))
    return Identity("caller", obstacle)


def _obstacle(policy: Policy, program: Program, tier: Tier) -> str:
    """What a uid that owns nothing could not do; empty when it can do all."""
    for path, what in _asked(policy, program):
        closed = _closed(path, what, _NOBODY, _ROOT if tier == "namespace" else _NOBODY)
        if closed:
            return f"{closed} is closed to a uid of its own"
    for paths, bits in ((policy.read, _READ), (policy.write, _READ | _WRITE)):
        for path in paths:
            if closed := _closed_below(os.path.realpath(path), bits):
                return f"{closed} is closed to a uid of its own"
    return ""


def _check_reach(policy: Policy, program: Program, who: _Who) -> None:
    for path, bits in _asked(policy, program):
        if closed := _closed(path, bits, who, who):
            status = _status(closed)
            if status is None:
                continue
            mode, owner = stat.S_IMODE(status.st_mode), status.st_uid
            raise PlanError(
                f"{path} cannot be reached: {closed} (mode {mode:04o}, uid {owner}) is closed to"
                f" uid {who.uid} without capabilities; open it (chmod o+rx {closed}) or"
                f" start the run as uid {owner}"
            )


def _asked(policy: Policy, program: Program) -> Iterator[tuple[str, int]]:
    """Every path that must be reached, and what must be allowed there."""
    if not program.in_workspace:
        yield program.executable, _SEARCH
    for path in (*program.grants, *policy.read):
        yield path, _READ
    for path in policy.write:
        yield path, _READ | _WRITE


def _closed(path: str, bits: int, who: _Who, walker: _Who) -> str:
    """The first directory on the way, or the path itself, that refuses; "" when none."""
    at = "/"
    for at, is_last in steps(path):
        status = _status(at)
        if status is None:
            continue
        open_to_it = (
            who.may(status, _for_type(bits, status)) if is_last else walker.may(status, _SEARCH)
        )
        if not open_to_it:
            return at
    return ""


def _for_type(bits: int, status: os.stat_result) -> int:
    """A directory that is read is also entered."""
    return bits | _SEARCH if stat.S_ISDIR(status.st_mode) else bits


def _closed_below(root: str, bits: int) -> str:
    """The first of the entries looked at that refuses a uid of its own; "" when none."""
    left = WALKED
    folders = [root]
    while folders and left:
        for path in _entries(folders.pop(), left):
            left -= 1
            status = _status(path, follow=False)
            if status is None or stat.S_ISLNK(status.st_mode):
                continue
            if not _NOBODY.may(status, _for_type(bits, status)):
                return path
            if stat.S_ISDIR(status.st_mode):
                folders.append(path)
    return ""


def _entries(folder: str, most: int) -> list[str]:
    """Some paths in a folder; none where it is no folder, or none any more."""
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in itertools.islice(entries, most)]
    except OSError as error:
        if error.errno not in _VANISHED:
            raise
        return []


def _status(path: str, *, follow: bool = True) -> os.stat_result | None:
    """None for what is not there (any more): live runs change what they may write."""
    try:
        return os.stat(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in _VANISHED:
            raise
        return None
