"""From the caller to a command inside a place: a chain of three processes.

    the tool ── in the place's namespaces ── PID 1, which becomes the command

PID 1 is the command itself, as in a container. When any of the three dies, the
place ends: PID 1 dies with its parent, and everything in its PID namespace with it.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from evalbox import _native
from evalbox.compile.seccomp import FilterSpec

from . import linux

T = TypeVar("T")

CANNOT_MAKE = 125
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_EVERYTHING = "0 0 4294967295\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What is done on the way in, in this order.

    Attributes:
        namespaces: CLONE_NEW* beside the PID and the mount namespace.
        mounts: steps with all capabilities and mounts that nobody else sees.
        filters: what makes the rules of seccomp filters.
        capabilities: what root has left; None: all that it had.
        uid, gid: who the command is; None: the caller.
        last: steps as that user, just before execve.
        env: variables that the place has.
    """

    namespaces: int = 0
    mounts: Sequence[Callable[[], None]] = ()
    filters: Sequence[Callable[[], FilterSpec]] = ()
    capabilities: Sequence[str] | None = None
    uid: int | None = None
    last: Sequence[Callable[[], None]] = ()
    env: dict[str, str] = field(default_factory=dict)


def joined(*parts: Inside) -> Inside:
    """All of them in one place: steps in their order, of each value the last that is set."""
    namespaces = 0
    env: dict[str, str] = {}
    for part in parts:
        namespaces |= part.namespaces
        env |= part.env
    return Inside(
        namespaces=namespaces,
        mounts=[step for part in parts for step in part.mounts],
        filters=[make for part in parts for make in part.filters],
        capabilities=_last_set([part.capabilities for part in parts]),
        uid=_last_set([part.uid for part in parts]),
        last=[step for part in parts for step in part.last],
        env=env,
    )


def _last_set(values: Sequence[T | None]) -> T | None:
    found = [value for value in values if value is not None]
    return found[-1] if found else None


def run(inside: Inside, command: Sequence[str]) -> int:
    """Runs a command there; its exit code, 128 + N for signal N, 125 where it cannot be made."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready[0])
        os.close(go[1])
        _exit_with(lambda: _in_namespaces(inside, command, ready[1], go[0]))
    os.close(ready[1])
    os.close(go[0])
    if os.read(ready[0], 1) and inside.namespaces & linux.NEWUSER:
        _write_maps(pid)
    os.close(go[1])
    os.close(ready[0])
    return _code_of(pid)


def _code_of(pid: int) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def _exit_with(act: Callable[[], int]) -> None:
    """Ends this process with what `act` returns; never goes back into the caller's code."""
    code = CANNOT_MAKE
    try:
        code = act()
    except OSError as error:
        print(f"hard_places: {error.strerror or error}", file=sys.stderr)
    except BaseException:  # noqa: BLE001  # a child must not return into the caller's code
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _in_namespaces(inside: Inside, command: Sequence[str], ready: int, go: int) -> int:
    linux.die_with_parent()
    linux.unshare(inside.namespaces | linux.NEWNS | linux.NEWPID)
    os.write(ready, b"x")
    os.close(ready)
    os.read(go, 1)  # end of file: the maps are written
    os.close(go)
    pid = os.fork()
    if pid == 0:
        _exit_with(lambda: _become(inside, command))
    return _code_of(pid)


def _write_maps(pid: int) -> None:
    """Every id means itself; an ordinary user can map no other than its own."""
    folder = Path(f"/proc/{pid}")
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        (folder / "setgroups").write_text("deny")
    (folder / "uid_map").write_text(_EVERYTHING if uid == 0 else f"{uid} {uid} 1\n")
    (folder / "gid_map").write_text(_EVERYTHING if uid == 0 else f"{gid} {gid} 1\n")


def _become(inside: Inside, command: Sequence[str]) -> int:
    linux.die_with_parent()
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    cwd = os.getcwd()
    # Made before: evalbox may not be there once the mounts are.
    programs = [_native.filter_program(make()) for make in inside.filters]
    for step in inside.mounts:
        step()
    os.chdir(cwd if os.path.isdir(cwd) else "/")
    for program in programs:
        linux.install_filter(program)
    if inside.capabilities is not None:
        linux.bound_capabilities(inside.capabilities)
    if inside.uid is not None and inside.uid != os.geteuid():
        os.setgroups([])
        os.setresgid(inside.uid, inside.uid, inside.uid)
        os.setresuid(inside.uid, inside.uid, inside.uid)
        # A change of uid has cleared it.
        linux.die_with_parent()
    for step in inside.last:
        step()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    env = os.environ | inside.env
    try:
        os.execvpe(command[0], list(command), env)
    except FileNotFoundError:
        print(f"hard_places: {command[0]}: not found", file=sys.stderr)
        return _NOT_FOUND
    except OSError as error:
        print(f"hard_places: {command[0]}: {error.strerror}", file=sys.stderr)
        return _NOT_EXECUTABLE
