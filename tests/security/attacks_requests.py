"""Attacks by ioctl, on the compiler of filters and on the log of the kernel."""

from __future__ import annotations

import os
import platform
import secrets
from pathlib import Path

import proc
from evalbox import PlanError, Syscalls
from evalbox._syscall_table import NUMBERS
from evalbox.compile.rules import TABLE
from security.base import Context, attack, program

_HERE = NUMBERS[platform.machine()]

# ---- K10, K24: requests ----------------------------------------------------------------------

_TERMINALS = {
    "tiocsti": ("type into it", 'TERMINAL, 0x5412, b"x"', "CAP_SYS_ADMIN"),
    "discipline": ("change its line discipline", 'TERMINAL, 0x5423, struct.pack("i", 0)', ""),
    "unlock": ("unlock its other end", 'TERMINAL, 0x40045431, struct.pack("i", 0)', ""),
    "size": ("change its size", 'TERMINAL, 0x5414, struct.pack("4H", 1, 1, 0, 0)', ""),
    "exclusive": ("keep others out", "TERMINAL, 0x540C, 0", ""),
}
for _name, (_title, _arguments, _who) in _TERMINALS.items():
    program(
        f"K10.{_name}",
        f"have a terminal and {_title}, where terminals are granted",
        property=None,
        blocked="ENOTTY EACCES ENOENT",
        fields=lambda _: {"write": ["/dev/ptmx"]},
        privileged=_who,
        act=f"""
TERMINAL = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
call("ioctl", {_arguments})
""",
    )
_FILE = 'fd = os.open("made", os.O_RDWR | os.O_CREAT)\n'
_REQUESTS = {
    "flags": ("flags of a file", f'{_FILE}call("ioctl", fd, 0x40086602, struct.pack("Q", 0x40))'),
    "signals": ("signals of a pipe", 'call("ioctl", os.pipe()[0], 0x5452, struct.pack("i", 0))'),
    "queue": (
        "the queue of a pair of sockets",
        'pair = socket.socketpair()\ncall("ioctl", pair[0].fileno(), 0x5411, room(4))',
    ),
    "size": ("the size of a directory", f'{_FILE}call("ioctl", fd, 0x5460, room(8))'),
}
for _name, (_title, _act) in _REQUESTS.items():
    program(
        f"K24.{_name}",
        f"a request that is on no list: {_title}",
        property=None,
        blocked="ENOTTY",
        act=_act,
    )

# ---- K13: what the kernel calls by itself ------------------------------------------------------

_SLEEP = """
parent = os.getpid()
pid = os.fork()
if pid == 0:
    while True:
        time.sleep(0.01)
        os.kill(parent, signal.SIGSTOP)
        os.kill(parent, signal.SIGCONT)
try:
    call("nanosleep", struct.pack("QQ", 0, 400_000_000), 0)
finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
held("slept")
"""


@attack(
    "K13",
    "sleep through a stop, which the kernel takes up again by a call of its own",
    property=None,
    blocked="slept",
    reached="EPERM",
    control=lambda ctx: ctx.act_inside(_SLEEP, syscalls=Syscalls().deny("restart_syscall")),
)
def sleep_through_a_stop(ctx: Context) -> str:
    return ctx.act_inside(_SLEEP)


# ---- K19: more rules than fit ------------------------------------------------------------------

_BY_NUMBER = sorted((name for name in _HERE if name not in TABLE), key=_HERE.__getitem__)
_TRY_ALL = """
for name in NAMES:
    try:
        call(name, -1, -1, -1, -1, -1)
    except OSError as error:
        if error.errno == errno.EPERM:
            continue
    held("OK")
held("denied")
"""


@attack(
    "K19",
    "a filter of as many ranges as there can be, in which a denial is lost",
    property=None,
    blocked="denied PlanError",
    # The same calls where all of them are allowed.
    control=lambda ctx: _of_many(ctx, _BY_NUMBER, ()),
)
def too_many_ranges(ctx: Context) -> str:
    return _of_many(ctx, _BY_NUMBER[::2], _BY_NUMBER[1::2])


def _of_many(ctx: Context, allowed: list[str], denied: list[str] | tuple[()]) -> str:
    rules = Syscalls().allow(*allowed).deny(*denied)
    tried = [name for name in _BY_NUMBER[1::2] if _HERE[name] < 1024]
    try:
        return ctx.act_inside(_TRY_ALL, {"NAMES": tried}, syscalls=rules)
    except PlanError:
        return "PlanError"


# ---- K20: the log of the kernel --------------------------------------------------------------

_LOG = Path("/dev/kmsg")
_NAMED = 'call("prctl", 15, NAME.encode(), 0, 0, 0)\n'  # PR_SET_NAME
_DENIALS = f"""
{_NAMED}
for _ in range(200):
    for act in (
        lambda: open(f"{{DIR}}/secret"),
        lambda: socket.socket(),
        lambda: os.kill(os.getppid(), 0),
        lambda: call("mount", 0, 0, 0, 0, 0),
        lambda: call(2000),
    ):
        try:
            act()
        except OSError:
            pass
"""
# An ordinary process with a filter that has its calls logged.
_LOGGED = f"""
{_NAMED}
kept = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7ffc0000))
program = struct.pack("H6xQ", 1, ctypes.addressof(kept))
call("prctl", 38, 1, 0, 0, 0)
call("seccomp", 1, 0, program)
"""


def _no_log(_: Context) -> str:
    try:
        os.close(os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        return f"the log of the kernel cannot be read: {error.strerror}"
    return ""


def _is_logged(ctx: Context, act: str, *, inside: bool) -> bool:
    """Whether the log of the kernel names the act's process, or the file that it wants."""
    given = {"NAME": f"k20-{secrets.token_hex(5)}"}
    fd = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.lseek(fd, 0, os.SEEK_END)
        answer = ctx.act_inside(act, given) if inside else ctx.act_outside(act, given)
        lines = _lines(fd)
    finally:
        os.close(fd)
    assert answer == "OK", answer
    marks = (given["NAME"].encode(), os.fsencode(ctx.dir))
    return any(mark in line for line in lines for mark in marks)


def _lines(fd: int) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(os.read(fd, 8192))
        except BlockingIOError:
            return found
        except BrokenPipeError:
            pass  # some are overwritten by now


def _takes_lines(ctx: Context) -> bool:
    """Others may have had all that the kernel writes in five seconds."""
    return _is_logged(ctx, _LOGGED, inside=False)


def _control(ctx: Context) -> str:
    proc.until(lambda: _takes_lines(ctx), "the kernel logs a call")
    return "OK"


@attack(
    "K20",
    "fill the log of the kernel with denials",
    property=None,
    blocked="quiet",
    control=_control,
    needs=_no_log,
)
def flood_the_log(ctx: Context) -> str:
    """Silence counts when the log takes lines before and after."""
    for _ in range(10):
        proc.until(lambda: _takes_lines(ctx), "the kernel logs a call")
        if _is_logged(ctx, _DENIALS, inside=True):
            return "OK"
        if _takes_lines(ctx):
            return "quiet"
    return "the log is full of others"
