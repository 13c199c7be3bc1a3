"""Looking a name up as execvp would, in the plan's own PATH.

An entry of PATH that is no absolute path is relative to the working directory,
so the plan's files can be found by name too. As in a shell, a file that cannot
be executed does not end the search, but is what is reported when nothing else
is found.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from evalbox.errors import CommandNotFound, SetupError
from evalbox.plan import File, Plan
from evalbox.policy import Policy
from evalbox.resolve import pyenv
from evalbox.resolve.environment import BASE_PATH

STAGE = "execve"


@dataclass(frozen=True, slots=True)
class View:
    """What of a plan a lookup depends on."""

    name: str
    path: tuple[str, ...]
    cwd: str
    files: Mapping[str, File]
    env: Mapping[str, str]
    policy: Policy

    @property
    def only_host(self) -> bool:
        """Whether no file of the plan can be found through PATH."""
        return all(entry.startswith("/") for entry in self.path)

    @property
    def python_version(self) -> str:
        """The versions of Python that the plan itself asks pyenv for."""
        own = self.file_at(pyenv.VERSION_FILE) if self.files else None
        content = b"" if own is None else own.content
        return self.env.get(pyenv.VERSION_VARIABLE, "") or pyenv.versions_in(content)

    def _inside(self, path: str) -> str | None:
        """A path relative to cwd as one relative to the workspace, None if outside it."""
        inside = posixpath.normpath(posixpath.join(self.cwd, path))
        return None if inside.split("/", 1)[0] == ".." else inside

    def file_at(self, path: str) -> File | None:
        """The plan's file at a path relative to cwd."""
        return self.files.get(self._inside(path) or "")

    def has_directory(self, path: str) -> bool:
        inside = self._inside(path)
        if inside is None:
            return False
        return inside == "." or any(name.startswith(f"{inside}/") for name in self.files)


@dataclass(frozen=True, slots=True)
class Found:
    """A program; `status` is None when it is a file of the plan."""

    path: str
    status: os.stat_result | None

    @property
    def in_workspace(self) -> bool:
        return self.status is None


def view_of(plan: Plan) -> View:
    name = os.fsdecode(plan.cmd[0] if plan.executable is None else plan.executable)
    entries = plan.env.get("PATH", BASE_PATH).split(":")
    # An empty entry is the working directory (execvp).
    path = tuple(entry or "." for entry in entries)
    return View(name, path, plan.cwd, plan.files, plan.env, plan.policy)


def find(name: str, view: View) -> Found:
    """The program that execvp would start.

    Raises:
        CommandNotFound: nothing has that name.
        SetupError: only things that cannot be executed have it.
    """
    if "/" in name:
        found = _at(name, view)
        if found is None:
            raise CommandNotFound(name, _why_absent(name, view))
        return found
    refused: SetupError | None = None
    for entry in view.path:
        try:
            found = _at(f"{entry}/{name}", view)
        except SetupError as error:
            refused = refused or error
            continue
        if found:
            return found
    if refused:
        raise refused
    raise CommandNotFound(name, _why_not_found(name, view))


def _at(path: str, view: View) -> Found | None:
    """The program at a path; None when there is none."""
    if not path.startswith("/"):
        return _among_files(path, view)
    status = executable_on_host(path)
    if status is None or not pyenv.is_shim(path):
        return Found(path, status) if status else None
    behind = pyenv.behind_shim(path, view.python_version)
    # None: pyenv chooses the system's program, which stands later in PATH.
    return _at(behind, view) if behind else None


def executable_on_host(path: str) -> os.stat_result | None:
    """What an absolute path leads to; None when there is nothing.

    Raises:
        SetupError: it cannot be executed.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SetupError(STAGE, error.errno or errno.EACCES, f"{path}: {error.strerror}") from None
    if stat.S_ISDIR(status.st_mode):
        raise SetupError(STAGE, errno.EACCES, f"{path} is a directory")
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
        raise SetupError(STAGE, errno.EACCES, f"{path} is not executable; chmod +x {path}")
    return status


def _among_files(path: str, view: View) -> Found | None:
    file = view.file_at(path)
    if file is None and view.has_directory(path):
        raise SetupError(STAGE, errno.EACCES, f"{path} is a directory of the workspace")
    if file is None:
        return None
    if not file.executable:
        message = f"{path} is not executable; make it File(content, executable=True)"
        raise SetupError(STAGE, errno.EACCES, message)
    return Found(path, None)


def _why_absent(path: str, view: View) -> str:
    if not path.startswith("/"):
        return f"not among the plan's files (cwd is {view.cwd!r})"
    if os.path.exists(path):
        return "a pyenv shim for the system's program; name that program instead"
    return "no such file"


def _why_not_found(name: str, view: View) -> str:
    reason = f"not found in the plan's PATH ({':'.join(view.path)})"
    # Only for the message: what the host's PATH holds is never used by itself.
    on_host = shutil.which(name)
    return f"{reason}; the host has it as {on_host}" if on_host else reason
