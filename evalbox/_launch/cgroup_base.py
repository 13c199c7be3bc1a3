"""Where the cgroups of launchers are made, and what is done to cgroups as a whole.

On v2 a cgroup with processes gives no controllers to those below it. So while
the base is used, the processes that it held are in a leaf of it; they come back
when the last of its users has gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache

from evalbox._host.cgroups import HOST_LEAF, MEMORY, PIDS, Cgroups
from evalbox._launch.locks import lock
from evalbox.workspace.flags import DIRECTORY

# evalbox-PID-START-RANDOM: of the host that made it.
NAME = re.compile(r"evalbox-(\d+)-(\d+)-[0-9a-f]{16}")
_ATTEMPTS = 20
_EMPTY_SECONDS = 5.0
_PAUSE = 0.001

# (pid of this process, base) -> launchers that use it now.
_users: Counter[tuple[int, str]] = Counter()


def write(path: str, text: str) -> None:
    """Writes to a file of a cgroup, which is there or not ours."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def words(path: str) -> list[str]:
    """The words of a file of a cgroup."""
    with open(path, encoding="ascii") as file:
        return file.read().split()


def start_of(pid: int) -> str | None:
    """When a process was started, in ticks since boot; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


# ---- the base of v2 ------------------------------------------------------------------


def enter(found: Cgroups) -> str:
    """Makes the base give its controllers on; returns where this process is now.

    Raises:
        OSError: it cannot.
    """
    if found.version != 2:
        return ""
    base = found.bases[0][1]
    wanted = found.controllers & {MEMORY, PIDS}
    home = f"{base}/{HOST_LEAF}" if found.moves else found.here
    with _locked(base):
        if not wanted <= set(words(f"{base}/cgroup.subtree_control")) or found.moves:
            _give_on(base, wanted, moves=found.moves)
        _users[os.getpid(), base] += 1
    return home


def _give_on(base: str, wanted: frozenset[str], *, moves: bool) -> None:
    text = " ".join(f"+{name}" for name in sorted(wanted))
    for attempt in range(_ATTEMPTS):
        if moves:
            move(base, f"{base}/{HOST_LEAF}")
        try:
            write(f"{base}/cgroup.subtree_control", text)
        except OSError as error:
            # Something was forked into it meanwhile.
            if error.errno != errno.EBUSY or not moves or attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def move(source: str, target: str) -> None:
    """Moves every process of a cgroup into another one."""
    os.makedirs(target, exist_ok=True)
    for _ in range(_ATTEMPTS):
        pids = words(f"{source}/cgroup.procs")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                write(f"{target}/cgroup.procs", pid)
        if not pids:
            return


def leave(found: Cgroups) -> None:
    """One launcher less; after the last everything is as it was found."""
    if found.version != 2:
        return
    base = found.bases[0][1]
    _users[os.getpid(), base] -= 1
    leaf = f"{base}/{HOST_LEAF}"
    if _users[os.getpid(), base] > 0 or not os.path.isdir(leaf):
        return
    # What cannot be put back is no harm: the next start finds it as it is now.
    with contextlib.suppress(OSError), _locked(base):
        ours = str(os.getpid()) in words(f"{leaf}/cgroup.procs")
        if not ours or _below(base) != [leaf]:
            return
        enabled = set(words(f"{base}/cgroup.subtree_control")) & {MEMORY, PIDS}
        write(f"{base}/cgroup.subtree_control", " ".join(f"-{name}" for name in sorted(enabled)))
        move(leaf, base)
        os.rmdir(leaf)


@contextlib.contextmanager
def _locked(base: str) -> Iterator[None]:
    """Alone among the hosts that use a base."""
    fd = os.open(base, DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# ---- cgroups as a whole --------------------------------------------------------------


def _below(path: str) -> list[str]:
    """The cgroups in a cgroup."""
    with os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]


def _walk(path: str) -> Iterator[str]:
    """A cgroup and all below it, the lowest first; nothing when it is not there."""
    try:
        below = _below(path)
    except FileNotFoundError:
        return
    for child in below:
        yield from _walk(child)
    yield path


def kill_tree(path: str) -> None:
    """Kills what is in a cgroup and below it, until nothing is left."""
    until = time.monotonic() + _EMPTY_SECONDS
    while pids := _processes(path):
        if time.monotonic() > until:
            raise OSError(errno.EBUSY, f"processes {pids} do not end", path)
        if not _kill_at_once(path):
            _kill_each(path, pids)
        time.sleep(_PAUSE)


def _processes(path: str) -> list[int]:
    found: list[int] = []
    for where in _walk(path):
        with contextlib.suppress(OSError):
            found += map(int, words(f"{where}/cgroup.procs"))
    return found


def _kill_at_once(path: str) -> bool:
    """With v2, since Linux 5.14."""
    try:
        write(f"{path}/cgroup.kill", "1")
    except OSError:
        return False
    return True


def _kill_each(path: str, pids: list[int]) -> None:
    for where in _walk(path):
        # Nothing more is forked then.
        with contextlib.suppress(OSError):
            write(f"{where}/pids.max", "0")
    for pid in pids:
        # 0 stands for one that this PID namespace does not have.
        if pid > 0 and pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def remove_tree(path: str) -> None:
    """Removes a cgroup in which nothing runs, with all below it."""
    until = time.monotonic() + _EMPTY_SECONDS
    for where in _walk(path):
        while True:
            try:
                os.rmdir(where)
            except FileNotFoundError:
                break
            except OSError as error:
                # What was reaped a moment ago may still be on its way out.
                if error.errno != errno.EBUSY or time.monotonic() > until:
                    raise
                time.sleep(_PAUSE)
            else:
                break


# ---- leftovers -----------------------------------------------------------------------


@cache
def sweep_once(base: str) -> None:
    """sweep(), unless this process did it before."""
    sweep(base)


def sweep(base: str) -> None:
    """Kills and removes what hosts of this user that were killed have left below a base."""
    for path in _below(base):
        match = NAME.fullmatch(os.path.basename(path))
        if match and start_of(int(match[1])) != match[2]:
            # The next start tries again.
            with contextlib.suppress(OSError):
                _remove_leftover(path)


def _remove_leftover(path: str) -> None:
    fd = os.open(path, DIRECTORY)
    try:
        # In another PID namespace its host may be alive: it has the lock then.
        if os.fstat(fd).st_uid == os.geteuid() and lock(fd):
            kill_tree(path)
            remove_tree(path)
    finally:
        os.close(fd)
