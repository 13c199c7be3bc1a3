"""What /proc tells about processes, for tests of what a run leaves behind.

Nothing here waits a fixed time: `until` looks again and again, and gives up
only after far longer than it can take.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE = 60.0
_PAUSE = 0.005


def until(condition: Callable[[], object], what: str) -> None:
    """Returns when `condition` holds; fails when it does not come to that."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"it did not come to pass: {what}"
        time.sleep(_PAUSE)


def mark() -> str:
    """A number of seconds for `sleep` that no other process on this host has."""
    return f"1000.{secrets.randbelow(10**12):012d}"


def marked(text: str) -> list[int]:
    """Processes with a text on their command line; a zombie has none."""
    return [pid for pid in _pids() if text.encode() in _read(f"/proc/{pid}/cmdline")]


def children(pid: int) -> list[int]:
    """Of all threads of a process, zombies included."""
    folder = Path(f"/proc/{pid}/task")
    try:
        tasks = [*folder.iterdir()]
    except OSError:
        return []
    return [int(child) for task in tasks for child in _read(task / "children").split()]


def helpers() -> list[int]:
    """Launchers of this process and their inits."""
    launchers = [pid for pid in children(os.getpid()) if _is_launcher(pid)]
    return launchers + [pid for launcher in launchers for pid in children(launcher)]


def zombies(pids: list[int]) -> list[int]:
    """Children of these processes that are dead and not waited for."""
    return [child for pid in pids for child in children(pid) if _fields(child)[:1] == ["Z"]]


def born(pids: list[int]) -> dict[int, str]:
    """When each of these processes started: a pid may soon be another's."""
    found = {pid: _fields(pid) for pid in pids}
    return {pid: of[19] for pid, of in found.items() if of}


def alive(processes: dict[int, str]) -> list[int]:
    """Those of `born` that have not ended."""
    found = {pid: _fields(pid) for pid in processes}
    return [pid for pid, of in found.items() if of and of[19] == processes[pid] and of[0] != "Z"]


def cpu_seconds(pids: list[int]) -> float:
    """What these processes have used; children apart."""
    return sum(int(_read(f"/proc/{pid}/schedstat").split()[0]) for pid in pids) / 1e9


def open_descriptors() -> dict[str, str]:
    """Number -> what it is, of this process."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one of the listing itself
    return found


def _pids() -> Iterator[int]:
    return map(int, filter(str.isdigit, os.listdir("/proc")))


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat after the name; none when there is no such process."""
    return _read(f"/proc/{pid}/stat").rpartition(b") ")[2].decode().split()


def _is_launcher(pid: int) -> bool:
    return _read(f"/proc/{pid}/cmdline").rstrip(b"\0").endswith(b"_launcher")
