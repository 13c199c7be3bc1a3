"""In namespaces the kernel holds the limits of each run exactly, one for itself."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import evalbox
from evalbox import PIPE, Executor, File, KiB, Limits, MiB, Output, Plan, Status, Stdout
from probe import ends

pytestmark = pytest.mark.usefixtures("namespace_tier")
PAGE = 4096


def shell(script: str, **fields: Any) -> Output:
    return evalbox.run(["sh", "-c", script], **fields)


# ---- disk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/box", "/tmp", "/dev/shm", "/home/sandbox"])
def test_a_workspace_holds_its_limit_and_not_a_byte_more(place: str) -> None:
    script = f"head -c {{}} /dev/zero >{place}/x"
    assert shell(script.format(16 * PAGE), disk=16 * PAGE).status is Status.EXITED
    assert shell(script.format(16 * PAGE + 1), disk=16 * PAGE).status is Status.DISK_LIMIT


def test_the_places_share_one_limit() -> None:
    script = "for d in /box /tmp /dev/shm $HOME; do head -c {} /dev/zero >$d/x; done"
    assert shell(script.format(4 * PAGE), disk=16 * PAGE).status is Status.EXITED
    assert shell(script.format(5 * PAGE), disk=16 * PAGE).status is Status.DISK_LIMIT


def test_what_does_not_fit_was_not_written() -> None:
    script = "yes >x 2>/dev/null; wc -c <x"
    output = shell(script, disk=64 * KiB)
    # One page more than is allowed, by which the excess is seen.
    assert output.status is Status.DISK_LIMIT
    assert output.text == "" or int(output.text) <= 64 * KiB + PAGE


def test_without_disk_a_run_that_writes_nothing_is_well() -> None:
    assert shell("cat a; pwd", disk=0).text == "/box\n"
    assert shell(":>a", disk=0).status is Status.DISK_LIMIT


def test_without_a_limit_much_is_written() -> None:
    script = "head -c 100000000 /dev/zero >x; wc -c <x"
    assert shell(script, disk=None, file_size=None).check().text == "100000000\n"
    assert shell(script, file_size=None).status is Status.DISK_LIMIT


def test_many_empty_files_fill_a_workspace_too() -> None:
    script = "i=0; while [ $i -lt {} ]; do :>$i || exit 9; i=$((i+1)); done"
    limit = 64 * KiB
    assert shell(script.format(64), disk=limit).status is Status.EXITED
    assert shell(script.format(65), disk=limit).status is Status.DISK_LIMIT
    assert shell(script.format(3000), disk=limit).status is Status.DISK_LIMIT


def test_what_was_removed_again_does_not_count() -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do head -c 50000 /dev/zero >x; rm x; done"
    assert shell(script, disk=64 * KiB).status is Status.EXITED


def test_a_file_that_has_no_name_counts_while_the_run_lives() -> None:
    code = "import tempfile; f = tempfile.TemporaryFile(); f.write(bytes({})); f.flush()"
    for size, ok in ((16 * KiB, True), (300 * KiB, False)):
        output = evalbox.run(["python3", "-c", code.format(size)], disk=64 * KiB)
        assert output.ok is ok, output.stderr
        assert ok or b"No space left" in output.stderr or output.status is Status.DISK_LIMIT


def test_files_of_the_plan_that_are_too_large_are_told() -> None:
    files = {"a": File(bytes(100_000))}
    assert shell("true", disk=50_000, files=files).status is Status.DISK_LIMIT
    assert shell("wc -c <a", disk=200_000, files=files).check().text == "100000\n"


def test_a_limit_is_that_of_its_run_whatever_the_one_before_had() -> None:
    script = "head -c 300000 /dev/zero >x"
    with Executor() as executor:
        for disk in (MiB, 64 * KiB, None, 0, MiB, 64 * KiB):
            plan = Plan(["sh", "-c", script], limits=Limits(disk=disk))
            fits = disk is None or disk > 300_000
            wanted = Status.EXITED if fits else Status.DISK_LIMIT
            assert executor.run(plan).status is wanted, disk


def test_neighbours_do_not_share_a_limit() -> None:
    fill = Plan(["sh", "-c", "yes >x"], limits=Limits(disk=MiB))
    fits = Plan(["sh", "-c", "sleep 0.1; head -c 900000 /dev/zero >x"], limits=Limits(disk=MiB))
    with Executor() as executor:
        runs = {executor.spawn(plan): plan for plan in (fill, fits, fill, fits)}
        for run, output in ends(executor).items():
            wanted = Status.DISK_LIMIT if runs[run] is fill else Status.EXITED
            assert output.status is wanted


# ---- processes -----------------------------------------------------------------------------

FORKS = """
import os
made = 0
try:
    for _ in range(100):
        if os.fork() == 0:
            os.read(0, 1)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(made, flush=True)
os.read(0, 1)
"""
THREADS = """
import threading
made, gate = 0, threading.Event()
try:
    for _ in range(100):
        threading.Thread(target=gate.wait).start()
        made += 1
except RuntimeError:
    pass
gate.set()
print(made, flush=True)
"""


def told_while_all_live(plans: list[Plan]) -> list[int]:
    """The number that each prints; every one of them lives until the last has."""
    told: dict[int, int] = {}
    with Executor() as executor:
        runs = [executor.spawn(plan) for plan in plans]
        while len(told) < len(runs):
            told |= {e.id: int(e.data) for e in executor.poll() if isinstance(e, Stdout)}
        for run in runs:
            executor.close_stdin(run)
        assert all(output.ok for output in ends(executor).values())
    return [told[run] for run in runs]


def forks(processes: int | None) -> Plan:
    limits = Limits(processes=processes)
    return Plan(["python3", "-c", FORKS], stdin=PIPE, stream=True, limits=limits)


def test_each_run_has_as_many_processes_as_it_may() -> None:
    assert told_while_all_live([forks(20), forks(20), forks(None), forks(1), forks(7)]) == [
        *(19, 19, 100),
        *(0, 6),
    ]


def test_processes_of_the_same_user_elsewhere_do_not_count() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKS], stdin=subprocess.PIPE) as other:
        assert told_while_all_live([forks(5)]) == [4]
        other.communicate(b"")


def test_threads_count_as_processes_do() -> None:
    output = evalbox.run(["python3", "-c", THREADS], processes=10)
    assert output.check().text == "9\n"


def test_the_next_run_of_an_init_has_all_of_its_processes() -> None:
    with Executor() as executor:
        for _ in range(5):
            plan = Plan(["python3", "-c", FORKS], limits=Limits(processes=12))
            assert executor.run(plan).check().text == "11\n"


def test_that_it_is_held_is_reported() -> None:
    for name in ("processes", "disk", "proc_view", "fs_metadata"):
        assert evalbox.run(["true"]).enforcement[name].level == "enforced", name


# ---- memory --------------------------------------------------------------------------------

ALLOCATES = """
import ctypes, os
{}
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        held = bytearray(b"x") * ({} << 20)
        print(len(held), flush=True)
    os._exit(0) if os.getppid() == os.getpid() else os.read(0, 1)
os.wait()
"""
HIDES = "assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0"  # PR_SET_DUMPABLE


@pytest.mark.parametrize("first", ["pass", HIDES], ids=["in the open", "not dumpable"])
def test_memory_of_a_daemon_is_counted_in_its_namespace(first: str) -> None:
    for size, status in ((8, Status.EXITED), (300, Status.MEMORY_LIMIT)):
        code = ALLOCATES.format(first, size)
        plan = Plan(["python3", "-c", code], stdin=PIPE, limits=Limits(memory=100 * MiB))
        with Executor() as executor:
            run = executor.spawn(Plan(plan.cmd, stdin=PIPE, stream=True, limits=plan.limits))
            if status is Status.EXITED:
                while not any(isinstance(event, Stdout) for event in executor.poll()):
                    pass
                executor.close_stdin(run)
            assert ends(executor)[run].status is status


def test_the_peak_is_that_of_the_run() -> None:
    code = "held = bytearray(b'x') * (50 << 20)"
    with Executor() as executor:
        small, large, again = (
            executor.run(Plan(["python3", "-c", c])).check().usage.peak_memory
            for c in ("0", code, "0")
        )
    assert large > 50 * MiB
    assert max(small, again) < 40 * MiB
