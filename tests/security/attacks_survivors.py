"""Attacks on the end of a run: what tries to outlive it, or takes others along."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import proc
from evalbox import PIPE, Executor, Status
from probe import KILL_ALL
from security.aims import apart, end_marked, outside
from security.base import PYTHON, Context, attack
from security.runs import end_of, plan, run_with

# ---- P9, P10, P16, P18, P19: what should be left behind --------------------------------------

# {} is the text by which a process is found again; the shell gives it as an argument.
_SHELL = {
    "P9.child": ("a child that goes on", "sleep {} &"),
    "P9.session": ("a child in a session of its own", "setsid sleep {} &"),
    "P9.daemon": ("a daemon, forked twice", "(setsid sleep {} &) &"),
    "P9.group": ("a child in a process group of its own", "set -m; sleep {} &"),
    "P9.stopped": ("a child that stands still", "sh -c 'kill -STOP $$' {} &"),
    "P10": ("an orphan that keeps stdout open", "(exec setsid sleep {}) & echo told"),
    "P16.child": (
        "a child that ignores every signal that it can",
        "(trap '' TERM INT HUP QUIT XCPU ALRM; sleep {}) &",
    ),
}
# What each daemon, and who starts them, does first.
_PYTHON = {
    "P18": ("a child that adopts its orphans", "prctl(36, 1)"),  # PR_SET_CHILD_SUBREAPER
    "P19": ("children that do not die with their parent", "prctl(1, 0)"),  # PR_SET_PDEATHSIG
    "P9.undumpable": ("daemons whose /proc is closed to their uid", "prctl(4, 0)"),
    "P9.silent": ("daemons that hold no descriptor", "os.closerange(0, 3)"),
}
_DAEMONS = """
import ctypes, os, signal

def prctl(*values):
    assert ctypes.CDLL(None).prctl(*values, 0, 0, 0) == 0

for _ in range(4):
    if os.fork() == 0:
        {0}
        os.setsid()
        if os.fork() == 0:
            {0}
            signal.pause()
        os._exit(0)
"""


def _left_by(ctx: Context, script: str) -> str:
    """While the run goes on they live; `read x` lets it end."""
    mark = proc.mark()
    command = ["sh", "-c", f"{script.format(mark)}\nread x"]
    with Executor() as executor:
        run = executor.spawn(plan(ctx, command, stdin=PIPE))
        proc.until(lambda: _is_settled(mark), "they have started")
        executor.close_stdin(run)
        end_of(executor, run, ctx)
        return "OK" if end_marked(mark) else "dead"


def _is_settled(mark: str) -> bool:
    """They are what they will be: between two programs a process has no command line."""
    return bool(proc.marked(f"\0{mark}")) and not proc.marked(f"setsid\0sleep\0{mark}")


def _left_outside(script: str) -> str:
    mark = proc.mark()
    with outside(f"{script.format(mark)}\nread x") as process:
        proc.until(lambda: _is_settled(mark), "they have started")
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        return "OK" if end_marked(mark) else "dead"


def _survivor(name: str, title: str, script: str) -> None:
    attack(
        name,
        f"{title}, at the end of the run",
        property="tree_kill",
        blocked="dead",
        control=lambda _: _left_outside(script),
    )(lambda ctx: _left_by(ctx, script))


for _name, (_title, _script) in _SHELL.items():
    _survivor(_name, _title, _script)
for _name, (_title, _line) in _PYTHON.items():
    _survivor(_name, _title, f"{PYTHON} -c '{_DAEMONS.format(_line)}' {{}}")

# ---- P20: nobody is left to end it -----------------------------------------------------------

_HOST = """
import sys
from evalbox import Executor, Limits, Plan, Policy
tier, *scripts = sys.argv[1:]
policy = Policy(isolation=tier, require=())
with Executor() as executor:
    for script in scripts:
        executor.spawn(Plan(["sh", "-c", script], policy=policy, limits=Limits(wall_time=None)))
    while True:
        executor.poll()
"""


@attack(
    "P20.host",
    "what a host that is killed leaves running",
    property="tree_kill",
    blocked="dead",
    control=lambda _: _left_outside("setsid sleep {} &"),
)
def host_is_killed(ctx: Context) -> str:
    mark = proc.mark()
    scripts = [f"{script.format(mark)}\nsleep {mark}" for _, script in _SHELL.values()]
    with subprocess.Popen([sys.executable, "-c", _HOST, ctx.tier, *scripts]) as host:
        proc.until(lambda: len(proc.marked(f"\0{mark}")) >= 2 * len(scripts), "all run")
        ctx.enforcement = ctx.run(["true"]).enforcement
        host.kill()
        host.wait()
        return _dead(mark)


@attack(
    "P20.init",
    "what an init that is killed leaves running",
    property="tree_kill",
    blocked="dead",
    control=lambda _: _left_outside("setsid sleep {} &"),
)
def init_is_killed(ctx: Context) -> str:
    return _left_when_killed(ctx, lambda helpers: helpers[1:])


@attack(
    "P20.launcher",
    "what a launcher that is killed leaves running",
    property="tree_kill",
    blocked="dead",
    control=lambda _: _left_outside("setsid sleep {} &"),
)
def launcher_is_killed(ctx: Context) -> str:
    return _left_when_killed(ctx, lambda helpers: helpers[:1])


def _left_when_killed(ctx: Context, victims: Callable[[list[int]], list[int]]) -> str:
    mark = proc.mark()
    script = "\n".join(script.format(mark) for _, script in _SHELL.values())
    before = set(proc.helpers())
    with Executor() as executor:
        run = executor.spawn(plan(ctx, ["sh", "-c", f"{script}\nsleep {mark}"]))
        proc.until(lambda: len(proc.marked(f"\0{mark}")) > len(_SHELL), "all run")
        for pid in victims([pid for pid in proc.helpers() if pid not in before]):
            os.kill(pid, signal.SIGKILL)
        output = end_of(executor, run, ctx)
        assert output.status is Status.KILLED, output.explain()
        return _dead(mark)


def _dead(mark: str) -> str:
    """They die at once, but not in the instant in which who held them does."""
    try:
        proc.until(lambda: not proc.marked(mark), "none is left")
    except AssertionError:
        end_marked(mark)
        return "OK"
    return "dead"


# ---- P4, P27: others are taken along ---------------------------------------------------------


@attack(
    "P4",
    "kill everything that can be signalled",
    property="signals",
    blocked="own",
    control=lambda _: "OK" if apart(_kills_its_elder) else "own",
)
def kill_everybody(ctx: Context) -> str:
    """A process outside and a run beside it must live on."""
    other = ctx.world.fresh_witness()
    with Executor() as executor:
        run_with(executor, ctx, "")
        if ctx.enforcement["signals"].level != "enforced":
            # It would end this very process: one that is reached says the same.
            one = run_with(executor, ctx, f"import os; os.kill({other.pid}, 9)")
            return "OK" if one.exit_code == 0 else "own"
        neighbour = executor.spawn(plan(ctx, ["sleep", "1000"]))
        output = run_with(executor, ctx, KILL_ALL)
        lives = other.poll() is None and executor.active_count == 1
        executor.kill(neighbour)
    assert output.text == "[-9, -9, -9]\n", output.explain()
    return "own" if lives else "OK"


def _kills_its_elder() -> int:
    """1 when kill(-1) of a child reaches the process that was there before it."""
    elder = os.fork()
    if elder == 0:
        signal.pause()
    if os.fork() == 0:
        os.kill(-1, signal.SIGKILL)
        os._exit(0)
    return int(os.waitpid(elder, 0)[1] == signal.SIGKILL)


_JOIN = """
import os, signal
os.setpgid(0, os.getpgid(os.getppid()))
os.kill(0, signal.SIGTERM)
"""
_DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@attack(
    "P27",
    "signal the process group of launcher and inits, after joining it",
    property="signals",
    blocked="own",
    control=lambda _: _joined_outside(),
)
def signal_the_group(ctx: Context) -> str:
    with Executor() as executor:
        run_with(executor, ctx, "")
        before = proc.helpers()
        output = run_with(executor, ctx, _DEAF + _JOIN)
        # Who was told to end has done so before it serves another run.
        unharmed = run_with(executor, ctx, "").ok and set(before) <= set(proc.helpers())
    return "own" if unharmed and output.status is Status.EXITED else "OK"


def _joined_outside() -> str:
    """A shell whose child joins its group and signals it."""
    with outside(f"{PYTHON} -c '{_DEAF}{_JOIN}'; echo unreached") as shell:
        return "OK" if shell.wait() == -signal.SIGTERM else "own"


# ---- P22: a number that is somebody else's by now --------------------------------------------

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def _cannot_choose_pids(_: Context) -> str:
    return "" if os.access(_LAST_PID, os.W_OK) else "takes CAP_CHECKPOINT_RESTORE to choose a pid"


def _witness_with(ctx: Context, pid: int) -> subprocess.Popen[bytes]:
    """Others may take the number first: again, until it is ours."""
    for _ in range(100):
        _LAST_PID.write_text(str(pid - 1))
        witness = ctx.world.fresh_witness()
        if witness.pid == pid:
            return witness
        witness.kill()
        witness.wait()
    raise _TakenError(f"never got {pid}")


class _TakenError(Exception):
    """Some other process of this machine has the number now."""


def _until_ours(scene: Callable[[Context], str]) -> Callable[[Context], str]:
    """Plays a scene again when its pid went to somebody else."""

    def played(ctx: Context) -> str:
        for _ in range(20):
            with contextlib.suppress(_TakenError):
                return scene(ctx)
        raise AssertionError("every pid went to somebody else")

    return played


@_until_ours
def _killed_by_number(ctx: Context) -> str:
    first = ctx.world.fresh_witness()
    first.kill()
    first.wait()
    second = _witness_with(ctx, first.pid)
    os.kill(first.pid, signal.SIGKILL)
    return "OK" if second.wait() == -signal.SIGKILL else "lives"


_REUSED: dict[str, Any] = {
    "property": None,
    "blocked": "lives",
    "control": _killed_by_number,
    "callers": "root",
    "needs": _cannot_choose_pids,
}


@attack(
    "P22.program", "the pid of a program that has ended is another's when it is killed", **_REUSED
)
@_until_ours
def pid_of_the_program(ctx: Context) -> str:
    mark = proc.mark()
    with Executor() as executor:
        run = executor.spawn(plan(ctx, ["sleep", mark]))
        proc.until(lambda: proc.marked(f"sleep\0{mark}"), "it runs")
        (pid,) = proc.marked(f"sleep\0{mark}")
        os.kill(pid, signal.SIGTERM)
        end_of(executor, run, ctx)
        witness = _witness_with(ctx, pid)
        executor.kill(run)
        run_with(executor, ctx, "")
    return "lives" if witness.poll() is None else "OK"


@attack("P22.launcher", "the pid of a launcher that is dead is another's at the end", **_REUSED)
@_until_ours
def pid_of_the_launcher(ctx: Context) -> str:
    before = set(proc.helpers())
    with Executor() as executor:
        run = executor.spawn(plan(ctx, ["sleep", "1000"]))
        proc.until(lambda: len(set(proc.helpers()) - before) > 1, "it runs")
        helpers = [pid for pid in proc.helpers() if pid not in before]
        os.kill(helpers[0], signal.SIGKILL)
        end_of(executor, run, ctx)
        # An idle executor hears of what ended meanwhile when it is used again.
        run_with(executor, ctx, "")
        gone = [Path(f"/proc/{pid}") for pid in helpers]
        proc.until(lambda: not any(path.exists() for path in gone), "they were waited for")
        witnesses = [_witness_with(ctx, pid) for pid in helpers]
    return "lives" if all(one.poll() is None for one in witnesses) else "OK"
