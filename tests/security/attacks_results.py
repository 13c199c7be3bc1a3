"""Attacks on the rest of a result: its figures, its output and the files that are collected.

The verdict itself is in attacks_forging.py.
"""

from __future__ import annotations

import subprocess
from functools import partial

import evalbox
from evalbox import Completed, Executor, MiB, Status, Stdout, TimedOut
from security.base import Context, attack
from security.runs import plan

# ---- X6: figures -----------------------------------------------------------------------------

_USES = 40 * MiB
_LESS_MEMORY = {
    "X6.freed": ("memory that it gave back", "del x"),
    "X6.replaced": (
        "memory of the program that it was before execve",
        "os.execv('/bin/true', ['true'])",
    ),
    "X6.reset": (
        "a peak that it reset",
        "del x; open('/proc/self/clear_refs', 'w').write('5')",
    ),
    "X6.reset-child": (
        "a peak that a child reset for it",
        "del x; os.fork() or open(f'/proc/{os.getppid()}/clear_refs', 'w').write('5')",
    ),
}


def _peak(ctx: Context, act: str, uses: int) -> str:
    script = f"import os\nx = b'x' * {uses}\ntry:\n    {act}\nexcept OSError:\n    pass"
    output = ctx.python(script)
    return "OK" if output.usage.peak_memory < _USES else "counted"


for _id, (_title, _act) in _LESS_MEMORY.items():
    attack(
        _id,
        f"a figure that leaves out {_title}",
        property="memory",
        blocked="counted",
        control=partial(_peak, act=_act, uses=1),
    )(partial(_peak, act=_act, uses=_USES))

_BURN = """
import os, signal, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""
_LESS_TIME = {
    "X6.waited": ("children", "if os.fork() == 0:\n    burn({0})\n    os._exit(0)\nos.wait()"),
    "X6.orphan": (
        "orphans",
        """
read, write = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        burn({0})
    os._exit(0)
os.close(write)
os.wait()
os.read(read, 1)
""",
    ),
    "X6.ignored": (
        "a child that nobody waits for",
        """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
read, write = os.pipe()
if os.fork() == 0:
    burn({0})
    os._exit(0)
os.close(write)
os.read(read, 1)
""",
    ),
}


def _time(ctx: Context, act: str, burns: float) -> str:
    output = ctx.python(_BURN + act.format(burns), cpu_time=60.0)
    return "OK" if output.usage.cpu_time < 0.4 else "counted"


for _id, (_title, _act) in _LESS_TIME.items():
    attack(
        _id,
        f"a figure that leaves out the processor time of {_title}",
        property="cpu",
        blocked="counted",
        control=partial(_time, act=_act, burns=0.0),
    )(partial(_time, act=_act, burns=0.45))


# ---- X7: at the deadline ---------------------------------------------------------------------


def _clear_ends(ctx: Context) -> str:
    early = ctx.run(["sh", "-c", "exit 7"], wall_time=30.0)
    late = ctx.run(["sh", "-c", "sleep 1; exit 7"], wall_time=0.1)
    both = early.exit_code == 7 and late.status is Status.WALL_TIME
    return "OK" if both else "unclear"


@attack(
    "X7",
    "an exit exactly at the deadline, for a verdict that is neither",
    property=None,
    blocked="consistent",
    control=_clear_ends,
)
def exit_at_the_deadline(ctx: Context) -> str:
    with Executor() as executor:
        for step in range(40):
            limit = 0.045 + step * 0.0005
            executor.spawn(plan(ctx, ["sh", "-c", "sleep 0.05; exit 7"], wall_time=limit))
            event = next(e for e in _until_end(executor) if isinstance(e, Completed | TimedOut))
            exited = (event.output.status, event.output.exit_code) == (Status.EXITED, 7)
            if not (exited if isinstance(event, Completed) else _is_out_of_time(event.output)):
                return "OK"
    return "consistent"


def _is_out_of_time(output: evalbox.Output) -> bool:
    return output.status is Status.WALL_TIME and output.exit_code is None


def _until_end(executor: Executor) -> list[evalbox.Event]:
    events: list[evalbox.Event] = []
    while executor.active_count:
        events += executor.poll()
    return events


# ---- X8, X9: output --------------------------------------------------------------------------

_ORPHANS = "for i in 1 2 3; do (setsid timeout 5 yes orphan$i &); done; sleep 0.1; echo last"


def _words_after_the_end(_: Context) -> str:
    with subprocess.Popen(["sh", "-c", _ORPHANS], stdout=subprocess.PIPE, bufsize=0) as shell:
        assert shell.stdout is not None
        seen = b""
        while b"last\n" not in seen:
            seen = seen[-8:] + shell.stdout.read(65536)
        shell.wait()
        # A pipe holds 64 KiB: more than that is written after the end.
        return "OK" if sum(len(shell.stdout.read(65536)) for _ in range(8)) > 65536 else "cut"


@attack(
    "X8",
    "output that orphans go on writing after the end",
    property="tree_kill",
    blocked="cut",
    control=_words_after_the_end,
)
def orphans_write_on(ctx: Context) -> str:
    with Executor() as executor:
        executor.spawn(plan(ctx, ["sh", "-c", _ORPHANS], stream=True, output=None))
        events = _until_end(executor)
        (end,) = [e.output for e in events if isinstance(e, Completed)]
        ctx.enforcement = end.enforcement
        streamed = b"".join(e.data for e in events if isinstance(e, Stdout))
        same = streamed == end.stdout and isinstance(events[-1], Completed)
        return "cut" if same and executor.poll(0.1) == [] else "OK"


_RAW = b"\x1b[2J\x1b]0;title\x07\xff\xfe\x00\r\n\xe2\x80\xae"


def _decoded(_: Context) -> str:
    shown = subprocess.run(["cat"], input=_RAW, capture_output=True).stdout
    return "OK" if shown.decode("utf-8", "replace").encode() != _RAW else "raw"


@attack(
    "X9.bytes",
    "output that is no text, to be changed on its way",
    property=None,
    blocked="raw",
    control=_decoded,
)
def output_that_is_no_text(ctx: Context) -> str:
    output = ctx.run(["sh", "-c", "tee /dev/stderr"], stdin=_RAW)
    return "raw" if output.stdout == output.stderr == _RAW else "OK"


def _terminal_codes(text: str) -> bool:
    return any(not (char.isprintable() or char in "\n\t") for char in text)


@attack(
    "X9.messages",
    "codes for the terminal in the words that we put into logs",
    property=None,
    blocked="escaped",
    control=lambda _: "OK" if _terminal_codes(_RAW.decode("utf-8", "replace")) else "escaped",
)
def codes_in_messages(ctx: Context) -> str:
    output = ctx.run(["sh", "-c", "cat >&2; exit 3"], stdin=_RAW)
    texts = [repr(output), output.explain()]
    try:
        output.check()
    except evalbox.ProgramFailed as error:
        texts.append(str(error))
    return "OK" if any(map(_terminal_codes, texts)) else "escaped"
