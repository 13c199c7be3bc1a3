"""What to add to a command line that names a file which was not copied in."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from evalbox.errors import CommandNotFound


def for_command(error: Exception, command: str) -> str:
    """Follows the message that there is no such program; empty when nothing helps."""
    option = _option(command) if isinstance(error, CommandNotFound) else ""
    if not option:
        return ""
    # A bare name is looked up in PATH, which the run's directory is not part of.
    behind = "" if "/" in command else f", and write ./{shlex.quote(command)}"
    return f"; {command} is a file here, copy it in: {option}{behind}"


def for_arguments(arguments: Sequence[str], given: Iterable[str]) -> list[str]:
    """One line for each argument that names a file here and none of those `given`."""
    there = {str(PurePosixPath(name)) for name in given}
    options = {text: _option(text) for text in arguments if str(PurePosixPath(text)) not in there}
    return [
        f"{text} is a file here and not in the sandbox, copy it in: {option}"
        for text, option in options.items()
        if option
    ]


def _option(text: str) -> str:
    """The --file that puts this file where the text says; empty when none does."""
    path = PurePosixPath(text)
    # Of several colons the last one would end the local name.
    if path.is_absolute() or ".." in path.parts or ":" in text or not os.path.isfile(path):
        return ""
    name = str(path)
    return f"--file {shlex.quote(name if len(path.parts) == 1 else f'{name}:{name}')}"
