"""What a sandbox must not change about its host, looked at before and after.

A `Patient` is what attacks aim at: a process of its own and files of its own, all
within reach of the attackers' permissions, out of reach of their sandbox.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from proc import mark

# What the kernel writes when it is in trouble; a program's own faults are "traps:".
_TROUBLE = re.compile(
    r"\bOops\b|\bBUG: |kernel BUG|WARNING: |Kernel panic|soft lockup|blocked for more than"
    r"|rcu.*stall|Out of memory|KASAN|UBSAN|refcount_t"
)
_SYSCTLS = """
kernel/core_pattern kernel/hostname kernel/domainname kernel/modprobe kernel/panic
kernel/randomize_va_space kernel/sysrq kernel/pid_max kernel/threads-max kernel/kptr_restrict
vm/overcommit_memory vm/swappiness vm/max_map_count vm/drop_caches fs/file-max fs/pipe-max-size
fs/protected_hardlinks fs/protected_symlinks fs/suid_dumpable user/max_user_namespaces
net/ipv4/ip_forward net/core/somaxconn
"""
_RLIMITS = {name: getattr(resource, name) for name in dir(resource) if name[:7] == "RLIMIT_"}
_SHARED = ("/dev/shm", "/dev/mqueue", "/run/lock", "/run/user")
# A host that is used for other things as well is not quiet to the byte.
_MEMORY = 0.02
_CLOCK = 2.0
_PAUSE = 0.05


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _column(path: str, column: int) -> list[str]:
    """One column of a table in /proc, without its heading."""
    lines = (_read(path) or "").splitlines()[1:]
    return sorted(line.split()[column] for line in lines)


def _devices() -> dict[str, list[str | None]]:
    """Network interfaces of this namespace: what could be set about them."""
    names = [line.split(":")[0].strip() for line in (_read("/proc/net/dev") or "").splitlines()[2:]]
    facts = ("address", "flags", "mtu", "tx_queue_len")
    return {name: [_read(f"/sys/class/net/{name}/{fact}") for fact in facts] for name in names}


def _process(pid: int) -> dict[str, Any]:
    """What another process could have changed about this one."""
    facts: dict[str, Any] = {
        name: resource.prlimit(pid, number) for name, number in sorted(_RLIMITS.items())
    }
    facts["nice"] = os.getpriority(os.PRIO_PROCESS, pid)
    facts["affinity"] = sorted(os.sched_getaffinity(pid))
    facts["scheduler"] = os.sched_getscheduler(pid)
    facts["oom_score_adj"] = _read(f"/proc/{pid}/oom_score_adj")
    status = _read(f"/proc/{pid}/status") or ""
    for name in ("TracerPid", "Uid", "Gid", "SigBlk", "SigIgn", "NoNewPrivs", "Seccomp"):
        facts[name] = re.findall(rf"^{name}:\s*(.*)$", status, re.MULTILINE)
    return facts


def available_memory() -> int:
    """Bytes that are available, or held by processes that live.

    None of the attackers' lives when this is asked, and others who use the host may
    start and end as they like.
    """
    sizes = re.findall(r"^(?:MemAvailable|AnonPages):\s*(\d+)", _read("/proc/meminfo") or "", re.M)
    return 1024 * sum(map(int, sizes))


class KernelLog:
    """The kernel's messages from now on; None of them where this process may not read them."""

    def __init__(self) -> None:
        self.fd = -1
        with contextlib.suppress(OSError):
            self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self.fd, 0, os.SEEK_END)

    @property
    def is_readable(self) -> bool:
        return self.fd >= 0

    def trouble(self) -> list[str]:
        """What has come since the last look and tells of trouble."""
        return [line for line in self._lines() if _TROUBLE.search(line)]

    def _lines(self) -> Iterator[str]:
        while self.fd >= 0:
            try:
                yield os.read(self.fd, 8192).decode(errors="replace").partition("\n")[0]
            except BrokenPipeError:
                continue  # older messages were overwritten
            except OSError:
                return

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


@dataclass(frozen=True)
class Patient:
    """A process and files to be attacked."""

    process: subprocess.Popen[bytes]
    files: tuple[Path, ...]
    fds: tuple[int, ...]

    CONTENT = b"nobody changed this\n"

    @classmethod
    def made_in(cls, folder: Path) -> Patient:
        """Its files lie open to everybody, for the attacker may have another uid."""
        folder.chmod(0o777)
        files = (folder / "canary", Path("/dev/shm", f"canary-{mark()}"))
        for file in files:
            file.write_bytes(cls.CONTENT)
            file.chmod(0o666)
        # To be read even if their mode should be changed.
        fds = tuple(os.open(file, os.O_RDONLY | os.O_CLOEXEC) for file in files)
        command = [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        return cls(process, files, fds)

    def __enter__(self) -> Patient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()
        for file, fd in zip(self.files, self.fds, strict=True):
            os.close(fd)
            file.unlink(missing_ok=True)

    def facts(self) -> dict[str, Any]:
        states = [*map(os.fstat, self.fds)]
        there = [*map(os.path.samestat, states, map(os.stat, self.files))]
        alive = self.process.poll() is None
        return {
            "alive": alive,
            "process": _process(self.process.pid) if alive else {},
            "contents": [os.pread(fd, 4096, 0) for fd in self.fds],
            "there": there,
            "beside": _names(str(self.files[0].parent)),
            "owners": [(state.st_uid, state.st_gid, state.st_nlink) for state in states],
        }

    def metadata(self) -> list[tuple[int, int]]:
        """What of the files only `fs_metadata` holds."""
        return [(state.st_mode, state.st_mtime_ns) for state in map(os.fstat, self.fds)]


def objects() -> set[tuple[str, str]]:
    """What outlives its maker, and may be a program's: in shared places, and of System V.

    Programs of root run as somebody else, and those of a user as himself.
    """
    found = {
        (folder, name)
        for folder in _SHARED
        for name in _names(folder)
        if _may_be_a_programs(_owner(f"{folder}/{name}"))
    }
    for kind, column in (("shm", 7), ("sem", 4), ("msg", 7)):
        for line in (_read(f"/proc/sysvipc/{kind}") or "").splitlines()[1:]:
            fields = line.split()
            if _may_be_a_programs(int(fields[column])):
                found.add((kind, fields[1]))
    return found


def _owner(path: str) -> int | None:
    try:
        return os.lstat(path).st_uid
    except FileNotFoundError:
        return None


def _may_be_a_programs(uid: int | None) -> bool:
    return uid is not None and (uid != 0 if os.getuid() == 0 else uid == os.getuid())


def snapshot(patient: Patient) -> dict[str, Any]:
    """Everything that has to be the same afterwards."""
    return {
        "patient": patient.facts(),
        "this process": _process(os.getpid()),
        "mounts": _read("/proc/self/mountinfo"),
        "swaps": _read("/proc/swaps"),
        "modules": _column("/proc/modules", 0) if _read("/proc/modules") else [],
        "interfaces": _devices(),
        "routes": _read("/proc/net/route"),
        "names": os.uname(),
        "sysctls": {name: _read(f"/proc/sys/{name}") for name in _SYSCTLS.split()},
        "namespaces": {
            name: os.readlink(f"/proc/self/ns/{name}") for name in _names("/proc/self/ns")
        },
    }


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [
        f"{what}: {before[what]!r} became {after[what]!r}"
        for what in before
        if before[what] != after[what]
    ]


def _settles(condition: Callable[[], bool], patience: float) -> bool:
    """Whether it holds, or comes to hold in time."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(_PAUSE)
    return True


@contextlib.contextmanager
def unharmed(patient: Patient, patience: float = 60.0) -> Iterator[KernelLog]:
    """Fails when the host is not afterwards what it was before.

    Others who use the host may change it for a while, and leave things there for as
    long as they need them: what differs is looked at again before it counts.
    """
    log = KernelLog()
    try:
        before, memory, clock, there = snapshot(patient), available_memory(), _clock(), objects()
        yield log
        if not _settles(lambda: snapshot(patient) == before, patience):
            raise AssertionError("\n".join(_differences(before, snapshot(patient))))
        left = objects() - there
        assert _settles(lambda: left.isdisjoint(objects()), patience), left & objects()
        least = memory * (1 - _MEMORY)
        assert _settles(lambda: available_memory() >= least, patience), available_memory() / memory
        assert abs(_clock() - clock) < _CLOCK, "the time was set"
        trouble = log.trouble()
        assert trouble == [], "\n".join(trouble)
    finally:
        log.close()


def _clock() -> float:
    """The wall clock against one that nobody can set."""
    return time.time() - time.monotonic()
