"""The cgroups of one launcher: made, filled, emptied, removed.

    <base>/evalbox-<pid>-<start of that process>-<random>/
        launcher/            v2: the launcher and its inits
        <slot>/...           csrc/cgroup.h

It is locked with flock through descriptors that the launcher gets as well. What
nobody has locked, and whose process is dead, was left by a host and a launcher
that were killed together: the next start kills what is still in it and removes
it. No other cgroup is ever touched, but for the base of v2 (cgroup_base).

Where they cannot be made although the host seemed to allow it, the runs go on
without, and `fault` says why: `Output.enforcement` is then that of such a run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable

from evalbox import _native
from evalbox._host.cgroups import CPU, MEMORY, PIDS, Cgroups, find
from evalbox._launch import cgroup_base
from evalbox._launch.cgroup_base import kill_tree, remove_tree, write
from evalbox._launch.locks import lock
from evalbox._native import Control, Wire
from evalbox.workspace.flags import DIRECTORY

_BITS = {
    MEMORY: _native.CGROUP_MEMORY,
    PIDS: _native.CGROUP_PIDS,
    CPU: _native.CGROUP_CPU,
}
# With v1, in the hierarchy of each controller; csrc/cgroup.h.
_BELOW_SLOT = {MEMORY: "/memory", PIDS: "/run", CPU: ""}
_MOST_TRIES = 10


class LauncherCgroups:
    """Owner of the directories of one launcher, one in each hierarchy.

    Attributes:
        fault: why there are none although the host has some; else "".
    """

    def __init__(self, claimed: Cgroups) -> None:
        self.fault = ""
        self.found = claimed
        # Directory in each hierarchy by controller, and what keeps it locked.
        self._paths: dict[str, str] = {}
        self._fds: list[int] = []
        self._home = ""
        self._has_entered = False

    @property
    def _is_unified(self) -> bool:
        return self.found.version == 2

    @property
    def kind(self) -> int:
        """EB_CGROUP_* of its slots; 0 without any."""
        if not self._paths:
            return 0
        bits: int = _native.CGROUP_UNIFIED if self._is_unified else 0
        return bits + sum(bit for name, bit in _BITS.items() if name in self.found.controllers)

    def _try(self, step: Callable[[], None]) -> None:
        """Makes a step; when it fails the launcher goes on without cgroups."""
        try:
            step()
        except OSError as error:
            self.fault = _fault_of(error)
            self.close()

    # ---- start

    def make(self) -> None:
        """Makes the directories."""
        if self.found.version:
            self._try(lambda: self._make(self.found))

    def _make(self, claimed: Cgroups) -> None:
        # Anew: this process may have been moved since the host was looked at.
        self.found = find()
        if not claimed.controllers <= self.found.controllers:
            raise OSError(
                errno.EACCES, self.found.why_not or "it has fewer controllers than before"
            )
        self._home = cgroup_base.enter(self.found)
        self._has_entered = True
        for base in dict.fromkeys(base for _, base in self.found.bases):
            cgroup_base.sweep_once(base)
        self._make_directories()

    def _make_directories(self) -> None:
        for _ in range(_MOST_TRIES):
            start = cgroup_base.start_of(os.getpid())
            name = f"evalbox-{os.getpid()}-{start}-{secrets.token_hex(8)}"
            self._paths = {key: f"{base}/{name}" for key, base in self.found.bases}
            if self._lock_all():
                return
            self._close_descriptors()
        raise OSError(errno.EBUSY, "a new cgroup was removed each time")

    def _lock_all(self) -> bool:
        """False when another start took one of them for a leftover."""
        for path in dict.fromkeys(self._paths.values()):
            os.mkdir(path)
            try:
                self._fds.append(os.open(path, DIRECTORY))
            except FileNotFoundError:
                return False
            if not lock(self._fds[-1]) or not os.path.isdir(path):
                return False
        return True

    def adopt(self, pid: int) -> None:
        """v2: a cgroup namespace that the launcher makes now has its directory as the root."""
        if self._is_unified and self._paths:
            self._try(lambda: write(f"{self._top}/cgroup.procs", str(pid)))

    def settle(self, pid: int, wire: Wire, control: int) -> None:
        """Tells the launcher of its cgroups; from now on they hold processes below only."""
        if self._paths and self._is_unified:
            self._try(lambda: self._settle_unified(pid, wire, control))
        elif self._paths:
            self._try(lambda: self._tell(wire, control, self.kind, self._fds))

    def _settle_unified(self, pid: int, wire: Wire, control: int) -> None:
        procs = f"{self._home}/cgroup.procs"
        with contextlib.ExitStack() as stack:
            # Without them it goes on where it came from.
            stack.callback(_try_write, procs, str(pid))
            os.mkdir(f"{self._top}/launcher")
            write(f"{self._top}/launcher/cgroup.procs", str(pid))
            self._give_on(self._top, self.found.controllers)
            home = os.open(procs, os.O_WRONLY | os.O_CLOEXEC)
            try:
                kind = self.kind | _native.CGROUP_HOME
                self._tell(wire, control, kind, [*self._fds, home])
            finally:
                os.close(home)
            stack.pop_all()

    def _tell(self, wire: Wire, control: int, kind: int, fds: list[int]) -> None:
        name = os.path.basename(self._top)
        wire.send(control, _native.control(Control.CGROUP, 0, name=name, cgroup=kind), fds)

    @property
    def _top(self) -> str:
        return next(iter(self._paths.values()))

    @staticmethod
    def _give_on(path: str, controllers: frozenset[str]) -> None:
        names = sorted(controllers & {MEMORY, PIDS})
        write(f"{path}/cgroup.subtree_control", " ".join(f"+{name}" for name in names))

    # ---- slots

    def add(self, slot: str) -> str:
        """Makes the cgroups of a slot; why it has none, "" when all is well."""
        if not self._paths:
            return self.fault
        try:
            self._add(slot)
        except OSError as error:
            self.remove(slot)
            return _fault_of(error)
        return ""

    def _add(self, slot: str) -> None:
        if self._is_unified:
            self._add_unified(slot)
        else:
            self._add_legacy(slot)

    def _add_legacy(self, slot: str) -> None:
        for controller, path in self._paths.items():
            os.makedirs(f"{path}/{slot}{_BELOW_SLOT[controller]}")

    def _add_unified(self, slot: str) -> None:
        path = f"{self._top}/{slot}"
        os.mkdir(path)
        self._give_on(path, self.found.controllers)
        os.mkdir(f"{path}/memory")
        if PIDS in self.found.controllers:
            self._give_on(f"{path}/memory", frozenset({PIDS}))
            os.mkdir(f"{path}/memory/run")

    def remove(self, slot: str) -> None:
        """Kills what is left of a slot and removes its cgroups, which may be gone already."""
        for path in dict.fromkeys(self._paths.values()):
            _end(f"{path}/{slot}")

    # ---- end

    def close(self) -> None:
        """Kills what is left of all slots, the launcher included, and removes everything."""
        for path in dict.fromkeys(self._paths.values()):
            _end(path)
        self.forget()
        if self._has_entered:
            self._has_entered = False
            cgroup_base.leave(self.found)

    def forget(self) -> None:
        """Closes its descriptors and leaves all as it is: in a forked child it is not ours."""
        self._paths = {}
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)


def _end(path: str) -> None:
    # What does not go away now is for the next start to remove.
    with contextlib.suppress(OSError):
        kill_tree(path)
        remove_tree(path)


def _try_write(path: str, text: str) -> None:
    with contextlib.suppress(OSError):
        write(path, text)


def _fault_of(error: OSError) -> str:
    """What failed, for the reason in an Enforcement."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror}"
