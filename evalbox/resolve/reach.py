"""What a policy lets be read anyway, and what its runs could have changed.

What untrusted content names (a file of the plan, or one in a directory that the
policy makes writable) is never granted for it: it must be covered already.

Facts that this relies on:

- who may change a directory may put a link in place of any name in it, so a path
  is as trustworthy as the directories in which its names are looked up;
- the names before the first writable directory on the way stay as they are, so
  that directory is found whatever a live run does behind it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from evalbox.policy import Policy

# The trees that every program may read and execute.
SYSTEM_ROOTS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_LINKS = 40  # MAXSYMLINKS


def steps(path: str) -> Iterator[tuple[str, bool]]:
    """Every directory that the kernel enters on the way, through links, then the end."""
    for at, name, _ in _walk(path):
        yield at, not name


def links(path: str) -> Iterator[tuple[str, str]]:
    """The links on the way: the real path of each, and where it leads."""
    for at, name, target in _walk(path):
        if target:
            yield os.path.join(at, name), target


def _walk(path: str) -> Iterator[tuple[str, str, str]]:
    """Each name that is looked up: in which real directory, and where it leads if a link.

    Without a name at last: where the path ends.
    """
    rest = path.split("/")[::-1]
    at, followed = "/", 0
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = os.path.dirname(at)
            continue
        after = os.path.join(at, part)
        target = _target(after) if followed < _LINKS else ""
        yield at, part, target
        if not target:
            at = after
            continue
        followed += 1
        at = "/" if target.startswith("/") else at
        rest.extend(target.split("/")[::-1])
    yield at, "", ""


def is_inside(path: str, root: str) -> bool:
    """Whether a real path is `root` or below it."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def covers(policy: Policy, real: str) -> bool:
    """Whether the policy alone already lets this real path be read and executed."""
    roots = SYSTEM_ROOTS if policy.system else ()
    return any(is_inside(real, os.path.realpath(root)) for root in roots) or any(
        is_inside(real, own)
        for path in (*policy.read, *policy.write)
        if not leads_out(policy, path, own := os.path.realpath(path))
    )


def leads_out(policy: Policy, path: str, real: str) -> str:
    """The writable directory that a path goes through to end elsewhere; "" when none.

    `real` is where the path led when it was asked; only that may then be granted.
    """
    writable = _writable(policy)
    if not writable:
        return ""
    entered = (at for at, is_end in steps(path) if not is_end)
    out = (w for at in entered for w in writable if is_inside(at, w) and not is_inside(real, w))
    return next(out, "")


def changeable_name(policy: Policy, path: str) -> str:
    """The writable directory in which a part of the path is looked up; "" when none."""
    return _first_writable(policy, path, end=False)


def changeable_file(policy: Policy, path: str) -> str:
    """What a policy makes writable so that the file at the path may be another; or ""."""
    return _first_writable(policy, path, end=True)


def read_start(path: str, size: int) -> bytes:
    """How a regular file begins; empty for anything else, which is not even opened.

    Raises:
        OSError: it cannot be opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        return b""
    # Should it have become a FIFO by now, opening it does not block.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        return file.read(size) if stat.S_ISREG(os.fstat(fd).st_mode) else b""


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _writable(policy: Policy) -> list[str]:
    return [os.path.realpath(path) for path in policy.write]


def _first_writable(policy: Policy, path: str, end: bool) -> str:
    writable = _writable(policy)
    if not writable:
        return ""
    passed = (at for at, is_end in steps(path) if end or not is_end)
    return next((w for at in passed for w in writable if is_inside(at, w)), "")
