"""Attacks for what a program could learn of its host: secrets, names, other processes.

Numbers of the whole machine that runtimes need (processors, memory, load, clocks)
are granted and no attack. Nor is timing: SECURITY.md says that it is out of scope.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from evalbox import Executor
from proc import helpers, mark, marked, until
from security.base import Context, Fields, attack, program
from security.runs import ends, plan

_CLOSED = "EACCES ENOENT"


# ---- I1, I2: the environment and the command line --------------------------------------------


@contextmanager
def _secret_variable() -> Iterator[str]:
    """A secret in the environment of this process, the host."""
    secret = secrets.token_hex(16)
    os.environ["SECRET_OF_THE_HOST"] = secret
    try:
        yield secret
    finally:
        del os.environ["SECRET_OF_THE_HOST"]


_VARIABLES = {
    "I1": ("its own environment", 'os.environ.get("SECRET_OF_THE_HOST") or held("nothing")'),
    "I1.proc": (
        "its environment as the kernel has it",
        'b"SECRET_OF" in open("/proc/self/environ", "rb").read() or held("nothing")',
    ),
}


def _variable(ctx: Context, act_of: Callable[..., str], act: str) -> str:
    with _secret_variable():
        # What serves runs is started now, with that environment.
        with Executor() as executor:
            executor.run(plan(ctx, ["true"]))
        return act_of(act)


for _id, (_title, _act) in _VARIABLES.items():
    attack(
        _id,
        f"a secret of the host in {_title}",
        property=None,
        blocked=f"nothing {_CLOSED}",
        control=lambda ctx, act=_act: _variable(ctx, ctx.act_outside, act),  # type: ignore[misc]
    )(lambda ctx, act=_act: _variable(ctx, ctx.act_inside, act))  # type: ignore[misc]


def _command_lines(pids: list[int]) -> bytes:
    shown = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)
    for pid in pids:
        # Of who has a uid of his own only a tracer may read it.
        with suppress(PermissionError):
            shown += Path(f"/proc/{pid}/environ").read_bytes()
    return shown


def _secrets_of_a_plan(ctx: Context, *pids: Callable[[str], list[int]]) -> str:
    """Whether those processes show what a plan has as input, variable or file."""
    number, secret = mark(), secrets.token_hex(16)
    fields: dict[str, Any] = {
        "stdin": secret.encode(),
        "env": {"SECRET": secret},
        "files": {"secret": secret},
    }
    with Executor() as executor:
        run = executor.spawn(plan(ctx, ["sh", "-c", f"sleep {number}; :", secret], **fields))
        until(lambda: marked(f"sleep\0{number}"), "the program is under way")
        shown = _command_lines([pid for of in pids for pid in of(number)])
        executor.kill(run)
        ends(ctx, executor)
    return "OK" if secret.encode() in shown else "nothing"


attack(
    "I2",
    "what a plan hands over: on the command line or in the environment of our helpers",
    property=None,
    blocked="nothing",
    control=lambda ctx: _secrets_of_a_plan(ctx, marked),
)(lambda ctx: _secrets_of_a_plan(ctx, lambda _: helpers()))


# ---- I3: other processes ---------------------------------------------------------------------


def _witness(ctx: Context) -> Fields:
    return {"PID": ctx.world.witness()}


for _leaf in ("cmdline", "comm", "environ", "stat", "status", "limits", "cgroup", "mountinfo"):
    program(
        f"I3.{_leaf}",
        f"/proc/PID/{_leaf} of another process",
        property="ptrace" if _leaf == "environ" else "fs_read",
        blocked=_CLOSED,
        act=f'open(f"/proc/{{PID}}/{_leaf}").read()',
        given=_witness,
    )
program(
    "I3.list",
    "which processes there are, from /proc",
    property="proc_view",
    blocked=f"hidden {_CLOSED}",
    act='str(PID) in os.listdir("/proc") or held("hidden")',
    given=_witness,
)
# What each answers of a process that exists and of one that does not.
_ASKING = {
    "getpgid": 'call("getpgid", pid)',
    "getsid": 'call("getsid", pid)',
    "getpriority": 'call("getpriority", 0, pid)',
    "ioprio": 'call("ioprio_get", 1, pid)',
    "capget": 'call("capget", struct.pack("Ii", 0x20080522, pid), room(24))',
    "affinity": 'call("sched_getaffinity", pid, 128, room(128))',
    "scheduler": 'call("sched_getscheduler", pid)',
    "attributes": 'call("sched_getattr", pid, room(56), 56, 0)',
    "interval": 'call("sched_rr_get_interval", pid, room(16))',
    "signal": "os.kill(pid, 0)",
    "path": 'os.stat(f"/proc/{pid}")',
}
_NOBODY = (1 << 22) - 1  # no pid is larger than that
for _name, _ask in _ASKING.items():
    program(
        f"I3.{_name}",
        f"whether a process exists, asked through {_name}",
        property="proc_view",
        blocked="same",
        act=f"""
def ask(pid):
    try:
        {_ask}
    except OSError as error:
        return error.errno
ask(PID) != ask({_NOBODY}) or held("same")
""",
        given=_witness,
    )


def _holder(ctx: Context, act_of: Callable[..., str]) -> str:
    """Who holds a lock on a file that both may open: this process does."""
    with (ctx.dir / "secret").open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        return act_of(
            """
asked = struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0)
found = fcntl.fcntl(os.open(f"{DIR}/secret", os.O_RDONLY), fcntl.F_GETLK, asked)
struct.unpack("hhqqi4x", found)[4] == PID or held("hidden")
""",
            {"PID": os.getpid()},
        )


attack(
    "I11",
    "the pid of who holds a lock on a file that was granted",
    property="proc_view",
    blocked="hidden",
    control=lambda ctx: _holder(ctx, ctx.act_outside),
)(lambda ctx: _holder(ctx, partial(ctx.act_inside, read=[ctx.dir])))


# ---- I4: memory ------------------------------------------------------------------------------

# Looks at its own memory, which a write() from there reads without a signal. The
# secret is told with one bit turned in each byte, so that it is not found in itself.
_SEARCH = """
needle = bytes.fromhex(TURNED)
turn = bytes(byte ^ 1 for byte in range(256))
read, write = os.pipe()
def page(at):
    if call("write", write, at, 4096) == 4096:
        return os.read(read, 4096)
def mapped(at):
    try:
        return page(at)
    except OSError:
        return None
def around(address):
    start = address & ~4095
    for step in (4096, -4096):
        at, last = start, b""
        while (found := mapped(at)) is not None and abs(at - start) < 64 << 20:
            both = last + found if step > 0 else found + last
            if needle in both.translate(turn):
                return True
            at, last = at + step, found
    return False
libc = ctypes.CDLL(None)
places = [
    ctypes.c_void_p.in_dll(libc, "environ").value,  # the stack
    ctypes.addressof(ctypes.c_void_p.in_dll(libc, "environ")),  # the C library
    id(needle), id(object()), ctypes.addressof(room(1 << 20)), ctypes.addressof(room(16)),
]
any(map(around, places)) or held("nothing")
"""


def _searched(act_of: Callable[..., str]) -> str:
    with _secret_variable() as secret:
        turned = bytes(byte ^ 1 for byte in secret.encode()).hex()
        # On the heap of this process, too, and in a page that is given back.
        kept = [ctypes.create_string_buffer(secret.encode()) for _ in range(1000)]
        answer = act_of(_SEARCH, {"TURNED": turned})
        del kept
    return answer


attack(
    "I4",
    "a secret of the host in its own memory",
    property=None,
    blocked="nothing",
    control=lambda ctx: _searched(ctx.act_outside),
)(lambda ctx: _searched(ctx.act_inside))
