"""Attacks on what the kernel counts: descriptors, signals, timers, priorities, arguments.

Also on what it counts for a user, whose other runs must not feel it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import evalbox
from evalbox import Executor, KiB, MiB, Stdout
from security.aims import granting
from security.base import PYTHON, Context, answer_of, attack, program
from security.runs import ends, plan

# ---- counts ----------------------------------------------------------------------------------

program(
    "R21",
    "more open files than allowed",
    property=None,
    blocked="EMFILE",
    act="held = [os.dup(0) for _ in range(300)]",
    control=lambda _: {"open_files": 400},
)
_FULL = """
import fcntl, os, socket, struct, sys, time
def pipes():
    while True:
        try:
            ends = os.pipe()
        except OSError:
            return
        if fcntl.fcntl(ends[0], 1032) < 65536:  # F_GETPIPE_SZ
            print("full", flush=True)
            return
def descriptors():
    many = struct.pack("200i", *[0] * 200)
    try:
        while True:
            kept.append(socket.socketpair())
            kept[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])
    except OSError:
        print("full", flush=True)
kept = []
take = globals()[sys.argv[1]]
if take == pipes:
    for _ in range(10):
        if os.fork() == 0:
            break
take()
time.sleep(1000)
"""


@contextmanager
def _quota_used_up(ctx: Context, what: str) -> Iterator[Executor]:
    """While a run holds all that the kernel gives its user."""
    with Executor() as executor:
        run = executor.spawn(plan(ctx, [PYTHON, "-c", _FULL, what], stream=True))
        while not any(isinstance(event, Stdout) for event in executor.poll()):
            assert executor.active_count
        yield executor
        executor.kill(run)
        ends(ctx, executor)


def _fills_up(ctx: Context, what: str) -> str:
    with _quota_used_up(ctx, what):
        return "OK"


_PIPE_SIZE = "import fcntl, os; print(fcntl.fcntl(os.pipe()[0], 1032))"


@attack(
    "R22.pipes",
    "room for pipes used up, so that other runs of the same caller get small ones",
    property=None,
    blocked="unaffected",
    control=partial(_fills_up, what="pipes"),
    # Runs of an ordinary user are that user's: theirs get slower, and nothing else.
    callers="root container",
)
def smaller_pipes(ctx: Context) -> str:
    with _quota_used_up(ctx, "pipes") as executor:
        size = executor.run(plan(ctx, [PYTHON, "-c", _PIPE_SIZE])).text
    return "unaffected" if size == "65536\n" else "OK"


@attack(
    "R22.descriptors",
    "descriptors left in sockets, so that none can be handed over for other runs",
    property=None,
    blocked="unaffected",
    control=partial(_fills_up, what="descriptors"),
)
def stuck_descriptors(ctx: Context) -> str:
    # So much output is handed over as a descriptor.
    large = ["head", "-c", "1000000", "/dev/zero"]
    with _quota_used_up(ctx, "descriptors") as executor:
        other = executor.run(plan(ctx, large, wall_time=10.0))
        return "unaffected" if other.ok and executor.active_count == 1 else "OK"


program(
    "R23.locked",
    "memory that cannot be reclaimed",
    property=None,
    blocked="EPERM ENOMEM",
    act="page = room(4096)\ncall('mlock', ctypes.addressof(page), 4096)",
)
program(
    "R23.real-time",
    "a thread that nobody else gets the processor from",
    property=None,
    blocked="EPERM",
    act="os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    privileged="CAP_SYS_NICE",
)
program(
    "R23.nice",
    "a higher priority",
    property=None,
    blocked="EPERM EACCES",
    act="os.setpriority(os.PRIO_PROCESS, 0, -5)",
    privileged="CAP_SYS_NICE",
)
program(
    "R23.signals",
    "queued signals",
    property=None,
    blocked="EAGAIN",
    act="""
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
info = struct.pack("iii116x", 40, 0, -1)  # SI_QUEUE
for _ in range(2000):
    call("rt_sigqueueinfo", os.getpid(), 40, info)
""",
    fields=granting("rt_sigqueueinfo"),
)
program(
    "R23.timers",
    "timers",
    property=None,
    blocked="EAGAIN",
    act="""
timer = room(8)
for _ in range(2000):
    call("timer_create", 1, 0, timer)
""",
    fields=granting("timer_create"),
)
program(
    "R23.raised",
    "its own limits raised again",
    property=None,
    blocked="EPERM",
    act="""
raised = []
for kind in ("DATA", "FSIZE", "NOFILE", "NPROC", "STACK", "MEMLOCK", "RTPRIO", "SIGPENDING"):
    try:
        call("prlimit64", 0, getattr(resource, f"RLIMIT_{kind}"), b"\\xff" * 16, 0)
        raised.append(kind)
    except OSError as error:
        last = error
if not raised:
    raise last
""",
)


def _recursion(ctx: Context, stack: int) -> str:
    script = "f() { [ $1 = 0 ] || f $(($1 - 1)); }; f 900"
    output = ctx.run(["sh", "-c", script], stack=stack)
    return "OK" if output.ok else answer_of(output)


attack(
    "R23.stack",
    "a stack without end",
    property=None,
    blocked="SIGSEGV",
    control=partial(_recursion, stack=8 * MiB),
)(partial(_recursion, stack=128 * KiB))
program(
    "R24",
    "everything in the page cache of a file system written to its disk at once",
    property=None,
    blocked="EPERM",
    act="call('syncfs', os.open('.', os.O_RDONLY))",
)
program(
    "R25.arguments",
    "arguments larger than a quarter of the stack",
    property=None,
    blocked="E2BIG",
    act="""
pid = os.fork()
if pid == 0:
    try:
        os.execv("/bin/true", ["x" * 100_000] * 40)
    except OSError as error:
        os._exit(error.errno)
if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
    raise OSError(code, "")
""",
    control=lambda _: {"stack": None},
)


def _large_plan(ctx: Context, count: int) -> str:
    try:
        output = ctx.run(["sh", "-c", "echo $#", *["x" * 100_000] * count], stack=None)
    except (evalbox.SetupError, evalbox.PlanError):
        return "refused"
    return "OK" if output.text == f"{count - 1}\n" else answer_of(output)


attack(
    "R25.plan",
    "a plan with more arguments than the kernel takes",
    property=None,
    blocked="refused",
    control=partial(_large_plan, count=10),
)(partial(_large_plan, count=200))
