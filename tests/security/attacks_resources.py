"""Attacks on output, input and time, and with objects that the kernel keeps.

The rest of the section is in attacks_memory.py, attacks_disk.py and attacks_quotas.py.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path

import evalbox
from evalbox import PIPE, Executor, KiB, MiB
from proc import cpu_seconds, helpers, mark, marked, until
from security.base import PATIENCE, PYTHON, Context, answer_of, attack, program
from security.runs import ends, plan

_MUCH = bytes(MiB)  # more than a pipe holds


# ---- R7, R8: objects of the kernel that outlive who made them ---------------------------------

_LEFT = {
    "R7.memory": ("shared memory of System V", 'at = call("shmget", 0, 4096, 0o1600)', "shmctl"),
    "R7.semaphores": ("semaphores of System V", 'at = call("semget", 0, 1, 0o1600)', "semctl"),
    "R7.messages": ("a message queue of System V", 'at = call("msgget", 0, 0o1600)', "msgctl"),
}
for _id, (_title, _make, _control) in _LEFT.items():
    _arguments = "at, 0, 0, 0" if _control == "semctl" else "at, 0, 0"  # IPC_RMID
    program(
        _id,
        f"{_title} that stays behind",
        property="memory",
        blocked="ENOSYS EPERM",
        act=f"{_make}\ncall({_control!r}, {_arguments})",
    )
program(
    "R8",
    "a POSIX message queue that stays behind",
    property="memory",
    blocked="ENOSYS EPERM",
    act="""
name = b"left-%d" % os.getpid()
call("mq_open", name, 0o102, 0o600, 0)
call("mq_unlink", name)
""",
)


# ---- output ----------------------------------------------------------------------------------

_OUTPUT = 1_000_003
_FLOOD = """
import os, sys
os.read(0, 1)
for number in range(20):
    if os.fork() == 0:
        for _ in range(int(sys.argv[1])):
            os.write(1 + number % 2, b"x" * 4096)
        os._exit(0)
for _ in range(20):
    os.wait()
"""
_ALL = 20 * 32 * 4096


def _memory_here() -> int:
    """Of this process and of the helpers that serve its runs, in bytes."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in (os.getpid(), *helpers())]
    return sum(int(text.partition("VmRSS:")[2].split()[0]) * KiB for text in texts)


def _flood_answer(output: evalbox.Output, grown: int) -> str:
    kept = len(output.stdout) + len(output.stderr)
    limit = output.limits.output
    if limit is None:
        return "OK" if kept == _ALL else answer_of(output)
    # What was kept, and as much again for handing it over.
    return "OK" if kept > limit or grown > 2 * limit + 8 * MiB else answer_of(output)


def _flood(ctx: Context, blocks: int, output: int | None) -> str:
    ctx.run(["true"])
    before = _memory_here()
    ended = ctx.python(_FLOOD, str(blocks), output=output)
    return _flood_answer(ended, _memory_here() - before)


attack(
    "R14",
    "more output than allowed, from twenty processes through both streams",
    property="output",
    blocked="OUTPUT_LIMIT",
    control=partial(_flood, blocks=32, output=None),
)(partial(_flood, blocks=1 << 40, output=_OUTPUT))


def _flood_unread(ctx: Context, blocks: int, output: int | None) -> str:
    """The host does not look before everything is over."""
    number = mark()
    with Executor() as executor:
        command = [PYTHON, "-c", _FLOOD, str(blocks), number]
        run = executor.spawn(plan(ctx, command, output=output, stdin=PIPE, stream=True))
        before = _memory_here()
        until(lambda: marked(number), "the program has started")
        executor.close_stdin(run)
        until(lambda: not marked(number), "the program ends while nobody looks")
        grown = _memory_here() - before
        (ended,) = ends(ctx, executor)
    return _flood_answer(ended, grown)


attack(
    "R14.unread",
    "the same, streamed to a host that does not read",
    property="output",
    blocked="OUTPUT_LIMIT",
    control=partial(_flood_unread, blocks=32, output=None),
)(partial(_flood_unread, blocks=1 << 40, output=_OUTPUT))


# ---- time ------------------------------------------------------------------------------------

_LOOP = '[ $1 = 0 ] || exec sh -c "$0" "$0" $(($1 - 1))'
_STUBBORN = {
    "R15": ("goes on with both outputs closed", ["sh", "-c", "exec >&- 2>&-; sleep 1"]),
    "R17": ("does not read its input", ["sleep", "1"]),
    "R20": ("sleeps", ["sleep", "1"]),
    "R20.deaf": ("ignores signals", ["sh", "-c", "trap '' TERM INT HUP ALRM XCPU; sleep 1"]),
    "R25.loop": ("replaces itself again and again", ["sh", "-c", _LOOP, _LOOP, "3000"]),
}


def _stubborn(ctx: Context, command: list[str], wall_time: float) -> str:
    output = ctx.run(command, stdin=_MUCH, wall_time=wall_time)
    return "OK" if output.ok else answer_of(output)


for _id, (_title, _command) in _STUBBORN.items():
    attack(
        _id,
        f"a program that {_title}, past its deadline",
        property="wall_time",
        blocked="WALL_TIME",
        control=partial(_stubborn, command=_command, wall_time=PATIENCE),
    )(partial(_stubborn, command=_command, wall_time=0.2))

_BURNT = {
    "R19.alone": ("one process", "burn(1.2)"),
    "R19.children": (
        "six children at a time",
        """
for _ in range(6):
    if os.fork() == 0:
        burn(0.2)
        os._exit(0)
for _ in range(6):
    os.wait()
""",
    ),
    "R19.threads": (
        "threads",
        """
def work():
    for _ in range(75):
        os.urandom(1 << 20)
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
""",
    ),
    "R19.orphans": (
        "processes whose parents are gone",
        """
read, write = os.pipe()
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            burn(0.2)
            os.write(write, b"x")
        os._exit(0)
    os.wait()
done = 0
while done < 6:
    done += len(os.read(read, 6))
""",
    ),
    "R19.unwaited": (
        "short-lived processes that nobody waits for",
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
read, write = os.pipe()
for _ in range(240):
    if os.fork() == 0:
        burn(0.005)
        os.write(write, b"x")
        os._exit(0)
    os.read(read, 1)
""",
    ),
}
_BURN = """
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
for _id, (_title, _act) in _BURNT.items():
    program(
        _id,
        f"four times the processor time that is allowed, by {_title}",
        property="cpu",
        blocked="CPU_TIME",
        act=_BURN + _act,
        fields=lambda _: {"cpu_time": 0.3},
        control=lambda _: {"cpu_time": None},
    )


def _spins(ctx: Context) -> str:
    """Whether the helpers use a processor while the program sleeps."""
    limits = dict.fromkeys(("memory", "disk", "cpu_time"))
    ctx.run(["true"], **limits)
    before = cpu_seconds(helpers())
    output = ctx.run(["sh", "-c", "exec >&-; sleep 0.5"], **limits)
    used = cpu_seconds(helpers()) - before
    return "OK" if used > 0.1 * output.usage.wall_time else "idle"


def _is_seen_to_spin(_: Context) -> str:
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as spinner:
        until(lambda: cpu_seconds([spinner.pid]) > 0.05, "it is seen to use a processor")
        spinner.kill()
    return "OK"


attack(
    "R16",
    "only stdout closed: the end of file keeps who reads it busy",
    property=None,
    blocked="idle",
    control=_is_seen_to_spin,
)(_spins)


# ---- input -----------------------------------------------------------------------------------


def _naive_feeder(_: Context) -> str:
    with subprocess.Popen(["true"], stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            while True:
                process.stdin.write(_MUCH)
    return "OK"


@attack(
    "R18",
    "input closed early, for a SIGPIPE or EPIPE in the parent",
    property=None,
    blocked="served",
    control=_naive_feeder,
)
def closed_input(ctx: Context) -> str:
    output = ctx.run(["sh", "-c", "exec <&-; sleep 0.1; echo done"], stdin=_MUCH)
    with Executor() as executor:
        run = executor.spawn(plan(ctx, ["sh", "-c", "exec <&-; sleep 0.1"], stdin=PIPE))
        with suppress(BrokenPipeError):
            executor.write_stdin(run, _MUCH)
        (ended,) = ends(ctx, executor)
    return "served" if output.text == "done\n" and ended.ok else "OK"
