"""The standard descriptors of this process: that they are there, and writing to them."""

from __future__ import annotations

import os
import select
import sys
from typing import Final

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2


class OutputClosedError(Exception):
    """Nobody reads our output any more: the usual end of `evalbox run ... | head`."""


def open_standard_descriptors() -> None:
    """Gives a process that was started without one of them /dev/null in its place.

    A descriptor opened later would get the free number, and the input or output
    of a run would go through it.
    """
    for fd in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            # It gets this number, the lowest that is free.
            os.open(os.devnull, os.O_RDWR)
    # print() takes a file of None for stdout.
    if sys.stdout is None:
        sys.stdout = open(STDOUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(STDERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def write_all(fd: int, data: bytes) -> None:
    """Writes all of it, at the pace of who reads.

    Raises:
        OutputClosedError: nobody reads any more.
        OSError: it cannot be written.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            # Whoever shares the terminal or pipe made it non-blocking.
            select.select([], [fd], [])
        except BrokenPipeError as error:
            raise OutputClosedError from error
        except OSError as error:
            raise OSError(error.errno, f"cannot write the output: {error.strerror}") from error


def discard_stdout() -> None:
    """What Python still holds for stdout would fail again when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)
