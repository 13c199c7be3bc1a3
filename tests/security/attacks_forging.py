"""Attacks on the verdict: a program that wants to be seen to have ended otherwise.

A forged verdict is compared with the true one of the same name: the control of
each is a run that really ends so.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import evalbox
from evalbox import Completed, Executor, File, MiB, Status, Syscalls
from security.base import PYTHON, Context, answer_of, attack
from security.runs import plan

# ---- X1: the channel of our reports ----------------------------------------------------------

_WRITE_TO_ALL = """
import os
taken = 0
for fd in range(3, 4096):
    try:
        os.write(fd, b"\\x03" * 256)
    except OSError:
        continue
    taken += 1
print(taken)
"""
# Each of these has channels of its own until execve.
_KINDS: tuple[Mapping[str, Any], ...] = (
    {},
    {"stdin": b"x" * 100_000},
    {"on_denied": "kill"},
    {"hold": True},
    {"hold": True, "on_denied": "kill", "stdin": evalbox.PIPE, "stream": True},
)


def _inherited_channel(_: Context) -> str:
    read, write = os.pipe()
    try:
        command = [PYTHON, "-c", _WRITE_TO_ALL]
        taken = subprocess.run(command, pass_fds=[write], capture_output=True, text=True).stdout
    finally:
        os.close(read)
        os.close(write)
    return "OK" if taken == "1\n" else "closed"


@attack(
    "X1",
    "words of our protocol into every descriptor",
    property=None,
    blocked="closed",
    control=_inherited_channel,
)
def write_to_all(ctx: Context) -> str:
    for fields in _KINDS:
        with Executor() as executor:
            run = executor.spawn(plan(ctx, [PYTHON, "-c", _WRITE_TO_ALL], **fields))
            executor.release(run)
            while executor.active_count:
                events = executor.poll()
        end = events[-1]
        if not isinstance(end, Completed) or end.output.text != "0\n":
            return "OK"
    return "closed"


# ---- X2-X5: another end than the true one ----------------------------------------------------

_NO_PROGRAM = File(b"\x7fELF and no more", executable=True)
_SPIN = "while :; do :; done"
_HOARD = "import time; x = b'x' * (200 << 20); time.sleep(60)"
_DENIED = "import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)"


def _truly_cannot_start(ctx: Context) -> str:
    try:
        ctx.run(["./x"], files={"x": _NO_PROGRAM})
    except evalbox.SetupError:
        return "OK"
    return "started"


def _truly_not_found(ctx: Context) -> str:
    try:
        ctx.run(["no-such-program"])
    except evalbox.CommandNotFound:
        return "OK"
    return "started"


def _truly(status: Status, command: list[str], **fields: Any) -> Callable[[Context], str]:
    def control(ctx: Context) -> str:
        output = ctx.run(command, **fields)
        return "OK" if output.status is status else answer_of(output)

    return control


_OUT_OF_TIME = _truly(Status.WALL_TIME, ["sleep", "60"], wall_time=0.2)
_OUT_OF_CPU = _truly(Status.CPU_TIME, ["sh", "-c", _SPIN], cpu_time=0.2)
_OUT_OF_MEMORY = _truly(Status.MEMORY_LIMIT, [PYTHON, "-c", _HOARD], memory=64 * MiB)
_OUT_OF_ROOM = _truly(Status.DISK_LIMIT, ["sh", "-c", "yes > f; sleep 9"], disk=MiB)
_TOO_LOUD = _truly(Status.OUTPUT_LIMIT, ["yes"], output=1000)
_WAS_DENIED = _truly(Status.DENIED, [PYTHON, "-c", _DENIED], on_denied="kill")

_WORDS = "evalbox: cannot start the sandbox at stage execve: Exec format error (ENOEXEC)"
# What it does, what truly comes of that, and a true end of the kind that is forged.
_FORGED: dict[str, tuple[str, str, int | str, Callable[[Context], str]]] = {
    "X2": ("our words on stderr", f"echo '{_WORDS}' >&2; exit 125", 125, _truly_cannot_start),
    "X3.124": ("the exit code of a deadline", "exit 124", 124, _OUT_OF_TIME),
    "X3.125": ("the exit code of a failed start", "exit 125", 125, _truly_cannot_start),
    "X3.127": ("the exit code of a missing program", "exit 127", 127, _truly_not_found),
    "X3.137": ("the exit code of a kill", "exit 137", 137, _OUT_OF_MEMORY),
    "X4.memory": ("a SIGKILL, as for memory", "kill -KILL $$", "SIGKILL", _OUT_OF_MEMORY),
    "X4.child": ("a SIGKILL by a child", "(kill -KILL $$); sleep 9", "SIGKILL", _OUT_OF_MEMORY),
    "X4.time": ("a SIGALRM, as for a deadline", "kill -ALRM $$", "SIGALRM", _OUT_OF_TIME),
    "X4.cpu": ("a SIGXCPU, as for processor time", "kill -XCPU $$", "SIGXCPU", _OUT_OF_CPU),
    "X4.disk": ("a SIGXFSZ, as for the disk", "kill -XFSZ $$", "SIGXFSZ", _OUT_OF_ROOM),
    "X4.output": ("a SIGPIPE, as for output", "kill -PIPE $$", "SIGPIPE", _TOO_LOUD),
    "X5.kill": ("a SIGSYS, as for a denied call", "kill -SYS $$", "SIGSYS", _WAS_DENIED),
}


def _forge(ctx: Context, script: str, truth: int | str) -> str:
    output = ctx.run(["sh", "-c", script], on_denied="kill")
    if output.status is Status.EXITED:
        found: int | str | None = output.exit_code
    else:
        found = answer_of(output)
    return "true" if found == truth and output.denied is None else "OK"


for _id, (_title, _script, _truth, _control) in _FORGED.items():
    attack(_id, _title, property=None, blocked="true", control=_control)(
        partial(_forge, script=_script, truth=_truth)
    )

_SIGSYS = {
    "X5.queued": (
        "a SIGSYS with all that the kernel says of a denied call",
        """
# Of itself a process may say what only the kernel says: si_code SYS_SECCOMP.
call("rt_sigqueueinfo", os.getpid(), signal.SIGSYS, struct.pack("iiixxxxqii96x", 31, 0, 1, 0, 1, 2))
""",
    ),
    "X5.timer": (
        "a SIGSYS from a timer",
        """
event = struct.pack("qii48x", 0, signal.SIGSYS, 0)
timer = room(8)
call("timer_create", 1, event, timer)
call("timer_settime", int.from_bytes(timer[:4], "little"), 0, struct.pack("4q", 0, 0, 0, 1), 0)
signal.pause()
""",
    ),
}


def _forge_denial(ctx: Context, act: str) -> str:
    # Calls that a program need not have are no way to send it.
    calls = Syscalls().allow("rt_sigqueueinfo", "timer_create", "timer_settime")
    output = ctx.run(ctx.command(act, {}), on_denied="kill", syscalls=calls)
    forged = output.status is Status.DENIED or output.denied is not None
    return "OK" if forged else answer_of(output)


for _id, (_title, _act) in _SIGSYS.items():
    attack(_id, _title, property=None, blocked="SIGSYS EPERM", control=_WAS_DENIED)(
        partial(_forge_denial, act=_act)
    )
