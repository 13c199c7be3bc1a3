"""What the commands say: plain lines, and colours where a terminal shows them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
from typing import Final, TextIO

# Exit codes that are not the program's own.
NOT_RUN: Final = 125
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 128 + signal.SIGPIPE

_CODES: Final = {"red": 31, "green": 32, "yellow": 33, "bold": 1}


def has_colours(stream: TextIO) -> bool:
    """A terminal that was not asked to stay plain (https://no-color.org), and the extra `cli`."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream.isatty() and importlib.util.find_spec("rich") is not None


def painted(text: str, colour: str, stream: TextIO) -> str:
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if has_colours(stream) else text


def say(text: str, colour: str = "red") -> None:
    """A message of ours, never on stdout; lost where stderr takes nothing."""
    with contextlib.suppress(OSError):
        print(f"{painted('evalbox:', colour, sys.stderr)} {text}", file=sys.stderr, flush=True)
