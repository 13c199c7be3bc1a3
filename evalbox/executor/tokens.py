"""What an epoll event is about, in one 64-bit integer: an id and a kind.

Ids are never used again, so an event that comes late, when its descriptor is
closed and its number belongs to something else, names something unknown.
"""

from __future__ import annotations

from typing import Final

WAKE: Final = 0
TIMER: Final = 1
CONTROL: Final = 2
INIT: Final = 3
STDIN: Final = 4
_BITS: Final = 3


def make(id: int, kind: int) -> int:  # noqa: A002  # the word of the contract
    return id << _BITS | kind


def split(token: int) -> tuple[int, int]:
    """Id and kind."""
    return token >> _BITS, token & ((1 << _BITS) - 1)
