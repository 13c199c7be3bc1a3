"""The directory of one launcher, in which the workspaces of its runs are.

It is locked with flock through a descriptor that the launcher inherits. So a
directory that nobody has locked was left by a host and a launcher that were
killed together, and the next start removes it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from functools import cache

from evalbox import _native
from evalbox._host import host
from evalbox._launch.locks import lock
from evalbox.errors import SetupError
from evalbox.workspace.flags import DIRECTORY

_PREFIX = "evalbox-"
_NAME = re.compile(r"evalbox-[0-9a-f]{32}")
_ATTEMPTS = 10


class Root:
    """Owner of a locked directory and of a descriptor of the one above it."""

    def __init__(self) -> None:
        place = _place()
        self.parent = os.open(place, DIRECTORY)
        try:
            _sweep_once(place)
            self.name, self.fd = _make(self.parent)
        except BaseException:
            os.close(self.parent)
            raise
        self.path = f"{place}/{self.name}"

    def open_up(self) -> None:
        """Gives it its mode back: a run with our own uid may have closed it to us."""
        os.fchmod(self.fd, _mode())

    def remove(self) -> None:
        """Removes it with all below it, if the launcher has not."""
        _native.tree_remove(self.parent, self.name)

    def close(self) -> None:
        for name in ("fd", "parent"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)


def _place() -> str:
    if not host().workspaces:
        message = f"{host().no_workspace}; set TMPDIR to one"
        raise SetupError("workspace", errno.ENOENT, message)
    return host().workspaces[0]


def _make(parent: int) -> tuple[str, int]:
    """Name and descriptor of a new directory that this process has locked."""
    for _ in range(_ATTEMPTS):
        name = f"{_PREFIX}{secrets.token_hex(16)}"
        os.mkdir(name, 0o700, dir_fd=parent)
        # Between mkdir and flock another start may take it for a leftover.
        try:
            # The umask may keep even its owner out.
            os.chmod(name, 0o700, dir_fd=parent)
            fd = os.open(name, DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            continue
        if lock(fd) and _is_there(parent, name, fd):
            os.fchmod(fd, _mode())
            return name, fd
        os.close(fd)
    raise SetupError("workspace", errno.EBUSY, "a new directory was removed each time")


def _mode() -> int:
    """Uids of their own get through to their workspace and list nothing."""
    return 0o711 if os.geteuid() == 0 else 0o700


def _is_there(parent: int, name: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(name, dir_fd=parent, follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False


@cache
def _sweep_once(place: str) -> None:
    sweep(place)


def sweep(place: str) -> None:
    """Removes what killed hosts of this user left in a directory."""
    parent = os.open(place, DIRECTORY)
    try:
        for name in os.listdir(parent):
            if _NAME.fullmatch(name):
                _remove_leftover(parent, name)
    finally:
        os.close(parent)


def _remove_leftover(parent: int, name: str) -> None:
    try:
        fd = os.open(name, DIRECTORY, dir_fd=parent)
    except OSError:
        return
    try:
        if os.fstat(fd).st_uid == os.geteuid() and lock(fd) and _is_there(parent, name, fd):
            _native.tree_remove(parent, name)
    except OSError:
        # The next start tries again.
        return
    finally:
        os.close(fd)
