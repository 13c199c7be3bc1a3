"""The heap of deadlines, and the timerfd that stands for the first of them."""

from __future__ import annotations

import heapq
import math
import os
import select
import time

from evalbox import _native
from evalbox._native import Wire
from evalbox.errors import PlanError

_FEW = 64


class Deadlines:
    """Owner of a timerfd in the epoll set; each run has at most one deadline."""

    def __init__(self, wire: Wire, token: int) -> None:
        self._heap: list[tuple[float, int]] = []
        # What counts: an entry of the heap that says something else is an old one.
        self._due: dict[int, float] = {}
        self._armed: float | None = None
        self._fd = _native.timer()
        wire.add(self._fd, select.EPOLLIN, token)

    def add(self, at: float, run_id: int) -> None:
        self._due[run_id] = at
        heapq.heappush(self._heap, (at, run_id))
        # Later ones need no call: the timer is set anew when the first has passed.
        if self._armed is None or at < self._armed:
            self._arm(at)

    def drop(self, run_id: int) -> None:
        """A run has ended. Its entry goes with others, or a long deadline would keep it long."""
        if self._due.pop(run_id, None) is not None and len(self._heap) > 2 * len(self._due) + _FEW:
            self._heap = [(at, run_id) for run_id, at in self._due.items()]
            heapq.heapify(self._heap)

    def passed(self, now: float) -> list[int]:
        """Takes out the runs whose deadline has passed."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            at, run_id = heapq.heappop(self._heap)
            if self._due.get(run_id) == at:
                del self._due[run_id]
                found.append(run_id)
        self._arm(self._heap[0][0] if self._heap else None)
        return found

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _arm(self, at: float | None) -> None:
        _native.set_timer(self._fd, at)
        self._armed = at


def until_when(timeout: float | None) -> float:
    """The moment until which to wait."""
    if timeout is None:
        return math.inf
    if math.isnan(timeout):
        raise PlanError("timeout must be a number of seconds or None, not nan")
    return time.monotonic() + max(0.0, timeout)
