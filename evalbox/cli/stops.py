"""Signals that ask this program to end, as exceptions: the sandbox is left first.

SIGINT is a KeyboardInterrupt already. What was ignored when the program started
(nohup) stays ignored.
"""

from __future__ import annotations

import signal
from types import FrameType

_TERMINATING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """A signal came; like KeyboardInterrupt no part of what can be handled.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def raise_on_signals() -> None:
    for number in _TERMINATING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def ignore_signals() -> None:
    """From here on nothing interrupts the way out."""
    for number in (signal.SIGINT, *_TERMINATING):
        signal.signal(number, signal.SIG_IGN)


def _terminate(number: int, _frame: FrameType | None) -> None:
    raise Terminated(number)
