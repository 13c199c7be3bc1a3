"""What kept processors from this machine's programs: its hypervisor, and quotas of cgroups.

Both are counted by the kernel for the machine or a cgroup as a whole and not for
a run, so a run is told what happened while it ran. A look takes some tens of
microseconds and serves all runs for a tenth of a second.
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import NamedTuple

from evalbox._host.cgroups import own_directories

_FRESH = 0.1
# Fields of /proc/stat behind "cpu": user nice system idle iowait irq softirq steal.
_FIELDS = 8
_IDLE, _IOWAIT, _STEAL = 3, 4, 7
# Nanoseconds of one unit, by the name in cpu.stat: of v2 and of v1.
_THROTTLED = {"throttled_usec": 1000, "throttled_time": 1}


class Sample(NamedTuple):
    """Counters at a moment, in seconds.

    Attributes:
        at: of the monotonic clock.
        wanted: time for which processors were wanted, whoever had them.
        stolen: how much of that the hypervisor gave to other machines.
        throttled: time for which a quota kept threads waiting.
    """

    at: float
    wanted: float
    stolen: float
    throttled: float

    def until(self, later: Sample) -> tuple[float, float] | None:
        """Share of stolen time, and seconds throttled; None when too little time lies between.

        Where less than one processor was wanted, the share is that of one: a program
        that slept was not kept from anything.
        """
        passed = later.at - self.at
        if passed <= 0:
            return None
        share = max(0.0, later.stolen - self.stolen) / max(passed, later.wanted - self.wanted)
        return min(1.0, share), max(0.0, later.throttled - self.throttled)


class Interference:
    """Owner of the last sample."""

    def __init__(self) -> None:
        self._last: Sample | None = None

    def sample(self) -> Sample:
        """The counters, at most a tenth of a second old."""
        now = time.monotonic()
        if self._last is None or now - self._last.at > _FRESH:
            self._last = _look(now)
        return self._last


def _look(now: float) -> Sample:
    wanted, stolen = of_stat(_text("/proc/stat", 512))
    throttled = sum(of_cpu_stat(_text(path, 4096)) for path in _throttled(os.getpid()))
    return Sample(now, wanted, stolen, throttled)


def of_stat(text: str) -> tuple[float, float]:
    """Seconds for which processors were wanted, and how many of them were stolen."""
    row = text.partition("\n")[0].split()
    if row[:1] != ["cpu"] or len(row) <= _FIELDS:
        return 0.0, 0.0
    ticks = [int(number) for number in row[1 : _FIELDS + 1]]
    wanted = sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT]
    return wanted / _tick(), ticks[_STEAL] / _tick()


def of_cpu_stat(text: str) -> float:
    """Seconds throttled."""
    for name, number in (line.split() for line in text.splitlines()):
        if name in _THROTTLED:
            return int(number) * _THROTTLED[name] / 1e9
    return 0.0


@cache
def _tick() -> int:
    return os.sysconf("SC_CLK_TCK")


@cache
def _throttled(_pid: int) -> tuple[str, ...]:
    """cpu.stat of the cgroups of this process that can be throttled; once per process."""
    paths = [f"{folder}/cpu.stat" for _, folder in own_directories("cpu")]
    return tuple(path for path in paths if "throttled" in _text(path, 4096))


def _text(path: str, most: int) -> str:
    """The beginning of a file; "" when it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, most).decode("ascii", "replace")
    finally:
        os.close(fd)
