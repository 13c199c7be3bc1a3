"""What is left in namespaces of a run, an init, a launcher or a host that has ended: nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiers
from evalbox import PIPE, Event, Executor, Plan, Started, Status, Stdout
from leaks import launchers_of
from probe import ends
from proc import alive, born, children, mark, marked, until

pytestmark = pytest.mark.usefixtures("namespace_tier")
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def shell(script: str, **fields: Any) -> Plan:
    return Plan(["sh", "-c", script], **fields)


def namespaces_of(pid: int | str) -> set[str]:
    found = set()
    for kind in KINDS:
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except OSError:
            continue
    return found


def in_use() -> set[str]:
    """Namespaces that some process of this machine is in.

    A dead launcher is in its own until the machine's first process buries it.
    """
    live = alive(born([int(pid) for pid in os.listdir("/proc") if pid.isdigit()]))
    return {name for pid in live for name in namespaces_of(pid)}


def own_mounts() -> list[str]:
    """Mounts of this process that an init has made."""
    rows = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [row for row in rows if " - tmpfs evalbox " in row]


def poll_for(executor: Executor, kind: type[Event]) -> None:
    while not any(isinstance(event, kind) for event in executor.poll()):
        pass


def sleeping(executor: Executor, number: str) -> tuple[int, int, list[int]]:
    """Launcher, init and programs of a new run in an executor without another."""
    executor.spawn(shell(f"setsid sleep {number} & (setsid sleep {number} &) & wait"))
    until(lambda: len(marked(f"sleep\0{number}")) == 2, "both sleep")
    (launcher,) = launchers_of(executor)
    (init,) = children(launcher.pid)
    return launcher.pid, init, marked(f"sleep\0{number}")


# ---- namespaces ----------------------------------------------------------------------------


def test_a_run_shares_no_namespace_with_its_host() -> None:
    with Executor() as executor:
        launcher, init, programs = sleeping(executor, mark())
        host = namespaces_of("self")
        assert len(host) == len(KINDS)
        assert host & namespaces_of(programs[0]) == set()
        # Five for the launcher; an init has IPC and PID, and user and mount once more.
        assert len(namespaces_of(launcher) & namespaces_of(init)) == 3
        assert namespaces_of(init) == namespaces_of(programs[0]) == namespaces_of(programs[1])


def test_two_inits_share_what_nothing_can_be_left_in() -> None:
    with Executor() as executor:
        for _ in range(2):
            executor.spawn(Plan(["cat"], stdin=PIPE))
        poll_for(executor, Started)
        (launcher,) = launchers_of(executor)
        one, two = map(namespaces_of, children(launcher.pid))
        shared = {name.partition(":")[0] for name in one & two}
        assert shared == {"cgroup", "net", "uts"}


def test_the_mounts_of_a_run_are_not_there_for_its_host() -> None:
    with Executor() as executor:
        _, init, _ = sleeping(executor, mark())
        assert " - tmpfs evalbox " in Path(f"/proc/{init}/mountinfo").read_text(encoding="utf-8")
        assert own_mounts() == []
    assert own_mounts() == []


def test_no_namespace_outlives_its_executor() -> None:
    with Executor() as executor:
        launcher, init, _ = sleeping(executor, mark())
        made = (namespaces_of(launcher) | namespaces_of(init)) - namespaces_of("self")
        assert len(made) == 5 + 4
        assert made <= in_use()
    assert made & in_use() == set()


def test_a_program_makes_no_namespace_of_its_own() -> None:
    made = "unshare -Ur true 2>&1 || unshare -m true 2>&1 || echo none"
    with Executor() as executor:
        assert executor.run(shell(made)).text.endswith("none\n")
    assert subprocess.run(["unshare", "-Ur", "true"]).returncode == 0


# ---- killed --------------------------------------------------------------------------------


def test_with_an_init_its_whole_namespace_dies_though_nobody_looks() -> None:
    number = mark()
    with Executor() as executor:
        launcher, init, programs = sleeping(executor, number)
        before = born(programs)
        # It cannot end what init left.
        os.kill(launcher, signal.SIGSTOP)
        os.kill(init, signal.SIGKILL)
        until(lambda: not alive(before), "the kernel ended all of them")
        os.kill(launcher, signal.SIGCONT)
        (output,) = ends(executor).values()
        assert output.status is Status.KILLED
        assert executor.run(Plan(["echo", "hi"])).check().text == "hi\n"


def test_with_a_launcher_all_of_its_inits_die() -> None:
    number = mark()
    with Executor() as executor:
        for _ in range(3):
            executor.spawn(shell(f"setsid sleep {number} & wait"))
        executor.spawn(Plan(["sleep", number], hold=True))
        executor.run(Plan(["true"])).check()
        until(lambda: len(marked(f"sleep\0{number}")) == 3, "all sleep")
        (launcher,) = launchers_of(executor)
        inits = born(children(launcher.pid))
        assert len(inits) == 5
        os.kill(launcher.pid, signal.SIGKILL)
        until(lambda: not alive(inits), "all inits are gone")
        assert marked(f"sleep\0{number}") == []
        assert {output.status for output in ends(executor).values()} == {Status.KILLED}
        assert executor.run(Plan(["echo", "hi"])).check().text == "hi\n"


def test_an_idle_init_that_is_killed_is_not_used_again() -> None:
    plan = Plan(["echo", "hi"])
    with Executor() as executor:
        for _ in range(5):
            executor.run(plan).check()
            (launcher,) = launchers_of(executor)
            idle = born(children(launcher.pid))
            for init in idle:
                os.kill(init, signal.SIGKILL)
            until(lambda: not alive(idle), "it is dead")  # noqa: B023
        assert executor.run(plan).check().text == "hi\n"
        assert len(children(launcher.pid)) == 1
        if launcher.uids is not None:
            assert launcher.uids._taken == {slot.uid for slot in launcher.slots.values()}


HOST = """
import sys
from evalbox import *
executor = Executor()
for number in range(3):
    executor.spawn(Plan(["sh", "-c", f"setsid sleep {sys.argv[1]} & wait"]))
executor.spawn(Plan(["sleep", sys.argv[1]], hold=True))
executor.run(Plan(["true"])).check()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("killed", ["host", "host and launcher", "host, launcher and inits"])
def test_of_a_host_that_is_killed_no_namespace_is_left(killed: str) -> None:
    number = mark()
    command = [sys.executable, "-c", tiers.prelude() + HOST, number]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"ready\n"
        until(lambda: len(marked(f"sleep\0{number}")) == 3, "all sleep")
        (launcher,) = children(host.pid)
        inits = children(launcher)
        assert len(inits) == 5
        everyone = born([launcher, *inits, *marked(f"sleep\0{number}")])
        made = {name for pid in everyone for name in namespaces_of(pid)} - namespaces_of("self")
        doomed = [host.pid, *([launcher] if "launcher" in killed else [])]
        doomed += inits if "inits" in killed else []
        for number_of_signal in (signal.SIGSTOP, signal.SIGKILL):
            for pid in doomed:
                os.kill(pid, number_of_signal)
        host.wait()
        until(lambda: not alive(everyone), "no process is left")
    until(lambda: not made & in_use(), "no namespace is left")


# ---- one run after the other ---------------------------------------------------------------


def test_of_the_processes_of_a_run_the_next_one_in_its_slot_sees_none() -> None:
    number = mark()
    leave = f"(setsid sleep {number} >/dev/null 2>&1 &); trap '' TERM; sleep {number} >/dev/null &"
    look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; ls -d /proc/[0-9]* | wc -l"
    with Executor() as executor:
        for _ in range(3):
            executor.run(shell(leave)).check()
            told = executor.run(shell(look)).check().text
            assert number not in told
            assert int(told.splitlines()[-1]) <= 4
            (launcher,) = launchers_of(executor)
            assert len(launcher.slots) == 1


def test_output_of_what_is_killed_with_its_namespace_is_not_lost() -> None:
    with Executor() as executor:
        run = executor.spawn(shell("echo said; (setsid sleep 1000 &) ; sleep 1000", stream=True))
        poll_for(executor, Stdout)
        executor.kill(run)
        output = ends(executor)[run]
    assert (output.status, output.stdout) == (Status.KILLED, b"said\n")


# ---- namespaces run short ------------------------------------------------------------------

SHORT = """
import os, sys
from pathlib import Path
from evalbox import *
from evalbox._host import host
{prelude}
assert not host().namespaces.why_not, host().namespaces
Path("/proc/sys/user/max_{kind}_namespaces").write_text("12")
with Executor() as executor:
    runs = [executor.spawn(Plan(["sh", "-c", f"echo {{i}}; sleep 0.02"])) for i in range(40)]
    (launcher,) = executor._loop._fleet._launchers.values()
    assert len(launcher.slots) <= 12
    told = {{}}
    while executor.active_count:
        told |= {{e.id: e.output.text for e in executor.poll() if isinstance(e, Completed)}}
    print([told[run] for run in runs] == [f"{{i}}\\n" for i in range(40)])
"""


@pytest.mark.parametrize("kind", ["user", "pid", "mnt"])
def test_where_there_are_too_few_namespaces_runs_take_turns(kind: str) -> None:
    assert shutil.which("unshare")
    code = SHORT.format(prelude=tiers.prelude(), kind=kind)
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
