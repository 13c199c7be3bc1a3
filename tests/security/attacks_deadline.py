"""Attacks on the deadline, on the verdict, and on the state in which a program starts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

from evalbox import Executor, Status, Stdout
from security.aims import granting
from security.base import PATIENCE, PYTHON, Context, answer_of, attack, program
from security.runs import end_of, plan

# ---- P16, P17, P29, P30: who will not end ----------------------------------------------------

_FOREVER = """
import ctypes, os, signal, threading, time
libc = ctypes.CDLL(None)
print("ready", flush=True)
"""
_DEAF = """
import signal
for number in signal.valid_signals() - {9, 19}:
    signal.signal(number, signal.SIG_IGN)
"""
# Each is ready, then goes on for ever unless somebody ends it.
_ENDLESS = {
    "P16": ("ignores every signal that it can", _DEAF + "while True: time.sleep(1000)"),
    "P17.self": ("stands still", "os.kill(os.getpid(), signal.SIGSTOP)"),
    "P17.tree": (
        "stands still, with all its children",
        """
for _ in range(4):
    if os.fork() == 0:
        break
os.kill(os.getpid(), signal.SIGSTOP)
""",
    ),
    "P17.again": (
        "is stopped and continued all the time",
        """
parent = os.getpid()
if os.fork() == 0:
    while True:
        os.kill(parent, signal.SIGSTOP)
        os.kill(parent, signal.SIGCONT)
time.sleep(1000)
""",
    ),
    "P29.thread": (
        "has lost its first thread",
        """
threading.Thread(target=time.sleep, args=(1000,)).start()
libc.syscall(60 if os.uname().machine == "x86_64" else 93, 0)  # exit, of this thread
""",
    ),
    "P29.exec": (
        "is another program, started by its second thread",
        """
threading.Thread(target=os.execv, args=("/bin/sleep", ["sleep", "1000"])).start()
time.sleep(1000)
""",
    ),
    "P30.churn": (
        "forks and ends all the time",
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    try:
        if os.fork() == 0:
            os._exit(0)
    except BlockingIOError:
        pass
""",
    ),
    "P30.relay": (
        "is always another process: each lives only until the next does",
        """
if os.fork() == 0:
    while os.fork() == 0:
        os.setsid()
    os._exit(0)
time.sleep(1000)
""",
    ),
    "P30.kernel": (
        "is in calls that take long",
        """
zero, null = os.open("/dev/zero", os.O_RDONLY), os.open("/dev/null", os.O_WRONLY)
while True:
    os.getrandom(1 << 25)
    os.sendfile(null, zero, None, 1 << 30)
""",
    ),
    "P30.vfork": (
        "waits in the kernel for a child that never starts another program",
        """
stack = ctypes.create_string_buffer(65536)
top = ctypes.c_void_p(ctypes.addressof(stack) + 65536 - 256)
libc.clone(libc.pause, top, 0x4111, 0)  # CLONE_VM, CLONE_VFORK
""",
    ),
}


def _ended(ctx: Context, script: str) -> str:
    """How it ends by its deadline."""
    output = ctx.python(_FOREVER + script, timeout=0.5)
    return "OK" if output.status is not Status.WALL_TIME else "ended"


def _goes_on(ctx: Context, script: str) -> str:
    """Without a deadline it lives until it is killed by hand."""
    command = [PYTHON, "-c", _FOREVER + script]
    with Executor() as executor:
        run = executor.spawn(plan(ctx, command, timeout=None, stream=True))
        while not any(isinstance(event, Stdout) for event in executor.poll()):
            pass
        executor.kill(run)
        return "OK" if end_of(executor, run, ctx).status is Status.KILLED else "ended"


def _endless(name: str, title: str, script: str) -> None:
    attack(
        name,
        f"a program that {title}, past its deadline",
        property="wall_time",
        blocked="ended",
        control=lambda ctx: _goes_on(ctx, script),
    )(lambda ctx: _ended(ctx, script))


for _name, (_title, _script) in _ENDLESS.items():
    _endless(_name, _title, _script)


@attack(
    "P16.cpu",
    "ignore the signal of a limit on CPU time",
    property="cpu",
    blocked="CPU_TIME",
    control=lambda ctx: _burnt(ctx, cpu_time=None),
)
def deaf_to_the_limit(ctx: Context) -> str:
    return _burnt(ctx, cpu_time=0.2)


def _burnt(ctx: Context, **limits: Any) -> str:
    """Burns what is more than the limit of the attack."""
    script = f"{_DEAF}import time\nwhile time.process_time() < 1: pass"
    output = ctx.python(script, **limits)
    return "OK" if output.ok else output.status.name


# ---- P26, P28: init is made to believe something -----------------------------------------------

_NOT_MINE = """
while True:  # until whoever is its parent has waited for it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        break
    time.sleep(0.01)
held("unharmed")
"""
_CLONE_PARENT = 0x8000
for _name, _number in (("term", signal.SIGTERM), ("kill", signal.SIGKILL)):
    program(
        f"P26.{_name}",
        f"a child of init whose death signals init with {_number.name}",
        property="signals",
        blocked="unharmed",
        reached="KILLED SIGTERM SIGKILL",
        given=lambda _, number=_number: {"FLAGS": _CLONE_PARENT | number},
        # A child of its own.
        control_given=lambda _, number=_number: {"FLAGS": int(number)},
        act=f"""
pid = call("clone", FLAGS, 0, 0, 0, 0)
if pid == 0:
    os._exit(0)
{_NOT_MINE}
""",
    )
    program(
        f"P26.{_name}-orphan",
        f"an orphan whose death signals init with {_number.name}",
        property="signals",
        blocked="unharmed",
        reached="KILLED SIGTERM SIGKILL",
        given=lambda _, number=_number: {"NUMBER": int(number), "STAYS": 0},
        control_given=lambda _: {"STAYS": 1},
        act=f"""
reader, writer = os.pipe()
if STAYS or os.fork() == 0:
    old = os.getpid()
    pid = call("clone", NUMBER, 0, 0, 0, 0)
    if pid == 0:
        while os.getppid() == old and not STAYS:
            time.sleep(0.01)
        os._exit(0)
    os.write(writer, struct.pack("i", pid))
    STAYS or os._exit(0)
pid = struct.unpack("i", os.read(reader, 4))[0]
{_NOT_MINE}
""",
    )

_STOPPED = """
pid = os.fork()
if pid == 0:
    call("ptrace", 0, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
status = os.waitpid(pid, 0)[1]
os.kill(pid, signal.SIGKILL)
os.WIFSTOPPED(status) or held("unseen")
"""


@attack(
    "P28",
    "make init a tracer, where ptrace is allowed: a stop that it takes for the end",
    property=None,
    # It dies of its own signal, as it would if nobody traced it.
    blocked="SIGUSR1 EPERM",
    reached="OK SIGKILL",
    control=lambda ctx: ctx.act_outside(_STOPPED),
)
def stop_for_an_end(ctx: Context) -> str:
    act = 'call("ptrace", 0, 0, 0, 0)\nos.kill(os.getpid(), signal.SIGUSR1)'
    fields = granting("ptrace")(ctx)
    return answer_of(ctx.run(ctx.command(act, {}), timeout=1.0, **fields))


# ---- P24: what a host hands on ---------------------------------------------------------------

_IS_CLEAN = """
known = {signal.SIGPIPE, signal.SIGXFSZ}  # which Python itself ignores
numbers = signal.valid_signals() - known - {signal.SIGKILL, signal.SIGSTOP}
dirt = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
dirt += signal.pthread_sigmask(signal.SIG_BLOCK, [])
if not dirt and os.umask(0) == 0o22:
    held("clean")
"""
_DIRTY_HOST = """
import json, os, signal, subprocess, sys
tier, command = sys.argv[1], json.loads(sys.argv[2])
os.umask(0)
for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGUSR2, signal.SIGSEGV])
if tier:
    import evalbox
    stdout = evalbox.run(command, isolation=tier, require=()).stdout
else:
    stdout = subprocess.run(command, stdout=subprocess.PIPE, restore_signals=False).stdout
sys.stdout.buffer.write(stdout)
"""


def _from_a_dirty_host(ctx: Context, tier: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _DIRTY_HOST, tier, json.dumps(ctx.command(_IS_CLEAN, {}))],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    return done.stdout.strip().removeprefix("@answer ")


@attack(
    "P24",
    "ignored and blocked signals and the umask of the host, handed on",
    property=None,
    blocked="clean",
    control=lambda ctx: _from_a_dirty_host(ctx, ""),
)
def state_of_the_host(ctx: Context) -> str:
    return _from_a_dirty_host(ctx, ctx.tier)
