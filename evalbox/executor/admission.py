"""Whether one more run may start: by how many run or start, and by the memory of the host.

A run counts with the whole of `limits.memory` while it is young, for nobody knows
yet what it will use; later with what it really holds, which the host counts as
not available any more. Young is measured in time in which it could have had a
processor: where ten times as many threads want to run as there are processors, it
stays young for ten times as long. So a thousand programs that wait or are small
get in within seconds, and a few that fill their limits keep the others out.

Only some start at the same time: more than keep the processors busy make each other
slower, and runs that end at once would need an init each instead of sharing a few.
A run has started when its init says so or when it has ended; one that does neither
soon is stuck, and keeps nobody waiting.

A held run has no memory of its own yet: it begins to count at its release. While
none but held ones run, the next one goes in any case: nothing waits for ever.
"""

from __future__ import annotations

import enum
import os
import time
from collections import OrderedDict
from collections.abc import Callable

from evalbox._host.memory import Room, room

YOUNG = 0.25
# That many start at once for each processor, and at the least.
_STARTING_EACH = 8
_STARTING_LEAST = 16
_STUCK = 0.25
# How old a look at the host may be that lets a run in, and one that keeps it out.
_OLD = 0.1
_TOO_OLD_TO_REFUSE = 0.01
# A limit above that says little about what a program needs.
_MOST_OF_MEMORY = 2


class Refusal(enum.Enum):
    """Why a run has to wait."""

    COUNT = enum.auto()
    STARTING = enum.auto()
    MEMORY = enum.auto()


class Admission:
    """Knows which runs have been given to an init and have not ended.

    Attributes:
        running: how many.
        held: those of them that have not been released.
    """

    def __init__(
        self,
        most: int | None,
        look: Callable[[], Room] = room,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.running = 0
        self.held = 0
        self._most = most
        self._most_starting = max(_STARTING_LEAST, _STARTING_EACH * len(os.sched_getaffinity(0)))
        # Run -> when it was given to its init.
        self._starting: OrderedDict[int, float] = OrderedDict()
        self._look = look
        self._clock = clock
        # Run -> when it grows up, in `_lived`, and what it may take until then.
        self._young: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._reserved = 0
        self._room = Room(0, 0, 1.0)
        self._looked = -_OLD
        # Seconds in which a run could have had a processor, up to a moment of the clock.
        self._lived = 0.0
        self._lived_until = 0.0

    def refusal(self, memory: int | None) -> Refusal | None:
        """Why a run with this limit may not start now; None when it may."""
        if self._most is not None and self.running >= self._most:
            return Refusal.COUNT
        if len(self._starting) >= self._most_starting and not self._is_one_stuck():
            return Refusal.STARTING
        if memory is None or self.running == self.held or self._fits(memory):
            return None
        return Refusal.MEMORY

    def begin(self, run_id: int, memory: int | None, *, is_held: bool) -> None:
        """A run that was not refused is on its way."""
        self.running += 1
        if is_held:
            self.held += 1
        else:
            now = self._clock()
            self._starting[run_id] = now
            self._reserve(run_id, memory, now)

    def release(self, run_id: int, memory: int | None) -> None:
        """A held run that has begun goes on, whether or not there is room by now."""
        self.held -= 1
        self._reserve(run_id, memory, self._clock())

    def started(self, run_id: int) -> None:
        """Its init says so."""
        self._starting.pop(run_id, None)

    def end(self, run_id: int, *, is_held: bool) -> None:
        self.running -= 1
        self.held -= is_held
        self._starting.pop(run_id, None)
        self._unreserve(run_id)

    def _is_one_stuck(self) -> bool:
        """Whether the first of those that start is at it for too long; it counts no more then."""
        run_id, since = next(iter(self._starting.items()))
        if self._clock() - since < _STUCK:
            return False
        del self._starting[run_id]
        return True

    # ---- memory

    def _fits(self, memory: int) -> bool:
        now = self._clock()
        if now - self._looked >= _OLD:
            self._look_again(now)
        if self._has_room(memory):
            return True
        if now - self._looked < _TOO_OLD_TO_REFUSE:
            return False
        self._look_again(now)
        return self._has_room(memory)

    def _has_room(self, memory: int) -> bool:
        room = self._room
        return room.capacity == 0 or self._reserved + self._counted(memory) <= room.available

    def _counted(self, memory: int) -> int:
        """What a young run counts for."""
        capacity = self._room.capacity
        return min(memory, capacity // _MOST_OF_MEMORY) if capacity else memory

    def _look_again(self, now: float) -> None:
        self._room = self._look()
        self._looked = now
        self._lived += (now - self._lived_until) * self._room.share
        self._lived_until = now
        while self._young:
            run_id, (grown_up, _) = next(iter(self._young.items()))
            if grown_up > self._lived:
                return
            self._unreserve(run_id)

    def _reserve(self, run_id: int, memory: int | None, now: float) -> None:
        if memory is None:
            return
        if not self._young:
            # Nobody has grown up meanwhile.
            self._lived_until = now
        elif now - self._lived_until >= _OLD:
            self._look_again(now)
        grown_up = self._lived + (now - self._lived_until) + YOUNG
        needed = self._counted(memory)
        self._young[run_id] = (grown_up, needed)
        self._reserved += needed

    def _unreserve(self, run_id: int) -> None:
        _, memory = self._young.pop(run_id, (0.0, 0))
        self._reserved -= memory
