"""Attacks, tried inside a sandbox and, as their control, where they are allowed.

Many are tried in one run. An attack is a Python expression over `D`, a directory
of its own outside the sandbox, and the names below; it meets an errno or is "ok".
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import evalbox
import tiers
from evalbox._host import host
from evalbox._syscall_table import NUMBERS

CALLS = NUMBERS[platform.machine()]
Seen = dict[str, str]


@dataclass(frozen=True)
class Attack:
    """What it meets in a sandbox; where it is allowed it is always "ok".

    Attributes:
        inside: in the namespaces of the host.
        apart: in namespaces of its own; by default, what Landlock closes is not there.
    """

    name: str
    act: str
    inside: str = "EACCES"
    apart: str = ""

    @property
    def answer(self) -> str:
        if tiers.current() == "process":
            return self.inside
        return self.apart or self.inside.replace("EACCES", "ENOENT")


_PRELUDE = """
import ctypes, errno, json, os, resource, shutil, signal, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
GIVEN = json.loads(sys.argv[1])
N, OUTSIDE, ATTACKS = GIVEN["calls"], GIVEN["outside"], GIVEN["attacks"]
globals().update(GIVEN["names"])
HOME = os.getcwd()
ROOM = ctypes.create_string_buffer(4096)
AT = ctypes.addressof(ROOM)
PART = (ctypes.c_ulong * 2)(AT, 8)  # struct iovec
IOV = ctypes.addressof(PART)

def call(name, *args):
    if libc.syscall(ctypes.c_long(N[name]), *(ctypes.c_ulong(a & 2**64 - 1) for a in args)) < 0:
        raise OSError(ctypes.get_errno(), name)

def opened(path, flags=os.O_RDONLY, dir_fd=None):
    os.close(os.open(path, flags, dir_fd=dir_fd))

def from_within(folder, act):
    os.chdir(folder)
    try:
        act()
    finally:
        os.chdir(HOME)

def child(act):
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        act(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

for name, act in ATTACKS:
    D = f"{OUTSIDE}/{name}"
    try:
        eval(act)
    except OSError as error:
        print(json.dumps([name, errno.errorcode[error.errno]]), flush=True)
    else:
        print(json.dumps([name, "ok"]), flush=True)
"""


def _argument(attacks: Sequence[Attack], outside: Path, names: Mapping[str, object]) -> str:
    acts = [(attack.name, attack.act) for attack in attacks]
    given = {"calls": CALLS, "outside": str(outside), "attacks": acts, "names": names}
    return json.dumps(given)


def _seen(text: str) -> Seen:
    return dict(json.loads(line) for line in text.splitlines())


def inside(
    attacks: Sequence[Attack],
    outside: Path,
    policy: evalbox.Policy | None = None,
    **names: object,
) -> Seen:
    """What each attack meets in a sandbox; `names` are what its expression may use."""
    _fill(outside, attacks)
    output = evalbox.run(
        [sys.executable, "-c", _PRELUDE, _argument(attacks, outside, names)],
        policy=policy or evalbox.Policy(),
    )
    assert output.ok, (output.explain(), output.stderr.decode())
    return _seen(output.text)


def control(attacks: Sequence[Attack], outside: Path, scratch: Path, **names: object) -> Seen:
    """What each meets in an ordinary process of the caller's."""
    _fill(outside, attacks)
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE, _argument(attacks, outside, names)],
        cwd=scratch,
        capture_output=True,
        text=True,
        check=True,
    )
    return _seen(done.stdout)


def allowed(attacks: Sequence[Attack]) -> Seen:
    return {attack.name: "ok" for attack in attacks}


def denied(attacks: Sequence[Attack]) -> Seen:
    return {attack.name: attack.answer for attack in attacks}


# ---- targets ---------------------------------------------------------------------------------


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that every uid may enter and change, where workspaces are.

    So neither permission bits nor another file system stand in for the sandbox.
    """
    place = next(found.path for found in host().places if not found.why_not)
    folder = Path(tempfile.mkdtemp(prefix="outside-", dir=place))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _fill(outside: Path, attacks: Sequence[Attack]) -> None:
    """Fresh targets, for each attack its own."""
    for attack in attacks:
        folder = outside / attack.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "secret").write_text("secret")
        (folder / "program").write_text("#!/bin/sh\n")
        (folder / "empty").mkdir()
        for path, mode in (("", 0o777), ("secret", 0o666), ("program", 0o777), ("empty", 0o777)):
            (folder / path).chmod(mode)


@contextmanager
def witness() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the caller's that only waits."""
    with subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL) as process:
        try:
            yield process
            assert process.poll() is None, "the witness is dead"
        finally:
            process.kill()


# ---- single system calls ---------------------------------------------------------------------

_CALLER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/syscall.h>
/* call NR ARGUMENT...: its errno as the exit code. */
static long
value(const char *text)
{
    static char zeroes[4096];
    if (*text == '@')
        return (long)zeroes;
    return *text == '%' ? getpid() : (long)strtoull(text, NULL, 0);
}
int main(int argc, char **argv)
{
    long arg[7] = {0};
    for (int i = 1; i < argc && i < 8; i++)
        arg[i - 1] = value(argv[i]);
    if (arg[0] == -80) {
#ifdef __x86_64__
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
#endif
        return 0;
    }
    errno = 0;
    return syscall(arg[0], arg[1], arg[2], arg[3], arg[4], arg[5], arg[6]) < 0 ? errno : 0;
}
"""
INT_0X80 = -80


@cache
def caller() -> evalbox.File:
    """A small program that makes one system call, compiled once."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "call.c"), Path(folder, "call")
        source.write_text(_CALLER)
        subprocess.run(["gcc", "-O1", "-o", target, source], check=True)
        return evalbox.File(target.read_bytes(), executable=True)


def make_call(number: int, args: str, policy: evalbox.Policy) -> evalbox.Output:
    command = ["./call", str(number), *args.split()]
    return evalbox.run(command, files={"call": caller()}, policy=policy)


def make_call_outside(number: int, args: str, scratch: Path) -> int:
    program = scratch / "call"
    if not program.exists():
        program.write_bytes(caller().content)
        program.chmod(0o755)
    return subprocess.run([program, str(number), *args.split()]).returncode


# ---- programs that several tests run ---------------------------------------------------------

# P4: signals everybody, and says how its children ended.
KILL_ALL = """
import os, signal
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        signal.pause()
    children.append(pid)
os.kill(-1, signal.SIGKILL)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
"""


# ---- running --------------------------------------------------------------------------------


def python(script: str, *args: str, **fields: Any) -> evalbox.Output:
    return evalbox.run([sys.executable, "-c", script, *args], **fields)


def all_events(executor: evalbox.Executor) -> Iterator[evalbox.Event]:
    """Until every run has ended."""
    while executor.active_count:
        yield from executor.poll()


def ends(executor: evalbox.Executor) -> dict[int, evalbox.Output]:
    """What came of each run."""
    ended = (evalbox.Completed, evalbox.TimedOut)
    return {event.id: event.output for event in all_events(executor) if isinstance(event, ended)}
