"""What a program left in its working directory, as bytes.

Its tree is dead by now, but what it left may be hostile: links to files of the
host, FIFOs that block whoever opens them, sparse files of a terabyte, closed or
very deep directories, a million files. So: only regular files are read,
opened through the descriptor of their directory with O_NOFOLLOW and O_NONBLOCK
and checked after that, and no more bytes in all than the caller allows.
"""

from __future__ import annotations

import errno
import fnmatch
import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader

from evalbox.workspace.flags import DIRECTORY

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# Each level that is open costs a descriptor of the host.
MAX_DEPTH = 64
_ANY_DEPTH = "**"
_LEAST_FOR_PATHS = 1 << 20

Pattern = tuple[str, ...]


def collect(box: int, patterns: Sequence[str], room: int | None) -> dict[str, bytes]:
    """The regular files below `box` that match a pattern, path -> content.

    `*`, `?` and `[...]` stand for parts of one name, `**` for any directories.
    A file for which `room` (bytes, None: any) no longer suffices is left out, and
    so is what lies deeper than 64 directories. Paths may take as much again: those
    of empty files would else be a way to fill the host's memory.

    Raises:
        OSError: the host is short of something (EMFILE, ENOMEM, EIO); nothing
            that a program leaves can cause it.
    """
    wanted = [tuple(pattern.split("/")) for pattern in patterns]
    found: dict[str, bytes] = {}
    paths = math.inf if room is None else max(room, _LEAST_FOR_PATHS)
    for folder, name, path in _matching(box, "", wanted):
        content = _read(folder, name, room) if len(path) <= paths else None
        if content is None:
            continue
        found[path] = content
        paths -= len(path)
        if room is not None:
            room -= len(content)
    return dict(sorted(found.items()))


def _matching(
    folder: int, prefix: str, patterns: Iterable[Pattern], depth: int = 0
) -> Iterator[tuple[int, str, str]]:
    """Descriptor of the directory, name and path of each file that may match."""
    # "**" stands for no directory as well. A set: a pattern with several of them
    # leads to the same rest in more ways than there are directories.
    patterns = {rest for given in patterns for rest in (given, _without_any_depth(given)) if rest}
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                below = {rest for pattern in patterns if (rest := _below(pattern, entry.name))}
                if below and depth < MAX_DEPTH:
                    yield from _inside(folder, entry.name, path, below, depth)
            elif any(_is_last(pattern, entry.name) for pattern in patterns):
                yield folder, entry.name, path


def _inside(
    parent: int, name: str, path: str, patterns: Iterable[Pattern], depth: int
) -> Iterator[tuple[int, str, str]]:
    # Its owner may have taken away the right to list it or to go through it. The
    # name is no link: nothing can have changed it since it was listed.
    os.chmod(name, 0o700, dir_fd=parent)
    fd = os.open(name, DIRECTORY, dir_fd=parent)
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


def _read(folder: int, name: str, room: int | None) -> bytes | None:
    """The content of a regular file that fits; None for everything else."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        return None
    with os.fdopen(_open_file(folder, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if room is not None and size > room:
            return None
        return _content(file, size)


def _open_file(folder: int, name: str) -> int:
    try:
        return os.open(name, _FILE, dir_fd=folder)
    except PermissionError:
        os.chmod(name, 0o600, dir_fd=folder)
        return os.open(name, _FILE, dir_fd=folder)


def _content(file: BufferedReader, size: int) -> bytes:
    try:
        return file.read(size)
    except MemoryError:
        # Without a limit a sparse file may be of any size.
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
