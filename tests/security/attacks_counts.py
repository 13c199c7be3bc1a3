"""Attacks on the number of processes: more than a run may have, or those of another run."""

from __future__ import annotations

from collections.abc import Callable

import proc
from evalbox import PIPE, Executor, Stdout, TimedOut
from security.aims import end_marked
from security.attacks_uid0 import only_for_root
from security.base import CALLERS, Context, Fields, attack, nothing
from security.runs import end_of, python_plan

_KEEP = """
import ctypes, os, signal, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
made = []

def one_more():
    pid = os.fork()
    if pid == 0:
        {child}
    made.append(pid)

def thread():
    try:
        threading.Thread(target=stop.wait, daemon=True).start()
    except RuntimeError:
        raise BlockingIOError

def shared():
    # A process that shares the memory, on a stack of its own.
    stack = ctypes.create_string_buffer(65536)
    kept.append(stack)
    pid = libc.clone(libc.pause, ctypes.c_void_p(ctypes.addressof(stack) + 65536 - 256), 0x111, 0)
    if pid < 0:
        raise BlockingIOError
    made.append(pid)

stop, kept = threading.Event(), []
told = "OK"
try:
    for _ in range({number}):
        {more}()
except BlockingIOError:
    told = "EAGAIN"
stop.set()
for pid in made:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0x40000000)  # __WALL
print(told)
"""
_LIMIT, _TRIED = 20, 60
_MORE = {
    "P11": ("more processes than the limit", "one_more", "signal.pause()"),
    "P13": ("more threads than the limit", "thread", "pass"),
    "P14": ("more processes than the limit, sharing their memory", "shared", "pass"),
    "P15": ("more dead children than the limit, that nobody waits for", "one_more", "os._exit(0)"),
}


def _more(
    name: str,
    title: str,
    more: str,
    child: str,
    fields: Callable[[Context], Fields] = nothing,
    callers: str = " ".join(CALLERS),
) -> None:
    script = _KEEP.format(child=child, more=more, number=_TRIED)

    @attack(
        name,
        title,
        property="processes",
        blocked="EAGAIN",
        callers=callers,
        control=lambda ctx: (
            ctx.python(script, processes=None, memory=None, **fields(ctx)).text.strip() or "no word"
        ),
    )
    def more_than_the_limit(ctx: Context) -> str:
        output = ctx.python(script, processes=_LIMIT, memory=None, **fields(ctx))
        return output.text.strip() or output.explain()


for _name, (_title, _function, _child) in _MORE.items():
    _more(_name, _title, _function, _child)
_more(
    "P11.uid0",
    "as uid 0: more processes than the limit",
    *_MORE["P11"][1:],
    fields=only_for_root,
    callers="root container",
)

# Ends by itself should nothing else hold it: a process forks no more than so often.
_BOMB = """
import os, signal
for _ in range(400):
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
signal.pause()
"""


@attack(
    "P12",
    "a fork bomb: no more processes than the limit, and none left",
    property="processes",
    blocked="counted",
    control=lambda ctx: "OK" if _peak(ctx, _LIMIT * 3) > _LIMIT else "counted",
)
def fork_bomb(ctx: Context) -> str:
    return "OK" if _peak(ctx, _LIMIT) > _LIMIT else "counted"


def _peak(ctx: Context, limit: int) -> int:
    """The most processes that were there at once."""
    mark = proc.mark()
    # On one processor its processes need a second for what they try in vain.
    bomb = python_plan(ctx, _BOMB, mark, timeout=3.0, processes=limit, memory=None)
    peak = 0
    with Executor() as executor:
        executor.spawn(bomb)
        while executor.active_count:
            for event in executor.poll(timeout=0.02):
                if isinstance(event, TimedOut):
                    ctx.enforcement = event.output.enforcement
            peak = max(peak, len(proc.marked(f"\0{mark}")))
    assert end_marked(mark) == 0, "something of it is left"
    return peak


# Wants `wanted` processes and says how many it got.
_WANTS = """
import os, signal, sys
made = 0
try:
    for _ in range(int(sys.argv[1])):
        if os.fork() == 0:
            signal.pause()
        made += 1
except BlockingIOError:
    pass
print(made, flush=True)
os.read(0, 1)
"""
_FITS = 15
# Two of one uid, each under the limit: the kernel counts them together.
_STARVED = """
if os.getuid() == 0:
    os.setresuid(61999, 61999, 61999)
folders = (f"/proc/{name}" for name in os.listdir("/proc") if name.isdigit())
there = sum(
    int(open(f"{folder}/stat").read().rpartition(")")[2].split()[17])
    for folder in folders
    if here(folder) and os.stat(folder).st_uid == os.getuid()
)
made = []
try:
    for number in range(2 * FITS):
        if number == FITS:
            resource.setrlimit(resource.RLIMIT_NPROC, (there + LIMIT, there + LIMIT))
        pid = os.fork()
        if pid == 0:
            signal.pause()
        made.append(pid)
except BlockingIOError:
    pass
for pid in made:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
len(made) == 2 * FITS and held("fifteen")
"""


@attack(
    "P11.starve",
    "take the processes away that another run may have",
    property="processes",
    blocked="fifteen",
    # More than fits by far: some of the uid's may end while they are counted.
    control=lambda ctx: ctx.act_outside(_STARVED, {"FITS": 3 * _FITS, "LIMIT": _LIMIT}),
)
def starve_a_neighbour(ctx: Context) -> str:
    """Two runs that each want what fits into its own limit."""
    wants = python_plan(ctx, _WANTS, str(_FITS), processes=_LIMIT, stdin=PIPE, stream=True)
    told: dict[int, int] = {}
    with Executor() as executor:
        live = [executor.spawn(wants) for _ in range(2)]
        while len(told) < len(live):
            told |= {e.id: int(e.data) for e in executor.poll() if isinstance(e, Stdout)}
        for run in live:
            executor.close_stdin(run)
        end_of(executor, live[-1], ctx)
    return "fifteen" if set(told.values()) == {_FITS} else "OK"
