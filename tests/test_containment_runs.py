"""How a hostile run ends: nothing survives it, limits hold, and no verdict is forged."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import evalbox
import proc
from evalbox import PIPE, Completed, Executor, Limits, MiB, Plan, Status, Stdout
from evalbox._syscall_table import NUMBERS
from leaks import launchers_of
from probe import KILL_ALL, all_events, ends, python, witness

pytestmark = pytest.mark.usefixtures("tier")

# ---- nothing survives ---------------------------------------------------------------------

# P9, P10, P16-P19; {} is an argument by which this test finds the process again.
SURVIVORS = {
    "a child": "sleep {} &",
    "a session of its own": "setsid sleep {} &",
    "a double fork": "(setsid sleep {} &) &",
    "ignoring signals": "(trap '' TERM INT HUP XCPU ALRM; sleep {}) &",
    "stopped": "sh -c 'kill -STOP $$' {} &",
    "holding stdout": "(exec setsid sleep {}) & echo told",
    "out of every group": "setsid setsid -f sleep {}",
}


@pytest.mark.parametrize("script", SURVIVORS.values(), ids=SURVIVORS)
def test_nothing_survives_the_end_of_a_run(script: str) -> None:
    mark = proc.mark()
    # The control: it lives, and can be found, while the run goes on.
    with Executor() as executor:
        run = executor.spawn(Plan(["sh", "-c", f"{script.format(mark)}\nread x"], stdin=PIPE))
        proc.until(lambda: proc.marked(f"\0{mark}"), "the process has started")
        executor.close_stdin(run)
        assert list(ends(executor)) == [run]
        assert proc.marked(mark) == []


@pytest.mark.parametrize("hold", [False, True], ids=["at once", "held"])
def test_the_oom_killer_prefers_the_program_to_its_init(hold: bool) -> None:
    others = set(proc.helpers())
    with Executor() as executor:
        executor.run(Plan(["cat"]))
        (init,) = set(proc.helpers()) - others - set(proc.children(os.getpid()))
        before = _oom_score_adj(init)
        executor.spawn(Plan(["cat"], stdin=PIPE, hold=hold))
        proc.until(lambda: len(proc.children(init)) == 1, "the program is there")
        (program,) = proc.children(init)
        proc.until(lambda: _oom_score_adj(program) == 1000, "it comes first")
        proc.until(lambda: _oom_score_adj(init) == before, "init does not")
    assert before < 1000


def _oom_score_adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))


SUBREAPER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
assert libc.prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
for _ in range(8):
    if os.fork() == 0:
        assert libc.prctl(1, 0, 0, 0, 0) == 0  # PR_SET_PDEATHSIG
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", sys.argv[1]])
        os._exit(0)
"""


def test_a_program_that_adopts_its_orphans_loses_them_all() -> None:
    mark = proc.mark()
    assert python(SUBREAPER, mark).ok
    assert proc.marked(mark) == []


FORK_BOMB = """
import os, sys, time
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
"""


def test_a_fork_bomb_is_counted_and_killed_to_the_last() -> None:
    mark = proc.mark()
    with witness() as other:
        output = python(FORK_BOMB, mark, timeout=1.0, processes=30)
        assert output.status is Status.WALL_TIME
        assert proc.marked(mark) == []
        assert other.poll() is None
    # The slot is fit for the next run, and so is the uid.
    assert python("import os; print(os.fork() == 0)").ok


# P4: the program itself is not signalled by kill(-1).
def test_kill_all_reaches_only_the_own_tree() -> None:
    with witness() as other, Executor() as executor:
        neighbour = executor.spawn(Plan(["sleep", "1000"], limits=Limits(wall_time=None)))
        output = executor.run(Plan([sys.executable, "-c", KILL_ALL]))
        assert output.text == "[-9, -9, -9]\n", output.stderr
        assert other.poll() is None
        assert executor.active_count == 1
        executor.kill(neighbour)


HOST = """
import sys, evalbox
from evalbox import Executor, Limits, Plan
with Executor() as executor:
    for script in sys.argv[1:]:
        executor.spawn(Plan(["sh", "-c", script], limits=Limits(wall_time=None)))
    while True:
        executor.poll()
"""


def test_a_host_that_is_killed_leaves_no_process() -> None:
    mark = proc.mark()
    scripts = [f"{script.format(mark)}\nsleep {mark}" for script in SURVIVORS.values()]
    with subprocess.Popen([sys.executable, "-c", HOST, *scripts]) as host:
        proc.until(lambda: len(proc.marked(f"\0{mark}")) >= 2 * len(scripts), "all run")
        host.send_signal(signal.SIGKILL)
        host.wait()
        # The mark is on the command line of the host, too.
        proc.until(lambda: not proc.marked(mark), "none is left")


# ---- limits -------------------------------------------------------------------------------

ALLOCATE = """
import mmap, os, sys
kind, processes, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) << 20
def hold():
    if kind == "shared":
        room = mmap.mmap(-1, size)
        for at in range(0, size, 4096):
            room[at] = 1
    else:
        room = bytearray(size)
    ready.write(b"x")
    ready.flush()
    os.read(0, 1)
read, write = os.pipe()
ready = open(write, "wb")
for _ in range(processes):
    if os.fork() == 0:
        hold()
        os._exit(0)
got = sum(len(os.read(read, 1)) for _ in range(processes))
print("all", got)
for _ in range(processes):
    os.wait()
"""


@pytest.mark.parametrize("kind", ["private", "shared"])
def test_memory_is_that_of_all_processes(kind: str) -> None:
    # R1, R2. Four times 24 MiB fit where each alone fits; below, only each alone does.
    fits = python(ALLOCATE, kind, "4", "24", memory=400 * MiB)
    assert (fits.status, fits.text) == (Status.EXITED, "all 4\n"), fits.explain()
    plan = Plan(
        [sys.executable, "-c", ALLOCATE, kind, "4", "24"],
        stdin=PIPE,
        limits=Limits(memory=64 * MiB),
    )
    with Executor() as executor:
        executor.spawn(plan)
        (output,) = ends(executor).values()
    assert output.status is Status.MEMORY_LIMIT


BURN = """
import os, signal, sys
read, write = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        end = float(sys.argv[1])
        while os.times().user + os.times().system < end:
            pass
        os._exit(0)
    os._exit(0)
os.wait()
os.close(write)
os.read(read, 1)  # until the orphan is done
"""


def test_the_time_of_an_orphan_is_limited_and_counted() -> None:
    assert python(BURN, "1000", cpu_time=0.3).status is Status.CPU_TIME
    done = python(BURN, "0.3", cpu_time=30.0)
    assert done.status is Status.EXITED
    assert done.usage.cpu_time >= 0.3


def test_what_lies_in_the_workspace_is_limited() -> None:
    # R10: many files, each of them small.
    script = "i=0; while [ $i -lt {} ]; do head -c 65536 /dev/zero > f$i; i=$((i+1)); done"
    limits = {"disk": 4 * MiB, "timeout": 60.0}
    full = evalbox.run(["sh", "-c", script.format(100000)], **limits)  # type: ignore[arg-type]
    assert full.status is Status.DISK_LIMIT
    fits = evalbox.run(["sh", "-c", script.format(20)], **limits)  # type: ignore[arg-type]
    assert fits.ok, fits.explain()


STUBBORN = {
    "asleep": "sleep 1000",
    "busy": "while :; do :; done",
    "deaf": "trap '' TERM INT HUP XCPU ALRM; sleep 1000",
    "stopped": "kill -STOP $$",
    "silent": "exec >&- 2>&- <&-; sleep 1000",
    "not reading": "sleep 1000",
}


@pytest.mark.parametrize("script", STUBBORN.values(), ids=STUBBORN)
def test_the_deadline_holds_for_a_program_that_is(script: str) -> None:
    output = evalbox.run(["sh", "-c", script], stdin=bytes(MiB), timeout=0.2)
    assert output.status is Status.WALL_TIME


def test_output_is_kept_to_the_byte() -> None:
    flood = evalbox.run(["sh", "-c", "yes & yes >&2"], output=10_001)
    assert flood.status is Status.OUTPUT_LIMIT
    assert len(flood.stdout) + len(flood.stderr) == 10_001
    assert evalbox.run(["head", "-c", "10001", "/dev/zero"], output=10_001).ok


# ---- verdicts -----------------------------------------------------------------------------

WORDS = "evalbox: Wall time limit; MEMORY_LIMIT; sandbox setup failed: execve"
FORGED = {
    "X2 our words": (f"echo '{WORDS}' >&2; exit 0", Status.EXITED, 0),
    "X3 exit 124": ("exit 124", Status.EXITED, 124),
    "X3 exit 125": ("exit 125", Status.EXITED, 125),
    "X3 exit 127": ("exit 127", Status.EXITED, 127),
    "X3 exit 137": ("exit 137", Status.EXITED, 137),
    "X4 as if out of memory": ("kill -KILL $$", Status.SIGNALED, signal.SIGKILL),
    "X5 as if denied": ("kill -SYS $$", Status.SIGNALED, signal.SIGSYS),
    "X4 as if out of time": ("kill -XCPU $$", Status.SIGNALED, signal.SIGXCPU),
    "X4 as if too big": ("kill -XFSZ $$", Status.SIGNALED, signal.SIGXFSZ),
}


@pytest.mark.parametrize(("script", "status", "number"), FORGED.values(), ids=FORGED)
def test_a_program_gets_the_status_of_what_it_did(script: str, status: Status, number: int) -> None:
    output = evalbox.run(["sh", "-c", script])
    found = output.exit_code if status is Status.EXITED else output.signal
    assert (output.status, found) == (status, number)


def test_no_descriptor_takes_a_forged_report() -> None:
    # X1: every number but the three is closed.
    script = """
import errno, os
taken = []
for fd in range(3, 4096):
    try:
        os.write(fd, bytes(4096))
    except OSError as error:
        assert error.errno == errno.EBADF
    else:
        taken.append(fd)
print(taken)
"""
    output = python(script)
    assert (output.status, output.text) == (Status.EXITED, "[]\n")


def test_output_ends_with_the_run() -> None:
    # X8: what an orphan writes after that is nobody's.
    script = "(setsid yes orphan &) ; echo last"
    with Executor() as executor:
        executor.spawn(Plan(["sh", "-c", script], stream=True, limits=Limits(output=None)))
        events = list(all_events(executor))
    assert isinstance(events[-1], Completed)
    streamed = b"".join(event.data for event in events if isinstance(event, Stdout))
    assert streamed == events[-1].output.stdout
    assert b"last\n" in streamed


def test_output_is_kept_as_it_was_written() -> None:
    # X9
    raw = b"\x1b[2J\xff\xfe\x00\r\n"
    assert evalbox.run(["cat"], stdin=raw).stdout == raw


def test_links_and_special_files_are_not_collected(tmp_path: Path) -> None:
    # X10, F10
    secret = tmp_path / "secret"
    secret.write_text("secret")
    script = (
        f"ln -s {secret} a; ln -s /etc b; mkfifo c; mkdir d; ln -s ../../.. d/e; echo real > f;"
        " ln f g; truncate -s 1T h 2>/dev/null; true"
    )
    output = evalbox.run(["sh", "-c", script], collect=["*", "d/*", "a", "b/passwd", "**/*"])
    assert output.status is Status.EXITED
    assert {name for name in output.files if name not in ("h",)} == {"f", "g"}


def test_memory_behind_a_dead_first_thread_counts() -> None:
    # Its /proc/PID shows none, and that of the others goes on.
    script = """
import ctypes, mmap, os, threading, time

def eat():
    time.sleep(0.1)
    held = mmap.mmap(-1, int(os.environ["SIZE"]))
    for at in range(0, len(held), 4096):
        held[at] = 1
    time.sleep(0.5)
    os._exit(0)

threading.Thread(target=eat).start()
ctypes.CDLL(None).syscall(int(os.environ["EXIT"]))
"""
    number = str(NUMBERS[platform.machine()]["exit"])
    ended = {
        size: evalbox.run(["python3", "-c", script], env={"SIZE": str(size), "EXIT": number}).status
        for size in (32 * MiB, 1024 * MiB)
    }
    assert ended == {32 * MiB: Status.EXITED, 1024 * MiB: Status.MEMORY_LIMIT}


def test_memory_that_a_child_borrows_until_execve_counts_once() -> None:
    # subprocess uses vfork: until execve parent and child both show all of it.
    script = """
import subprocess
held = bytearray(120 << 20)
for _ in range(500):
    subprocess.run(["true"], close_fds=False)
"""
    output = python(script, memory=200 * MiB, timeout=120.0)
    assert output.status is Status.EXITED, output.explain()


@pytest.mark.root
def test_a_workspace_that_cannot_be_emptied_serves_no_other_run() -> None:
    plan = Plan(["sh", "-c", "mkdir d; echo ready; sleep 60"], stream=True)
    with Executor() as executor:
        run = executor.spawn(plan)
        while not any(isinstance(event, Stdout) for event in executor.poll()):
            pass
        (launcher,) = launchers_of(executor)
        (slot,) = launcher.slots.values()
        if launcher.root is None:
            (init,) = proc.children(launcher.pid)
            stuck, there = Path("/box/d"), ["nsenter", "-m", "-t", str(init)]
        else:
            stuck, there = Path(launcher.root.path, slot.name, "box", "d"), []
        # What is mounted on cannot be removed.
        subprocess.run([*there, "mount", "-t", "tmpfs", "none", stuck], check=True)
        try:
            executor.kill(run)
            assert ends(executor)[run].status is Status.KILLED
            assert executor.run(Plan(["ls", "-A"])).stdout == b""
            assert slot not in launcher.idle

            def is_buried() -> bool:
                executor.run(Plan(["true"])).check()
                return slot not in launcher.slots.values()

            proc.until(is_buried, "its init is gone")
        finally:
            # In namespaces it goes with them.
            if launcher.root is not None:
                subprocess.run(["umount", stuck], check=True)
