"""The heap of deadlines, and the timerfd that stands for the first of them."""

from __future__ import annotations

import heapq
import os
import select

from evalbox import _native
from evalbox._native import Wire


class Deadlines:
    """Owner of a timerfd in the epoll set."""

    def __init__(self, wire: Wire, token: int) -> None:
        self._heap: list[tuple[float, int]] = []
        self._armed: float | None = None
        self._fd = _native.timer()
        wire.add(self._fd, select.EPOLLIN, token)

    def add(self, at: float, run_id: int) -> None:
        heapq.heappush(self._heap, (at, run_id))
        # Later ones need no call: the timer is set anew when the first has passed.
        if self._armed is None or at < self._armed:
            self._arm(at)

    def passed(self, now: float) -> list[int]:
        """Takes out the runs whose deadline has passed."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            found.append(heapq.heappop(self._heap)[1])
        self._arm(self._heap[0][0] if self._heap else None)
        return found

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _arm(self, at: float | None) -> None:
        _native.set_timer(self._fd, at)
        self._armed = at
