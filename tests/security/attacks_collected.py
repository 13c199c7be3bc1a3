"""Attacks through files that are collected, through denied calls, and on other runs' results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from evalbox import PIPE, Executor, MiB, SandboxId, Stdout, Syscalls
from proc import mark, marked, until
from security.base import PYTHON, Context, answer_of, attack
from security.runs import end_of, ends, plan

# ---- X10: files that are collected -----------------------------------------------------------

_PATTERNS = ("*", "**", "d/*", "*/secret", "**/secret")
_PLANTED = {
    "X10.link": ("a link to a file outside", 'os.symlink(f"{DIR}/secret", "f")'),
    "X10.directory": ("a link to a directory outside", 'os.symlink(DIR, "d")'),
    "X10.inside": (
        "a link to a file of the host below a directory",
        'os.makedirs("d/e"); os.symlink("/etc/passwd", "d/e/secret")',
    ),
    "X10.self": ("links through /proc", 'os.symlink("/proc/self/cwd/../..", "d")'),
    "X10.name": ("a hard link", 'os.link(f"{DIR}/secret", "f")'),
    "X10.fifo": ("a FIFO that nobody writes", 'os.mkfifo("f")'),
    "X10.loop": (
        "links in a circle",
        'os.symlink("b", "a"); os.symlink("a", "b"); os.symlink(".", "c")',
    ),
    "X10.sparse": ("a sparse file of a terabyte", 'open("f", "w").truncate(1 << 40)'),
    "X10.swapped": (
        "a file that daemons swap for a link, until they are killed",
        """
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            name = str(os.getpid())
            try:
                open(name, "w").close()
                os.replace(name, "f")
                os.symlink(f"{DIR}/secret", name)
                os.replace(name, "f")
            except OSError:
                pass
time.sleep(0.1)
""",
    ),
}


def _collected(ctx: Context, act: str) -> str:
    command = ctx.command(act, {})
    output = ctx.run(command, collect=_PATTERNS, file_size=None, disk=4 * MiB)
    found = output.files.values()
    if any(b"secret" in content or b"root:" in content for content in found):
        return "OK"
    return "OK" if sum(map(len, found)) > 4 * MiB else "skipped"


_PLANTED_OPENLY = 'os.mkdir("d"); open("d/secret", "w").write("secret")'
for _id, (_title, _act) in _PLANTED.items():
    attack(
        _id,
        f"{_title}, to be collected",
        property=None,
        blocked="skipped",
        control=partial(_collected, act=_PLANTED_OPENLY),
    )(partial(_collected, act=_act))

# Paths of 15 KiB to files that hold nothing.
_ROOM = 4 * MiB
_LONG_PATHS = """
import os
for _ in range(60):
    os.mkdir("n" * 250)
    os.chdir("n" * 250)
for number in range(3000):
    os.close(os.open(str(number).zfill(250), os.O_CREAT))
"""


def _paths(ctx: Context, disk: int | None) -> str:
    output = ctx.python(_LONG_PATHS, collect=["**"], disk=disk)
    size = sum(len(path) + len(content) for path, content in output.files.items())
    return "OK" if size > 2 * _ROOM + MiB else "bounded"


attack(
    "X12",
    "collected files with paths so long that they fill the host's memory",
    property=None,
    blocked="bounded",
    control=partial(_paths, disk=None),
)(partial(_paths, disk=_ROOM))


# ---- X11: a call that is told and not made ---------------------------------------------------

# Eight threads and processes at once: the first denial ends the run, and none is made.
_MAKE_ALL = """
def make(number):
    for step in range(100):
        os.mkdir(f"{DIR}/{number}-{step}")
for number in range(4):
    if os.fork() == 0:
        make(number)
        os._exit(0)
threads = [threading.Thread(target=make, args=(number,)) for number in range(4, 8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for _ in range(4):
    os.wait()
"""


def _make_all(ctx: Context, denied: frozenset[str]) -> str:
    calls = Syscalls(denied=denied)
    command = ctx.command(_MAKE_ALL, {})
    output = ctx.run(command, on_denied="kill", syscalls=calls, write=[ctx.dir])
    return "OK" if any(ctx.dir.glob("*-*")) else answer_of(output)


attack(
    "X11",
    "a denied call that takes effect in the instant before it ends the run",
    property=None,
    blocked="DENIED",
    control=partial(_make_all, denied=frozenset()),
)(partial(_make_all, denied=frozenset({"mkdir", "mkdirat"})))


# ---- signals to who reports ------------------------------------------------------------------

_EXIT_SIGNAL = """
CLONE_PARENT = 0x8000
pid = call("clone", {flags} | signal.SIGKILL, 0, 0, 0, 0)
if pid == 0:
    os._exit(0)
time.sleep(0.2)
"""
_REPARENTED = """
if os.fork() == 0:
    if call("clone", signal.SIGKILL, 0, 0, 0, 0) == 0:
        # Its parent is gone by then, and init has it.
        time.sleep(0.2)
        os._exit(0)
    os._exit(0)
time.sleep(0.4)
"""


def _signalled(ctx: Context, act: str) -> str:
    output = ctx.run(ctx.command(act, {}))
    return "unharmed" if answer_of(output) == "OK" else "OK"


_OWN_PARENT = _EXIT_SIGNAL.format(flags="0")
for _id, _title, _act in (
    ("X13.sibling", "of a process made beside it", _EXIT_SIGNAL.format(flags="CLONE_PARENT")),
    ("X13.orphan", "of an orphan", _REPARENTED),
):
    attack(
        _id,
        f"a SIGKILL for who reports, as the exit signal {_title}",
        property="signals",
        blocked="unharmed",
        control=partial(_signalled, act=_OWN_PARENT),
    )(partial(_signalled, act=_act))


def _continue_another(ctx: Context, act_of: Callable[..., str]) -> str:
    """SIGCONT asks for no permission within a session, and runs have one launcher."""
    number = mark()
    with Executor() as executor:
        run = executor.spawn(plan(ctx, ["sh", "-c", f"echo; cat; : {number}"], **_WAITING))
        while not any(isinstance(event, Stdout) for event in executor.poll()):
            assert executor.active_count
        (pid, *_) = marked(number)
        answer = act_of("os.kill(PID, signal.SIGCONT)", {"PID": pid})
        executor.kill(run)
        ends(ctx, executor)
    return answer


_WAITING: dict[str, Any] = {"stdin": PIPE, "stream": True}
attack(
    "X16",
    "a SIGCONT for another run of the same launcher",
    property="signals",
    blocked="EPERM ESRCH",
    control=lambda ctx: _continue_another(ctx, ctx.act_outside),
)(lambda ctx: _continue_another(ctx, ctx.act_inside))


# ---- another run's result --------------------------------------------------------------------

_WAITS = "import os, sys; sys.stdin.read(); os.write(1, b'mine')"


def _write_into(ctx: Context, write: str, act_of: Any) -> str:
    """What a run told, that waits while somebody writes to its outputs."""
    number = mark()
    with Executor() as executor:
        run = executor.spawn(plan(ctx, [PYTHON, "-c", _WAITS, number], stdin=PIPE))
        until(lambda: marked(number), "the other run is under way")
        (pid, *_) = marked(number)
        answer = act_of(write, {"PID": pid})
        executor.close_stdin(run)
        (output,) = ends(ctx, executor)
    return "OK" if b"forged" in output.stdout + output.stderr else str(answer)


_FORGE = 'os.write(os.open(f"/proc/{PID}/fd/1", os.O_WRONLY), b"forged")'


@attack(
    "X14",
    "words in the output of another run",
    property="fs_write",
    blocked="EACCES ENOENT",
    privileged="CAP_SYS_PTRACE",
    control=lambda ctx: _write_into(ctx, _FORGE, ctx.act_outside),
)
def words_in_another_output(ctx: Context) -> str:
    return _write_into(ctx, _FORGE, ctx.act_inside)


_FILL = """
import os, signal
while True:
    try:
        if os.fork() == 0:
            signal.pause()
    except BlockingIOError:
        break
print("full", flush=True)
signal.pause()
"""
_NEEDS_TEN = """
import os, signal
print("ready", flush=True)
os.read(0, 1)
for _ in range(10):
    if os.fork() == 0:
        signal.pause()
"""


def _spawned(ctx: Context, executor: Executor, script: str, **fields: Any) -> SandboxId:
    """A run that has spoken."""
    run = executor.spawn(plan(ctx, [PYTHON, "-c", script], stream=True, **fields))
    while not any(isinstance(e, Stdout) and e.id == run for e in executor.poll()):
        assert executor.active_count
    return run


def _fills_up(ctx: Context) -> str:
    with Executor() as executor:
        executor.kill(_spawned(ctx, executor, _FILL, processes=40))
        ends(ctx, executor)
    return "OK"


@attack(
    "X15",
    "another run of the same caller made to fail: all processes used up",
    property="processes",
    blocked="unaffected",
    control=_fills_up,
)
def all_processes_used_up(ctx: Context) -> str:
    with Executor() as executor:
        other = _spawned(ctx, executor, _NEEDS_TEN, stdin=PIPE, processes=20)
        # It may have more than the other one, and takes them all.
        bomb = _spawned(ctx, executor, _FILL, processes=200, memory=None)
        executor.close_stdin(other)
        output = end_of(executor, other, ctx)
        executor.kill(bomb)
        ends(ctx, executor)
    ctx.enforcement = output.enforcement
    return "unaffected" if output.ok else "OK"
