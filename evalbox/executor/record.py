"""A run as the event loop knows it."""

from __future__ import annotations

import os

from evalbox._host.interference import Sample
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
        descriptors: how many it keeps open here while it runs.
        gate: eventfd that lets it start, with hold; -1 before `open`, and without.
        is_held: whether it waits to be released, here or at its gate.
        has_begun: whether an init was given it.
        slot: that serves it now.
        serves_once: whether no other run gets that slot.
        error: why it could not start; it has no other end then.
        before: the machine as the run began, when it was told to have started.
    """

    __slots__ = (
        "before",
        "descriptors",
        "error",
        "gate",
        "has_begun",
        "is_held",
        "life",
        "serves_once",
        "sink",
        "slot",
        "stdin",
    )

    def __init__(
        self, life: Life, sink: list[Event], serves_once: bool, stdin: Stdin | None
    ) -> None:
        self.life = life
        self.sink = sink
        self.serves_once = serves_once
        self.stdin = stdin
        self.descriptors = (stdin is not None) + life.plan.hold
        self.gate = -1
        self.is_held = life.plan.hold
        self.has_begun = False
        self.slot: Slot | None = None
        self.error: EvalboxError | None = None
        self.before: Sample | None = None

    def open(self) -> None:
        """What init is to be given: not before it is its turn."""
        if self.stdin is not None:
            self.stdin.open()
        if self.life.plan.hold and self.gate < 0:
            self.gate = os.eventfd(0 if self.is_held else 1, os.EFD_CLOEXEC)

    def release(self) -> None:
        self.is_held = False
        if self.gate >= 0:
            os.eventfd_write(self.gate, 1)

    def close(self) -> None:
        if self.stdin is not None:
            self.stdin.close()
        gate, self.gate = self.gate, -1
        if gate >= 0:
            os.close(gate)
