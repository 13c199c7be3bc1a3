"""The event loop: facts from descriptors to the lives of runs, and orders back.

Facts about epoll that this relies on:

- a descriptor of an epoll set is itself readable when the set has events, so
  the whole loop is one descriptor to any other; what is kept in memory makes an
  eventfd in the set readable, and a timerfd stands for the deadlines;
- it is level-triggered here: one message per descriptor and round is enough, and
  fair to the others, as what was ready and is so again goes to the end of the
  kernel's list.

Nothing here is done for all runs at an event of one.

Decisions are `_lifecycle`'s. Limits are held by init; the heap of deadlines is
the second line, for an init that is stuck.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import platform
import time

from evalbox._host.interference import Interference
from evalbox._launch import Launcher, Slot
from evalbox._lifecycle import Life, Order, Step
from evalbox._native import Control, Report, ReportType, Wire, stage_name
from evalbox.errors import EvalboxError, InternalError, PlanError, SetupError
from evalbox.events import Completed, Event, SandboxId, TimedOut
from evalbox.executor import tokens
from evalbox.executor.admission import Admission
from evalbox.executor.deadlines import Deadlines, until_when
from evalbox.executor.dispatch import QUEUE, Dispatcher, as_setup_error
from evalbox.executor.fleet import Fleet
from evalbox.executor.outbox import Outbox
from evalbox.executor.record import Run
from evalbox.executor.stdin import Stdin
from evalbox.output import Output
from evalbox.plan import PIPE, Plan

_MAX_WAIT_MS = 2**31 - 1
# A held run that cannot be set up still ends by itself, well within this.
_HELD_SECONDS = 1.0


class Loop:
    """Owner of everything that an executor has.

    Attributes:
        wire: the epoll set.
        unreturned: runs whose end `poll` has not returned.
    """

    def __init__(self, max_running: int | None = None) -> None:
        self.wire = Wire()
        self.unreturned = 0
        self._machine = platform.machine()
        self._ids = itertools.count(1)
        self._last_id = 0
        self._runs: dict[int, Run] = {}
        self._outbox = Outbox(self.wire, tokens.make(0, tokens.WAKE))
        self._fleet = Fleet(self.wire)
        self._deadlines = Deadlines(self.wire, tokens.make(0, tokens.TIMER))
        admission = Admission(max_running)
        self._dispatcher = Dispatcher(self.wire, self._fleet, admission, self._deadlines)
        self._interference = Interference()

    # ---- what a caller asks for

    def spawn(self, plan: Plan) -> SandboxId:
        run = self._start(plan, self._outbox.events)
        self.unreturned += 1
        return run.life.id

    def run(self, plan: Plan) -> Output:
        if plan.hold or plan.stdin is PIPE:
            field = "hold" if plan.hold else "stdin=PIPE"
            raise PlanError(f"run() waits for the end, so nobody could serve {field}: use spawn()")
        events: list[Event] = []
        run = self._start(plan, events)
        try:
            while not run.life.is_over:
                self._wait(-1)
        except BaseException:
            self._apply(run, run.life.kill())
            raise
        if run.error:
            raise run.error
        match events:
            case [*_, Completed(_, output) | TimedOut(_, output)]:
                return output
        raise InternalError(f"a run ended without an end: {events}")

    def poll(self, timeout: float | None) -> list[Event]:
        until = until_when(timeout)
        outbox = self._outbox
        outbox.is_watched = True
        try:
            self._wait_until(until)
        finally:
            outbox.is_watched = False
            # Interrupted, or with more than is returned now.
            if outbox:
                outbox.wake_up()
        error = outbox.take_error()
        if error is not None:
            self.unreturned -= 1
            raise error
        events = outbox.take_events()
        self.unreturned -= sum(isinstance(event, Completed | TimedOut) for event in events)
        return events

    def _wait_until(self, until: float) -> None:
        """Rounds until there is something to return; at least one.

        Also with nothing active: `fileno()` would stay readable for what has died.
        """
        if not self.unreturned:
            self._turn(0)
        while self.unreturned and not self._outbox:
            left = until - time.monotonic()
            milliseconds = -1 if left == math.inf else math.ceil(max(0.0, left) * 1000)
            self._wait(min(milliseconds, _MAX_WAIT_MS))
            if left <= 0:
                return

    def _wait(self, timeout_ms: int) -> None:
        """One round; -1: for as long as it takes.

        Raises:
            PlanError: it would take for ever.
        """
        if timeout_ms >= 0 or not self._dispatcher.waits_for_held:
            self._turn(timeout_ms)
            return
        until = time.monotonic() + _HELD_SECONDS
        while self._dispatcher.waits_for_held:
            left = until - time.monotonic()
            if left <= 0:
                raise PlanError(
                    "every run that was started is held, and others wait behind them: release"
                    " or kill one, or let more run at once (max_running, RLIMIT_NOFILE)"
                )
            if self._turn(math.ceil(left * 1000)):
                return

    def write_stdin(self, id: int, data: bytes) -> None:  # noqa: A002
        run = self._known(id)
        if run is None:
            raise BrokenPipeError(errno.EPIPE, "this run has ended")
        if run.stdin is None:
            raise PlanError("the plan of this run has no stdin=PIPE")
        run.stdin.write(data)

    def unwritten(self, id: int) -> int:  # noqa: A002
        run = self._known(id)
        return 0 if run is None or run.stdin is None else run.stdin.unwritten

    def close_stdin(self, id: int) -> None:  # noqa: A002
        run = self._known(id)
        if run is not None and run.stdin is not None:
            run.stdin.finish()

    def kill(self, id: int) -> None:  # noqa: A002
        run = self._known(id)
        if run is not None:
            self._apply(run, run.life.kill())
            if not run.has_begun:
                self._dispatcher.go_on(self._fail)

    def release(self, id: int) -> None:  # noqa: A002
        run = self._known(id)
        if run is not None:
            self._dispatcher.release(run)

    def _known(self, id: int) -> Run | None:  # noqa: A002
        """The run, None when it has ended; KeyError when there never was one."""
        run = self._runs.get(id)
        if run is None and id not in range(1, self._last_id + 1):
            raise KeyError(id)
        return run

    # ---- start

    def _start(self, plan: Plan, sink: list[Event]) -> Run:
        try:
            return self._begin(plan, sink)
        except EvalboxError:
            raise
        except OSError as error:
            raise as_setup_error(error) from error

    def _begin(self, plan: Plan, sink: list[Event]) -> Run:
        kit = self._dispatcher.kits.of(plan)
        enforcement = kit.enforcement(plan.limits)
        self._last_id = next(self._ids)
        life = Life(SandboxId(self._last_id), plan, self._machine, enforcement)
        stdin = None
        if plan.stdin is PIPE:
            stdin = Stdin(self.wire, tokens.make(life.id, tokens.STDIN))
        run = Run(life, sink, kit.serves_once(plan), stdin)
        try:
            self._dispatcher.start(run, kit)
        except BaseException:
            self._dispatcher.forget(run)
            run.close()
            raise
        self._runs[life.id] = run
        return run

    # ---- one round

    def _turn(self, timeout_ms: int) -> bool:
        """Whether anything was there."""
        ready = self.wire.wait(timeout_ms)
        for token in ready:
            id, kind = tokens.split(token)  # noqa: A001
            if kind == tokens.INIT:
                slot = self._fleet.slot_of(id)
                if slot is not None:
                    self._on_init(slot)
            elif kind == tokens.STDIN:
                run = self._runs.get(id)
                if run is not None and run.stdin is not None:
                    run.stdin.flush()
            elif kind == tokens.CONTROL:
                launcher = self._fleet.launcher_of(id)
                if launcher is not None:
                    self._on_launcher(launcher)
            elif kind == tokens.TIMER:
                self._on_timer()
        return bool(ready)

    def _on_init(self, slot: Slot) -> None:
        try:
            report = self.wire.receive_report(slot.sock)
        except BlockingIOError:
            return
        if report is None:
            self._on_init_eof(slot)
            return
        if report.type == ReportType.ENDED:
            self._on_end(slot, self._runs.get(report.run_id), report)
        else:
            self._on_news(report)

    def _on_news(self, report: Report) -> None:
        """It started, or it wrote something."""
        run = self._runs.get(report.run_id)
        if run is None:
            return
        if report.type == ReportType.STARTED:
            self._apply(run, run.life.started(time.monotonic()))
            run.before = self._interference.sample()
            self._dispatcher.started(run, self._fail)
            due = run.life.due()
            if due is not None:
                self._deadlines.add(due, run.life.id)
        elif report.type == ReportType.STDOUT:
            self._apply(run, run.life.wrote_stdout(report.stdout))
        else:
            self._apply(run, run.life.wrote_stderr(report.stderr))

    def _on_end(self, slot: Slot, run: Run | None, report: Report) -> None:
        if self._finish(slot, run, report):
            self._fleet.give_back(slot)
        else:
            # What the run left may still be there: no other may find it.
            slot.launcher.destroy(slot)
        self._dispatcher.go_on(self._fail)

    def _finish(self, slot: Slot, run: Run | None, report: Report) -> bool:
        """Whether the workspace is certainly empty after it."""
        slot.run_id = 0
        if run is None:
            return False
        run.slot = None
        try:
            files = slot.collect(run.life.plan) if run.life.plan.collect else {}
        except OSError as error:
            self._fail(run, as_setup_error(error, "collect"))
            return False
        kept = None if run.before is None else run.before.until(self._interference.sample())
        self._apply(run, run.life.reported(report, files, stage_name(report.stage), kept))
        return not report.dirty and not run.serves_once

    def _on_init_eof(self, slot: Slot) -> None:
        if slot.launcher.is_gone:
            self._lose(slot)
        else:
            # Its tree may still live: the launcher says when that is gone too.
            self.wire.remove(slot.sock)

    def _on_launcher(self, launcher: Launcher) -> None:
        try:
            said = launcher.hear()
        except BlockingIOError:
            return
        if said is None:
            self._fleet.launcher_gone(launcher)
            self._dispatcher.go_on(self._fail)
            return
        slot = launcher.slots.get(said.slot)
        if said.type is not Control.GONE or slot is None:
            launcher.bury_failed(said.slot)
            return
        run = self._runs.get(slot.run_id)
        if said.error and run is not None:
            self._fail(run, SetupError(stage_name(said.stage), said.error))
        self._lose(slot)
        if said.error:
            # No more can be forked now: further runs wait for those that there are.
            self._fleet.lower()

    def _lose(self, slot: Slot) -> None:
        """Init is gone, and its tree with it; what it still said counts."""
        with contextlib.suppress(OSError):
            while (report := self.wire.receive_report(slot.sock)) is not None:
                if report.type == ReportType.ENDED:
                    self._finish(slot, self._runs.get(report.run_id), report)
                else:
                    self._on_news(report)
        run = self._runs.get(slot.run_id)
        if run is not None:
            run.slot = None
            self._apply(run, run.life.lost(time.monotonic()))
        self._fleet.forget(slot)
        self._dispatcher.go_on(self._fail)

    def _on_timer(self) -> None:
        now = time.monotonic()
        for number in self._deadlines.passed(now):
            if number == QUEUE:
                self._dispatcher.look_again(self._fail)
            run = self._runs.get(number)
            if run is not None:
                self._apply(run, run.life.overdue(now))

    # ---- what follows

    def _fail(self, run: Run, error: EvalboxError) -> None:
        self._apply(run, run.life.failed(error))

    def _apply(self, run: Run, step: Step) -> None:
        """Carries out what a fact led to."""
        if step.order is not None and run.slot is not None:
            self._carry_out(step.order, run, run.slot)
        if step.error is not None:
            run.error = step.error
            if run.sink is self._outbox.events:
                self._outbox.fail(run.life.id, step.error)
        if step.events:
            run.sink.extend(step.events)
            if run.sink is self._outbox.events:
                self._outbox.wake_up()
        if run.life.is_over:
            self._runs.pop(run.life.id, None)
            self._deadlines.drop(run.life.id)
            self._dispatcher.forget(run)
            run.close()

    def _carry_out(self, order: Order, run: Run, slot: Slot) -> None:
        if order is Order.KILL:
            try:
                self.wire.send_kill(slot.sock, run.life.id)
            except OSError:
                order = Order.DESTROY
        if order is Order.DESTROY:
            slot.launcher.destroy(slot)

    # ---- end

    def close(self) -> None:
        """Ends everything that runs; nothing is left when it returns."""
        try:
            self._fleet.close()
        finally:
            self._close_descriptors()

    def forget(self) -> None:
        """In a forked child: closes the copies of descriptors and ends nothing."""
        self._fleet.forget_all()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for run in self._runs.values():
            run.close()
        self._runs.clear()
        self._dispatcher.close()
        self._deadlines.close()
        self._outbox.close()
        self.wire.close()
