"""From the program that a plan names to the file that execve gets, and what it needs.

`resolve` looks a program up as the program itself would see it: in the plan's
PATH, with the plan's files in the working directory. It reads files and runs
nothing: neither an interpreter nor a version manager is ever started to ask.

Facts about the kernel that this relies on:

- execve opens three kinds of file: the program, the interpreters that `#!` lines
  name (at most 5 deep), and the loader that an ELF program names. Landlock asks
  for EXECUTE on each of them;
- Landlock judges the file that a path leads to; walking to it, through
  directories and symbolic links, needs no right. So what is granted is always a
  real path, and a link on the way needs no grant.

What is granted beside the file itself is the libraries of its installation, by
name (lib, share, ...), never the directory that holds them: a program in /bin
would give away `/`, one in ~/bin the home directory.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from evalbox.plan import Plan
from evalbox.resolve.environment import BASE_PATH, base_environment
from evalbox.resolve.needs import needs
from evalbox.resolve.search import Found, View, find, view_of

__all__ = ["BASE_PATH", "Program", "base_environment", "resolve"]

# Seconds for which the libraries of an unchanged file are not looked up again.
KEPT = 1.0
_MOST_KEPT = 256


@dataclass(frozen=True, slots=True)
class Program:
    """What execve gets, and what it needs to be readable.

    Attributes:
        executable: an absolute path of the host; for a file of the plan a path
            relative to the plan's `cwd`.
        in_workspace: whether it is a file of the plan.
        grants: real paths to be read and executed, with all below them; sorted.
    """

    executable: str
    in_workspace: bool
    grants: tuple[str, ...]


# What a file's needs depend on: the file itself, and where a script looks for programs.
_Key = tuple[object, ...]
_known: dict[_Key, tuple[float, tuple[str, ...]]] = {}


def resolve(plan: Plan) -> Program:
    """The program of a plan, found and read but not started.

    Raises:
        CommandNotFound: there is no such program, or no interpreter for it.
        PlanError: a file that the run can change leads to what the policy does not grant.
        SetupError: stage "execve": it is there and cannot be executed, or a file of
            the plan names an interpreter that the policy does not let be read.
    """
    view = view_of(plan)
    found = find(view.name, view)
    return Program(found.path, found.in_workspace, _grants(found, view))


def _grants(found: Found, view: View) -> tuple[str, ...]:
    status = found.status
    if status is None or not view.only_host:
        # What a script needs may be among the plan's files, which are no part of a key.
        return needs(found, view).grants
    # Without writable paths what a host's files need is the same for every policy.
    policy = view.policy.digest if view.policy.write else ""
    key = (found.path, *_identity(status), view.path, view.python_version, policy)
    now = time.monotonic()
    since, grants = _known.get(key, (float("-inf"), ()))
    if now - since <= KEPT:
        return grants
    needed = needs(found, view)
    if needed.only_host:
        _keep(key, now, needed.grants)
    return needed.grants


def _keep(key: _Key, now: float, grants: tuple[str, ...]) -> None:
    if len(_known) >= _MOST_KEPT:
        _known.clear()
    _known[key] = (now, grants)


def _identity(status: os.stat_result) -> _Key:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
