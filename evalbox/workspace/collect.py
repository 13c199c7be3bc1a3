"""What a program left in its working directory, as bytes.

Its tree is dead by now, but what it left may be hostile: links to files of the
host, FIFOs that block whoever opens them, sparse files of a terabyte, unreadable
or very deep directories, a million files. So: only regular files are read,
opened through the descriptor of their directory with O_NOFOLLOW and O_NONBLOCK
and checked after that, and no more bytes in all than the caller allows.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator, Sequence

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Each level that is open costs a descriptor of the host.
MAX_DEPTH = 64
_ANY_DEPTH = "**"

Pattern = tuple[str, ...]


def collect(box: int, patterns: Sequence[str], room: int | None) -> dict[str, bytes]:
    """The regular files below `box` that match a pattern, path -> content.

    `*`, `?` and `[...]` stand for parts of one name, `**` for any directories.
    A file for which `room` (bytes, None: any) no longer suffices is left out, and
    so is what lies deeper than 64 directories.
    """
    wanted = [tuple(pattern.split("/")) for pattern in patterns]
    found: dict[str, bytes] = {}
    for folder, name, path in _matching(box, "", wanted):
        content = _read(folder, name, room)
        if content is None:
            continue
        found[path] = content
        if room is not None:
            room -= len(content)
    return dict(sorted(found.items()))


def _matching(
    folder: int, prefix: str, patterns: Sequence[Pattern], depth: int = 0
) -> Iterator[tuple[int, str, str]]:
    """Descriptor of the directory, name and path of each file that may match."""
    # "**" stands for no directory as well.
    patterns = [*patterns, *(rest for rest in map(_without_any_depth, patterns) if rest)]
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                below = [rest for pattern in patterns if (rest := _below(pattern, entry.name))]
                if below and depth < MAX_DEPTH:
                    yield from _inside(folder, entry.name, path, below, depth)
            elif any(_is_last(pattern, entry.name) for pattern in patterns):
                yield folder, entry.name, path


def _inside(
    parent: int, name: str, path: str, patterns: Sequence[Pattern], depth: int
) -> Iterator[tuple[int, str, str]]:
    fd = _open(parent, name, _DIRECTORY, 0o700)
    if fd is None:
        return
    try:
        yield from _matching(fd, f"{path}/", patterns, depth + 1)
    finally:
        os.close(fd)


def _without_any_depth(pattern: Pattern) -> Pattern:
    while pattern and pattern[0] == _ANY_DEPTH:
        pattern = pattern[1:]
    return pattern


def _below(pattern: Pattern, name: str) -> Pattern:
    """What is left of a pattern inside the directory `name`; empty when nothing can match."""
    if pattern[0] == _ANY_DEPTH:
        return pattern
    return pattern[1:] if len(pattern) > 1 and fnmatch.fnmatchcase(name, pattern[0]) else ()


def _is_last(pattern: Pattern, name: str) -> bool:
    if len(pattern) != 1:
        return False
    return pattern[0] == _ANY_DEPTH or fnmatch.fnmatchcase(name, pattern[0])


def _open(parent: int, name: str, flags: int, mode: int) -> int | None:
    """A descriptor; what its owner made unreadable gets its rights back first."""
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        # The name is no link: nothing can have changed it since it was listed.
        os.chmod(name, mode, dir_fd=parent)
        return os.open(name, flags, dir_fd=parent)
    except OSError:
        return None


def _read(folder: int, name: str, room: int | None) -> bytes | None:
    """The content of a regular file that fits; None for everything else."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return None
    fd = _open(folder, name, _FILE, 0o600)
    if fd is None:
        return None
    try:
        size = os.fstat(fd).st_size
        if room is not None and size > room:
            return None
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(size)
    finally:
        os.close(fd)
