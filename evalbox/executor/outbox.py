"""What `poll` will return: events and errors, and an eventfd that tells of them."""

from __future__ import annotations

import os
import select
from collections import deque

from evalbox._native import Wire
from evalbox.errors import EvalboxError
from evalbox.events import Event


class Outbox:
    """Owner of an eventfd in the epoll set: readable when something is here.

    Attributes:
        events: those of spawned runs, which are their sink; the same list for ever.
        is_watched: somebody is looking, and need not be woken.
    """

    def __init__(self, wire: Wire, token: int) -> None:
        self.events: list[Event] = []
        self.is_watched = False
        self._errors: deque[EvalboxError] = deque()
        # Runs that failed, of which nothing is to be told but that.
        self._failed: set[int] = set()
        self._is_awake = False
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        wire.add(self._fd, select.EPOLLIN, token)

    def __bool__(self) -> bool:
        return bool(self.events or self._errors)

    def fail(self, run_id: int, error: EvalboxError) -> None:
        """An error is told before all events, and instead of those of its run."""
        error.id = run_id
        self._errors.append(error)
        self._failed.add(run_id)
        self.wake_up()

    def take_error(self) -> EvalboxError | None:
        if not self._errors:
            return None
        error = self._errors.popleft()
        if not self._errors:
            # Once for all that failed: for each of them it would be a scan for each.
            self.events[:] = [event for event in self.events if event.id not in self._failed]
            self._failed.clear()
            if not self.events:
                self._sleep()
        return error

    def take_events(self) -> list[Event]:
        self._sleep()
        events = self.events[:]
        # Emptied and not replaced: it is the sink of every spawned run.
        self.events.clear()
        return events

    def wake_up(self) -> None:
        """Makes the eventfd readable: there is something that no descriptor tells of."""
        if not self._is_awake and not self.is_watched:
            self._is_awake = True
            os.eventfd_write(self._fd, 1)

    def _sleep(self) -> None:
        if self._is_awake:
            self._is_awake = False
            os.eventfd_read(self._fd)

    def close(self) -> None:
        os.close(self._fd)
