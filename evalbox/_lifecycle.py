"""The life of one run as a state machine: facts in, events and at most one order out.

It has no descriptor and no clock; facts come with their time. Whatever order
they come in, a run ends exactly once, with the cause that came first, and says
nothing after its end.

    queued ── sent ──▶ sent ── started ──▶ running ── reported / lost ──▶ ended

Init records causes when they happen and reports the first; what is decided here
is only the end of a run whose init can no longer tell: then the first thing that
the host itself did to it counts.
"""

from __future__ import annotations

import enum
import errno
import os
from dataclasses import dataclass, field

from evalbox._native import Cause, Report
from evalbox._syscall_table import NUMBERS
from evalbox._values import FrozenMap, unchecked
from evalbox.errors import EvalboxError, SetupError
from evalbox.events import Completed, Event, SandboxId, Started, Stderr, Stdout, TimedOut
from evalbox.output import Enforcement, Output, Status
from evalbox.plan import Plan
from evalbox.usage import Usage

# How many seconds init may take past a deadline before it is taken to be stuck.
GRACE = 5.0
_NS = 1e9
_NO_FILES: FrozenMap[bytes] = FrozenMap({})


class Phase(enum.Enum):
    """Where a run is; only forward."""

    QUEUED = enum.auto()
    SENT = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


class Order(enum.Enum):
    """What the host has to do."""

    KILL = enum.auto()
    """Ask init to end the run."""
    DESTROY = enum.auto()
    """Have the launcher kill init and all below it."""


@dataclass(slots=True)
class Step:
    """What follows from one fact; `error` ends a run that could not start."""

    events: list[Event] = field(default_factory=list)
    order: Order | None = None
    error: EvalboxError | None = None


@dataclass(slots=True)
class Life:
    """One run. Every method but `due` takes one fact.

    Attributes:
        id: of the run.
        plan: what it is about.
        machine: whose names of system calls its output uses.
        enforcement: what its output will report.
        phase: where it is.
        cause: what the host did first to end it, None when nothing.
        begun: when it started, seconds of the clock that facts come with.
        stdout, stderr: what it wrote so far, when that comes as it is written.
    """

    id: SandboxId
    plan: Plan
    machine: str
    enforcement: FrozenMap[Enforcement]
    phase: Phase = Phase.QUEUED
    cause: Status | None = None
    begun: float = 0.0
    stdout: list[bytes] = field(default_factory=list)
    stderr: list[bytes] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.phase is Phase.ENDED

    def due(self) -> float | None:
        """When init must have reported; None without a limit and while it does not run."""
        wall = self.plan.limits.wall_time
        if wall is None or self.phase is not Phase.RUNNING:
            return None
        return self.begun + wall + GRACE

    def sent(self) -> Step:
        """Init has the job."""
        if self.phase is Phase.QUEUED:
            self.phase = Phase.SENT
        return Step()

    def started(self, at: float) -> Step:
        """execve succeeded."""
        if self.phase is not Phase.SENT:
            return Step()
        self.phase, self.begun = Phase.RUNNING, at
        return Step([Started(self.id)])

    def wrote_stdout(self, data: bytes) -> Step:
        if self.phase is not Phase.RUNNING:
            return Step()
        self.stdout.append(data)
        return Step([Stdout(self.id, data)])

    def wrote_stderr(self, data: bytes) -> Step:
        if self.phase is not Phase.RUNNING:
            return Step()
        self.stderr.append(data)
        return Step([Stderr(self.id, data)])

    def kill(self) -> Step:
        """The caller wants it ended."""
        if self.is_over:
            return Step()
        self.cause = self.cause or Status.KILLED
        if self.phase is Phase.QUEUED:
            return self._end(Status.KILLED, 0.0)
        return Step(order=Order.KILL)

    def overdue(self, at: float) -> Step:
        """Init should have ended it by itself."""
        due = self.due()
        if due is None or at < due:
            return Step()
        self.cause = self.cause or Status.WALL_TIME
        return Step(order=Order.DESTROY)

    def lost(self, at: float) -> Step:
        """Init is gone without a report, and its tree with it."""
        if self.is_over:
            return Step()
        running = self.phase is Phase.RUNNING
        return self._end(self.cause or Status.KILLED, at - self.begun if running else 0.0)

    def failed(self, error: EvalboxError) -> Step:
        """It could not be started."""
        if self.is_over:
            return Step()
        self.phase = Phase.ENDED
        return Step(error=error)

    def reported(
        self,
        report: Report,
        files: dict[str, bytes],
        stage: str,
        kept: tuple[float, float] | None = None,
    ) -> Step:
        """Init says how it ended; `files` were collected, `stage` is its name if it failed.

        `kept`: the share of stolen time and the seconds throttled, when they are known.
        """
        if self.is_over:
            return Step()
        if report.cause == Cause.SETUP:
            return self.failed(_setup_error(report, stage, self.plan))
        events: list[Event] = []
        if report.execed and self.phase is not Phase.RUNNING:
            events.append(Started(self.id))
        self.phase = Phase.ENDED
        events.append(self._ended(self._output_of(report, files, kept or (None, None))))
        return Step(events)

    # ---- the end

    def _end(self, status: Status, wall_time: float) -> Step:
        """An end that init did not report: what it used is not known."""
        self.phase = Phase.ENDED
        usage = Usage(
            wall_time=max(0.0, wall_time),
            user_time=0.0,
            system_time=0.0,
            cpu_time=0.0,
            peak_memory=0,
        )
        output = Output(
            status=status,
            exit_code=None,
            signal=None,
            stdout=b"".join(self.stdout),
            stderr=b"".join(self.stderr),
            truncated=False,
            usage=usage,
            enforcement=self.enforcement,
            files={},
            limits=self.plan.limits,
        )
        return Step([self._ended(output)])

    def _ended(self, output: Output) -> Event:
        end = TimedOut if output.status is Status.WALL_TIME else Completed
        return end(self.id, output)

    def _output_of(
        self,
        report: Report,
        files: dict[str, bytes],
        kept: tuple[float, float] | tuple[None, None],
    ) -> Output:
        status, exit_code, signal = _how_it_ended(report)
        user, system = report.user_time / _NS, report.system_time / _NS
        return unchecked(
            Output,
            status=status,
            exit_code=exit_code,
            signal=signal,
            stdout=_joined(self.stdout, report.stdout),
            stderr=_joined(self.stderr, report.stderr),
            truncated=report.truncated,
            usage=unchecked(
                Usage,
                wall_time=report.wall_time / _NS,
                user_time=user,
                system_time=system,
                cpu_time=user + system,
                peak_memory=report.peak_memory,
                processes=report.processes or None,
                steal_share=kept[0],
                throttled_time=kept[1],
            ),
            enforcement=self.enforcement,
            files=FrozenMap(files) if files else _NO_FILES,
            limits=self.plan.limits,
            denied=self._denied(report.denied_nr) if status is Status.DENIED else None,
        )

    def _denied(self, number: int) -> str | None:
        """The name of the call; None when it could not be read any more."""
        if number < 0:
            return None
        for name, known in NUMBERS[self.machine].items():
            if known == number:
                return name
        return f"system call {number}"


def _joined(before: list[bytes], last: bytes) -> bytes:
    return b"".join((*before, last)) if before else last


_STATUS = {
    Cause.WALL_TIME: Status.WALL_TIME,
    Cause.CPU_TIME: Status.CPU_TIME,
    Cause.MEMORY: Status.MEMORY_LIMIT,
    Cause.OUTPUT: Status.OUTPUT_LIMIT,
    Cause.DISK: Status.DISK_LIMIT,
    Cause.DENIED: Status.DENIED,
    Cause.KILLED: Status.KILLED,
}


def _how_it_ended(report: Report) -> tuple[Status, int | None, int | None]:
    """Status, exit code and signal."""
    signal = os.WTERMSIG(report.wait_status) if os.WIFSIGNALED(report.wait_status) else None
    if report.cause != Cause.EXIT:
        return _STATUS[Cause(report.cause)], None, signal
    if signal is not None:
        return Status.SIGNALED, None, signal
    return Status.EXITED, os.WEXITSTATUS(report.wait_status), None


# What the errno of a template that did not come up stands for.
_NO_TEMPLATE = {
    errno.ECHILD: "the interpreter ended before it was ready",
    errno.ETIMEDOUT: "the interpreter was not ready in time",
}
_LAST_LINES = 3


def _why_no_template(report: Report, message: str) -> str:
    said = bytes(report.stderr).decode("utf-8", "replace").strip().splitlines()
    return "; ".join((_NO_TEMPLATE.get(report.error, message), *said[-_LAST_LINES:]))


def _setup_error(report: Report, stage: str, plan: Plan) -> SetupError:
    message = os.strerror(report.error)
    if stage == "execve":
        program = plan.cmd[0] if plan.executable is None else plan.executable
        message = f"{os.fsdecode(program)}: {message}"
    if stage == "template":
        message = _why_no_template(report, message)
    return SetupError(stage, report.error, message)
