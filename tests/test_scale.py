"""Many at once: what waits and what goes, and that no event costs more for it.

Nothing here is timed: cost is counted in steps of the interpreter, memory in blocks
of its allocator and pages of the process. What takes how long is in `make bench-scale`.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from evalbox import (
    PIPE,
    Completed,
    Event,
    Executor,
    KiB,
    Limits,
    MiB,
    Plan,
    PlanError,
    Policy,
    SandboxId,
    SetupError,
    Started,
    Status,
    Stdout,
    TimedOut,
)
from evalbox._host.interference import Interference, Sample
from evalbox._host.memory import Room
from evalbox._launch.idle import IdleSlots
from evalbox._native import Wire
from evalbox.executor import loop as loop_module
from evalbox.executor import tokens
from evalbox.executor.deadlines import Deadlines
from evalbox.executor.descriptors import Descriptors
from evalbox.executor.loop import Loop
from evalbox.executor.outbox import Outbox
from proc import helpers, open_descriptors
from test_executor import FEW_SLOTS, in_fresh_interpreter

# Enough of everything on any host: what is counted here is not memory of programs.
ENDLESS = Limits(wall_time=None, memory=None, processes=None, output=None)
CAT = Plan(["cat"], stdin=PIPE, stream=True, limits=ENDLESS)
TRUE = Plan(["true"], limits=ENDLESS)
PER_LIVE_RUN = 20 * KiB


@pytest.fixture
def executor(tier: str) -> Iterator[Executor]:
    with Executor() as one:
        yield one


@pytest.fixture
def single(tier: str) -> Iterator[Executor]:
    """One at a time."""
    with Executor(max_running=1) as one:
        yield one


def loop_of(executor: Executor) -> Loop:
    assert executor._loop is not None
    return executor._loop


def rest(executor: Executor) -> list[Event]:
    events: list[Event] = []
    while executor.active_count:
        events += executor.poll()
    return events


def started(executor: Executor, count: int) -> list[SandboxId]:
    """The runs that start next, sorted; nothing else may happen meanwhile."""
    events: list[Event] = []
    while len(events) < count:
        events += executor.poll()
    assert {type(event) for event in events} <= {Started}
    return sorted(event.id for event in events)


def statuses(events: list[Event]) -> dict[SandboxId, Status]:
    return {e.id: e.output.status for e in events if isinstance(e, Completed | TimedOut)}


# ---- max_running


@pytest.mark.parametrize("value", [0, -1, True, False, 2.0, 0.5, "2", float("inf"), [1]])
def test_a_bad_max_running_is_a_plan_error_before_anything_happens(value: Any) -> None:
    before, others = open_descriptors(), helpers()
    with pytest.raises(PlanError, match="max_running"):
        Executor(max_running=value)
    assert (open_descriptors(), helpers()) == (before, others)


@pytest.mark.parametrize("value", [None, 1, 2**70])
def test_a_good_max_running_runs(value: int | None) -> None:
    with Executor(max_running=value) as executor:
        assert executor.run(TRUE).ok


def test_no_more_than_max_running_are_alive(tier: str) -> None:
    with Executor(max_running=2) as executor:
        runs = [executor.spawn(CAT) for _ in range(4)]
        assert started(executor, 2) == runs[:2]
        assert executor.active_count == 4
        assert executor.poll(0) == []
        executor.close_stdin(runs[0])
        events = []
        while Started(runs[2]) not in events:
            events += executor.poll()
        assert [event.id for event in events] == [runs[0], runs[2]]
        for run in runs[1:]:
            executor.close_stdin(run)
        assert set(statuses(events + rest(executor))) == set(runs)


def test_without_max_running_all_of_them_are(executor: Executor) -> None:
    runs = [executor.spawn(CAT) for _ in range(4)]
    assert started(executor, 4) == runs


def test_waiting_runs_go_in_the_order_of_their_spawn(single: Executor) -> None:
    first = single.spawn(CAT)
    others = [Policy(), Policy(on_denied="kill"), Policy(system=True, require=())]
    waiting = [single.spawn(Plan(["true"], policy=others[i % 3])) for i in range(9)]
    single.close_stdin(first)
    ended: list[SandboxId] = []
    late: list[SandboxId] = []
    while single.active_count:
        now = list(statuses(single.poll()))
        ended += now
        # Those that come while some still wait overtake nobody.
        late += [single.spawn(TRUE) for _ in now if len(late) < 5]
    assert ended == [first, *waiting, *late]


def test_run_waits_for_its_turn_too(single: Executor) -> None:
    runs = [single.spawn(Plan(["echo", str(i)])) for i in range(3)]
    assert single.run(Plan(["echo", "last"])).text == "last\n"
    assert list(statuses(single.poll(0))) == runs


def test_a_waiting_run_that_is_killed_is_completed_at_once(single: Executor) -> None:
    first, doomed, last = (single.spawn(CAT) for _ in range(3))
    started(single, 1)
    single.kill(doomed)
    assert statuses(single.poll(0)) == {doomed: Status.KILLED}
    assert single.active_count == 2
    with pytest.raises(BrokenPipeError):
        single.write_stdin(doomed, b"x")
    for run in (first, last):
        single.close_stdin(run)
    assert statuses(rest(single)) == {first: Status.EXITED, last: Status.EXITED}


def test_killed_waiting_runs_leave_nothing_behind(single: Executor) -> None:
    single.spawn(CAT)
    for _ in range(20):
        single.kill(single.spawn(CAT))
    assert len(loop_of(single)._dispatcher._queue) == 0
    assert len(loop_of(single)._runs) == 1


def test_the_clock_of_a_waiting_run_does_not_run(single: Executor) -> None:
    first = single.spawn(CAT)
    waits = single.spawn(Plan(["true"], limits=Limits(wall_time=1.0)))
    with Executor() as other:
        # More time than it has passes while it waits.
        assert other.run(Plan(["sleep", "1.2"], limits=Limits(wall_time=1.0))).usage.wall_time >= 1
    single.close_stdin(first)
    assert statuses(rest(single)) == {first: Status.EXITED, waits: Status.EXITED}


def test_input_and_release_of_waiting_runs_are_kept(single: Executor) -> None:
    first = single.spawn(CAT)
    fed = single.spawn(Plan(["cat"], stdin=PIPE))
    held = single.spawn(Plan(["echo", "held"], hold=True))
    data = os.urandom(300_000)
    single.write_stdin(fed, data)
    assert single.unwritten(fed) == len(data)
    single.close_stdin(fed)
    single.release(held)
    with pytest.raises(BrokenPipeError):
        single.write_stdin(fed, b"x")
    single.close_stdin(first)
    outputs = {e.id: e.output for e in rest(single) if isinstance(e, Completed)}
    assert outputs[fed].stdout == data
    assert outputs[held].text == "held\n"


# ---- held runs


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "_HELD_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_waiting_for_ever_behind_held_runs_is_an_error(single: Executor) -> None:
    held = single.spawn(Plan(["true"], hold=True))
    waits = single.spawn(TRUE)
    for wait in (single.poll, lambda: single.run(TRUE)):
        with pytest.raises(PlanError, match="held"):
            wait()
    assert single.poll(0) == []
    assert single.active_count == 2
    single.release(held)
    assert statuses(rest(single)) == {held: Status.EXITED, waits: Status.EXITED}


@pytest.mark.usefixtures("impatient")
def test_a_held_run_that_is_killed_makes_room(single: Executor) -> None:
    held, waits = single.spawn(Plan(["true"], hold=True)), single.spawn(TRUE)
    single.kill(held)
    assert statuses(rest(single)) == {held: Status.KILLED, waits: Status.EXITED}


@pytest.mark.usefixtures("impatient")
def test_behind_a_run_that_is_not_held_there_is_no_error(tier: str) -> None:
    with Executor(max_running=2) as executor:
        held, busy = executor.spawn(Plan(["true"], hold=True)), executor.spawn(CAT)
        waits = executor.spawn(Plan(["sleep", "0.2"]))
        executor.close_stdin(busy)
        events: list[Event] = []
        while waits not in statuses(events):
            events += executor.poll()
        executor.release(held)
        assert set(statuses(events + rest(executor))) == {held, busy, waits}


# ---- memory


class FakeHost:
    """A host with as much memory as a test says; what runs stays young for ever."""

    def __init__(self, available: int) -> None:
        self.available = available

    def __call__(self) -> Room:
        return Room(self.available, 4096 * MiB, 0.0)


def on(executor: Executor, available: int) -> FakeHost:
    host = FakeHost(available)
    loop_of(executor)._dispatcher.admission._look = host
    return host


def cat_with(memory: int | None) -> Plan:
    return Plan(["cat"], stdin=PIPE, stream=True, limits=Limits(wall_time=None, memory=memory))


def test_runs_wait_for_the_memory_that_they_may_take(executor: Executor) -> None:
    on(executor, 600 * MiB)
    runs = [executor.spawn(cat_with(256 * MiB)) for _ in range(3)]
    assert started(executor, 2) == runs[:2]
    assert executor.poll(0) == []
    executor.close_stdin(runs[0])
    events: list[Event] = []
    while Started(runs[2]) not in events:
        events += executor.poll()
    assert [event.id for event in events] == [runs[0], runs[2]]


def test_memory_that_others_give_back_is_noticed(executor: Executor) -> None:
    host = on(executor, 100 * MiB)
    runs = [executor.spawn(cat_with(256 * MiB)) for _ in range(2)]
    assert started(executor, 1) == runs[:1]
    host.available = 600 * MiB
    assert started(executor, 1) == runs[1:]


@pytest.mark.parametrize(("available", "memory"), [(0, None), (1024 * MiB, 256 * MiB)])
def test_with_room_or_without_a_limit_they_do_not_wait(
    executor: Executor, available: int, memory: int | None
) -> None:
    on(executor, available)
    runs = [executor.spawn(cat_with(memory)) for _ in range(3)]
    assert started(executor, 3) == runs


def test_one_goes_on_a_host_without_any_memory(executor: Executor) -> None:
    on(executor, 0)
    runs = [executor.spawn(Plan(["true"])) for _ in range(10)]
    assert list(statuses(rest(executor))) == runs


def test_held_runs_keep_nobody_out_for_want_of_memory(executor: Executor) -> None:
    on(executor, 0)
    held = [executor.spawn(Plan(["true"], hold=True)) for _ in range(3)]
    assert statuses([*executor_events_until(executor, executor.spawn(Plan(["true"])))])
    for run in held:
        executor.release(run)
    assert set(statuses(rest(executor))) == set(held)


def executor_events_until(executor: Executor, run: SandboxId) -> Iterator[Event]:
    while True:
        for event in executor.poll():
            yield event
            if isinstance(event, Completed) and event.id == run:
                return


# ---- descriptors


def test_more_runs_with_pipes_and_gates_than_descriptors_wait() -> None:
    code = """
    plan = Plan(["cat"], stdin=PIPE, hold=True)
    with Executor() as executor:
        runs = [executor.spawn(plan) for _ in range(100)]
        for run in runs:
            executor.write_stdin(run, b"%d" % run)
            executor.close_stdin(run)
            executor.release(run)
        print(all(output.text == str(run) for run, output in rest(executor).items()), len(runs))
    """
    # Two pipes, two gates for each of a hundred would be more than there are.
    assert in_fresh_interpreter(FEW_SLOTS + unindented(code)) == "True 100"


def test_there_are_not_so_many_descriptors() -> None:
    code = """
    import os
    try:
        print([os.pipe() for _ in range(100)])
    except OSError as error:
        print(error.errno)
    """
    assert in_fresh_interpreter(FEW_SLOTS + unindented(code)) == "24"


def unindented(code: str) -> str:
    return "\n".join(line[4:] for line in code.splitlines())


def test_a_limit_that_is_raised_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the executors of other tests keep open counts as well.
    there = len(os.listdir("/proc/self/fd"))
    soft = there + 256
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, 4096))
    share = Descriptors()
    assert share.have(20)
    assert not share.have(200)
    soft = there + 1024
    assert share.have(200)
    share.take(500)
    assert not share.have(500)
    share.give_back(500)
    assert share.have(500)


# ---- what is kept


def blocks(executor: Executor, act: Callable[[Executor, int], None], count: int) -> int:
    """By how many blocks of memory so many runs that are over leave the interpreter larger."""
    for number in range(count):
        act(executor, number)
    gc.collect()
    before = sys.getallocatedblocks()
    for number in range(count, 2 * count):
        act(executor, number)
    gc.collect()
    return sys.getallocatedblocks() - before


def plain(executor: Executor, _number: int) -> None:
    executor.run(TRUE).check()


def of_their_own_limits(executor: Executor, number: int) -> None:
    limits = Limits(wall_time=3600.0, cpu_time=100.0 + number)
    executor.run(Plan(["true"], limits=limits)).check()


def with_a_far_deadline(executor: Executor, _number: int) -> None:
    run = executor.spawn(Plan(["cat"], stdin=PIPE, limits=Limits(wall_time=10.0**6)))
    # Only what is told to have started has one.
    assert started(executor, 1) == [run]
    executor.close_stdin(run)
    rest(executor)


KEPT = {act.__name__: act for act in (plain, of_their_own_limits, with_a_far_deadline)}


@pytest.mark.parametrize("act", KEPT.values(), ids=KEPT)
def test_runs_that_are_over_leave_nothing(
    executor: Executor, act: Callable[[Executor, int], None]
) -> None:
    # Caches of some hundreds of entries are full by half of them. Less than half a block
    # each; one entry of a heap would be two.
    assert blocks(executor, act, 400) < 200


def test_what_is_kept_for_each_run_would_be_seen(executor: Executor) -> None:
    kept: list[Any] = []
    act: Callable[[Executor, int], None] = lambda one, _: kept.append(one.run(TRUE))  # noqa: E731
    assert blocks(executor, act, 200) > 1000


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf(
        "SC_PAGESIZE"
    )


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_many_are_alive_at_once_and_each_costs_little(executor: Executor, count: int) -> None:
    executor.run(TRUE)
    before = resident()
    runs = [executor.spawn(CAT) for _ in range(count)]
    assert started(executor, count) == runs
    assert (resident() - before) / count < PER_LIVE_RUN
    for run in runs:
        executor.write_stdin(run, b"%d" % run)
        executor.close_stdin(run)
    outputs = {e.id: e.output for e in rest(executor) if isinstance(e, Completed)}
    assert {run: output.text for run, output in outputs.items()} == {run: f"{run}" for run in runs}


@pytest.mark.parametrize("limit", [256, pytest.param(1024, marks=pytest.mark.long)])
def test_more_than_a_soft_limit_allows_are_spawned_and_all_end(limit: int) -> None:
    code = """
    import os
    with Executor() as executor:
        runs = [executor.spawn(Plan(["sh", "-c", f"sleep 0.01; echo {i}"])) for i in range(COUNT)]
        most, outputs = 0, {}
        while executor.active_count:
            outputs |= {e.id: e.output for e in executor.poll() if isinstance(e, Completed)}
            most = max(most, len(os.listdir("/proc/self/fd")))
        told = [outputs[run].text for run in runs]
        print(told == [f"{i}\\n" for i in range(COUNT)], most < LIMIT)
    """
    code = code.replace("LIMIT", str(limit)).replace("COUNT", str(limit))
    few = FEW_SLOTS.replace("(150, 150)", f"({limit}, {limit})")
    assert in_fresh_interpreter(few + unindented(code)) == "True True"


@pytest.mark.long
def test_a_hundred_thousand_runs_in_a_row(executor: Executor) -> None:
    for _ in range(2000):
        executor.run(TRUE).check()
    memory, descriptors, processes = resident(), len(open_descriptors()), len(helpers())
    for _ in range(98_000):
        executor.run(TRUE).check()
    assert resident() - memory < MiB
    assert (len(open_descriptors()), len(helpers())) == (descriptors, processes)


@pytest.mark.parametrize("count", [5000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_a_million_events_arrive_in_order(executor: Executor, count: int) -> None:
    runs = [executor.spawn(CAT) for _ in range(50)]
    assert started(executor, 50) == runs
    for number in range(count // 50):
        line = b"%d\n" % number
        for run in runs:
            executor.write_stdin(run, line)
        said: dict[SandboxId, bytes] = dict.fromkeys(runs, b"")
        while any(text != line for text in said.values()):
            for event in executor.poll():
                assert isinstance(event, Stdout)
                said[event.id] += event.data
    for run in runs:
        executor.close_stdin(run)
    assert set(statuses(rest(executor)).values()) == {Status.EXITED}


# ---- what an event costs


def steps(act: Callable[[], object]) -> int:
    """Lines that the interpreter goes through; a loop over all runs is one more for each."""
    count = 0

    def trace(_frame: FrameType, _event: str, _argument: object) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


def echo(executor: Executor, run: SandboxId) -> None:
    executor.write_stdin(run, b"x")
    while not any(event.id == run for event in executor.poll()):
        pass


def test_an_event_costs_the_same_however_many_are_alive(executor: Executor) -> None:
    first = executor.spawn(CAT)
    assert started(executor, 1) == [first]

    def least() -> list[int]:
        acts = (lambda: echo(executor, first), lambda: executor.run(TRUE))
        # Of some: once in a while more is looked at.
        return [min(steps(act) for _ in range(10)) for act in acts]

    few = least()
    others = [executor.spawn(CAT) for _ in range(60)]
    assert started(executor, 60) == others
    # Fewer by far than one line more for each of the others.
    assert [more <= less + 30 for less, more in zip(few, least(), strict=True)] == [True, True]


def test_a_loop_over_all_runs_would_be_seen(executor: Executor) -> None:
    runs = [executor.spawn(CAT) for _ in range(60)]
    assert started(executor, 60) == runs

    def scan() -> None:
        for run in loop_of(executor)._runs.values():
            assert not run.life.is_over

    assert steps(scan) > 60


def test_a_flood_is_one_event_of_each_round(executor: Executor) -> None:
    flood = executor.spawn(Plan(["yes"], stream=True, limits=ENDLESS))
    quiet = executor.spawn(CAT)
    told: Counter[SandboxId] = Counter()
    answered = 0
    while told[flood] < 500 or answered < 50:
        executor.write_stdin(quiet, b"x")
        while told[quiet] <= answered:
            events = executor.poll()
            # However much there is of it, the other is not behind more than this.
            assert sum(event.id == flood for event in events) <= 2
            told.update(event.id for event in events if isinstance(event, Stdout))
        answered += 1
    executor.kill(flood)
    executor.kill(quiet)
    assert set(statuses(rest(executor)).values()) == {Status.KILLED}


# ---- parts


@pytest.fixture
def wire() -> Iterator[Wire]:
    one = Wire()
    yield one
    one.close()


def test_deadlines_of_runs_that_are_over_do_not_pile_up(wire: Wire) -> None:
    deadlines = Deadlines(wire, tokens.make(0, tokens.TIMER))
    for run in range(1, 1001):
        deadlines.add(1e9 + run, run)
        if run % 100:
            deadlines.drop(run)
    assert len(deadlines._heap) < 200
    assert deadlines.passed(1e9 + 500) == [100, 200, 300, 400, 500]
    assert deadlines.passed(2e9) == [600, 700, 800, 900, 1000]
    deadlines.close()


def test_of_two_deadlines_of_a_run_the_last_counts(wire: Wire) -> None:
    deadlines = Deadlines(wire, tokens.make(0, tokens.TIMER))
    deadlines.add(10.0, 1)
    deadlines.add(20.0, 1)
    assert deadlines.passed(15.0) == []
    assert deadlines.passed(25.0) == [1]
    deadlines.close()


def test_an_error_is_told_instead_of_the_events_of_its_run(wire: Wire) -> None:
    outbox = Outbox(wire, tokens.make(0, tokens.WAKE))
    outbox.events += [Started(SandboxId(1)), Started(SandboxId(2)), Started(SandboxId(3))]
    errors = [SetupError("collect", 5), SetupError("collect", 5)]
    outbox.fail(1, errors[0])
    outbox.fail(3, errors[1])
    assert [outbox.take_error() for _ in range(3)] == [*errors, None]
    assert [error.id for error in errors] == [1, 3]
    assert outbox.take_events() == [Started(SandboxId(2))]
    assert not outbox
    outbox.close()


def fake_slot(tier: str, serial: int) -> Any:
    return type("FakeSlot", (), {"has_own_kit": tier == "namespace", "ruleset": serial})()


def fake_kit(tier: str, serial: int) -> Any:
    return SimpleNamespace(has_own_slots=tier == "namespace", serial=serial)


def test_in_namespaces_an_idle_slot_serves_its_kit_only() -> None:
    idle = IdleSlots()
    slots = [fake_slot("namespace", serial) for serial in (1, 2, 1)]
    for slot in slots:
        idle.add(slot)
    assert idle.take(fake_kit("namespace", 3)) is None
    assert idle.take(fake_kit("namespace", 1)) is slots[2]
    assert idle.take(fake_kit("namespace", 1)) is slots[0]
    assert idle.take(fake_kit("namespace", 1)) is None
    assert [*idle] == [slots[1]]


def test_elsewhere_the_one_used_last_serves_any() -> None:
    idle = IdleSlots()
    slots = [fake_slot("process", serial) for serial in (1, 2, 3, 4)]
    for slot in slots:
        idle.add(slot)
    assert idle.take(fake_kit("process", 9)) is slots[3]
    assert idle.take_oldest() is slots[0]
    idle.discard(slots[1])
    idle.discard(slots[1])
    assert (len(idle), slots[1] in idle, slots[2] in idle) == (1, False, True)


# ---- usage


def test_a_run_of_some_time_says_what_the_machine_kept_from_it(executor: Executor) -> None:
    usage = executor.run(Plan(["sleep", "0.4"])).usage
    assert usage.steal_share is not None
    assert usage.throttled_time is not None
    assert 0 <= usage.steal_share <= 1


def test_what_was_stolen_meanwhile_is_in_the_usage(executor: Executor) -> None:
    class Fake(Interference):
        """Each look is a second later, in which half of two processors was stolen."""

        at = 0.0

        def sample(self) -> Sample:
            self.at += 1.0
            return Sample(self.at, 2.0 * self.at, self.at, 0.25 * self.at)

    loop_of(executor)._interference = Fake()
    run = executor.spawn(CAT)
    assert started(executor, 1) == [run]
    executor.close_stdin(run)
    (output,) = [e.output for e in rest(executor) if isinstance(e, Completed)]
    assert (output.usage.steal_share, output.usage.throttled_time) == (0.5, 0.25)
