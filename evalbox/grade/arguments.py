"""Values of options: what cannot be read is answered with what to write."""

from __future__ import annotations

import argparse
import re
from typing import Final

from evalbox.limits import GiB, KiB, MiB

_UNITS: Final = {"": 1, "K": KiB, "M": MiB, "G": GiB}


def seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _wrong(text, "seconds, for example 5") from None


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _wrong(text, "a whole number") from None


def jobs(text: str) -> int:
    count = whole(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1 at once")
    return count


def ks(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise _wrong(text, "whole numbers with commas between them, for example 1,10") from None
    if min(found) < 1:
        raise argparse.ArgumentTypeError("every k is at least 1")
    return tuple(dict.fromkeys(found))


def size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise _wrong(text, "a number of bytes, or for example 512M")
    return int(match[1]) * _UNITS[match[2].upper()]


def _wrong(text: str, wanted: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text!r} cannot be read; write {wanted}")
