"""Runs on their way to an init: at once where they may, else in the order of their spawn."""

from __future__ import annotations

import errno
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable

from evalbox._launch import Kit, Kits, Slot, send
from evalbox._native import NO_FDS, JobFds, Wire
from evalbox.errors import EvalboxError, SetupError, UnsupportedError
from evalbox.executor.admission import Admission, Refusal
from evalbox.executor.deadlines import Deadlines
from evalbox.executor.fleet import Fleet
from evalbox.executor.record import Run

# Descriptors on their way to an init count until it takes them (unix(7)).
_IN_FLIGHT_TRIES = 2000
_IN_FLIGHT_PAUSE = 0.001
# What a job for an init that died comes to: no reader, or no workspace any more.
_DEAD = (BrokenPipeError, ConnectionResetError, FileNotFoundError)
# So many inits may have died since the loop last looked.
_DEAD_SLOTS = 64
# A new init may take milliseconds, and others wait for their events meanwhile.
_MOST_AT_ONCE = 8
# The deadline of no run: ids begin with 1. What the queue waits for comes with some
# event of ours, but for what others on this host give back.
QUEUE = 0
_PAUSES = {Refusal.MEMORY: 0.02, Refusal.STARTING: 0.1}
_SHORT_PAUSE = 0.2
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


def as_setup_error(error: EvalboxError | OSError, stage: str = "host") -> EvalboxError:
    """Ours as it is; the system's, out of descriptors or memory for the most part, as ours."""
    if isinstance(error, EvalboxError):
        return error
    return SetupError(stage, error.errno or errno.EIO, error.strerror)


class Dispatcher:
    """Owner of the policies made ready and of the queue.

    Attributes:
        admission: which runs have an init.
    """

    def __init__(
        self, wire: Wire, fleet: Fleet, admission: Admission, deadlines: Deadlines
    ) -> None:
        self.kits = Kits()
        self.admission = admission
        self._wire = wire
        self._fleet = fleet
        self._deadlines = deadlines
        # When the queue is to be looked at even if nothing happens.
        self._look_at = math.inf
        self._queue: OrderedDict[int, Run] = OrderedDict()

    def start(self, run: Run, kit: Kit) -> None:
        """Gives a run to an init or, when it may not start now, puts it last.

        Raises:
            SetupError: no launcher can be started, or the workspace not be filled.
        """
        # Nobody overtakes: what the first waits for, all behind it wait for.
        if self._queue or not self._dispatch(run, kit):
            self._queue[run.life.id] = run

    def go_on(self, failed: Callable[[Run, EvalboxError], None]) -> None:
        """Gives the runs that wait to inits, the first one first."""
        for _ in range(_MOST_AT_ONCE):
            if not self._queue:
                return
            run = next(iter(self._queue.values()))
            try:
                if not self._dispatch(run, self.kits.of(run.life.plan)):
                    return
            except (EvalboxError, OSError) as error:
                failed(run, as_setup_error(error))
            self._queue.pop(run.life.id, None)
        if self._queue:
            self._wait(0.0)

    def look_again(self, failed: Callable[[Run, EvalboxError], None]) -> None:
        """The deadline of QUEUE has passed: what was short may be there by now."""
        self._look_at = math.inf
        self._fleet.lift()
        self.go_on(failed)

    def release(self, run: Run) -> None:
        """Lets a held run start, now or when its turn comes."""
        if not run.is_held:
            return
        run.release()
        if run.has_begun:
            self.admission.release(run.life.id, run.life.plan.limits.memory)

    def started(self, run: Run, failed: Callable[[Run, EvalboxError], None]) -> None:
        """The program of a run goes on by itself: the next may start."""
        self.admission.started(run.life.id)
        if self._queue:
            self.go_on(failed)

    def forget(self, run: Run) -> None:
        """A run is over, in the queue or with an init."""
        if run.has_begun:
            self.admission.end(run.life.id, is_held=run.is_held)
            self._fleet.descriptors.give_back(run.descriptors)
        else:
            self._queue.pop(run.life.id, None)

    @property
    def waits_for_held(self) -> bool:
        """Whether nothing goes on before the caller releases or kills a held run."""
        if not self._queue or self._look_at < math.inf:
            return False
        return 0 < self.admission.held == self.admission.running

    def close(self) -> None:
        self._queue.clear()
        self.kits.close()

    def _dispatch(self, run: Run, kit: Kit) -> bool:
        """Whether an init has the job; one that died meanwhile is passed over."""
        refusal = self.admission.refusal(run.life.plan.limits.memory)
        if refusal is not None:
            if refusal in _PAUSES:
                self._wait(_PAUSES[refusal])
            return False
        for _ in range(_DEAD_SLOTS):
            slot = self._take(run, kit)
            if slot is None:
                if self._fleet.is_short:
                    self._wait(_SHORT_PAUSE)
                return False
            if self._is_taken_by(slot, run, kit):
                return True
        raise SetupError("slot", errno.EPIPE, "each init that was asked had ended")

    def _wait(self, pause: float) -> None:
        at = time.monotonic() + pause
        if at < self._look_at:
            self._look_at = at
            self._deadlines.add(at, QUEUE)

    def _is_taken_by(self, slot: Slot, run: Run, kit: Kit) -> bool:
        """Whether its init lives and has the job now."""
        try:
            self._hand_over(run, kit, slot)
        except _DEAD:
            self._fleet.bury(slot)
            return False
        except UnsupportedError:
            # The next one may have a cgroup.
            slot.launcher.destroy(slot)
            raise
        except OSError as error:
            # Its workspace may be half full: it serves no other run.
            slot.launcher.destroy(slot)
            raise as_setup_error(error, "workspace") from error
        return True

    def _take(self, run: Run, kit: Kit) -> Slot | None:
        try:
            run.open()
            return self._fleet.take(kit, run.descriptors)
        except SetupError:
            raise
        except OSError as error:
            # There are enough when another run has ended.
            if error.errno in _OUT_OF_DESCRIPTORS and self._fleet.lower():
                return None
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
        run.has_begun = True
        run.life.sent()
        self.admission.begin(run.life.id, run.life.plan.limits.memory, is_held=run.is_held)
        self._fleet.descriptors.take(run.descriptors)
        if run.stdin is not None:
            run.stdin.sent()

    def _send(self, run: Run, kit: Kit, slot: Slot) -> None:
        life = run.life
        fds = NO_FDS
        if run.stdin is not None or run.gate >= 0:
            fds = JobFds(stdin=-1 if run.stdin is None else run.stdin.theirs, gate=run.gate)
        others = self.admission.running
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
