"""Text for readers and terminals."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """The number with its noun: 1 sample, 2 samples."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def printable(text: str) -> str:
    """One line that is safe for a terminal, a JSON file and a page: controls are escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
