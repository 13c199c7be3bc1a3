"""The files of a plan, written into an empty directory."""

from __future__ import annotations

import os
from collections.abc import Mapping

from evalbox.plan import File
from evalbox.workspace.flags import DIRECTORY

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER_MODE = 0o755


def fill(box: int, files: Mapping[str, File], cwd: str, owner: int | None) -> None:
    """Writes `files` and makes `cwd`; all of it belongs to `owner` (None: the caller).

    Raises:
        OSError: ENOSPC and the like; what was written until then stays.
    """
    for path, file in files.items():
        folder, name = os.path.split(path)
        parent = _open_folder(box, folder, owner)
        try:
            _write_file(parent, name, file, owner)
        finally:
            os.close(parent)
    if cwd != ".":
        os.close(_open_folder(box, cwd, owner))


def _open_folder(box: int, path: str, owner: int | None) -> int:
    """A descriptor of a directory below `box`, made if it is not there yet."""
    fd = os.dup(box)
    try:
        for name in path.split("/") if path not in ("", ".") else ():
            below = _open_or_make(fd, name, owner)
            os.close(fd)
            fd = below
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_or_make(parent: int, name: str, owner: int | None) -> int:
    try:
        os.mkdir(name, _FOLDER_MODE, dir_fd=parent)
    except FileExistsError:
        return os.open(name, DIRECTORY, dir_fd=parent)
    # The host's umask is not the program's, and may even keep us out.
    os.chmod(name, _FOLDER_MODE, dir_fd=parent)
    fd = os.open(name, DIRECTORY, dir_fd=parent)
    try:
        _give(fd, owner)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_file(parent: int, name: str, file: File, owner: int | None) -> None:
    fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
    try:
        rest = memoryview(file.content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fchmod(fd, 0o755 if file.executable else 0o644)
        _give(fd, owner)
    finally:
        os.close(fd)


def _give(fd: int, owner: int | None) -> None:
    if owner is not None:
        os.fchown(fd, owner, owner)
