"""One launcher process, and the slots in which its inits serve runs.

A slot is an init with its socket, its workspace and, as root, its uid. It is
made when a run needs it and then serves one run after the other.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import select
import socket
from collections.abc import Sequence
from typing import NamedTuple

from evalbox import _native
from evalbox._host import host
from evalbox._host.namespaces import PROGRAM, namespace_config
from evalbox._launch.cgroups import LauncherCgroups
from evalbox._launch.idle import IdleSlots
from evalbox._launch.kit import Filters, Kit
from evalbox._launch.root import Root
from evalbox._launch.slot import Slot, close_all
from evalbox._launch.uids import UidLocks
from evalbox._native import Control, ControlReport, Wire
from evalbox.compile.tree import Mount
from evalbox.errors import InternalError, SetupError
from evalbox.workspace import PLACES
from evalbox.workspace.flags import DIRECTORY

# Too many processes or namespaces for now, or no memory: there are fewer when a run ends.
_SHORT = (errno.EAGAIN, errno.ENOMEM, errno.ENOSPC)
_START_SECONDS = 30.0
# At the end each slot has a tree to die and a workspace to go, maybe on a busy host.
_END_SECONDS = 30.0
_END_SECONDS_OF_SLOT = 0.1
_DYING_SECONDS = 0.1


class _New(NamedTuple):
    """A slot that is about to be made; `cgroup` is EB_CGROUP_*."""

    number: int
    name: str
    token: int
    uid: int | None
    cgroup: int


class Launcher:
    """Owner of a launcher process, its directory and its slots.

    Runs in namespaces need no directory of the host: `root` is None then.

    Attributes:
        filters: what it was made for.
        token: by which the event loop knows it.
        control: socket to it.
        idle: slots that serve no run.
    """

    def __init__(self, filters: Filters, token: int, wire: Wire, uids: UidLocks | None) -> None:
        self.filters = filters
        self.token = token
        self.wire = wire
        self.uids = uids
        self.slots: dict[int, Slot] = {}
        self.idle = IdleSlots()
        self.pid = self.pidfd = self.control = -1
        self.is_gone = False
        self._free_numbers: list[int] = []
        self._numbers = itertools.count()
        # Inits that failed and whose end has not been told: their uid is not free.
        self._failed: dict[int, int | None] = {}
        self.root = Root() if filters.tier == "process" else None
        self.cgroups = LauncherCgroups(host().cgroups)
        try:
            self.cgroups.make()
            self._start()
            self._configure()
        except BaseException:
            self.end()
            raise

    # ---- start

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, contextlib.ExitStack() as stack:
            ourselves = os.pidfd_open(os.getpid())
            stack.callback(os.close, ourselves)
            # Its descriptors have fixed numbers: what it does not need holds a place.
            unused = ourselves
            root = (unused, unused) if self.root is None else (self.root.fd, self.root.parent)
            locks = unused if self.uids is None else self.uids.fd
            self.pid = _native.start_launcher(
                os.fspath(PROGRAM), [theirs.fileno(), ourselves, *root, locks]
            )
            self.pidfd = os.pidfd_open(self.pid)
            self.control = ours.detach()
        self.cgroups.adopt(self.pid)

    def _configure(self) -> None:
        filters = self.filters
        name = "" if self.root is None else self.root.name
        namespaces = None
        if self.root is None:
            found = host()
            namespaces = namespace_config(
                found.caller, found.uids, own_network=not filters.host_network
            )
        message = _native.config(name, filters.launcher, filters.child, filters.listen, namespaces)
        code = _native.sealed_memfd(filters.launcher, filters.child)
        try:
            self.wire.send(self.control, message, [code])
        finally:
            os.close(code)
        if not _is_readable(self.control, _START_SECONDS):
            raise SetupError("config", errno.ETIMEDOUT, "the launcher does not answer")
        said = self.wire.receive_control(self.control)
        if said is None:
            raise SetupError("config", errno.ECHILD, "the launcher ended before it was ready")
        if said.type is not Control.READY:
            raise SetupError(_native.stage_name(said.stage), said.error)
        self.cgroups.settle(self.pid, self.wire, self.control)

    # ---- slots

    def add_slot(self, token: int, kit: Kit) -> Slot:
        """A new slot, its init being started.

        Raises:
            SetupError: its namespaces or files cannot be made.
            OSError: out of descriptors or memory; nothing is left of it.
        """
        number = self._free_numbers.pop() if self._free_numbers else next(self._numbers)
        with contextlib.ExitStack() as undo:
            undo.callback(self._give_number_back, number)
            uid = self._take_uid(undo)
            name = secrets.token_hex(16)
            undo.callback(self.cgroups.remove, name)
            no_cgroup = self.cgroups.add(name)
            new = _New(number, name, token, uid, 0 if no_cgroup else self.cgroups.kind)
            if self.root is not None:
                undo.callback(_native.tree_remove, self.root.fd, name)
                slot = self._start_init(self.root, new)
            else:
                slot = self._start_in_namespaces(new, kit)
            slot.no_cgroup = no_cgroup
            undo.pop_all()
        self.slots[number] = slot
        return slot

    def _give_number_back(self, number: int) -> None:
        if number not in self._failed:
            self._free_numbers.append(number)

    def bury_failed(self, number: int) -> None:
        """The launcher says that an init which could not be used is gone."""
        if number in self._failed:
            uid = self._failed.pop(number)
            self._free_numbers.append(number)
            if uid is not None and self.uids:
                self.uids.release(uid)

    def _take_uid(self, undo: contextlib.ExitStack) -> int | None:
        """A uid for the runs of a slot; None when they keep the caller's."""
        if self.uids is None or self.filters.identity != "own":
            return None
        uid = self.uids.take()
        undo.callback(self._give_uid_back, uid)
        return uid

    def _give_uid_back(self, uid: int) -> None:
        if self.uids is not None and uid not in self._failed.values():
            self.uids.release(uid)

    def _start_init(self, root: Root, new: _New) -> Slot:
        workspace = _make_workspace(root, new.name, new.uid)
        try:
            slot = self._order_init(new, workspace)
        finally:
            os.close(workspace)
        slot.has_places_at(*(f"{root.path}/{new.name}/{place}" for place in PLACES[1:]))
        return slot

    def _start_in_namespaces(self, new: _New, kit: Kit) -> Slot:
        caller = host().caller
        owner = (caller.uid, caller.gid) if new.uid is None else (new.uid, new.uid)
        message, mounts = kit.tree(*owner)
        files = _native.sealed_memfd(message)
        try:
            slot = self._order_init(new, files)
        finally:
            os.close(files)
        try:
            slot.workspace = self._hear_ready(slot, mounts)
        except BaseException:
            self._failed[new.number] = new.uid
            self.destroy(slot)
            slot.close()
            raise
        slot.ruleset = kit.serial
        slot.has_places_at(kit.places["home"], kit.places["tmp"])
        return slot

    def _hear_ready(self, slot: Slot, mounts: Sequence[Mount]) -> int:
        """The descriptor of the workspace that a new init has."""
        if not _is_readable(slot.sock, _START_SECONDS):
            raise SetupError("tree", errno.ETIMEDOUT, "an init does not answer")
        ready = self.wire.receive_ready(slot.sock)
        if ready is None:
            raise SetupError("tree", errno.ECHILD, "an init ended before it was ready")
        if ready.error in _SHORT:
            raise OSError(ready.error, os.strerror(ready.error))
        if ready.error:
            what = f"{mounts[ready.item].target}: " if ready.item >= 0 else ""
            message = f"{what}{os.strerror(ready.error)}"
            raise SetupError(_native.stage_name(ready.stage), ready.error, message)
        return ready.workspace

    def _order_init(self, new: _New, files: int) -> Slot:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.setblocking(False)
            owner = _native.KEEP_ID if new.uid is None else new.uid
            order = _native.control(Control.SPAWN, new.number, owner, new.name, new.cgroup)
            self.wire.send(self.control, order, [theirs.fileno(), files])
            return Slot(self, new.number, new.name, new.token, ours.detach(), new.uid)

    def forget_slot(self, slot: Slot) -> None:
        """Its init and all below it are gone."""
        slot.close()
        if self.is_gone:
            # With init and launcher killed together, what the program left may live.
            self.cgroups.remove(slot.name)
        del self.slots[slot.number]
        self._free_numbers.append(slot.number)
        self.idle.discard(slot)
        if slot.uid is not None and self.uids:
            self.uids.release(slot.uid)

    @property
    def is_dying(self) -> bool:
        """Whether it is dead, or will be in a moment: its sockets close a little before."""
        return _is_readable(self.pidfd, _DYING_SECONDS)

    @property
    def has_ended(self) -> bool:
        """Whether the process itself is dead, whatever is still to be read from it."""
        return _is_readable(self.pidfd, 0.0)

    def destroy(self, slot: Slot) -> None:
        """SIGKILL for init and for all below it."""
        with contextlib.suppress(OSError):
            self.wire.send(self.control, _native.control(Control.KILL, slot.number))

    def hear(self) -> ControlReport | None:
        """What it said; None when it is gone."""
        return self.wire.receive_control(self.control)

    # ---- end

    def shut_down(self) -> None:
        """Tells it to end. End of file alone would not come where a forked child has a copy."""
        if self.control < 0:
            return
        # Without a copy: at the limit of open files there could be none.
        sock = socket.socket(fileno=self.control)
        try:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        finally:
            sock.detach()

    def end(self) -> None:
        """Ends every run and the launcher, and waits until nothing is left."""
        self.shut_down()
        if self.pidfd >= 0:
            patience = _END_SECONDS + _END_SECONDS_OF_SLOT * len(self.slots)
            if not _is_readable(self.pidfd, patience):
                raise InternalError(f"the launcher (pid {self.pid}) does not end")
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        self.cgroups.close()
        if self.root is not None:
            with contextlib.suppress(OSError):
                self.root.remove()
        for slot in self.slots.values():
            if slot.uid is not None and self.uids:
                self.uids.release(slot.uid)
        for number in list(self._failed):
            self.bury_failed(number)
        self.forget()

    def forget(self) -> None:
        """Closes its descriptors and leaves it running: in a forked child it is not ours."""
        for slot in self.slots.values():
            slot.close()
        self.slots.clear()
        self.idle.clear()
        close_all(fd for fd in (self.control, self.pidfd) if fd >= 0)
        self.control = self.pidfd = -1
        self.cgroups.forget()
        if self.root is not None:
            self.root.close()


def _make_workspace(root: Root, name: str, uid: int | None) -> int:
    """A descriptor of the directory with box, home and tmp."""
    root.open_up()
    os.mkdir(name, 0o700, dir_fd=root.fd)
    # The umask may keep even its owner out.
    os.chmod(name, 0o700 if uid is None else 0o711, dir_fd=root.fd)
    fd = os.open(name, DIRECTORY, dir_fd=root.fd)
    try:
        for place in PLACES:
            os.mkdir(place, 0o700, dir_fd=fd)
            os.chmod(place, 0o700, dir_fd=fd)
            if uid is not None:
                os.chown(place, uid, uid, dir_fd=fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_readable(fd: int, seconds: float) -> bool:
    """Whether it is, or becomes so in time."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
