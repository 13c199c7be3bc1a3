"""The path rules of a policy as open descriptors, which Landlock binds its rules to.

They are opened once and kept (opening a dozen paths costs more than building the
ruleset). A kept descriptor goes on meaning the file that was granted, whatever
happens to its path; so each use asks `still_hold` first, and what was replaced
is opened anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Self

from evalbox.compile.paths import PathRule, path_rules
from evalbox.errors import PlanError
from evalbox.policy import Policy
from evalbox.resolve import Program

# Seconds after which the system's own paths are looked at again.
KEPT = 1.0
_ATTEMPTS = 3
# Says nothing about the path.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# Where a file may appear that is to be granted from then on.
_WATCHED = "/etc"

_FileId = tuple[int, int]


class PathDescriptors:
    """Owner of one O_PATH descriptor for each path rule, until `close`.

    Attributes:
        rules: what is granted.
        entries: pairs of a descriptor and its LANDLOCK_ACCESS_FS_* rights.
    """

    def __init__(self, policy: Policy, program: Program) -> None:
        """Opens what the policy and the program grant.

        Raises:
            PlanError: a path of the policy does not exist, or is being replaced.
            OSError: no descriptor is left.
        """
        # Looked at before they are opened: what is replaced in between is noticed.
        # The policy's paths go by the name that it has for them, which may be a link.
        own = _identities((*policy.read, *policy.write, *program.grants))
        self._appeared = _newest(_WATCHED)
        self.rules, fds = _open_all(policy, program)
        self.entries = tuple(
            (fd, int(rule.access)) for fd, rule in zip(fds, self.rules, strict=True)
        )
        self._system: dict[str, _FileId] = {
            rule.path: _identity_in(os.fstat(fd)) for fd, rule in zip(fds, self.rules, strict=True)
        }
        # A program's part that a directory's rule covers is found anew at each open.
        self._own = {
            path: known
            for path, known in own.items()
            if path in self._system or path not in program.grants
        }
        self._checked = time.monotonic()

    @property
    def identities(self) -> Mapping[str, _FileId]:
        """Device and inode of what each rule's path was opened as."""
        return self._system

    def still_hold(self) -> bool:
        """Whether every path still leads to what was opened.

        The paths of the policy and the program, which may be built anew between
        two runs, are asked each time; the system's once a second.
        """
        if _identities(self._own) != self._own:
            return False
        now = time.monotonic()
        if now - self._checked <= KEPT:
            return True
        self._checked = now
        return _identities(self._system) == self._system and _newest(_WATCHED) == self._appeared

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        entries, self.entries = self.entries, ()
        for fd, _ in entries:
            os.close(fd)


def _open_all(policy: Policy, program: Program) -> tuple[tuple[PathRule, ...], list[int]]:
    """Rules and their descriptors; tried again when a path changed in between."""
    changed = ""
    for _ in range(_ATTEMPTS):
        rules = path_rules(policy, program)
        with contextlib.ExitStack() as opened:
            fds: list[int] = []
            for fd, rule in _open_each(rules):
                if fd < 0:
                    changed = rule.path
                    break
                opened.callback(os.close, fd)
                fds.append(fd)
            else:
                opened.pop_all()
                return rules, fds
    raise PlanError(f"{changed} is being replaced all the time; grant a path that stays")


def _open_each(rules: tuple[PathRule, ...]) -> Iterator[tuple[int, PathRule]]:
    return ((_open(rule.path), rule) for rule in rules)


def _open(path: str) -> int:
    """What the path named when it was checked; -1 when it leads elsewhere by now."""
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _EXHAUSTED:
            raise
        return -1
    # A component could have become a link after the path was checked.
    if os.readlink(f"/proc/self/fd/{fd}") == path and not stat.S_ISLNK(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return -1


def _identities(paths: Iterable[str]) -> dict[str, _FileId | None]:
    return {path: _identity(path) for path in paths}


def _identity(path: str) -> _FileId | None:
    try:
        return _identity_in(os.stat(path))
    except OSError:
        return None


def _identity_in(status: os.stat_result) -> _FileId:
    return status.st_dev, status.st_ino


def _newest(folder: str) -> int:
    return os.stat(folder).st_mtime_ns
