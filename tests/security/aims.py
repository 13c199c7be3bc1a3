"""Processes that attacks are aimed at, and what was done to them, told without waiting.

A deaf witness has every signal blocked: what is sent to it stays pending, which
/proc shows as soon as the sender's call returns.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import proc
from evalbox import Syscalls
from security.base import Context, Fields

# What `kill` and its like answer for who is out of reach, and for who is not to be seen.
UNREACHED = "EPERM ESRCH"


def witness(ctx: Context) -> Fields:
    """TARGET: a process of the caller's that only waits."""
    return {"TARGET": ctx.world.witness()}


def fresh_witness(ctx: Context) -> Fields:
    """The same for this attempt only: it may be changed."""
    return {"TARGET": ctx.world.fresh_witness().pid}


def parent(_: Context) -> Fields:
    """TARGET: whoever is the parent of the program, init; an act says `TARGET or os.getppid()`."""
    return {"TARGET": 0}


def granting(*names: str) -> Callable[[Context], Fields]:
    """Fields of a run whose filter lets these calls through, so that others must hold."""
    return lambda _: {"syscalls": Syscalls().allow(*names)}


# ---- what is sent --------------------------------------------------------------------------


def deaf_witness(ctx: Context) -> Fields:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        process = ctx.world.fresh_witness()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    (ctx.scratch / "target").write_text(str(process.pid))
    return {"TARGET": process.pid}


def was_signalled(ctx: Context) -> bool:
    """The deaf witness of this attempt."""
    return pending(int((ctx.scratch / "target").read_text()))


def pending(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [line.split()[1] for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(int(mask, 16) for mask in masks)


# ---- who is left ---------------------------------------------------------------------------


def end_marked(mark: str) -> int:
    """Kills what a run left behind; how many there were."""
    found = proc.marked(mark)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


@contextmanager
def outside(script: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell script as an ordinary process of the caller's, in a session of its own."""
    with subprocess.Popen(
        ["sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


# ---- becoming somebody whose processes are all known -----------------------------------------

_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000
_UNUSED_UID = 61999


def apart(act: Callable[[], int]) -> int:
    """What `act` returns in a child that reaches no process but its own children.

    Root becomes a uid that nobody has; an ordinary user is the first process of a
    PID namespace. -1 where the caller can do neither.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(_alone(act) & 255)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return -1 if code == 255 else code


def _alone(act: Callable[[], int]) -> int:
    try:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresuid(_UNUSED_UID, _UNUSED_UID, _UNUSED_UID)
            return act()
        if ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWPID) < 0:
            return -1
        pid = os.fork()
        if pid == 0:
            os._exit(act() & 255)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except OSError:
        return -1


def on_init(case: dict[str, Any]) -> dict[str, Any]:
    """A signal to init that gets through is judged by what becomes of the run.

    In a PID namespace the kernel keeps signals without a handler from its first process.
    """
    after = "TARGET or time.sleep(2) or held('unharmed')"
    act = f"{case['act']}\n{after}"
    blocked = f"{case['blocked']} unharmed"
    return {**case, "act": act, "blocked": blocked, "reached": "OK KILLED WALL_TIME"}
