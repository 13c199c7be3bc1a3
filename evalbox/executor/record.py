"""A run as the event loop knows it."""

from __future__ import annotations

import os

from evalbox._launch import Slot
from evalbox._lifecycle import Life
from evalbox.errors import EvalboxError
from evalbox.events import Event
from evalbox.executor.stdin import Stdin


class Run:
    """Owner of what a run needs besides its slot.

    Attributes:
        life: what is known of it.
        sink: gets its events.
        stdin: with stdin=PIPE.
        gate: eventfd that lets it start, with hold; else -1.
        slot: that serves it now.
        serves_once: whether no other run gets that slot.
        error: why it could not start; it has no other end then.
    """

    __slots__ = ("error", "gate", "life", "serves_once", "sink", "slot", "stdin")

    def __init__(self, life: Life, sink: list[Event], serves_once: bool) -> None:
        self.life = life
        self.sink = sink
        self.serves_once = serves_once
        self.stdin: Stdin | None = None
        self.gate = -1
        self.slot: Slot | None = None
        self.error: EvalboxError | None = None

    def close(self) -> None:
        if self.stdin is not None:
            self.stdin.close()
        gate, self.gate = self.gate, -1
        if gate >= 0:
            os.close(gate)
