"""Runs on their way to an init: at once where one is free, else in turn."""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable

from evalbox._launch import Kit, Kits, Slot, send
from evalbox._native import NO_FDS, JobFds, Wire
from evalbox.errors import EvalboxError, SetupError, UnsupportedError
from evalbox.executor.fleet import Fleet
from evalbox.executor.record import Run

# Descriptors on their way to an init count until it takes them (unix(7)).
_IN_FLIGHT_TRIES = 2000
_IN_FLIGHT_PAUSE = 0.001
# What a job for an init that died comes to: no reader, or no workspace any more.
_DEAD = (BrokenPipeError, ConnectionResetError, FileNotFoundError)
# So many inits may have died since the loop last looked.
_DEAD_SLOTS = 64


def as_setup_error(error: EvalboxError | OSError, stage: str = "host") -> EvalboxError:
    """Ours as it is; the system's, out of descriptors or memory for the most part, as ours."""
    if isinstance(error, EvalboxError):
        return error
    return SetupError(stage, error.errno or errno.EIO, error.strerror)


class Dispatcher:
    """Owner of the policies made ready and of the queue."""

    def __init__(self, wire: Wire, fleet: Fleet) -> None:
        self.kits = Kits()
        self._wire = wire
        self._fleet = fleet
        self._queue: deque[Run] = deque()

    def start(self, run: Run, kit: Kit) -> None:
        """Gives a run to an init or, when none is to be had now, puts it last.

        Raises:
            SetupError: no launcher can be started, or the workspace not be filled.
        """
        if not self._dispatch(run, kit):
            self._queue.append(run)

    def go_on(self, failed: Callable[[Run, EvalboxError], None]) -> None:
        """Gives the runs that wait to inits that are free."""
        while self._queue:
            run = self._queue[0]
            try:
                if not run.life.is_over and not self._dispatch(run, self.kits.of(run.life.plan)):
                    return
            except (EvalboxError, OSError) as error:
                self._queue.popleft()
                failed(run, as_setup_error(error))
            else:
                self._queue.popleft()

    def close(self) -> None:
        self._queue.clear()
        self.kits.close()

    def _dispatch(self, run: Run, kit: Kit) -> bool:
        """Whether an init has the job; one that died meanwhile is passed over."""
        for _ in range(_DEAD_SLOTS):
            slot = self._take(kit)
            if slot is None:
                return False
            try:
                self._hand_over(run, kit, slot)
            except _DEAD:
                self._fleet.bury(slot)
            except UnsupportedError:
                # The next one may have a cgroup.
                slot.launcher.destroy(slot)
                raise
            except OSError as error:
                # Its workspace may be half full: it serves no other run.
                slot.launcher.destroy(slot)
                raise as_setup_error(error, "workspace") from error
            else:
                return True
        raise SetupError("slot", errno.EPIPE, "each init that was asked had ended")

    def _take(self, kit: Kit) -> Slot | None:
        try:
            return self._fleet.take(kit)
        except SetupError:
            raise
        except OSError as error:
            raise as_setup_error(error, "slot") from error

    def _hand_over(self, run: Run, kit: Kit, slot: Slot) -> None:
        if slot.no_cgroup:
            run.life.enforcement = kit.enforcement_without_cgroups(
                run.life.plan.limits, slot.no_cgroup
            )
        if run.stdin is not None:
            run.stdin.give(slot.uid)
        self._send(run, kit, slot)
        run.slot = slot
        run.life.sent()
        if run.stdin is not None:
            run.stdin.sent()

    def _send(self, run: Run, kit: Kit, slot: Slot) -> None:
        life = run.life
        fds = NO_FDS
        if run.stdin is not None or run.gate >= 0:
            fds = JobFds(stdin=-1 if run.stdin is None else run.stdin.theirs, gate=run.gate)
        others = self._fleet.busy if kit.shares_count else 0
        for _ in range(_IN_FLIGHT_TRIES):
            try:
                send(self._wire, life.plan, kit, slot, life.id, fds, others)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                time.sleep(_IN_FLIGHT_PAUSE)
            else:
                return
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
