"""How much memory there is for further runs, and how busy the processors are.

The least of what the kernel calls available and of what each cgroup above this
process still allows. Pages of files that nobody uses count as free in both.
"""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

from evalbox._host.cgroups import Mount, own_directories

_KIB = 1024
# What v1 says where there is no limit: the largest number of pages.
_NO_LIMIT = 1 << 60


class Room(NamedTuple):
    """What there is just now.

    Attributes:
        available: bytes that could still be taken.
        capacity: bytes in all; both are 0 where the kernel does not tell.
        share: of a processor that each thread which wants one gets, at most 1.
    """

    available: int
    capacity: int
    share: float


def room() -> Room:
    """Looks; some 50 microseconds."""
    available, capacity = _of_machine()
    for files in _limits(os.getpid()):
        limit, left = files.left()
        available, capacity = min(available, left), min(capacity, limit)
    return Room(max(0, available), capacity, _share())


# ---- the machine -----------------------------------------------------------------


def _of_machine() -> tuple[int, int]:
    fields = parse(_text("/proc/meminfo"))
    return fields.get("MemAvailable:", 0) * _KIB, fields.get("MemTotal:", 0) * _KIB


def parse(text: str) -> dict[str, int]:
    """Lines of a name and a number, as in meminfo and memory.stat."""
    rows = (line.split(None, 2) for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _share() -> float:
    """From "0.20 0.18 0.12 3/80 11206": 3 threads run or want to, this one among them."""
    wanting, slash, _ = _text("/proc/loadavg").partition("/")
    if not slash:
        return 1.0
    return min(1.0, _processors() / max(1, int(wanting.split()[-1])))


@cache
def _processors() -> int:
    return len(os.sched_getaffinity(0))


# ---- cgroups ---------------------------------------------------------------------


class Files(NamedTuple):
    """Where a cgroup says what it may hold, what it holds, and what of that could go."""

    limit: str
    usage: str
    stat: str
    reclaimable: str

    def left(self) -> tuple[int, int]:
        """Limit and what is left of it."""
        limit = _number(self.limit)
        used = _number(self.usage) - parse(_text(self.stat)).get(self.reclaimable, 0)
        return limit, limit - used


_V2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
_V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.stat",
    "total_inactive_file",
)


@cache
def _limits(_pid: int) -> tuple[Files, ...]:
    """Of the cgroups that this process is in, those with a limit; once per process."""
    return tuple(
        files
        for mount, folder in own_directories("memory")
        if _number((files := _files(mount, folder)).limit) < _NO_LIMIT
    )


def _files(mount: Mount, folder: str) -> Files:
    *names, reclaimable = _V2 if mount.kind == "cgroup2" else _V1
    limit, usage, stat = (f"{folder}/{name}" for name in names)
    return Files(limit, usage, stat, reclaimable)


def _number(path: str) -> int:
    """The number in a file; "max", and a file that is not there, are no limit."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else _NO_LIMIT


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
