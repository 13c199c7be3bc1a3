"""Fifteen faults that sandboxes of this kind have had, each looked for here.

 1 input written whole before output is read     2 no deadline once outputs are closed
 3 only the direct child is killed               4 output lost or cut wrongly at the cap
 5 descriptors and directories leak              6 a failed start that stalls or is mistaken
 7 the cause of the end guessed afterwards       8 work between fork and exec
 9 file paths taken as they come                10 options that do nothing
11 ways to a network left open                  12 other processes and files in reach
13 an interpreter that opens too much           14 ordinary programs that break
15 tests that cannot fail

The number in a test's name is that of the fault. A denial is always tested
beside something alike that is allowed.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import evalbox
import tiers
from evalbox import (
    ALL,
    PIPE,
    CommandNotFound,
    Completed,
    Event,
    Executor,
    File,
    KiB,
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
    Syscalls,
    TimedOut,
    UnsupportedError,
)
from evalbox._launch import Slot
from evalbox._launch.launcher import close_all
from evalbox.policy import SYSCALL_NAMES
from leaks import launchers_of, roots_of
from proc import (
    cpu_seconds,
    helpers,
    mark,
    marked,
    open_descriptors,
    until,
    zombies,
)

pytestmark = pytest.mark.usefixtures("tier")

ROOT = Path(__file__).resolve().parent.parent
# What a program is told of what it was not granted: to read, to create in, to change.
ABSENT = {"process": "Permission denied", "namespace": "No such file"}
CLOSED = {"process": "Permission denied", "namespace": "Directory nonexistent"}
READ_ONLY = {"process": "Permission denied", "namespace": "Read-only file system"}
MUCH = bytes(range(256)) * 4096  # 1 MiB, more than any pipe holds
ATTEMPT = """
import errno, json, os, sys
def attempt(action, *args):
    try:
        action(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
"""


def inside(code: str, **fields: Any) -> Any:
    """What a snippet of Python prints as JSON in the sandbox."""
    code = ATTEMPT + textwrap.dedent(code)
    return json.loads(evalbox.run(["python3", "-c", code], **fields).check().stdout)


def outside(code: str) -> Any:
    """The same without a sandbox."""
    code = ATTEMPT + textwrap.dedent(code)
    return json.loads(subprocess.check_output([sys.executable, "-c", code]))


def shell(script: str, **fields: Any) -> Output:
    return evalbox.run(["sh", "-c", script], **fields)


def events_to_end(executor: Executor) -> list[Event]:
    events: list[Event] = []
    while executor.active_count:
        events += executor.poll()
    return events


def poll_for(executor: Executor, kind: type[Event]) -> Any:
    """Polls until an event of a kind comes; returns it."""
    while True:
        found = [event for event in executor.poll() if isinstance(event, kind)]
        if found:
            return found[0]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that every uid reaches, unlike tmp_path."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


# ---- 1: input and output at the same time


@pytest.mark.core
def test_defect_01_a_program_may_answer_while_it_is_still_being_fed() -> None:
    output = evalbox.run(["cat"], stdin=MUCH)
    assert (output.status, output.stdout) == (Status.EXITED, MUCH)


@pytest.mark.core
def test_defect_01_a_program_that_never_reads_its_input_ends_at_its_deadline() -> None:
    assert evalbox.run(["sleep", "1000"], stdin=MUCH, timeout=0.2).status is Status.WALL_TIME


def test_defect_01_a_program_that_never_reads_its_input_may_end() -> None:
    assert evalbox.run(["echo", "done"], stdin=MUCH).check().text == "done\n"


def test_defect_01_a_program_that_closes_its_input_goes_on() -> None:
    output = shell("head -c 1 >&2; exec 0<&-; yes | head -n 20000; echo done", stdin=MUCH)
    assert output.check().stdout.endswith(b"y\ndone\n")


def test_defect_01_write_stdin_does_not_wait_for_a_program_that_never_reads() -> None:
    with Executor() as executor:
        run = executor.spawn(Plan(["sleep", "1000"], stdin=PIPE, limits=Limits(wall_time=0.2)))
        executor.write_stdin(run, MUCH)
        assert isinstance(events_to_end(executor)[-1], TimedOut)


def test_defect_01_what_write_stdin_queues_comes_back_whole() -> None:
    with Executor() as executor:
        run = executor.spawn(Plan(["cat"], stdin=PIPE))
        executor.write_stdin(run, MUCH)
        executor.write_stdin(run, b"more")
        executor.close_stdin(run)
        end = events_to_end(executor)[-1]
    assert isinstance(end, Completed)
    assert end.output.stdout == MUCH + b"more"


# ---- 2: closed outputs

CLOSERS = {"both": "exec 1>&- 2>&-", "stdout": "exec 1>&-", "stderr": "exec 2>&-"}


@pytest.mark.parametrize("closer", CLOSERS.values(), ids=CLOSERS)
def test_defect_02_closed_outputs_keep_the_deadline_and_nobody_spins(closer: str) -> None:
    with Executor() as executor:
        executor.run(Plan(["true"]))
        those = helpers()
        before = cpu_seconds([os.getpid(), *those])
        output = executor.run(
            Plan(["sh", "-c", f"{closer}; sleep 1000"], limits=Limits(wall_time=0.5))
        )
        used = cpu_seconds([os.getpid(), *those]) - before
    assert len(those) >= 2
    assert output.status is Status.WALL_TIME
    # One that spins uses all of the time, or both do.
    assert used < 0.5 * output.usage.wall_time


@pytest.mark.parametrize("closer", CLOSERS.values(), ids=CLOSERS)
def test_defect_02_closed_outputs_are_not_the_end_of_a_program(closer: str) -> None:
    output = shell(f"{closer}; (exit 3)", timeout=20)
    assert (output.status, output.exit_code) == (Status.EXITED, 3)


# ---- 3: the whole tree

ESCAPES = {
    "background": "sleep {0} & echo hi",
    "without outputs": "sleep {0} >/dev/null 2>&1 & echo hi",
    "session of its own": "setsid sleep {0} & echo hi",
    "orphan": "(setsid sh -c 'setsid sleep {0} & setsid sleep {0} &' &); echo hi",
    "deaf": "(trap '' TERM HUP INT; sleep {0}) & echo hi",
    "stopped": "sleep {0} & kill -STOP $!; echo hi",
}


@pytest.mark.core
@pytest.mark.parametrize("script", ESCAPES.values(), ids=ESCAPES)
def test_defect_03_nothing_survives_the_end_of_the_program(script: str) -> None:
    number = mark()
    output = shell(script.format(number))
    assert (output.status, output.text) == (Status.EXITED, "hi\n")
    assert marked(number) == []


@pytest.mark.parametrize("script", ESCAPES.values(), ids=ESCAPES)
def test_defect_03_nothing_survives_the_deadline(script: str) -> None:
    number = mark()
    output = shell(f"{script.format(number)}; wait; sleep 1000", timeout=0.2)
    assert output.status is Status.WALL_TIME
    assert marked(number) == []


def test_defect_03_what_is_killed_at_the_end_lives_before_it() -> None:
    number = mark()
    with Executor() as executor:
        script = f"setsid sleep {number} & echo hi; read line"
        run = executor.spawn(Plan(["sh", "-c", script], stdin=PIPE, stream=True))
        poll_for(executor, Stdout)
        until(lambda: marked(f"sleep\0{number}"), "the background process is found")
        executor.close_stdin(run)
        events_to_end(executor)
        assert marked(number) == []


def test_defect_03_a_fork_bomb_ends() -> None:
    number = mark()
    bomb = "f() { f & f; }; f"
    output = evalbox.run(["sh", "-c", bomb, number], timeout=0.5, processes=50)
    assert output.status in (Status.EXITED, Status.WALL_TIME)
    assert marked(number) == []
    assert shell("echo next").check().text == "next\n"


# ---- 4: the output cap

FLOODS = {"stdout": "seq 10000000", "stderr": "seq 10000000 >&2"}
NUMBERS_FROM_ONE = b"".join(b"%d\n" % number for number in range(1, 40_000))


@pytest.mark.core
@pytest.mark.parametrize("cap", [0, 1, 28_672, 65_536, 123_457])
@pytest.mark.parametrize("stream", FLOODS)
def test_defect_04_the_cap_of_one_stream_is_exact_and_leaves_no_hole(stream: str, cap: int) -> None:
    output = shell(FLOODS[stream], output=cap)
    kept = {"stdout": output.stdout, "stderr": output.stderr}
    assert (output.status, output.truncated) == (Status.OUTPUT_LIMIT, True)
    assert kept.pop(stream) == NUMBERS_FROM_ONE[:cap]
    assert set(kept.values()) == {b""}


def test_defect_04_the_cap_counts_both_streams_together() -> None:
    output = shell("seq 10000000 & seq 10000000 >&2", output=123_457)
    assert output.status is Status.OUTPUT_LIMIT
    assert len(output.stdout) + len(output.stderr) == 123_457
    for kept in (output.stdout, output.stderr):
        assert kept == NUMBERS_FROM_ONE[: len(kept)]


@pytest.mark.parametrize(
    ("sizes", "status", "kept"),
    [
        ((100, 0), Status.EXITED, 100),
        ((0, 100), Status.EXITED, 100),
        ((60, 40), Status.EXITED, 100),
        ((101, 0), Status.OUTPUT_LIMIT, 100),
        ((0, 101), Status.OUTPUT_LIMIT, 100),
        ((60, 41), Status.OUTPUT_LIMIT, 100),
    ],
)
def test_defect_04_one_byte_more_than_the_cap_is_too_much(
    sizes: tuple[int, int], status: Status, kept: int
) -> None:
    script = "head -c {} /dev/zero; head -c {} /dev/zero >&2".format(*sizes)
    output = shell(script, output=100)
    assert output.status is status
    assert len(output.stdout) + len(output.stderr) == kept
    assert output.truncated is (status is Status.OUTPUT_LIMIT)


def test_defect_04_events_hold_what_the_output_holds() -> None:
    with Executor() as executor:
        script = "seq 10000000 & seq 10000000 >&2"
        executor.spawn(Plan(["sh", "-c", script], stream=True, limits=Limits(output=200_000)))
        events = events_to_end(executor)
    end = events[-1]
    assert isinstance(end, Completed)
    assert end.output.status is Status.OUTPUT_LIMIT
    streamed = [
        b"".join(e.data for e in events if isinstance(e, kind)) for kind in (Stdout, Stderr)
    ]
    assert streamed == [end.output.stdout, end.output.stderr]
    assert sum(map(len, streamed)) == 200_000


@pytest.mark.parametrize("size", [28_672, 28_673, 65_536, 1_000_000])
def test_defect_04_the_end_of_a_long_output_is_seen(size: int) -> None:
    output = shell(f"head -c {size} /dev/zero; printf end; head -c {size} /dev/zero >&2")
    assert output.check().stdout == bytes(size) + b"end"
    assert output.stderr == bytes(size)


def test_defect_04_output_comes_after_its_start_however_short_the_run() -> None:
    with Executor() as executor:
        for _ in range(200):
            executor.spawn(Plan(["echo", "hi"], stream=True))
            events = events_to_end(executor)
            assert [type(event) for event in events] == [Started, Stdout, Completed]


# ---- 5: leaks


def things_of_this_process() -> list[str]:
    return sorted(open_descriptors().values())


def test_defect_05_fifty_runs_at_once_leave_no_descriptor_and_no_directory() -> None:
    before = things_of_this_process()
    with Executor() as executor:
        litter = "touch $HOME/x x; mkdir y"
        runs = [executor.spawn(Plan(["sh", "-c", litter], hold=True)) for _ in range(50)]
        for run in runs:
            executor.release(run)
        ends = [event for event in events_to_end(executor) if isinstance(event, Completed)]
        assert [end.output.status for end in ends] == [Status.EXITED] * 50
        (launcher,) = launchers_of(executor)
        assert len(launcher.slots) == 50
        assert {name for slot in launcher.slots.values() for name in found_in(slot)} == set()
        after_first_round = things_of_this_process()
        for _ in range(50):
            executor.spawn(Plan(["sh", "-c", "read line"], stdin=PIPE, hold=True))
        for run in runs:
            executor.release(SandboxId(run + 50))
            executor.close_stdin(SandboxId(run + 50))
        events_to_end(executor)
        assert things_of_this_process() == after_first_round
        roots = roots_of(executor)
        assert [root for root in roots if not root.exists()] == []
    assert things_of_this_process() == before
    assert [root for root in roots if root.exists()] == []


def found_in(slot: Slot) -> list[str]:
    """What is in the directories of a workspace."""
    places = slot.places()
    try:
        return [name for fd in places for name in os.listdir(fd)]
    finally:
        close_all(places)


def failing_plans(folder: Path) -> list[tuple[Plan, type[Exception]]]:
    garbage = {"x": File(b"\x7fELF and no more", executable=True)}
    lacking = Policy(isolation="process", require=["proc_view"])
    return [
        (Plan(["no-such-program-anywhere"]), CommandNotFound),
        (Plan(["true"], policy=Policy(read=[folder / "missing"])), PlanError),
        (Plan(["true"], policy=lacking), UnsupportedError),
        (Plan(["./x"], files=garbage, hold=True, stdin=PIPE), SetupError),
        (Plan(["./x"], files=garbage), SetupError),
    ]


def test_defect_05_failed_starts_leave_no_descriptor_and_close_none_twice(folder: Path) -> None:
    # Each of these gets the number that a failed start has just given back.
    others: list[int] = []
    counts = []
    with Executor() as executor:
        executor.run(Plan(["true"]))
        for _ in range(4):
            for plan, error in failing_plans(folder):
                with pytest.raises(error):
                    start_and_release(executor, plan)
                others.append(os.open("/dev/full", os.O_RDONLY))
            assert executor.run(Plan(["echo", "hi"])).check().text == "hi\n"
            counts.append(len(things_of_this_process()) - len(others))
    for fd in others:
        os.close(fd)
    # The first round made what is kept for the next.
    assert len(set(counts[1:])) == 1


def start_and_release(executor: Executor, plan: Plan) -> None:
    executor.release(executor.spawn(plan))
    events_to_end(executor)


@pytest.mark.parametrize("place", ["..", "../..", ". $HOME/.. $HOME/../.."])
@pytest.mark.parametrize("collect", [(), ("*",)], ids=["cleared by init", "cleared by the host"])
def test_defect_05_a_run_cannot_shut_the_next_one_out(place: str, collect: tuple[str, ...]) -> None:
    first = Plan(["sh", "-c", f"chmod 0 $HOME/{place}; true"], collect=collect)
    second = Plan(["cat", "a"], files={"a": "hi"}, collect=["a"])
    with Executor() as executor:
        for plan in (first, second, first, second):
            executor.run(plan).check()


LITTER = "mkdir -p a/b; ln -s / c; mkfifo d; touch $HOME/e $TMPDIR/f; chmod 0 a . $HOME $TMPDIR"


@pytest.mark.parametrize("collect", [(), ("*",)], ids=["cleared by init", "cleared by the host"])
def test_defect_05_a_run_finds_nothing_of_the_one_before(collect: tuple[str, ...]) -> None:
    look = "find . $HOME $TMPDIR | wc -l; stat -c %a . $HOME $TMPDIR; echo $PWD"
    with Executor() as executor:
        plan = Plan(["sh", "-c", f"{look}; {LITTER}"], collect=collect)
        first, second = executor.run(plan).check(), executor.run(plan).check()
    # Both ran in the same place: the second had something to find.
    assert second.text == first.text
    assert first.text.startswith("3\n700\n700\n700\n")


def test_defect_05_files_are_collected_from_a_directory_that_its_owner_closed() -> None:
    output = shell("echo hi >a; chmod 0 a .", collect=["*"]).check()
    assert dict(output.files) == {"a": b"hi\n"}


# ---- 6: a start that fails


def test_defect_06_a_failed_start_has_stage_and_errno_and_leaves_no_zombie() -> None:
    with Executor() as executor:
        executor.run(Plan(["true"]))
        with pytest.raises(SetupError) as caught:
            executor.run(Plan(["./x"], files={"x": File(b"\x7fELF", executable=True)}))
        assert (caught.value.stage, caught.value.errno) == ("execve", 8)
        assert "./x" in str(caught.value)
        assert zombies([os.getpid(), *helpers()]) == []
        assert executor.run(Plan(["sh", "-c", "echo next >&2"])).check().stderr == b"next\n"


def test_defect_06_a_failed_start_is_told_while_others_run() -> None:
    with Executor() as executor:
        other = executor.spawn(Plan(["sleep", "1000"]))
        executor.spawn(Plan(["./x"], files={"x": File(b"\x7fELF", executable=True)}))
        with pytest.raises(SetupError, match="Exec format"):
            events_to_end(executor)
        assert executor.active_count == 1
        executor.kill(other)
        end = events_to_end(executor)[-1]
    assert isinstance(end, Completed)
    assert end.output.status is Status.KILLED


@pytest.mark.parametrize("code", [1, 125, 126, 127, 128, 137, 255])
def test_defect_06_every_exit_code_is_the_programs_own(code: int) -> None:
    output = shell(f"exit {code}")
    assert (output.status, output.exit_code, output.signal) == (Status.EXITED, code, None)


def test_defect_06_a_missing_program_is_found_before_any_process_exists() -> None:
    before = helpers()
    with Executor() as executor:
        with pytest.raises(CommandNotFound, match="no-such-program"):
            executor.spawn(Plan(["no-such-program"]))
        assert helpers() == before
    output = shell("no-such-program")
    assert (output.status, output.exit_code) == (Status.EXITED, 127)


# ---- 7: why it ended

SPIN = ["sh", "-c", "while :; do :; done"]
PTRACE = "import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0); print('alive')"
ENDS = {
    Status.EXITED: Plan(["sh", "-c", "exit 3"]),
    Status.SIGNALED: Plan(["sh", "-c", "kill -SEGV $$"]),
    Status.WALL_TIME: Plan(["sleep", "1000"], limits=Limits(wall_time=0.2)),
    Status.CPU_TIME: Plan(SPIN, limits=Limits(cpu_time=0.2)),
    Status.MEMORY_LIMIT: Plan(
        ["python3", "-c", "b = b'x' * (200 << 20); input()"],
        stdin=PIPE,
        limits=Limits(memory=64 * MiB),
    ),
    Status.OUTPUT_LIMIT: Plan(["yes"], limits=Limits(output=1000)),
    Status.DISK_LIMIT: Plan(
        ["sh", "-c", "while :; do head -c 100000 /dev/zero >>x; done"], limits=Limits(disk=MiB)
    ),
    Status.DENIED: Plan(["python3", "-c", PTRACE], policy=Policy(on_denied="kill")),
    Status.KILLED: Plan(["sleep", "1000"], stdin=PIPE),
}


@pytest.mark.core
@pytest.mark.parametrize("status", list(Status), ids=lambda status: status.value)
def test_defect_07_every_cause_has_its_status(status: Status) -> None:
    with Executor() as executor:
        run = executor.spawn(ENDS[status])
        if status is Status.KILLED:
            poll_for(executor, Started)
            executor.kill(run)
        end = events_to_end(executor)[-1]
    assert isinstance(end, TimedOut if status is Status.WALL_TIME else Completed)
    output = end.output
    assert output.status is status
    assert output.exit_code == (3 if status is Status.EXITED else None)
    assert output.truncated is (status is Status.OUTPUT_LIMIT)
    expected = {Status.EXITED: None, Status.SIGNALED: signal.SIGSEGV}
    assert output.signal == expected.get(status, signal.SIGKILL)


def test_defect_07_a_run_that_ended_in_time_is_no_timeout_however_late_one_looks() -> None:
    with Executor() as executor:
        executor.spawn(Plan(["sh", "-c", "exit 5"], limits=Limits(wall_time=0.3)))
        # Something else, for longer than that deadline; nobody polls meanwhile.
        evalbox.run(["sleep", "0.6"])
        end = events_to_end(executor)[-1]
    assert isinstance(end, Completed)
    assert (end.output.status, end.output.exit_code) == (Status.EXITED, 5)


def test_defect_07_a_deadline_passes_while_nobody_looks() -> None:
    with Executor() as executor:
        executor.spawn(Plan(["sleep", "0.5"], limits=Limits(wall_time=0.1)))
        evalbox.run(["sleep", "1"])
        assert isinstance(events_to_end(executor)[-1], TimedOut)


@pytest.mark.parametrize("number", [signal.SIGSYS, signal.SIGKILL, signal.SIGXCPU, signal.SIGTERM])
@pytest.mark.parametrize("on_denied", ["errno", "kill"])
def test_defect_07_a_signal_that_a_program_sends_itself_is_only_that(
    number: signal.Signals, on_denied: Any
) -> None:
    output = shell(f"kill -{int(number)} $$", on_denied=on_denied)
    assert (output.status, output.signal, output.returncode) == (Status.SIGNALED, number, -number)


def test_defect_07_a_program_killed_by_a_child_is_signaled_and_not_killed() -> None:
    output = shell("(kill -KILL $$); sleep 1000")
    assert (output.status, output.signal) == (Status.SIGNALED, signal.SIGKILL)


# ---- 8: fork and threads

FORBID_FORK = """
import sys
def hook(event, args):
    if event in ("os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"):
        raise RuntimeError(event)
sys.addaudithook(hook)
"""


def test_defect_08_the_host_process_never_forks() -> None:
    code = FORBID_FORK + "import evalbox; print(evalbox.run(['echo', 'hi']).text)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("hi\n\n", "")


def test_defect_08_a_fork_would_have_been_noticed() -> None:
    code = FORBID_FORK + "import os; os.fork()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "RuntimeError: os.fork" in done.stderr


def test_defect_08_the_compiled_part_knows_vfork_only() -> None:
    (library,) = (ROOT / "evalbox").glob("_core*.so")
    listing = subprocess.check_output(["nm", "-D", "--undefined-only", library], text=True)
    imported = {line.split()[-1].partition("@")[0] for line in listing.splitlines()}
    assert "vfork" in imported
    assert {"fork", "clone", "system", "popen", "posix_spawn"}.isdisjoint(imported)


# ---- 9: paths

OUTSIDE = ["../x", "a/../../x", "/tmp/x", "..", ".", "", "a/..", "a\0b", "a/"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_defect_09_a_file_outside_the_workspace_is_refused(path: str) -> None:
    with pytest.raises(PlanError):
        Plan(["true"], files={path: b"content"})


@pytest.mark.parametrize("path", [path for path in OUTSIDE if path not in (".", "a/")])
def test_defect_09_a_working_directory_outside_the_workspace_is_refused(path: str) -> None:
    with pytest.raises(PlanError):
        Plan(["true"], cwd=path)


def test_defect_09_files_and_working_directory_inside_are_made() -> None:
    output = shell("pwd; cat ../c", files={"a/b/c": "deep", "..x": b"", "d": b""}, cwd="a/b/e")
    assert output.check().text.endswith("/a/b/e\ndeep")


def test_defect_09_a_link_of_the_run_before_leads_nowhere(folder: Path) -> None:
    folder.chmod(0o777)
    with Executor() as executor:
        executor.run(Plan(["ln", "-s", folder, "link"])).check()
        output = executor.run(Plan(["cat", "link/file"], files={"link/file": "own"})).check()
    assert output.text == "own"
    assert list(folder.iterdir()) == []


# ---- 10: every option does something


def test_defect_10_write_lets_a_program_change_a_directory(folder: Path) -> None:
    folder.chmod(0o777)
    script = f"echo hi >{folder}/new && mkdir {folder}/d && rmdir {folder}/d"
    assert CLOSED[tiers.current()] in shell(script).stderr.decode()
    assert READ_ONLY[tiers.current()] in shell(script, read=[folder]).stderr.decode()
    assert list(folder.iterdir()) == []
    shell(script, write=[folder]).check()
    assert (folder / "new").read_text() == "hi\n"


def test_defect_10_write_reaches_what_only_the_caller_may_change(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    shell(f"echo hi >{tmp_path}/new", write=[tmp_path]).check()
    assert (tmp_path / "new").read_text() == "hi\n"


def test_defect_10_read_lets_a_program_read_a_file_or_a_directory(folder: Path) -> None:
    file = folder / "file"
    file.write_text("hi")
    assert ABSENT[tiers.current()] in evalbox.run(["cat", file]).stderr.decode()
    for granted in (file, folder):
        assert evalbox.run(["cat", file], read=[granted]).check().text == "hi"


def test_defect_10_system_grants_what_programs_need() -> None:
    list_usr = ["/bin/ls", "/usr"]
    assert evalbox.run(list_usr).ok
    if tiers.current() == "process":
        assert not evalbox.run(list_usr, system=False).ok
        return
    # Where nothing else exists, it is not found.
    with pytest.raises(SetupError) as caught:
        evalbox.run(list_usr, system=False)
    assert (caught.value.stage, caught.value.errno) == ("execve", errno.ENOENT)


def test_defect_10_cwd_is_where_the_program_starts() -> None:
    fields: dict[str, Any] = {"files": {"a/b": "hi", "c": ""}}
    assert shell("ls", **fields).check().text == "a\nc\n"
    assert shell("ls", cwd="a", **fields).check().text == "b\n"


def test_defect_10_env_is_added_and_the_hosts_is_not_inherited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OF_THE_HOST", "secret")
    output = evalbox.run(["env"], env={"OWN": "1", "LANG": "C"}).check()
    assert {"OWN=1", "LANG=C"} <= set(output.text.splitlines())
    assert "OF_THE_HOST" not in output.text
    assert "OF_THE_HOST=secret" in subprocess.check_output(["env"], text=True)


def test_defect_10_executable_is_what_runs() -> None:
    assert evalbox.run(["name", "-c", "echo $0"], executable="sh").check().text == "name\n"


def test_defect_10_collect_brings_files_back() -> None:
    script = "echo hi >a.txt; echo no >a.bin; ln -s /etc/passwd b.txt; echo no >$HOME/c.txt"
    assert dict(shell(script).check().files) == {}
    assert dict(shell(script, collect=["*.txt"]).check().files) == {"a.txt": b"hi\n"}


def test_defect_10_disk_is_a_limit() -> None:
    script = "head -c 3000000 /dev/zero >x"
    assert shell(script, disk=MiB).status is Status.DISK_LIMIT
    assert shell(script, disk=8 * MiB).ok


@pytest.mark.parametrize("place", [".", "$HOME", "$TMPDIR"])
def test_defect_10_disk_counts_every_place(place: str) -> None:
    assert shell(f"head -c 3000000 /dev/zero >{place}/x", disk=MiB).status is Status.DISK_LIMIT


def test_defect_10_file_size_is_a_limit() -> None:
    script = "trap '' XFSZ; head -c 200000 /dev/zero >x; wc -c <x"
    assert int(shell(script, file_size=100_000).text) == 100_000
    assert int(shell(script, file_size=300_000).text) == 200_000


def test_defect_10_open_files_is_a_limit() -> None:
    code = """
    fds = []
    while len(fds) < 100 and attempt(lambda: fds.append(os.dup(0))) == "ok":
        pass
    print(3 + len(fds))
    """
    assert inside(code, open_files=20) == 20
    assert inside(code, open_files=200) == 103


def test_defect_10_stack_is_a_limit() -> None:
    script = "f() { [ $1 = 0 ] || f $(($1 - 1)); }; f 900; echo done"
    small = shell(script, stack=128 * KiB)
    assert (small.status, small.signal) == (Status.SIGNALED, signal.SIGSEGV)
    assert shell(script, stack=8 * MiB).check().text == "done\n"


FORKS = """
import signal
n = 0
try:
    while n < 300:
        if os.fork() == 0:
            signal.pause()
        n += 1
except BlockingIOError:
    pass
print(n)
"""


@pytest.mark.root
def test_defect_10_processes_is_exact_with_a_uid_of_its_own() -> None:
    assert [inside(FORKS, processes=limit) for limit in (1, 2, 20)] == [0, 1, 19]


@pytest.mark.user
def test_defect_10_processes_is_a_limit_for_the_user_who_runs_it() -> None:
    assert inside(FORKS, processes=5) < 300


def test_defect_10_processes_none_means_no_limit() -> None:
    assert inside(FORKS, processes=None) == 300


def test_defect_10_syscalls_are_allowed_and_denied() -> None:
    make = "print(json.dumps(attempt(os.mkdir, 'x')))"
    assert inside(make) == "ok"
    assert inside(make, syscalls=Syscalls().deny("mkdir")) == "EPERM"
    watch = """
    import ctypes
    fd = ctypes.CDLL(None, use_errno=True).inotify_init1(0)
    print(json.dumps("ok" if fd >= 0 else errno.errorcode[ctypes.get_errno()]))
    """
    assert inside(watch) == "EPERM"
    assert inside(watch, syscalls=Syscalls().allow("inotify_init1")) == "ok"


def test_defect_10_on_denied_chooses_between_refusing_and_ending() -> None:
    assert evalbox.run(["python3", "-c", PTRACE]).check().text == "alive\n"
    output = evalbox.run(["python3", "-c", PTRACE], on_denied="kill")
    assert (output.status, output.denied) == (Status.DENIED, "ptrace")
    assert output.stdout == b""


def test_defect_10_ordinary_programs_run_where_a_denied_call_ends_the_run() -> None:
    script = (
        "mkdir -p a/b && ls -l && cp -p a.txt b.txt && python3 -c 'print(open(\"b.txt\").read())'"
    )
    output = shell(script, on_denied="kill", files={"a.txt": "content"}).check()
    assert output.text.endswith("content\n")


def test_defect_10_require_refuses_what_is_not_enforced() -> None:
    held = evalbox.run(["true"], require=()).enforcement
    for name in ALL:
        if held[name].level == "enforced":
            assert evalbox.run(["true"], require=[name]).ok
        else:
            with pytest.raises(UnsupportedError) as caught:
                evalbox.run(["true"], require=[name])
            assert caught.value.property == name


# ---- 11: no network means none

SOCKETS = """
import socket
EVERYTHING = {
    "tcp": (2, 1, 0), "tcp6": (10, 1, 0), "udp": (2, 2, 0), "udp6": (10, 2, 0),
    "tcp, close-on-exec": (2, 1 | 0o2000000, 0), "udp, nonblocking": (2, 2 | 0o4000, 0),
    "icmp": (2, 2, 1), "icmp6": (10, 2, 58), "raw": (2, 3, 255), "raw6": (10, 3, 255),
    "raw, close-on-exec": (2, 3 | 0o2000000, 1), "raw, both flags": (2, 3 | 0o2004000, 1),
    "mptcp": (2, 1, 262), "sctp": (2, 1, 132), "sctp packets": (2, 5, 132),
    "udplite": (2, 2, 136), "dccp": (2, 6, 33), "smc": (43, 1, 0),
    "unix": (1, 1, 0), "unix datagrams": (1, 2, 0), "unix packets": (1, 5, 0),
    "netlink": (16, 3, 0), "packet": (17, 3, 768), "vsock": (40, 1, 0), "alg": (38, 5, 0),
    "xdp": (44, 3, 0), "bluetooth": (31, 3, 1), "can": (29, 3, 1), "tipc": (30, 5, 0),
    "kcm": (41, 5, 0), "rds": (21, 5, 0), "key": (15, 3, 2), "qipcrtr": (42, 2, 0),
}
def open_one(arguments):
    return attempt(lambda: socket.socket(*arguments).close())
made = {name: open_one(arguments) for name, arguments in EVERYTHING.items()}
print(json.dumps(made))
"""


@pytest.mark.core
def test_defect_11_without_a_network_no_socket_can_be_made() -> None:
    assert set(inside(SOCKETS).values()) == {"EPERM"}


def test_defect_11_a_socket_can_be_the_end_of_a_run() -> None:
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    output = evalbox.run(["python3", "-c", code], on_denied="kill")
    assert (output.status, output.denied) == (Status.DENIED, "socket")
    assert evalbox.run(["python3", "-c", "import socket"], on_denied="kill").ok


def test_defect_11_outside_the_same_sockets_can_be_made() -> None:
    made = outside(SOCKETS)
    ordinary = ("tcp", "udp", "tcp, close-on-exec", "unix", "unix datagrams", "netlink")
    assert {made[name] for name in ordinary} == {"ok"}


def test_defect_11_the_hosts_network_is_tcp_and_udp_and_no_more() -> None:
    made = inside(SOCKETS, network=Network.host())
    granted = {name for name, result in made.items() if result != "EPERM"}
    tcp = {"tcp", "tcp6", "tcp, close-on-exec"}
    assert granted == tcp | {"udp", "udp6", "udp, nonblocking"}
    assert made["tcp"] == made["udp"] == "ok"


REACH = """
import socket
def reach(kind):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(20)
        sock.connect(("127.0.0.1", {port}))
        sock.send(b"ping")
        assert sock.recv(4) == b"pong"
print(json.dumps([attempt(reach, socket.SOCK_STREAM), attempt(reach, socket.SOCK_DGRAM)]))
"""


@pytest.fixture
def pong() -> Iterator[int]:
    """The port of a service on this host that answers over TCP and UDP."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=2) as udp:
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        stop_here, stop_there = socket.socketpair()
        thread = threading.Thread(target=answer, args=(tcp, udp, stop_there))
        thread.start()
        yield port
        stop_here.close()
        thread.join()
        stop_there.close()


def answer(tcp: socket.socket, udp: socket.socket, stop: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([tcp, udp, stop], [], [])
        if stop in ready:
            return
        if tcp in ready:
            connection, _ = tcp.accept()
            with connection:
                connection.recv(4)
                connection.send(b"pong")
        if udp in ready:
            _, sender = udp.recvfrom(4)
            udp.sendto(b"pong", sender)


def test_defect_11_services_of_the_host_are_reached_with_its_network_only(pong: int) -> None:
    code = REACH.format(port=pong)
    assert outside(code) == ["ok", "ok"]
    assert inside(code) == ["EPERM", "EPERM"]
    assert inside(code, network=Network.host()) == ["ok", "ok"]


def test_defect_11_tcp_fast_open_is_refused_with_the_hosts_network(pong: int) -> None:
    code = f"""
    import socket
    def send(flags):
        with socket.create_connection(("127.0.0.1", {pong})) as sock:
            sock.sendto(b"ping", flags, ("127.0.0.1", {pong}))
    print(json.dumps([attempt(send, 0), attempt(send, 0x20000000)]))
    """
    assert inside(code, network=Network.host()) == ["ok", "EPERM"]


@pytest.mark.parametrize("network", [Network.none(), Network.host()], ids=["none", "host"])
def test_defect_11_a_unix_socket_of_the_host_is_out_of_reach(
    folder: Path, network: Network
) -> None:
    path = folder / "service"
    code = f"""
    import socket
    def reach():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect({str(path)!r})
    print(json.dumps(attempt(reach)))
    """
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(path))
        path.chmod(0o777)
        service.listen()
        assert outside(code) == "ok"
        assert inside(code, network=network, read=[folder]) == "EPERM"


def test_defect_11_a_pair_of_sockets_works_and_leads_nowhere() -> None:
    code = """
    import socket
    a, b = socket.socketpair()
    a.send(b"ping")
    assert b.recv(4) == b"ping"
    kinds = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM)
    print(json.dumps([attempt(socket.socketpair, socket.AF_UNIX, kind) for kind in kinds]))
    """
    assert inside(code) == ["ok", "ok", "EPERM"]


def test_defect_11_no_descriptor_of_the_host_is_inherited() -> None:
    code = """
    numbers = range(1024)
    print(json.dumps([number for number in numbers if attempt(os.fstat, number) == "ok"]))
    """
    inheritable = os.dup(0)
    os.set_inheritable(inheritable, True)
    try:
        assert inside(code) == [0, 1, 2]
        assert inside(code, on_denied="kill") == [0, 1, 2]
    finally:
        os.close(inheritable)


# ---- 12: what belongs to others


def test_defect_12_limits_of_other_processes_are_out_of_reach() -> None:
    code = f"""
    import resource
    others = [os.getppid(), {os.getpid()}]
    ask = [attempt(resource.prlimit, pid, resource.RLIMIT_NOFILE) for pid in [0, *others]]
    lower = [attempt(resource.prlimit, pid, resource.RLIMIT_NOFILE, (9, 9)) for pid in others]
    print(json.dumps([ask, lower]))
    """
    assert inside(code) == [["ok", "EPERM", "EPERM"], ["EPERM", "EPERM"]]


def test_defect_12_other_processes_cannot_be_signalled(tier: str) -> None:
    code = f"""
    import subprocess
    own = subprocess.Popen(["sleep", "1000"])
    print(json.dumps([attempt(os.kill, pid, 0) for pid in (own.pid, os.getppid(), {os.getpid()})]))
    own.kill()
    own.wait()
    """
    # In namespaces this process does not exist.
    assert inside(code) == ["ok", "EPERM", {"process": "EPERM", "namespace": "ESRCH"}[tier]]


CHANGES = """
file = {file!r}
done = [attempt(os.chmod, file, 0o600), attempt(os.utime, file, (1, 1)),
        attempt(os.setxattr, file, "user.a", b"b"), attempt(os.truncate, file, 0),
        attempt(os.rename, file, file + "2"), attempt(os.link, file, "link"),
        attempt(os.unlink, file)]
print(json.dumps(done))
"""


def test_defect_12_a_file_that_only_may_be_read_keeps_its_content(folder: Path) -> None:
    file = folder / "file"
    file.write_text("content")
    file.chmod(0o666)
    folder.chmod(0o777)
    results = inside(CHANGES.format(file=str(file)), read=[file])
    assert "ok" not in results[2:]
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert file.read_text() == "content"
    own = inside("open('own', 'w').close()" + CHANGES.format(file="own"))
    assert own[:2] == ["ok", "ok"]


@pytest.mark.parametrize("write", [False, True], ids=["own uid", "uid of the caller"])
@pytest.mark.root
def test_defect_12_root_does_not_lend_its_files(folder: Path, tmp_path: Path, write: bool) -> None:
    file = folder / "file"
    file.write_text("content")
    before = file.stat()
    # What only root can reach makes the run keep root's uid.
    granted = [tmp_path] if write else []
    # In namespaces the file is mounted read-only; with uid 0 the filter answers first.
    answer = "EROFS" if tiers.current() == "namespace" and not write else "EPERM"
    assert inside(CHANGES.format(file=str(file)), read=[file], write=granted)[:2] == [answer] * 2
    assert file.stat() == before


@pytest.mark.user
def test_defect_12_what_a_user_lends_is_reported_and_can_be_refused(folder: Path) -> None:
    file = folder / "file"
    file.write_text("content")
    output = evalbox.run(["chmod", "600", file], read=[file])
    if tiers.current() == "namespace":
        assert output.enforcement["fs_metadata"].level == "enforced"
        assert not evalbox.run(["chmod", "600", file], read=[file], require=["fs_metadata"]).ok
        return
    assert output.ok
    assert output.enforcement["fs_metadata"].level != "enforced"
    with pytest.raises(UnsupportedError, match="fs_metadata"):
        evalbox.run(["chmod", "600", file], require=["fs_metadata"])


def test_defect_12_that_stat_tells_what_exists_is_reported() -> None:
    code = "print(json.dumps([attempt(os.stat, '/etc/shadow'), attempt(os.stat, '/no/such')]))"
    told = inside(code)
    level = evalbox.run(["true"], require=()).enforcement["fs_metadata"].level
    assert (level == "enforced") is (told[0] == told[1])


def test_defect_12_nothing_of_other_processes_can_be_read() -> None:
    secret = mark()
    leaves = ("cmdline", "environ", "status", "maps", "fd", "cwd", "root")
    with subprocess.Popen(["sleep", secret]) as other:
        try:
            until(lambda: marked(f"sleep\0{secret}"), "the secret is on a command line")
            code = f"""
            paths = [f"/proc/{other.pid}/{{leaf}}" for leaf in {leaves}]
            print(json.dumps([attempt(os.open, path, os.O_RDONLY) for path in paths]))
            """
            assert outside(code) == ["ok"] * len(leaves)
            assert "ok" not in inside(code)
        finally:
            other.kill()


SECRETS = [
    "/etc/shadow",
    "/etc/passwd",
    "/etc/gshadow",
    "/etc/sudoers",
    "/etc/ssh",
    "/etc",
    "/root",
    "/home",
    "/var/log",
    "/run",
    "/tmp",
    "/dev",
    "/dev/shm",
    "/proc",
    "/proc/1/environ",
    "/proc/self/environ",
    "/proc/self/mem",
    "/proc/kcore",
    "/proc/sysrq-trigger",
    "/sys",
    "/boot",
    "/",
]
# Of what a run in namespaces has of its own it may list the names, or read its own.
OWN = {"/etc/passwd", "/etc", "/home", "/tmp", "/dev", "/dev/shm", "/proc", "/"}
OWN |= {"/proc/self/environ", "/proc/self/mem", "/proc/sysrq-trigger", "/proc/kcore"}


def test_defect_12_secrets_of_the_host_are_closed() -> None:
    code = f"print(json.dumps([attempt(os.open, path, 0) for path in {SECRETS!r} + ['/usr']]))"
    results = inside(code)
    assert results[-1] == "ok"
    own = OWN if tiers.current() == "namespace" else set()
    assert {path for path, seen in zip(SECRETS, results, strict=False) if seen == "ok"} <= own
    assert set(results[:-1]) <= {"EACCES", "ENOENT", "ok"}
    assert outside(code)[SECRETS.index("/etc/passwd")] == "ok"


def test_defect_12_of_the_devices_only_five_can_be_opened() -> None:
    devices = sorted(os.path.join("/dev", name) for name in os.listdir("/dev"))
    links = ("/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr")
    code = f"""
    paths = {[device for device in devices if device not in (*links, "/dev/shm")]!r}
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    print(json.dumps([path for path in paths if attempt(os.open, path, flags) == "ok"]))
    """
    names = ("full", "null", "random", "urandom", "zero")
    assert inside(code) == [f"/dev/{name}" for name in names]


# ---- 13: interpreters


def test_defect_13_python_in_bin_does_not_open_the_whole_file_system(folder: Path) -> None:
    file = folder / "file"
    file.write_text("hi")
    show = ["/bin/python3", "-c", f"print(open({str(file)!r}).read())"]
    refused = evalbox.run(show)
    assert (refused.status, refused.exit_code) == (Status.EXITED, 1)
    assert ABSENT[tiers.current()].encode() in refused.stderr
    assert evalbox.run(show, read=[file]).check().text == "hi\n"


def test_defect_13_the_interpreter_of_a_virtual_environment_is_not_run_outside(
    folder: Path,
) -> None:
    trace = folder / "trace"
    bin_ = folder / "venv" / "bin"
    bin_.mkdir(parents=True)
    (folder / "venv" / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.11.2\n")
    python = bin_ / "python"
    python.write_text(f"#!/bin/sh\necho was run\necho run >{trace}\n")
    python.chmod(0o755)
    folder.chmod(0o777)
    assert evalbox.run([python, "-c", "0"]).stdout == b"was run\n"
    assert not trace.exists()
    subprocess.run([python], check=True, stdout=subprocess.DEVNULL)
    assert trace.exists()


def test_defect_13_a_virtual_environment_finds_itself(folder: Path) -> None:
    place = folder / "venv"
    venv.create(place, symlinks=True, with_pip=False)
    (folder / "venv" / "own.py").write_text("")
    code = "import json, os, sys; print(sys.prefix, os.environ.get('PYTHONHOME'), json.__name__)"
    output = evalbox.run([place / "bin" / "python", "-c", code]).check()
    assert output.text == f"{place} None json\n"


def test_defect_13_home_and_tmpdir_can_be_written_and_are_not_the_working_directory() -> None:
    code = """
    import pathlib, tempfile
    (pathlib.Path.home() / "x").write_text("home")
    with tempfile.NamedTemporaryFile() as file:
        where = os.path.dirname(file.name)
    print(json.dumps([os.getcwd(), str(pathlib.Path.home()), where, os.listdir(".")]))
    """
    box, home, tmp, listing = inside(code)
    assert len({box, home, tmp}) == 3
    assert not any(place.startswith(f"{box}/") for place in (home, tmp))
    assert listing == []


# ---- 14: ordinary programs

ORDINARY = {
    "mkdir -p": "mkdir -p a/b/c && test -d a/b/c",
    "ls -l": "touch a && ls -l /usr >/dev/null && ls -la . | grep -q a",
    "timeout": "timeout 20 sh -c 'echo hi' | grep -q hi",
    "timeout that strikes": "timeout 0.1 sleep 1000 || test $? = 124",
    "cp -p and mv": "echo a >a && cp -p a b && mv b c && cmp a c",
    "cp -a of a tree": "mkdir -p a/b && touch a/b/c && cp -a a d && test -f d/b/c",
    "chmod": "touch a && chmod 755 a && test -x a",
    "tar": "mkdir a && touch a/b && tar -cf a.tar a && rm -r a && tar -xf a.tar && test -f a/b",
    "sort in parallel": "seq 100000 | sort -R | sort -n | tail -n 1 | grep -qx 100000",
    "pipes": "seq 1000 | grep 7 | wc -l | grep -q 271",
    "here document": "cat <<end | grep -q hi\nhi\nend",
    "named pipe": "mkfifo p && { echo hi >p & } && grep -q hi p",
    "nice": "nice -n 5 true",
    "nproc": "test $(nproc) -gt 0",
    "date": "TZ=Europe/Berlin date >/dev/null",
    "mktemp": "touch $(mktemp)",
    "stdout again": "echo hi >/dev/stdout && echo hi >/dev/stderr && cat </dev/stdin",
}
PYTHON = {
    "start_new_session": "import subprocess as s; s.run(['true'], start_new_session=True, check=1)",
    "process_group": "import subprocess as s; s.run(['true'], process_group=0, check=1)",
    "alarm": """
        import signal
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
        signal.alarm(1)
        signal.pause()
        """,
    "setitimer": """
        import signal
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        signal.pause()
        """,
    "copy2": "import shutil; open('a', 'w').close(); shutil.copy2('a', 'b'); os.stat('b')",
    "copytree": "import shutil; os.makedirs('a/b'); shutil.copytree('a', 'c'); os.stat('c/b')",
    "threads": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(int, "1234")) == 10
        """,
    "asyncio": """
        import asyncio
        async def main():
            process = await asyncio.create_subprocess_exec("true")
            assert await process.wait() == 0
        asyncio.run(main())
        """,
    "sqlite": """
        import sqlite3
        with sqlite3.connect("a.db") as db:
            db.execute("create table t (x)")
            db.execute("insert into t values (1)")
            assert list(db.execute("select x from t")) == [(1,)]
        """,
    "mmap": """
        import mmap
        with open("a", "w+b") as file:
            file.truncate(4096)
            mmap.mmap(file.fileno(), 4096)[:2] = b"hi"
        """,
    "execv": "os.execvp('true', ['true'])",
}


@pytest.mark.parametrize("script", ORDINARY.values(), ids=ORDINARY)
def test_defect_14_ordinary_commands_work(script: str) -> None:
    shell(f"set -e; {script}").check()


@pytest.mark.parametrize("code", PYTHON.values(), ids=PYTHON)
def test_defect_14_ordinary_python_works(code: str) -> None:
    code = "import os, sys\n" + textwrap.dedent(code)
    evalbox.run(["python3", "-c", code]).check()


def test_defect_14_node_starts() -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    code = "require('fs').mkdirSync('a/b', {recursive: true}); console.log(1 + 1)"
    output = evalbox.run(["node", "-e", code], processes=None, memory=1024 * MiB)
    assert output.check().text == "2\n"


def test_defect_14_names_are_looked_up_with_the_hosts_network() -> None:
    code = """
    import socket
    def look_up():
        socket.getaddrinfo("localhost", 80)
    print(json.dumps(attempt(look_up)))
    """
    assert inside(code, network=Network.host()) == "ok"


def test_defect_14_empty_arguments_are_passed_on() -> None:
    output = evalbox.run(["printf", "[%s]", "", "a", ""]).check()
    assert output.text == "[][a][]"


@pytest.mark.parametrize("number", [signal.SIGPIPE, signal.SIGINT, signal.SIGHUP])
def test_defect_14_signals_are_as_a_new_program_expects_them(number: signal.Signals) -> None:
    blocked = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    before = signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    try:
        with Executor() as executor:
            output = executor.run(Plan(["sh", "-c", f"kill -{number} $$; echo alive"]))
            mask = executor.run(Plan(["python3", "-c", blocked])).check().text
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        signal.signal(number, before)
    assert mask == "set()\n"
    assert (output.status, output.signal) == (Status.SIGNALED, number)


def test_defect_14_a_reader_that_goes_away_ends_the_writer() -> None:
    assert shell("(yes; echo $? >&2) | head -n 1").check().stderr == b"141\n"


MANY = sorted(SYSCALL_NAMES - {"execve", "exit_group"})


@pytest.mark.parametrize("on_denied", ["errno", "kill"])
@pytest.mark.parametrize(
    "syscalls",
    [
        Syscalls(),
        Syscalls(allowed=frozenset(MANY[:250])),
        Syscalls(allowed=frozenset(MANY[::2])),
    ],
    ids=["none", "250 allowed", "every other allowed"],
)
def test_defect_14_any_number_of_allowed_calls_works_or_is_refused(
    syscalls: Syscalls, on_denied: Any
) -> None:
    try:
        # What a user may change on the host is no matter here.
        output = evalbox.run(["true"], syscalls=syscalls, on_denied=on_denied, require=())
    except PlanError:
        assert syscalls.allowed
    else:
        assert output.ok


NEEDED_TO_START = """
access arch_prctl brk close execve exit_group faccessat fadvise64 fstat futex getrandom lseek
mmap mprotect munmap newfstatat open openat pread64 prlimit64 read readlinkat rseq rt_sigaction
set_robust_list set_tid_address uname write writev
"""


def test_defect_14_more_than_two_hundred_denied_calls_are_denied() -> None:
    denied = SYSCALL_NAMES - set(NEEDED_TO_START.split())
    assert len(denied) > 200
    assert evalbox.run(["cat"], stdin=b"hi", syscalls=Syscalls(denied=denied)).check().text == "hi"
    refused = evalbox.run(["mkdir", "x"], syscalls=Syscalls(denied=denied))
    assert b"not permitted" in refused.stderr
    assert evalbox.run(["mkdir", "x"]).ok


# ---- 15: tests that can fail


def calls_and_marks(source: str) -> Iterator[tuple[str, ast.Call | None, int]]:
    """Name, call (None: without parentheses) and line of what may leave a test out."""
    tree = ast.parse(source)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in (
            "skip",
            "skipif",
            "xfail",
            "importorskip",
        ):
            yield node.attr, called.get(id(node)), node.lineno


def test_defect_15_nothing_is_left_out_without_a_reason() -> None:
    without = []
    for path in (ROOT / "tests").glob("test_*.py"):
        for name, call, line in calls_and_marks(path.read_text(encoding="utf-8")):
            reasons = [] if call is None else [word.arg for word in call.keywords]
            if "reason" not in reasons and not (name == "skip" and call and call.args):
                without.append(f"{path.name}:{line}: {name}")
    assert without == []


def test_defect_15_one_without_a_reason_would_be_found() -> None:
    source = "@pytest.mark.skip\ndef test(): pytest.importorskip('x')"
    assert [name for name, *_ in calls_and_marks(source)] == ["skip", "importorskip"]


def test_defect_15_ci_runs_these_tests_as_root_and_as_a_user() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "export CI=true" in script
    assert script.count("make test") >= 2
    assert "setpriv --reuid" in script
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ntest: ")[2]
    assert '-m "not long" $(PYTEST)' in recipe.partition("\n\n")[0]
    assert "mark.long" not in Path(__file__).read_text(encoding="utf-8").partition("# ---- 15")[0]


def test_defect_15_every_fault_has_its_tests() -> None:
    names = {name[:14] for name in globals() if name.startswith("test_defect_")}
    assert names == {f"test_defect_{number:02}" for number in range(1, 16)}
