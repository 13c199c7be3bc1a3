"""What an Executor promises: events, their order, and that nothing is left behind.

Hosts that are stopped, killed or forked are processes of their own: a snippet
that runs in a fresh interpreter and is watched from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import evalbox
import tiers
from evalbox import (
    PIPE,
    CommandNotFound,
    Completed,
    Event,
    Executor,
    File,
    Limits,
    MiB,
    Network,
    Output,
    Plan,
    PlanError,
    Policy,
    SandboxId,
    SetupError,
    Started,
    Status,
    Stderr,
    Stdout,
    TimedOut,
    UnsupportedError,
)
from evalbox._host import host
from evalbox._host.namespaces import Namespaces
from evalbox._launch import kit
from evalbox.executor.shared import MOST_IDLE
from leaks import roots_of
from proc import alive, born, children, helpers, mark, marked, open_descriptors, until

pytestmark = pytest.mark.usefixtures("tier")

BROKEN = Plan(["./x"], files={"x": File(b"\x7fELF", executable=True)})
WAITS = Plan(["cat"], stdin=PIPE)


def shell(script: str, **fields: Any) -> Plan:
    return Plan(["sh", "-c", script], **fields)


def rest(executor: Executor) -> list[Event]:
    """All events until no run is active."""
    events: list[Event] = []
    while executor.active_count:
        events += executor.poll()
    return events


def ends(events: list[Event]) -> dict[SandboxId, Output]:
    return {e.id: e.output for e in events if isinstance(e, Completed | TimedOut)}


def poll_for(executor: Executor, kind: type[Event], count: int = 1) -> list[Event]:
    """Polls until `count` events of a kind have come; returns all that came."""
    events: list[Event] = []
    while sum(isinstance(event, kind) for event in events) < count:
        events += executor.poll()
    return events


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor() as opened:
        yield opened


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that every uid may change, unlike tmp_path."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


# ---- events and their order


@pytest.mark.core
def test_a_run_starts_speaks_and_completes_once(executor: Executor) -> None:
    run = executor.spawn(shell("echo out; echo err >&2; exit 3", stream=True))
    events = rest(executor)
    assert events[0] == Started(run)
    assert sorted(map(repr, events[1:-1])) == [
        repr(Stderr(run, b"err\n")),
        repr(Stdout(run, b"out\n")),
    ]
    match events[-1]:
        case Completed(id, Output(exit_code=3, stdout=b"out\n", stderr=b"err\n")):
            assert id == run
        case other:
            pytest.fail(f"not the end that was expected: {other}")


def test_without_stream_there_are_two_events(executor: Executor) -> None:
    run = executor.spawn(shell("echo out"))
    start, end = rest(executor)
    assert (start, end.id, type(end)) == (Started(run), run, Completed)


def test_only_the_wall_time_makes_a_timed_out(executor: Executor) -> None:
    slow = executor.spawn(Plan(["sleep", "1000"], limits=Limits(wall_time=0.1)))
    busy = executor.spawn(shell("while :; do :; done", limits=Limits(cpu_time=0.1)))
    kinds = {event.id: type(event) for event in rest(executor) if not isinstance(event, Started)}
    assert kinds == {slow: TimedOut, busy: Completed}


def test_exactly_one_end_for_every_run_of_a_mixed_crowd(executor: Executor) -> None:
    plans = [
        shell("seq 20000", stream=True),
        shell("exit 1"),
        Plan(["sleep", "1000"], limits=Limits(wall_time=0.1)),
        Plan(["yes"], stream=True, limits=Limits(output=100_000)),
        shell("kill -KILL $$"),
        shell("read line; echo $line", stdin=PIPE, stream=True),
        shell("echo held", hold=True),
    ]
    runs = [executor.spawn(plan) for plan in plans * 4]
    for run, plan in zip(runs, plans * 4, strict=True):
        if plan.hold:
            executor.release(run)
        if plan.stdin is PIPE:
            executor.write_stdin(run, b"word\n")
    events = rest(executor)
    for run in runs:
        of_run = [event for event in events if event.id == run]
        assert [type(event) for event in (of_run[0], of_run[-1])].count(Started) == 1
        assert len(ends(of_run)) == 1
        assert of_run[-1].id in ends([of_run[-1]])
    assert executor.poll(0) == []


def test_ids_are_integers_and_never_used_again(executor: Executor) -> None:
    runs = []
    for _ in range(5):
        runs.append(executor.spawn(Plan(["true"])))
        rest(executor)
    assert all(isinstance(run, int) for run in runs)
    assert len(set(runs)) == 5


def test_poll_returns_at_once_when_nothing_is_active(executor: Executor) -> None:
    assert executor.poll() == []
    executor.run(Plan(["true"]))
    assert executor.poll() == []
    executor.spawn(Plan(["true"]))
    rest(executor)
    assert executor.poll() == []


def test_poll_with_zero_does_not_wait(executor: Executor) -> None:
    run = executor.spawn(Plan(["true"], hold=True))
    assert executor.poll(0) == []
    assert executor.poll(0.01) == []
    assert executor.poll(-1) == []
    executor.release(run)
    assert ends(rest(executor))[run].ok


def test_active_count_falls_when_poll_returns_the_end(executor: Executor) -> None:
    assert executor.active_count == 0
    runs = [executor.spawn(Plan(["true"], hold=True)) for _ in range(3)]
    assert executor.active_count == 3
    executor.release(runs[0])
    # It may have ended; as long as poll has not said so, it counts.
    evalbox.run(["true"])
    assert executor.active_count == 3
    poll_for(executor, Completed)
    assert executor.active_count == 2
    for run in runs[1:]:
        executor.kill(run)
    rest(executor)
    assert executor.active_count == 0


# ---- hold and release


def test_a_held_run_does_nothing_before_its_release(executor: Executor, folder: Path) -> None:
    policy = Policy(write=[folder])
    run = executor.spawn(shell(f"echo >{folder}/a", hold=True, policy=policy))
    executor.run(shell(f"echo >{folder}/b", policy=policy)).check()
    assert executor.poll(0) == []
    assert [path.name for path in folder.iterdir()] == ["b"]
    executor.release(run)
    assert [type(event) for event in rest(executor)] == [Started, Completed]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_two_are_held_a_third_runs_and_both_are_released(executor: Executor) -> None:
    held = [executor.spawn(shell(f"echo {i}", hold=True)) for i in range(2)]
    third = executor.spawn(shell("echo third"))
    assert ends(poll_for(executor, Completed))[third].text == "third\n"
    for run in held:
        executor.release(run)
    outputs = ends(rest(executor))
    assert [outputs[run].text for run in held] == ["0\n", "1\n"]


def test_several_are_released_together(executor: Executor, folder: Path) -> None:
    meet = f'echo >{folder}/$N; while [ "$(ls {folder} | wc -l)" -lt 8 ]; do sleep 0.01; done'
    policy = Policy(write=[folder])
    plans = [shell(meet, hold=True, policy=policy, env={"N": str(n)}) for n in range(8)]
    runs = [executor.spawn(plan) for plan in plans]
    for run in runs:
        executor.release(run)
    assert [output.status for output in ends(rest(executor)).values()] == [Status.EXITED] * 8


def test_the_clock_of_a_held_run_starts_at_its_release(executor: Executor) -> None:
    run = executor.spawn(shell("echo hi", hold=True, limits=Limits(wall_time=0.4)))
    evalbox.run(["sleep", "0.8"])
    executor.release(run)
    assert ends(rest(executor))[run].check().text == "hi\n"


def test_a_held_run_can_be_killed_and_has_not_started(executor: Executor) -> None:
    run = executor.spawn(shell("echo hi", hold=True))
    executor.kill(run)
    (end,) = rest(executor)
    assert isinstance(end, Completed)
    assert (end.output.status, end.output.stdout) == (Status.KILLED, b"")


def test_a_held_program_that_cannot_start_is_a_setup_error(executor: Executor) -> None:
    run = executor.spawn(Plan(BROKEN.cmd, files=BROKEN.files, hold=True))
    executor.release(run)
    with pytest.raises(SetupError) as caught:
        rest(executor)
    assert (caught.value.stage, executor.active_count) == ("execve", 0)


def test_releasing_twice_or_without_hold_does_nothing(executor: Executor) -> None:
    held, plain = executor.spawn(shell("echo hi", hold=True)), executor.spawn(shell("echo hi"))
    for run in (held, held, plain):
        executor.release(run)
    assert {output.text for output in ends(rest(executor)).values()} == {"hi\n"}


# ---- input


def test_a_conversation(executor: Executor) -> None:
    run = executor.spawn(Plan(["cat"], stdin=PIPE, stream=True))
    for word in (b"one", b"two"):
        executor.write_stdin(run, word)
        assert Stdout(run, word) in poll_for(executor, Stdout)
    executor.close_stdin(run)
    assert ends(rest(executor))[run].text == "onetwo"


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_write_stdin_takes_bytes_and_their_kin(
    executor: Executor, make: Callable[[bytes], Any]
) -> None:
    run = executor.spawn(WAITS)
    executor.write_stdin(run, make(b"hi"))
    executor.close_stdin(run)
    assert ends(rest(executor))[run].text == "hi"


def test_write_stdin_refuses_text_and_runs_without_a_pipe(executor: Executor) -> None:
    run, other = executor.spawn(WAITS), executor.spawn(Plan(["sleep", "1000"]))
    with pytest.raises(PlanError, match="str"):
        executor.write_stdin(run, "text")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="PIPE"):
        executor.write_stdin(other, b"hi")


def test_write_stdin_to_an_ended_run_is_a_broken_pipe(executor: Executor) -> None:
    run = executor.spawn(Plan(["true"], stdin=PIPE))
    plain = executor.spawn(Plan(["true"]))
    rest(executor)
    for ended in (run, plain):
        with pytest.raises(BrokenPipeError):
            executor.write_stdin(ended, b"hi")


def test_write_stdin_after_close_stdin_is_a_broken_pipe(executor: Executor) -> None:
    run = executor.spawn(WAITS)
    executor.write_stdin(run, b"hi")
    executor.close_stdin(run)
    with pytest.raises(BrokenPipeError):
        executor.write_stdin(run, b"more")
    executor.close_stdin(run)
    assert ends(rest(executor))[run].text == "hi"


def test_write_stdin_is_a_broken_pipe_once_the_program_closed_it(executor: Executor) -> None:
    script = "exec 0<&-; echo closed; sleep 1000"
    run = executor.spawn(shell(script, stdin=PIPE, stream=True))
    poll_for(executor, Stdout)
    with pytest.raises(BrokenPipeError):
        executor.write_stdin(run, b"hi")


def test_a_program_may_close_its_input_while_much_is_queued(executor: Executor) -> None:
    run = executor.spawn(shell("read line; exec 0<&-; echo $line", stdin=PIPE))
    # It may have closed it while this is still being written.
    with contextlib.suppress(BrokenPipeError):
        executor.write_stdin(run, b"hi\n" + bytes(1 << 20))
    assert ends(rest(executor))[run].check().text == "hi\n"


# ---- ids that mean nothing, and runs that have ended


@pytest.mark.parametrize("id", [0, -1, 2, 10**30])
def test_an_unknown_id_is_a_key_error(executor: Executor, id: int) -> None:  # noqa: A002
    unknown = SandboxId(id)
    executor.spawn(Plan(["sleep", "1000"]))
    for action in (executor.kill, executor.release, executor.close_stdin):
        with pytest.raises(KeyError):
            action(unknown)
    with pytest.raises(KeyError):
        executor.write_stdin(unknown, b"hi")


def test_kill_release_and_close_stdin_do_nothing_to_an_ended_run(executor: Executor) -> None:
    run = executor.spawn(Plan(["true"], stdin=PIPE, hold=True))
    executor.release(run)
    rest(executor)
    for action in (executor.kill, executor.release, executor.close_stdin):
        action(run)
    assert (executor.poll(), executor.active_count) == ([], 0)


# ---- kill


def test_kill_ends_a_run_with_all_below_it(executor: Executor) -> None:
    number = mark()
    run = executor.spawn(shell(f"setsid sleep {number} & echo hi; wait", stream=True))
    poll_for(executor, Stdout)
    executor.kill(run)
    executor.kill(run)
    output = ends(rest(executor))[run]
    assert (output.status, output.stdout) == (Status.KILLED, b"hi\n")
    assert marked(number) == []


def test_kill_leaves_other_runs_alone(executor: Executor) -> None:
    victim, other = executor.spawn(WAITS), executor.spawn(WAITS)
    executor.kill(victim)
    assert [*ends(poll_for(executor, Completed))] == [victim]
    executor.close_stdin(other)
    assert ends(rest(executor))[other].ok


# ---- run beside others


def test_run_keeps_the_events_of_others_for_poll(executor: Executor) -> None:
    others = [executor.spawn(shell(f"echo {i}", stream=True)) for i in range(3)]
    for _ in range(3):
        assert executor.run(shell("sleep 0.05; echo own")).check().text == "own\n"
    assert executor.active_count == 3
    events = rest(executor)
    for i, run in enumerate(others):
        of_run = [event for event in events if event.id == run]
        assert [type(event) for event in of_run] == [Started, Stdout, Completed]
        assert ends(of_run)[run].text == f"{i}\n"


def test_run_raises_its_own_errors_only(executor: Executor) -> None:
    executor.spawn(BROKEN)
    assert executor.run(Plan(["echo", "hi"])).check().text == "hi\n"
    with pytest.raises(SetupError):
        rest(executor)
    with pytest.raises(SetupError):
        executor.run(BROKEN)
    assert executor.active_count == 0


@pytest.mark.parametrize("fields", [{"hold": True}, {"stdin": PIPE}], ids=["hold", "PIPE"])
def test_run_refuses_what_only_spawn_can_serve(executor: Executor, fields: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="spawn"):
        executor.run(Plan(["true"], **fields))


def test_run_on_the_class_needs_no_instance() -> None:
    assert Executor.run(Plan(["echo", "hi"])).text == "hi\n"


# ---- fileno


def is_readable(executor: Executor) -> bool:
    return bool(select.select([executor], [], [], 0)[0])


def test_fileno_is_readable_when_poll_has_something(executor: Executor) -> None:
    assert not is_readable(executor)
    run = executor.spawn(shell("echo hi", stream=True, hold=True))
    executor.poll(0)
    assert not is_readable(executor)
    executor.release(run)
    events: list[Event] = []
    while executor.active_count:
        select.select([executor], [], [])
        events += executor.poll(0)
    assert [type(event) for event in events] == [Started, Stdout, Completed]
    assert not is_readable(executor)


def test_fileno_is_readable_for_what_another_run_left_in_memory(executor: Executor) -> None:
    run = executor.spawn(Plan(["true"]))
    executor.run(shell("sleep 0.1"))
    while not is_readable(executor):
        executor.run(Plan(["true"]))
    assert run in ends(executor.poll(0))
    assert not is_readable(executor)


def test_asyncio_can_wait_for_an_executor(executor: Executor) -> None:
    async def main() -> list[Event]:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        events: list[Event] = []

        def on_readable() -> None:
            events.extend(executor.poll(0))
            if not executor.active_count:
                loop.remove_reader(executor)
                done.set_result(None)

        loop.add_reader(executor, on_readable)
        for word in ("one", "two"):
            executor.spawn(Plan(["echo", word]))
        await done
        return events

    assert {output.text for output in ends(asyncio.run(main())).values()} == {"one\n", "two\n"}


# ---- many


def test_sixteen_threads_run_at_once(folder: Path) -> None:
    # Each waits for all: it ends only if the sixteen are alive together.
    meet = f'echo >{folder}/$1; while [ "$(ls {folder} | wc -l)" -lt 16 ]; do sleep 0.01; done'

    def one(number: int) -> Output:
        return evalbox.run(["sh", "-c", meet, "sh", str(number)], write=[folder])

    with ThreadPoolExecutor(16) as pool:
        assert [output.status for output in pool.map(one, range(16))] == [Status.EXITED] * 16


def test_three_hundred_runs_at_once(executor: Executor) -> None:
    runs = [executor.spawn(Plan(["echo", str(i)])) for i in range(300)]
    assert executor.active_count == 300
    outputs = ends(rest(executor))
    assert [outputs[run].text for run in runs] == [f"{i}\n" for i in range(300)]


def in_fresh_interpreter(code: str) -> str:
    """What a snippet prints in a host process of its own."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", tiers.prelude() + textwrap.dedent(code)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_ended_threads_leave_nothing_that_grows() -> None:
    code = """
    import sys
    from concurrent.futures import ThreadPoolExecutor
    import evalbox
    sys.path.insert(0, {tests!r})
    from proc import helpers
    def round_of_threads():
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda _: evalbox.run(["sleep", "0.05"]), range(24)))
        return len(helpers())
    print(max(round_of_threads() for _ in range(4)) <= 2 * {most})
    """
    tests = os.fspath(Path(__file__).parent)
    assert in_fresh_interpreter(code.format(tests=tests, most=MOST_IDLE)) == "True"


FEW_SLOTS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
from evalbox import *
def rest(executor):
    events = []
    while executor.active_count:
        events += executor.poll()
    return {e.id: e.output for e in events if isinstance(e, Completed | TimedOut)}
"""


def test_more_runs_than_descriptors_allow_wait_for_their_turn() -> None:
    code = """
    with Executor() as executor:
        runs = [executor.spawn(Plan(["sh", "-c", f"echo {i}; sleep 0.01"])) for i in range(60)]
        assert executor.active_count == 60
        outputs = rest(executor)
    print([outputs[run].text for run in runs] == [f"{i}\\n" for i in range(60)])
    """
    assert in_fresh_interpreter(FEW_SLOTS + textwrap.dedent(code)) == "True"


def test_waiting_runs_can_be_written_to_released_and_killed() -> None:
    code = """
    with Executor() as executor:
        first = [executor.spawn(Plan(["sleep", "1000"])) for _ in range(10)]
        cat = executor.spawn(Plan(["cat"], stdin=PIPE))
        held = executor.spawn(Plan(["echo", "held"], hold=True))
        doomed = executor.spawn(Plan(["true"]))
        executor.write_stdin(cat, b"hi")
        executor.close_stdin(cat)
        executor.release(held)
        executor.kill(doomed)
        assert executor.active_count == 13
        for run in first:
            executor.kill(run)
        outputs = rest(executor)
        killed = {outputs[run].status for run in (*first, doomed)}
        print(outputs[cat].text, outputs[held].text, *killed, sep=",")
    """
    assert in_fresh_interpreter(FEW_SLOTS + textwrap.dedent(code)) == "hi,held\n,killed"


def test_different_policies_take_turns_too() -> None:
    code = """
    with Executor() as executor:
        policies = [Policy(), Policy(network=Network.host()), Policy(on_denied="kill")]
        runs = [executor.spawn(Plan(["echo", "hi"], policy=policies[i % 3])) for i in range(60)]
        print({output.text for output in rest(executor).values()}, len(runs))
    """
    assert in_fresh_interpreter(FEW_SLOTS + textwrap.dedent(code)) == "{'hi\\n'} 60"


# ---- errors


def test_a_path_that_is_missing_is_a_plan_error_of_run_and_spawn(
    executor: Executor, folder: Path
) -> None:
    for fields in ({"read": [folder / "gone"]}, {"write": [folder / "gone"]}):
        plan = Plan(["true"], policy=Policy(**fields))  # type: ignore[arg-type]
        for start in (executor.run, executor.spawn, Executor.run):
            with pytest.raises(PlanError, match="gone"):
                start(plan)
    assert executor.active_count == 0


def test_a_tier_that_is_not_there_is_unsupported(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(["true"], policy=Policy(isolation="namespace"))
    lacking = replace(host(), namespaces=Namespaces("forbidden here", "sysctl"))
    monkeypatch.setattr(kit, "host", lambda: lacking)
    for start in (executor.run, executor.spawn, Executor.run):
        with pytest.raises(UnsupportedError, match="forbidden here"):
            start(plan)
    assert executor.run(Plan(["echo", "hi"], policy=Policy(isolation="process"))).text == "hi\n"


def test_a_missing_program_is_command_not_found(executor: Executor) -> None:
    for cmd in (["no-such-program"], ["./no-such-file"], ["/no/such/file"]):
        with pytest.raises(CommandNotFound):
            executor.spawn(Plan(cmd))
        with pytest.raises(FileNotFoundError):
            executor.run(Plan(cmd))


def test_setup_errors_of_several_runs_come_one_by_one(executor: Executor) -> None:
    broken = {executor.spawn(BROKEN) for _ in range(3)}
    good = executor.spawn(Plan(["echo", "hi"]))
    errors, events = [], []
    while executor.active_count:
        try:
            events += executor.poll()
        except SetupError as error:
            errors.append((error.stage, error.errno, error.id))
    assert set(errors) == {("execve", 8, number) for number in broken}
    assert len(errors) == 3
    assert ends(events)[good].text == "hi\n"


def test_the_same_plan_again_sees_that_its_program_was_replaced_or_removed(
    executor: Executor, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    plan = Plan([program])
    for word in ("one", "two"):
        fresh = tmp_path / "fresh"
        fresh.write_text(f"#!/bin/sh\necho {word}\n")
        fresh.chmod(0o755)
        fresh.replace(program)
        assert [executor.run(plan).text for _ in range(2)] == [f"{word}\n"] * 2
    program.unlink()
    with pytest.raises(CommandNotFound):
        executor.run(plan)


def test_only_a_plan_can_be_run(executor: Executor) -> None:
    for start in (executor.run, executor.spawn, Executor.run):
        with pytest.raises(PlanError, match="list"):
            start(["true"])  # type: ignore[arg-type]


def test_fields_and_their_whole_together_are_a_plan_error() -> None:
    with pytest.raises(PlanError, match="policy"):
        evalbox.run(["true"], policy=Policy(), read=["/usr"])
    with pytest.raises(PlanError, match="limits"):
        evalbox.run(["true"], limits=Limits(), timeout=1)


def test_a_timeout_that_is_no_number_is_a_plan_error(executor: Executor) -> None:
    executor.spawn(Plan(["true"], hold=True))
    with pytest.raises(PlanError, match="nan"):
        executor.poll(float("nan"))


def test_a_closed_executor_says_so() -> None:
    executor = Executor()
    executor.close()
    executor.close()
    with pytest.raises(ValueError, match="closed"):
        executor.spawn(Plan(["true"]))
    with pytest.raises(ValueError, match="closed"):
        executor.poll()


def test_an_executor_that_nobody_closed_warns_and_ends_its_runs() -> None:
    number = mark()
    executor = Executor()
    executor.spawn(Plan(["sleep", number]))
    poll_for(executor, Started)
    finish = weakref.finalize(executor, int)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del executor
    assert not finish.alive
    assert marked(number) == []


def test_an_interrupted_poll_can_be_called_again(executor: Executor) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError("from a handler")

    run = executor.spawn(WAITS)
    poll_for(executor, Started)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(InterruptedError):
            executor.poll()
    finally:
        signal.signal(signal.SIGALRM, before)
    executor.close_stdin(run)
    assert ends(rest(executor))[run].ok


# ---- helpers that die


def inits() -> list[int]:
    return [pid for launcher in children(os.getpid()) for pid in children(launcher)]


def test_a_dead_init_ends_its_run_only(executor: Executor) -> None:
    others = set(inits())
    number = mark()
    first = executor.spawn(shell(f"setsid sleep {number} & wait"))
    until(lambda: marked(f"sleep\0{number}"), "the first run is under way")
    (init,) = set(inits()) - others
    second = executor.spawn(WAITS)
    os.kill(init, signal.SIGKILL)
    assert [*ends(poll_for(executor, Completed))] == [first]
    until(lambda: not marked(number), "the launcher ends what init left")
    executor.close_stdin(second)
    assert ends(rest(executor))[second].ok


def test_a_dead_launcher_ends_its_runs_and_the_next_get_a_new_one(executor: Executor) -> None:
    others = set(children(os.getpid()))
    number = mark()
    run = executor.spawn(shell(f"setsid sleep {number} & wait"))
    until(lambda: marked(f"sleep\0{number}"), "the run is under way")
    (launcher,) = set(children(os.getpid())) - others
    os.kill(launcher, signal.SIGKILL)
    assert ends(rest(executor))[run].status is Status.KILLED
    assert marked(number) == []
    assert executor.run(Plan(["echo", "hi"])).check().text == "hi\n"


def test_a_run_ends_though_init_and_launcher_both_die(executor: Executor) -> None:
    others = set(children(os.getpid()))
    run = executor.spawn(Plan(["sleep", "1000"]))
    poll_for(executor, Started)
    (launcher,) = set(children(os.getpid())) - others
    (init,) = children(launcher)
    # Stopped, so that it cannot tell of the init.
    os.kill(launcher, signal.SIGSTOP)
    os.kill(init, signal.SIGKILL)
    select.select([executor], [], [])
    assert executor.poll(0) == []
    os.kill(launcher, signal.SIGKILL)
    assert ends(rest(executor))[run].status is Status.KILLED
    assert executor.run(Plan(["echo", "hi"])).check().text == "hi\n"


# ---- nothing is left

HOST = """
import os, signal, sys, time
from evalbox import *
from leaks import roots_of
number = sys.argv[1]
executor = Executor()
script = f"echo up; setsid sleep {number} & sleep {number} >/dev/null"
executor.spawn(Plan(["sh", "-c", script], stream=True))
while not any(isinstance(event, Stdout) for event in executor.poll()):
    pass
print(*roots_of(executor), flush=True)
sys.stdin.readline()
"""


class Host:
    """A host process with one run, which waits for a line before it goes on with `end`.

    Attributes:
        roots: directory of its launcher; in namespaces there is none.
        helpers: launcher and init, with the time when each was born.
    """

    def __init__(self, end: str) -> None:
        self.number = mark()
        self.process = subprocess.Popen(
            [sys.executable, "-c", tiers.prelude() + HOST + textwrap.dedent(end), self.number],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.roots = [*map(Path, self.process.stdout.readline().split())]
        assert len(self.roots) == (1 if tiers.current() == "process" else 0)
        assert [root for root in self.roots if not root.is_dir()] == []
        until(lambda: len(marked(f"sleep\0{self.number}")) == 2, "both of its programs sleep")
        (self.launcher,) = children(self.process.pid)
        self.helpers = born([self.launcher, *children(self.launcher)])
        assert len(self.helpers) == 2

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait(self) -> int:
        with self.process:
            return self.process.wait()

    def leaves_nothing(self) -> None:
        until(lambda: not marked(f"sleep\0{self.number}"), "no process of the run is left")
        until(lambda: not alive(self.helpers), "neither launcher nor init is left")
        assert [root for root in self.roots if root.exists()] == []


HOST_ENDS = {
    "close": ("executor.close()", 0),
    "with block": ("with executor:\n    pass", 0),
    "exception": ("with executor:\n    raise ValueError", 1),
    "end of the interpreter": ("", 0),
    "uncaught exception": ("raise ValueError", 1),
    "sys.exit in the block": ("with executor:\n    sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "abort": ("os.abort()", -signal.SIGABRT),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "exec": ("os.execvp('true', ['true'])", 0),
}


@pytest.mark.parametrize(("end", "code"), HOST_ENDS.values(), ids=HOST_ENDS)
def test_the_end_of_a_host_leaves_no_process_and_no_directory(end: str, code: int) -> None:
    host = Host(end)
    host.go_on()
    assert host.wait() == code
    host.leaves_nothing()


def test_nothing_is_left_when_the_block_is_left() -> None:
    number = mark()
    before, others = open_descriptors(), helpers()
    with Executor() as executor:
        executor.spawn(shell(f"echo up; setsid sleep {number} & sleep {number}", stream=True))
        poll_for(executor, Stdout)
        roots = roots_of(executor)
        assert [root for root in roots if not root.is_dir()] == []
        assert marked(number)
        assert len(helpers()) == len(others) + 2
    assert marked(number) == []
    assert helpers() == others
    assert [root for root in roots if root.exists()] == []
    assert open_descriptors() == before


def test_leaving_the_block_ends_held_queued_and_unread_runs(folder: Path) -> None:
    number = mark()
    with Executor() as executor:
        for _ in range(3):
            executor.spawn(Plan(["sleep", number], hold=True))
            executor.spawn(shell(f"seq 1000000; sleep {number}", stream=True))
            executor.spawn(shell(f"seq 1000000; echo >{folder}/end", policy=Policy(write=[folder])))
        until(lambda: marked(f"sleep\0{number}"), "one that nobody reads goes on all the same")
        assert executor.active_count == 9
    assert marked(number) == []


def test_ctrl_c_kills_the_tree_before_the_caller_goes_on() -> None:
    number = mark()
    code = """
    import evalbox, sys
    try:
        evalbox.run(["sh", "-c", f"setsid sleep {sys.argv[1]} & sleep {sys.argv[1]}"])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.stdin.readline()
    """
    command = [sys.executable, "-c", tiers.prelude() + textwrap.dedent(code), number]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as host:
        assert host.stdout is not None
        until(lambda: len(marked(f"sleep\0{number}")) == 2, "both sleep")
        host.send_signal(signal.SIGINT)
        assert host.stdout.readline() == "interrupted\n"
        assert marked(f"sleep\0{number}") == []
        host.communicate("\n")


def test_a_killed_host_leaves_nothing_though_its_forked_child_lives_on() -> None:
    host = Host(
        """
        if os.fork() == 0:
            time.sleep(float(sys.argv[1]))
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    host.go_on()
    assert host.process.wait() == -signal.SIGKILL
    host.leaves_nothing()
    (child,) = marked(host.number)
    os.kill(child, signal.SIGKILL)
    host.wait()


def test_what_host_and_launcher_left_together_is_removed_at_the_next_start() -> None:
    host = Host("")
    for pid in (host.process.pid, host.launcher):
        os.kill(pid, signal.SIGSTOP)
    for pid in (host.process.pid, host.launcher):
        os.kill(pid, signal.SIGKILL)
    host.wait()
    until(lambda: not marked(host.number), "no process is left")
    until(lambda: not alive(host.helpers), "neither launcher nor init is left")
    in_fresh_interpreter("import evalbox; evalbox.run(['true']).check()")
    assert [root for root in host.roots if root.exists()] == []


# ---- hosts that do not look

STOPPED = {
    "wall time": ("sleep {0}", "wall_time=0.3"),
    "CPU time": ("sh -c 'while :; do :; done' {0}", "cpu_time=0.2"),
    "output": ("sh -c 'yes & sleep {0}'", "output=MiB"),
    "disk": ("sh -c 'head -c 3000000 /dev/zero >x; sleep {0}'", "disk=MiB"),
    "memory": ("python3 -c 'x = b\"x\" * (200 << 20); input()' {0} <>/dev/full", "memory=64 * MiB"),
}


@pytest.mark.parametrize(("script", "limit"), STOPPED.values(), ids=STOPPED)
def test_limits_hold_while_the_host_is_stopped(script: str, limit: str) -> None:
    number = mark()
    code = f"""
    import os, sys
    from evalbox import *
    executor = Executor()
    plan = Plan(["sh", "-c", sys.argv[1]], hold=True, stream=True, limits=Limits({limit}))
    held = executor.spawn(plan)
    print("ready", flush=True)
    os.read(0, 1)
    executor.release(held)
    print("released", flush=True)
    os.read(0, 1)
    with executor:
        while executor.active_count:
            events = executor.poll()
    print(type(events[-1]).__name__, events[-1].output.status)
    """
    code = tiers.prelude() + textwrap.dedent(code)
    command = [sys.executable, "-c", code, f"exec {script.format(number)}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0) as host:
        assert host.stdin is not None
        assert host.stdout is not None
        assert host.stdout.readline() == b"ready\n"
        host.stdin.write(b"x")
        assert host.stdout.readline() == b"released\n"
        host.send_signal(signal.SIGSTOP)
        # The host itself has the number on its command line too.
        until(lambda: marked(number) == [host.pid], "the run ends without its host")
        host.send_signal(signal.SIGCONT)
        said, _ = host.communicate(b"x")
    kind = "TimedOut" if limit.startswith("wall") else "Completed"
    status = {"memory": "memory_limit", "output": "output_limit", "disk": "disk_limit"}
    name = limit.partition("=")[0]
    assert said.decode() == f"{kind} {status.get(name, name)}\n"


# ---- forks of the host


def test_a_forked_child_has_its_own_executor_and_leaves_its_parents_alone() -> None:
    code = """
    import os, sys
    import evalbox
    from evalbox import *
    evalbox.run(["true"]).check()
    with Executor() as executor:
        run = executor.spawn(Plan(["cat"], stdin=PIPE))
        child = os.fork()
        if child == 0:
            assert evalbox.run(["echo", "child"]).check().text == "child\\n"
            try:
                executor.poll(0)
            except ValueError:
                pass
            else:
                os._exit(9)
            with Executor() as own:
                own.run(Plan(["true"])).check()
            executor.close()
            sys.exit(7)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        executor.write_stdin(run, b"hi")
        executor.close_stdin(run)
        while executor.active_count:
            events = executor.poll()
        print(code, events[-1].output.text, evalbox.run(["echo", "parent"]).text)
    """
    assert in_fresh_interpreter(code) == "7 hi parent"


def test_forked_workers_of_multiprocessing_run_on_their_own() -> None:
    code = """
    import multiprocessing
    import evalbox
    def work(number):
        return evalbox.run(["echo", str(number)]).check().text
    evalbox.run(["true"])
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(pool.map(work, range(6)) == [f"{i}\\n" for i in range(6)])
        pool.close()
        pool.join()
    """
    assert in_fresh_interpreter(code) == "True"


# ---- other systems

ELSEWHERE = """
import os, sys
sys.platform = {platform!r}
for name in ("evalbox._core", "pwd", "grp", "fcntl", "resource", "termios", "select"):
    sys.modules[name] = None
for name in {missing!r}:
    delattr(os, name)
import evalbox
plan = evalbox.Plan(["true"], limits=evalbox.Limits(memory=None))
assert evalbox.Plan.from_dict(plan.to_dict()) == plan
uses = (
    lambda: evalbox.run(["true"]),
    lambda: evalbox.Executor.run(plan),
    evalbox.Executor,
    evalbox.host,
)
for use in uses:
    try:
        use()
    except evalbox.UnsupportedError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("platform", "missing"),
    [
        ("darwin", ("pidfd_open", "eventfd")),
        ("win32", ("pidfd_open", "eventfd", "register_at_fork", "geteuid", "getuid", "fork")),
    ],
)
def test_elsewhere_importing_works_and_using_is_unsupported(
    platform: str, missing: tuple[str, ...]
) -> None:
    said = in_fresh_interpreter(ELSEWHERE.format(platform=platform, missing=missing))
    assert len(said.splitlines()) == 4
    assert "Linux" in said


# ---- descriptors run out


def test_a_host_without_descriptors_gets_a_setup_error_and_can_go_on() -> None:
    code = """
    import os, resource
    import evalbox
    from evalbox import *
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    with Executor() as executor:
        taken = []
        evalbox.run(["true"]).check()
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        echo = Plan(["echo"])
        for start in (lambda: evalbox.run(["echo"]), lambda: executor.run(echo), Executor):
            try:
                start()
            except SetupError as error:
                print(error.errno)
        for fd in taken:
            os.close(fd)
        print(executor.run(Plan(["echo", "hi"])).check().text)
    """
    assert in_fresh_interpreter(code).split() == ["24", "24", "24", "hi"]


def test_wherever_descriptors_run_out_the_executor_can_go_on() -> None:
    code = """
    import os, resource
    from evalbox import *
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    Executor.run(Plan(["true"]))
    for room in range(0, 60, 2):
        with Executor() as executor:
            taken = []
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                pass
            for _ in range(min(room, len(taken))):
                os.close(taken.pop())
            try:
                executor.run(Plan(["echo"]))
            except SetupError:
                pass
            for fd in taken:
                os.close(fd)
            executor.run(Plan(["echo"])).check()
    print("done")
    """
    assert in_fresh_interpreter(code) == "done"


def test_the_peak_of_a_run_is_not_that_of_the_one_before(executor: Executor) -> None:
    small = Plan(["true"])
    before = executor.run(small).usage.peak_memory
    executor.run(Plan(["cat"], stdin=bytes(50 << 20), limits=Limits(output=None))).check()
    assert executor.run(small).usage.peak_memory < 2 * before + MiB


def test_network_and_files_of_one_policy_do_not_reach_the_next(executor: Executor) -> None:
    code = "import socket; socket.socket(socket.AF_INET)"
    free = Plan(["python3", "-c", code], policy=Policy(network=Network.host()))
    closed = Plan(["python3", "-c", code])
    assert [executor.run(plan).ok for plan in (free, closed, free, closed)] == [True, False] * 2
