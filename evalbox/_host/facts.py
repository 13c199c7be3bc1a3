"""What this host is, found out by asking and without changing anything.

Kernel features are asked for with the calls that would use them: version numbers
say little about vendor kernels, and a container may take away what its kernel
has. ctypes is enough for that, so the answers are to be had (by `evalbox doctor`)
also where the compiled parts do not load.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

from evalbox.compile.identity import Caller

# The same numbers on x86_64 and aarch64, except seccomp.
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_VERSION = 1
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SECCOMP_GET_ACTION_AVAIL = 2
_ERRNO, _USER_NOTIF = 0x00050000, 0x7FC00000
# include/uapi/linux/capability.h. The first three are for workspaces, which
# belong to the uid of their run.
_NEEDED_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
}

# Uids that no distribution, container manager or systemd gives out come first;
# the others are for containers with 65536 uids, below those of system services.
UID_RANGES = (range(0x70000000, 0x70010000), range(50000, 58192), range(20000, 28192))

# A tmpfs makes workspaces several times cheaper than a disk, but must have room.
_ROOM = 1 << 30
_PLACES = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108  # a random directory is made below


@dataclass(frozen=True, slots=True)
class Landlock:
    """`abi` is 0 where there is none; `error` is the errno that said so."""

    abi: int
    error: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A directory to hold workspaces; `why_not` names what is wrong with it."""

    path: str
    tmpfs: bool
    free: int
    why_not: str = ""

    @property
    def is_small(self) -> bool:
        """Taken only where there is nothing better."""
        return self.tmpfs and self.free < _ROOM


def landlock() -> Landlock:
    """The ABI of Landlock that this process can use (Linux 5.13: 1)."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(_LANDLOCK_CREATE_RULESET)
    abi = libc.syscall(number, None, ctypes.c_size_t(0), ctypes.c_uint(_LANDLOCK_VERSION))
    return Landlock(abi) if abi > 0 else Landlock(0, ctypes.get_errno())


def _has_seccomp_action(action: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SECCOMP.get(platform.machine())
    if number is None:
        return False
    value = ctypes.c_uint32(action)
    operation = ctypes.c_uint(_SECCOMP_GET_ACTION_AVAIL)
    answer: int = libc.syscall(ctypes.c_long(number), operation, 0, ctypes.byref(value))
    return answer == 0


def seccomp_filter() -> bool:
    return _has_seccomp_action(_ERRNO)


def seccomp_notification() -> bool:
    return _has_seccomp_action(_USER_NOTIF)


# ---- uids --------------------------------------------------------------------


def uids() -> range | None:
    """Uids, and gids, that runs may be given here; None when none are mapped."""
    maps = [_mapped(Path("/proc/self", name)) for name in ("uid_map", "gid_map")]
    for candidates in UID_RANGES:
        if all(_covers(ranges, candidates) for ranges in maps):
            return candidates
    return None


def _mapped(path: Path) -> list[range]:
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return []
    return [range(int(row[0]), int(row[0]) + int(row[2])) for row in rows]


def _covers(ranges: list[range], wanted: range) -> bool:
    return any(wanted[0] in one and wanted[-1] in one for one in ranges)


def _missing_capabilities() -> list[str]:
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in status.splitlines() if line.startswith("CapEff:")]
    held = int(lines[0].split()[1], 16) if lines else 0
    return [name for name, bit in _NEEDED_CAPABILITIES.items() if not held >> bit & 1]


def caller() -> Caller:
    """Who this process is, and whether it can give a run a uid of its own."""
    uid, gid, groups = os.geteuid(), os.getegid(), frozenset(os.getgroups())
    if uid != 0:
        return Caller(uid, gid, groups, False, "not root")
    if not os.path.exists("/proc/self/status"):
        return Caller(uid, gid, groups, False, "/proc, which tells what root may, is not mounted")
    if missing := _missing_capabilities():
        return Caller(uid, gid, groups, False, f"root lacks {', '.join(missing)}")
    if uids() is None:
        why_not = "no range of unused uids is mapped in this user namespace"
        return Caller(uid, gid, groups, False, why_not)
    return Caller(uid, gid, groups, True)


# ---- the place for workspaces ------------------------------------------------


def places() -> list[Place]:
    """Where workspaces could be, the best first; those with `why_not` last."""
    names = dict.fromkeys((_PLACES[0], *_temporary(), *_PLACES[1:]))
    found = [_place(name) for name in names if os.path.isdir(name)]
    return sorted(found, key=lambda place: (bool(place.why_not), place.is_small, not place.tmpfs))


def _temporary() -> list[str]:
    """Python's choice, TMPDIR first; none where it finds no directory that it can write."""
    try:
        return [tempfile.gettempdir()]
    except FileNotFoundError:
        return []


def _place(path: str) -> Place:
    real = os.path.realpath(path)
    room = os.statvfs(real)
    free = room.f_bavail * room.f_frsize
    return Place(real, _filesystem(real) == "tmpfs", free, _fault(real, room))


def _fault(path: str, room: os.statvfs_result) -> str:
    if not os.access(path, os.W_OK | os.X_OK):
        return "not writable"
    if room.f_flag & os.ST_NOEXEC:
        return "mounted noexec"
    # A uid of its own must get through; a directory of root's alone is closed to it.
    closed = [p for p in (path, *map(str, Path(path).parents)) if not os.stat(p).st_mode & 1]
    if os.geteuid() == 0 and closed:
        return f"{closed[-1]} is closed to other uids"
    return ""


def _filesystem(path: str) -> str:
    """The type of the file system that a real path is on; "" when unknown."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # Later mounts on the same point cover the earlier ones.
        if inside and len(point) >= best:
            best, kind = len(point), after.split()[0]
    return kind


def landlock_remedy(found: Landlock) -> str:
    """The setting that brings Landlock, or all of it."""
    if found.error == errno.EOPNOTSUPP:
        return "boot with landlock among the security modules: lsm=landlock,... (see dmesg)"
    if found.error == errno.EPERM:
        return "let the container's seccomp profile allow landlock_create_ruleset"
    return "Linux 6.12 or newer with CONFIG_SECURITY_LANDLOCK=y"
