"""The launchers of one executor, and which slot a run gets."""

from __future__ import annotations

import contextlib
import errno
import itertools
import select
from collections import OrderedDict
from collections.abc import Iterator

from evalbox._host import host
from evalbox._launch import Filters, Kit, Launcher, Slot, UidLocks
from evalbox._native import Wire
from evalbox.errors import SetupError
from evalbox.executor import tokens
from evalbox.executor.descriptors import Descriptors

MOST_LAUNCHERS = 8
_MOST_SLOTS = 4096  # MAX_SLOTS of csrc/launcher.c
# Descriptors of a slot: its socket, and in namespaces its workspace.
_FDS = {"process": 1, "namespace": 2}
# Inits in namespaces that wait for a run with the policy and program that they serve.
_MOST_IDLE_OF_OTHERS = 64
# So many may have been killed one by one, each before it had made a slot.
_DEAD_LAUNCHERS = 3


def _nobody_takes_orders(launcher: Launcher, error: OSError) -> bool:
    """Whether an order failed because the launcher is dead, and not only an init."""
    if error.errno == errno.ECHILD:
        return launcher.is_dying
    return error.errno in (errno.EPIPE, errno.ECONNRESET)


class Fleet:
    """Owner of launchers and, as root, of the uids of their runs.

    Attributes:
        descriptors: what its slots, and the runs in them, keep open.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.descriptors = Descriptors()
        self._uids: UidLocks | None = None
        self._launchers: OrderedDict[Filters, Launcher] = OrderedDict()
        self._launcher_tokens: dict[int, Launcher] = {}
        # Those of dead launchers too: each is there until its end is known.
        self._slots: dict[int, Slot] = {}
        # Launchers that died: their inits still end their runs.
        self._dead: list[Launcher] = []
        self._ids = itertools.count(1)
        self._most = _MOST_SLOTS

    # ---- slots

    def take(self, kit: Kit, more: int = 0, tries: int = _DEAD_LAUNCHERS) -> Slot | None:
        """A slot that is free, or a new one; None when there can be no more now.

        `more` descriptors will be kept open by the run itself.

        Raises:
            SetupError: no launcher for this kit, or no init in it, can be started.
        """
        launcher = self._launcher(kit.filters)
        if more and not self.descriptors.have(more) and not self._retire_one():
            return None
        slot = launcher.idle.take(kit)
        if slot is not None:
            return slot
        if len(launcher.idle) >= _MOST_IDLE_OF_OTHERS:
            launcher.destroy(launcher.idle.take_oldest())
        if not self._has_room(_FDS[kit.tier] + more) and not self._retire_one():
            return None
        token = next(self._ids)
        try:
            slot = launcher.add_slot(token, kit)
        except OSError as error:
            if tries > 0 and _nobody_takes_orders(launcher, error):
                # It was killed, and the loop has not heard of it yet.
                self.launcher_gone(launcher)
                return self.take(kit, more, tries - 1)
            # Out of descriptors: there are enough when another run has ended.
            if isinstance(error, SetupError) or not self.lower():
                raise
            return None
        self._slots[token] = slot
        self.descriptors.take(_FDS[kit.tier])
        self._wire.add(slot.sock, select.EPOLLIN, tokens.make(token, tokens.INIT))
        return slot

    def _has_room(self, descriptors: int) -> bool:
        return len(self._slots) < self._most and self.descriptors.have(descriptors)

    def give_back(self, slot: Slot) -> None:
        """Its run has ended and its workspace is as it was."""
        slot.run_id = 0
        self.lift()
        if not slot.launcher.is_gone:
            slot.launcher.idle.add(slot)

    def bury(self, slot: Slot) -> None:
        """A free slot whose init has died, maybe with its launcher: it is not used again."""
        if slot.launcher.has_ended:
            if not slot.launcher.is_gone:
                slot.launcher.idle.add(slot)
                self.launcher_gone(slot.launcher)
        else:
            slot.launcher.destroy(slot)

    def lower(self) -> bool:
        """No further init can be had: makes do with what there is until a run ends.

        False when there is none at all.
        """
        # One at least, or a run would wait for ever.
        self._most = max(1, len(self._slots))
        return bool(self._slots)

    def lift(self) -> None:
        """What was short when `lower` was called may be there again."""
        self._most = _MOST_SLOTS

    @property
    def is_short(self) -> bool:
        """Whether something of the system was short, and may be there again at any time."""
        return self._most < _MOST_SLOTS

    def forget(self, slot: Slot) -> None:
        """Init and its tree are gone."""
        self._drop_slot(slot)
        if slot.launcher.is_gone and not slot.launcher.slots:
            self._dead.remove(slot.launcher)
            slot.launcher.end()

    def _drop_slot(self, slot: Slot) -> None:
        del self._slots[slot.token]
        self.descriptors.give_back(_FDS[slot.launcher.filters.tier])
        self._unwatch(slot.sock)
        slot.launcher.forget_slot(slot)

    def _unwatch(self, fd: int) -> None:
        """Also before it is closed: a forked child's copy would keep it in the set."""
        with contextlib.suppress(FileNotFoundError):
            self._wire.remove(fd)

    def _retire_one(self) -> bool:
        """Ends an idle init, of whatever kit; False when there is none."""
        for launcher in self._launchers.values():
            if launcher.idle:
                launcher.destroy(launcher.idle.take_oldest())
                return True
        return False

    # ---- launchers

    def launcher_gone(self, launcher: Launcher) -> None:
        """It was killed: it gets no new runs."""
        launcher.is_gone = True
        self._drop_launcher(launcher)
        for slot in launcher.slots.values():
            # The end of one that died before was left to the launcher to tell.
            with contextlib.suppress(FileExistsError):
                self._wire.add(slot.sock, select.EPOLLIN, tokens.make(slot.token, tokens.INIT))
        if launcher.slots:
            self._dead.append(launcher)
        else:
            launcher.end()

    def _launcher(self, filters: Filters) -> Launcher:
        launcher = self._launchers.get(filters)
        if launcher is not None:
            self._launchers.move_to_end(filters)
            return launcher
        if self._uids is None and filters.identity == "own":
            self._uids = UidLocks(host().uids or range(0))
        self._retire_launchers()
        launcher = Launcher(filters, next(self._ids), self._wire, self._uids)
        self._launchers[filters] = launcher
        self._launcher_tokens[launcher.token] = launcher
        token = tokens.make(launcher.token, tokens.CONTROL)
        self._wire.add(launcher.control, select.EPOLLIN, token)
        return launcher

    def _retire_launchers(self) -> None:
        """Ends those used longest ago that have nothing to do, down to the most kept idle."""
        unused = [
            launcher
            for launcher in self._launchers.values()
            if len(launcher.idle) == len(launcher.slots)
        ]
        for launcher in unused[: max(0, len(unused) - MOST_LAUNCHERS + 1)]:
            self._drop_launcher(launcher)
            launcher.end()

    def _drop_launcher(self, launcher: Launcher) -> None:
        """Forgets it, with its slots that serve no run."""
        self._unwatch(launcher.control)
        del self._launcher_tokens[launcher.token]
        del self._launchers[launcher.filters]
        for slot in list(launcher.idle):
            self._drop_slot(slot)

    # ---- tokens

    def launcher_of(self, token: int) -> Launcher | None:
        """None for a late event of one that is gone."""
        return self._launcher_tokens.get(token)

    def slot_of(self, token: int) -> Slot | None:
        return self._slots.get(token)

    # ---- end

    def _all(self) -> Iterator[Launcher]:
        yield from self._launchers.values()
        yield from self._dead

    def close(self) -> None:
        """Ends everything and waits until nothing is left."""
        launchers = list(self._all())
        # All of them are told before the first is waited for.
        for launcher in launchers:
            launcher.shut_down()
        for launcher in launchers:
            launcher.end()
        self._drop()

    def forget_all(self) -> None:
        """In a forked child: closes the copies of descriptors and ends nothing."""
        for launcher in self._all():
            launcher.forget()
        self._drop()

    def _drop(self) -> None:
        self._launchers.clear()
        self._dead.clear()
        self._launcher_tokens.clear()
        self._slots.clear()
        if self._uids is not None:
            self._uids.close()
            self._uids = None
