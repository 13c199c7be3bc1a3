"""The input of a run with stdin=PIPE: queued here, written as the pipe takes it."""

from __future__ import annotations

import os
import select
from collections import deque

from evalbox import _native
from evalbox._native import Wire


class Stdin:
    """Owner of both ends of the pipe until init has the reading one.

    Runs that wait for their turn have no pipe yet, or they would use up the
    descriptors of those that could go.

    Attributes:
        theirs: what init gets; -1 before `open`, and once it is sent.
        unwritten: bytes that the pipe has not taken.
    """

    __slots__ = (
        "_is_closed",
        "_is_closing",
        "_is_watched",
        "_ours",
        "_queue",
        "_token",
        "_wire",
        "theirs",
        "unwritten",
    )

    def __init__(self, wire: Wire, token: int) -> None:
        self.theirs = self._ours = -1
        self.unwritten = 0
        self._wire = wire
        self._token = token
        self._queue: deque[memoryview] = deque()
        self._is_closing = False
        self._is_closed = False
        self._is_watched = False

    def open(self) -> None:
        """Makes the pipe, if it is not there, with what was queued before."""
        if self._is_closed or self._ours >= 0:
            return
        self.theirs, self._ours = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._ours, False)
        self.flush()

    def give(self, owner: int | None) -> None:
        """Its run's uid may open /dev/stdin again."""
        if owner is not None:
            os.fchown(self.theirs, owner, owner)

    def sent(self) -> None:
        """Init has the reading end: from now on only the program holds it open."""
        theirs, self.theirs = self.theirs, -1
        if theirs >= 0:
            os.close(theirs)

    def write(self, data: bytes) -> None:
        """Queues; BrokenPipeError when it is closed, here or by the program."""
        if self._is_closed or self._is_closing:
            raise BrokenPipeError("the stdin of this run is closed")
        if data:
            self._queue.append(memoryview(data))
            self.unwritten += len(data)
        self._advance()

    def finish(self) -> None:
        """Closes it behind what is queued."""
        self._is_closing = True
        self.flush()

    def flush(self) -> None:
        """The pipe takes more, or the program closed it."""
        try:
            self._advance()
        except BrokenPipeError:
            self._close_ours()

    def close(self) -> None:
        self.sent()
        self._close_ours()

    def _close_ours(self) -> None:
        # A run that waits for its turn still needs the other end.
        ours, self._ours = self._ours, -1
        self._is_closed = True
        self._queue.clear()
        self.unwritten = 0
        if ours < 0:
            return
        if self._is_watched:
            self._wire.remove(ours)
            self._is_watched = False
        os.close(ours)

    def _advance(self) -> None:
        if self._ours < 0:
            return
        try:
            while self._queue:
                written = _native.write(self._ours, self._queue[0])
                self.unwritten -= written
                self._queue[0] = self._queue[0][written:]
                if not self._queue[0]:
                    self._queue.popleft()
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._close_ours()
            raise
        if self._is_closing and not self._queue:
            self._close_ours()
        else:
            self._watch(bool(self._queue))

    def _watch(self, wanted: bool) -> None:
        if wanted == self._is_watched:
            return
        if wanted:
            self._wire.add(self._ours, select.EPOLLOUT, self._token)
        else:
            self._wire.remove(self._ours)
        self._is_watched = wanted
