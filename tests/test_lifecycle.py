"""The state machine of a run, fed with every order of facts.

Whatever comes and in whichever order: one end, the first cause, nothing after it.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from evalbox._lifecycle import GRACE, Life, Order, Phase, Step
from evalbox._native import Cause, Report, ReportType
from evalbox._syscall_table import NUMBERS
from evalbox._values import FrozenMap
from evalbox.errors import EvalboxError, SetupError, UnsupportedError
from evalbox.events import Completed, SandboxId, Started, Stderr, Stdout, TimedOut
from evalbox.limits import Limits
from evalbox.output import Enforcement, Output, Status
from evalbox.plan import Plan
from evalbox.policy import PROPERTIES

HELD = FrozenMap({name: Enforcement("enforced", "landlock") for name in PROPERTIES})
PHASES = list(Phase)
NS = 10**9

# ---- facts


def exited(code: int) -> int:
    """What wait says of a process that exited."""
    return code << 8


def killed_by(number: int, dumped: bool = False) -> int:
    return number | (0x80 if dumped else 0)


def report(cause: Cause = Cause.EXIT, **changes: Any) -> Report:
    """What init says at the end of a run."""
    fields: dict[str, Any] = {
        "type": ReportType.ENDED,
        "run_id": 7,
        "cause": cause,
        "execed": True,
        "truncated": False,
        "dirty": False,
        "stage": 0,
        "error": 0,
        "wait_status": 0 if cause == Cause.EXIT else killed_by(signal.SIGKILL),
        "denied_nr": -1,
        "wall_time": 3 * NS // 2,
        "user_time": NS // 4,
        "system_time": NS // 2,
        "peak_memory": 4096,
        "processes": 0,
        "stdout": b"",
        "stderr": b"",
    }
    return Report(**{**fields, **changes})


def life(machine: str = "x86_64", **fields: Any) -> Life:
    return Life(SandboxId(7), Plan(["true"], **fields), machine, HELD)


def running(**fields: Any) -> Life:
    one = life(**fields)
    one.sent()
    one.started(100.0)
    return one


def output_of(step: Step) -> Output:
    """The output of a step that is an end."""
    end = step.events[-1]
    assert isinstance(end, Completed | TimedOut)
    return end.output


# ---- every order


class Orders(RuleBasedStateMachine):
    """Facts in any order, and beside the life a plain account of what must come of them."""

    @initialize(wall=st.none() | st.sampled_from([0.0, 1.0, 30.0]), patience=st.integers(0, 10))
    def begin(self, wall: float | None, patience: int) -> None:
        # Half of the facts are ends: most lives would be over before they began.
        self.patience = patience
        self.life = life(limits=Limits(wall_time=wall), stream=True)
        self.now = 100.0
        self.events: list[Any] = []
        self.errors: list[EvalboxError] = []
        self.data: dict[type, list[bytes]] = {Stdout: [], Stderr: []}
        self.phase = Phase.QUEUED
        self.first_cause: Status | None = None

    def take(self, step: Step) -> None:
        """Holds of every answer, and notes what it said."""
        was_over = self.phase is Phase.ENDED
        self.patience -= 1
        assert PHASES.index(self.life.phase) >= PHASES.index(self.phase)
        self.phase = self.life.phase
        if was_over:
            assert step == Step()
        if step.order is not None:
            assert not self.life.is_over
            assert step.events == []
        assert step.error is None or step.events == []
        for event in step.events:
            assert event.id == 7
            self.events.append(event)
        if step.error is not None:
            self.errors.append(step.error)

    def host_did(self, status: Status) -> None:
        self.first_cause = self.first_cause or status

    @rule(seconds=st.sampled_from([-1.0, 0.5, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def is_sent(self) -> None:
        self.take(self.life.sent())

    @rule()
    def starts(self) -> None:
        self.take(self.life.started(self.now))

    @rule(data=st.binary(max_size=3))
    def writes_stdout(self, data: bytes) -> None:
        self.take(self.life.wrote_stdout(data))

    @rule(data=st.binary(max_size=3))
    def writes_stderr(self, data: bytes) -> None:
        self.take(self.life.wrote_stderr(data))

    @precondition(lambda self: self.patience <= 0 or self.phase is not Phase.QUEUED)
    @rule()
    def is_killed(self) -> None:
        was_over = self.life.is_over
        was_queued = self.life.phase is Phase.QUEUED
        step = self.life.kill()
        self.host_did(Status.KILLED)
        self.take(step)
        if was_queued:
            assert output_of(step).status is Status.KILLED
        elif not was_over:
            assert step.order is Order.KILL

    @rule(late=st.sampled_from([-0.5, 0.0, 1.0]))
    def is_overdue(self, late: float) -> None:
        due = self.life.due()
        self.now = self.now if due is None else max(self.now, due + late)
        passed = due is not None and self.now >= due
        step = self.life.overdue(self.now)
        if passed:
            self.host_did(Status.WALL_TIME)
        assert (step.order is Order.DESTROY) == passed
        self.take(step)

    @precondition(lambda self: self.patience <= 0)
    @rule()
    def is_lost(self) -> None:
        was_over = self.life.is_over
        step = self.life.lost(self.now)
        self.take(step)
        if not was_over:
            assert output_of(step).status is (self.first_cause or Status.KILLED)

    @precondition(lambda self: self.patience <= 0)
    @rule(
        error=st.sampled_from(
            [SetupError("fork", errno.EAGAIN), UnsupportedError("udp", "old", "new")]
        )
    )
    def fails(self, error: EvalboxError) -> None:
        was_over = self.life.is_over
        step = self.life.failed(error)
        self.take(step)
        assert step.error is (None if was_over else error)

    @precondition(lambda self: self.patience <= 0)
    @rule(
        cause=st.sampled_from(Cause),
        wait_status=st.integers(0, 255).map(exited)
        | st.builds(killed_by, st.integers(1, 64), st.booleans()),
        execed=st.booleans(),
        number=st.sampled_from([-1, 0, 101, 99999]),
        stdout=st.binary(max_size=2),
        stderr=st.binary(max_size=2),
    )
    def is_reported(
        self,
        cause: Cause,
        wait_status: int,
        execed: bool,
        number: int,
        stdout: bytes,
        stderr: bytes,
    ) -> None:
        was_over = self.life.is_over
        said = report(
            cause,
            wait_status=wait_status,
            execed=execed,
            denied_nr=number,
            stdout=stdout,
            stderr=stderr,
        )
        step = self.life.reported(said, {"f": b"x"}, "execve")
        if not was_over and cause != Cause.SETUP:
            self.data[Stdout].append(stdout)
            self.data[Stderr].append(stderr)
            # Init saw it happen: its cause stands, whatever the host did since.
            status = STATUSES.get(cause)
            assert output_of(step).status in ({status} if status else PLAIN)
            assert output_of(step).files == {"f": b"x"}
        self.take(step)

    @invariant()
    def there_is_at_most_one_end_and_it_is_the_last(self) -> None:
        ends = [event for event in self.events if isinstance(event, Completed | TimedOut)]
        assert len(ends) + len(self.errors) == self.life.is_over
        assert ends == [] or self.events[-1] is ends[0]
        for end in ends:
            assert isinstance(end, TimedOut) == (end.output.status is Status.WALL_TIME)

    @invariant()
    def it_starts_at_most_once_and_before_it_writes(self) -> None:
        kinds = [type(event) for event in self.events]
        assert kinds.count(Started) <= 1
        if Stdout in kinds or Stderr in kinds:
            assert kinds[0] is Started

    @invariant()
    def the_output_is_what_the_events_and_the_report_said(self) -> None:
        for end in self.events:
            if isinstance(end, Completed | TimedOut):
                for kind, said in ((Stdout, end.output.stdout), (Stderr, end.output.stderr)):
                    parts = [event.data for event in self.events if isinstance(event, kind)]
                    assert b"".join([*parts, *self.data[kind]]) == said

    @invariant()
    def it_is_due_only_while_it_runs(self) -> None:
        limited = self.life.plan.limits.wall_time is not None
        assert (self.life.due() is not None) == (self.life.phase is Phase.RUNNING and limited)


PLAIN = {Status.EXITED, Status.SIGNALED}
STATUSES = {
    Cause.WALL_TIME: Status.WALL_TIME,
    Cause.CPU_TIME: Status.CPU_TIME,
    Cause.MEMORY: Status.MEMORY_LIMIT,
    Cause.OUTPUT: Status.OUTPUT_LIMIT,
    Cause.DISK: Status.DISK_LIMIT,
    Cause.DENIED: Status.DENIED,
    Cause.KILLED: Status.KILLED,
}

TestEveryOrderOfFacts = Orders.TestCase
TestEveryOrderOfFacts.settings = settings(
    max_examples=500, stateful_step_count=25, deadline=None, database=None
)


@pytest.mark.long
class TestManyOrdersOfFacts(Orders.TestCase):
    settings = settings(max_examples=8_000, stateful_step_count=40, deadline=None, database=None)


# ---- how it ended


def test_every_cause_but_exit_and_setup_has_a_status_of_its_own() -> None:
    assert set(STATUSES) == set(Cause) - {Cause.EXIT, Cause.SETUP}
    assert {*STATUSES.values(), *PLAIN} == set(Status)


@pytest.mark.parametrize(("cause", "status"), STATUSES.items(), ids=lambda item: item.name)
def test_a_cause_becomes_its_status(cause: Cause, status: Status) -> None:
    output = output_of(running().reported(report(cause), {}, ""))
    assert (output.status, output.exit_code, output.signal) == (status, None, signal.SIGKILL)


@pytest.mark.parametrize("cause", STATUSES, ids=lambda cause: cause.name)
def test_a_limit_that_shows_only_after_a_normal_exit_has_no_exit_code(cause: Cause) -> None:
    output = output_of(running().reported(report(cause, wait_status=exited(0)), {}, ""))
    assert (output.status, output.exit_code, output.signal) == (STATUSES[cause], None, None)
    assert not output.ok


@pytest.mark.parametrize("code", [0, 1, 42, 127, 128, 137, 255])
def test_an_exit_code_is_the_programs(code: int) -> None:
    output = output_of(running().reported(report(wait_status=exited(code)), {}, ""))
    assert (output.status, output.exit_code, output.signal) == (Status.EXITED, code, None)


@pytest.mark.parametrize("dumped", [False, True], ids=["no core", "core"])
@pytest.mark.parametrize("number", [1, 9, 11, 31, 34, 64])
def test_a_signal_is_the_one_it_died_of(number: int, dumped: bool) -> None:
    status = killed_by(number, dumped)
    assert os.WIFSIGNALED(status)
    output = output_of(running().reported(report(wait_status=status), {}, ""))
    assert (output.status, output.exit_code, output.signal) == (Status.SIGNALED, None, number)


@pytest.mark.parametrize("machine", NUMBERS)
def test_a_denied_call_has_the_name_of_its_machine(machine: str) -> None:
    for name in ("ptrace", "socket", "clone"):
        one = life(machine)
        denial = report(Cause.DENIED, denied_nr=NUMBERS[machine][name])
        assert output_of(one.reported(denial, {}, "")).denied == name


def test_a_denied_call_that_nobody_knows_has_its_number() -> None:
    output = output_of(running().reported(report(Cause.DENIED, denied_nr=99999), {}, ""))
    assert output.denied == "system call 99999"


def test_only_a_denied_run_names_a_call() -> None:
    said = report(Cause.KILLED, denied_nr=NUMBERS["x86_64"]["ptrace"])
    assert output_of(running().reported(said, {}, "")).denied is None


def test_only_wall_time_is_timed_out() -> None:
    for cause in STATUSES:
        end = running().reported(report(cause), {}, "").events[-1]
        assert isinstance(end, TimedOut) == (cause is Cause.WALL_TIME)


def test_usage_is_in_seconds_and_bytes() -> None:
    usage = output_of(running().reported(report(), {}, "")).usage
    assert (usage.wall_time, usage.user_time, usage.system_time) == (1.5, 0.25, 0.5)
    assert (usage.cpu_time, usage.peak_memory, usage.processes) == (0.75, 4096, None)
    assert (usage.steal_share, usage.throttled_time) == (None, None)
    shared = output_of(running().reported(report(), {}, "", (0.25, 1.5))).usage
    assert (shared.steal_share, shared.throttled_time) == (0.25, 1.5)
    counted = output_of(running().reported(report(processes=3), {}, "")).usage
    assert counted.processes == 3


def test_what_the_report_holds_comes_behind_what_was_streamed() -> None:
    one = running(stream=True)
    one.wrote_stdout(b"a")
    one.wrote_stderr(b"x")
    one.wrote_stdout(b"b")
    said = report(stdout=b"c", stderr=b"y", truncated=True)
    output = output_of(one.reported(said, {"f": b"1"}, ""))
    assert (output.stdout, output.stderr) == (b"abc", b"xy")
    assert (output.truncated, output.files) == (True, {"f": b"1"})
    assert output.enforcement is HELD
    assert output.limits is one.plan.limits


# ---- before and after


def test_a_run_goes_its_way() -> None:
    one = life()
    assert one.sent() == Step()
    assert one.started(1.0).events == [Started(SandboxId(7))]
    assert one.wrote_stdout(b"a").events == [Stdout(SandboxId(7), b"a")]
    assert one.wrote_stderr(b"b").events == [Stderr(SandboxId(7), b"b")]
    assert isinstance(one.reported(report(), {}, "").events[-1], Completed)
    assert one.is_over


def test_a_short_run_tells_start_and_end_at_once() -> None:
    one = life()
    one.sent()
    kinds = [type(event) for event in one.reported(report(), {}, "").events]
    assert kinds == [Started, Completed]


def test_a_start_that_was_told_is_not_told_again() -> None:
    kinds = [type(event) for event in running().reported(report(), {}, "").events]
    assert kinds == [Completed]


def test_a_held_run_that_is_killed_has_not_started() -> None:
    one = life(hold=True)
    one.sent()
    assert one.kill().order is Order.KILL
    step = one.reported(report(Cause.KILLED, execed=False), {}, "")
    assert [type(event) for event in step.events] == [Completed]


def test_a_held_run_has_no_deadline_before_its_release() -> None:
    one = life(hold=True, limits=Limits(wall_time=1.0))
    one.sent()
    assert one.due() is None
    assert one.overdue(10**6) == Step()
    one.started(50.0)
    assert one.due() == 51.0 + GRACE


def test_a_queued_run_that_is_killed_ends_at_once_and_asks_nobody() -> None:
    step = life().kill()
    assert step.order is None
    assert output_of(step).status is Status.KILLED


def test_a_run_that_is_not_overdue_is_let_alone() -> None:
    one = running(limits=Limits(wall_time=1.0))
    assert one.overdue(101.0 + GRACE / 2) == Step()
    assert one.overdue(101.0 + GRACE).order is Order.DESTROY


def test_without_a_wall_time_nothing_is_ever_overdue() -> None:
    assert running(limits=Limits(wall_time=None)).overdue(10.0**12) == Step()


def test_of_kill_and_deadline_the_first_is_the_cause() -> None:
    late = 1000.0
    for facts, status in (
        (("kill", "overdue"), Status.KILLED),
        (("overdue", "kill"), Status.WALL_TIME),
    ):
        one = running(limits=Limits(wall_time=1.0))
        for fact in facts:
            assert (one.kill() if fact == "kill" else one.overdue(late)).order is not None
        assert output_of(one.lost(late)).status is status


def test_a_lost_run_keeps_what_it_wrote() -> None:
    one = running(stream=True)
    one.wrote_stdout(b"a")
    one.wrote_stderr(b"b")
    output = output_of(one.lost(102.5))
    assert (output.status, output.stdout, output.stderr) == (Status.KILLED, b"a", b"b")
    assert output.usage.wall_time == 2.5


def test_a_run_lost_before_its_start_took_no_time() -> None:
    one = life()
    one.sent()
    assert output_of(one.lost(10.0**6)).usage.wall_time == 0.0


def test_a_clock_that_goes_back_makes_no_negative_time() -> None:
    assert output_of(running().lost(99.0)).usage.wall_time == 0.0


def test_what_init_recorded_stands_against_a_later_kill() -> None:
    one = running()
    one.kill()
    assert output_of(one.reported(report(Cause.OUTPUT), {}, "")).status is Status.OUTPUT_LIMIT


# ---- what could not start


def test_a_setup_error_has_stage_errno_and_program() -> None:
    said = report(Cause.SETUP, execed=False, error=errno.ENOEXEC)
    step = life(executable="./tool").reported(said, {}, "execve")
    assert step.events == []
    assert isinstance(step.error, SetupError)
    assert (step.error.stage, step.error.errno) == ("execve", errno.ENOEXEC)
    assert "./tool" in str(step.error)


def test_a_setup_error_of_another_stage_does_not_blame_the_program() -> None:
    said = report(Cause.SETUP, execed=False, error=errno.EAGAIN)
    error = life().reported(said, {}, "clone").error
    assert isinstance(error, SetupError)
    assert error.stage == "clone"
    assert "true" not in str(error)


def test_a_run_that_failed_has_no_other_end() -> None:
    one = life()
    error = SetupError("workspace", errno.ENOSPC)
    assert one.failed(error).error is error
    assert one.reported(report(), {}, "") == one.lost(1.0) == one.kill() == Step()
    assert one.failed(error) == Step()
