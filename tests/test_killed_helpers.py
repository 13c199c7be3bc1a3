"""What a SIGKILL of a host, a launcher or an init must not take along.

Each was found by `make chaos`, and is here without chance.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import tiers
from chaos.remains import cgroups_of
from evalbox import Completed, Event, Executor, Output, Plan, Policy, SetupError, Status
from evalbox._launch import Launcher
from leaks import launchers_of, roots_of
from proc import children, until

LINES = 5000
WRITES = f"""
n=0; while [ $n -lt {LINES} ]; do echo $n; n=$((n+1)); done
echo done >"$1"; exec sleep 1000
"""


def _kill(launcher: Launcher) -> None:
    os.kill(launcher.pid, signal.SIGKILL)
    until(lambda: launcher.has_ended, "the launcher is dead")


def _outputs(executor: Executor) -> list[Output]:
    events: list[Event] = []
    while executor.active_count:
        events += executor.poll()
    return [event.output for event in events if isinstance(event, Completed)]


@pytest.mark.parametrize("stream", [False, True], ids=["kept", "streamed"])
def test_the_death_of_a_launcher_loses_nothing_that_was_written(
    tier: str, stream: bool, tmp_path: Path
) -> None:
    """Streamed it is more than the socket takes, and nobody reads it before the kill."""
    with Executor() as executor:
        done = tmp_path / "done"
        done.touch()
        command = ["sh", "-c", WRITES, "sh", str(done)]
        executor.spawn(Plan(command, policy=Policy(write=[done]), stream=stream))
        until(lambda: done.read_text() == "done\n", "all is written")
        _kill(launchers_of(executor)[0])
        (output,) = _outputs(executor)
    assert output.status is Status.KILLED
    assert output.stdout == b"".join(b"%d\n" % n for n in range(LINES))


def test_a_dead_launcher_that_nobody_has_heard_of_is_replaced(tier: str) -> None:
    plan = Plan(["true"])
    with Executor() as executor:
        assert executor._loop is not None
        kit = executor._loop._dispatcher.kits.of(plan)
        # One without a slot: no init tells of its end.
        _kill(executor._loop._fleet._launcher(kit.filters))
        assert executor.run(plan).ok


def test_nothing_is_told_of_a_run_after_its_error(process_tier: None) -> None:
    """The init dies when the run has ended, and what was to be collected goes with it."""
    with Executor() as executor:
        # Long enough that its start is told by itself.
        executor.spawn(Plan(["sh", "-c", "sleep 0.2; echo >f"], collect=["*"]))
        (launcher,) = launchers_of(executor)
        (root,) = roots_of(executor)
        until(lambda: children(launcher.pid), "there is an init")
        (init,) = children(launcher.pid)
        until(lambda: [*root.glob("*/box/f")] and not children(init), "the run has ended")
        os.kill(init, signal.SIGKILL)
        until(lambda: [*root.iterdir()] == [], "its workspace is gone")
        with pytest.raises(SetupError) as caught:
            executor.poll()
        assert caught.value.id == 1
        assert executor.poll() == []


def _has_ended(pid: str) -> bool:
    """Whoever inherited it may not have waited for it yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return True
    return stat.rpartition(") ")[2][0] in "ZX"


_KILLED_BEFORE_AN_ORDER = """
from evalbox._launch import Launcher

order, count = Launcher._order_init, []

def killed(self, *args):
    if count:
        tell(self)
    count.append(1)
    return order(self, *args)

Launcher._order_init = killed
"""

_KILLED_BEFORE_THE_LAUNCHER_KNOWS = """
from evalbox._launch.cgroups import LauncherCgroups

settle = LauncherCgroups.settle

def killed(self, pid, *args):
    os.kill(pid, signal.SIGSTOP)
    settle(self, pid, *args)
    launcher = next(each for each in gc.get_objects() if isinstance(each, Launcher))
    tell(launcher)

LauncherCgroups.settle = killed
"""

_SPAWNS = """
import gc, os, signal
from evalbox import Executor, Plan
from evalbox._launch import Launcher

def tell(launcher):
    print(launcher.pid, launcher.root.path if launcher.root else "", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

{killed}

executor = Executor()
for _ in range(2):
    executor.spawn(Plan(["sleep", "1000"]))
"""


@pytest.mark.parametrize(
    "killed",
    [_KILLED_BEFORE_AN_ORDER, _KILLED_BEFORE_THE_LAUNCHER_KNOWS],
    ids=["before it orders an init", "before the launcher reads of its cgroups"],
)
def test_a_host_killed_in_the_middle_leaves_nothing(tier: str, killed: str) -> None:
    """Places are there already of which its launcher has not heard."""
    with subprocess.Popen(
        [sys.executable, "-c", tiers.prelude() + _SPAWNS.format(killed=killed)],
        stdout=subprocess.PIPE,
        text=True,
    ) as host:
        assert host.stdout is not None
        pid, _, root = host.stdout.readline().strip().partition(" ")
        assert host.wait() == -signal.SIGKILL
    os.kill(int(pid), signal.SIGCONT)
    # At once: the next start of any executor would remove it.
    until(lambda: _has_ended(pid), "the launcher has ended")
    assert not root or not Path(root).exists()
    assert cgroups_of(host.pid) == []
