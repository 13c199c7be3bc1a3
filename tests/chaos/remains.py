"""What killed hosts leave: processes, mounts, IPC objects, shared memory, directories, cgroups."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from chaos.kinds import IPC_KEYS, VARIABLE
from proc import children

# A launcher gives its inits 5 seconds; the rest is for a machine under load.
GRACE = 15.0
_LOOKS, _PAUSE = 5, 0.1
_SHM = Path("/dev/shm")


def subtree(pid: int) -> set[int]:
    below = set()
    for child in children(pid):
        below |= {child, *subtree(child)}
    return below


def command_of(pid: int) -> str:
    with suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    return ""


def run_of(pid: int) -> str:
    """The name of the run that a process is of; "" when it does not say."""
    with suppress(OSError):
        for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if item.startswith(VARIABLE.encode() + b"="):
                return item.partition(b"=")[2].decode()
    return ""


@dataclass
class Orphans:
    """Processes whose host is dead: as subreaper we are their parent.

    Attributes:
        survivors: what lived on longer than GRACE, and of which run it was.
        longest: seconds that one lived on.
    """

    survivors: list[tuple[str, str]] = field(default_factory=list)
    longest: float = 0.0
    _since: dict[int, float] = field(default_factory=dict)

    def look(self, hosts: set[int]) -> int:
        """How many there are now."""
        now = time.monotonic()
        there = {pid for pid in children(os.getpid()) if pid not in hosts}
        for pid in set(self._since) - there:
            self.longest = max(self.longest, now - self._since.pop(pid))
        for pid in there:
            if now - self._since.setdefault(pid, now) > GRACE:
                self._give_up(pid)
        return len(there)

    def _give_up(self, pid: int) -> None:
        for each in {pid, *subtree(pid)}:
            self.survivors.append((f"{each}: {command_of(each)}", run_of(each)))
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        # Not again, while it dies.
        self._since[pid] = time.monotonic()


def ipc_objects() -> list[str]:
    """SysV objects with a key of our runs; their own namespaces are not seen here."""
    found = []
    for kind in ("shm", "sem", "msg"):
        lines = Path(f"/proc/sysvipc/{kind}").read_text(encoding="ascii").splitlines()[1:]
        found += [f"{kind} {line}" for line in lines if int(line.split()[0]) in IPC_KEYS]
    return found


def shared_memory(nap: str) -> list[str]:
    """POSIX shared memory of our runs."""
    return [str(path) for path in _SHM.glob(f"chaos-{nap}-*")]


def mounts(folder: Path, hosts: set[int]) -> list[str]:
    """Mounts of what was granted, where only launchers of hosts and who is below have them."""
    seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    # Runs come and go meanwhile, and change their parents: what is left stays.
    for _ in range(_LOOKS):
        seen = [pid for pid in seen if _has(pid, folder) and not _is_below(pid, hosts)]
        if not seen:
            return []
        time.sleep(_PAUSE)
    return [f"{pid}: {command_of(pid)}" for pid in seen]


def _is_below(pid: int, hosts: set[int]) -> bool:
    """Whether it is a launcher of this process' hosts, an orphan of one, or below it."""
    if pid in hosts:
        return False
    while (pid := _parent(pid)) > 1:
        if pid == os.getpid():
            return True
    return False


def _parent(pid: int) -> int:
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(") ")[2].split()[1])
    return 0


def _has(pid: int, folder: Path) -> bool:
    with suppress(OSError):
        return os.fsencode(folder) in Path(f"/proc/{pid}/mountinfo").read_bytes()
    return False


def cgroups_of(pid: int) -> list[str]:
    """Those that a host with this pid made; their names begin with it."""
    return [path for path in _cgroups() if os.path.basename(path).startswith(f"evalbox-{pid}-")]


def _cgroups() -> Iterator[str]:
    for base, folders, _ in os.walk("/sys/fs/cgroup"):
        ours = [name for name in folders if name.startswith("evalbox-")]
        folders[:] = [name for name in folders if name not in ours]
        yield from (f"{base}/{name}" for name in ours)


def directories(place: str) -> list[str]:
    """Workspaces there of our uid that no launcher has any more: it would have locked them."""
    return [str(path) for path in Path(place).glob("evalbox-*") if _is_left(path)]


def _is_left(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return os.fstat(fd).st_uid == os.geteuid()
    finally:
        os.close(fd)
