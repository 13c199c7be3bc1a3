"""The system calls that make a place, by ctypes: Python 3.11 has few of them."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterable
from fcntl import ioctl
from pathlib import Path

NEWNS, NEWCGROUP, NEWUTS = 0x00020000, 0x02000000, 0x04000000
NEWIPC, NEWUSER, NEWPID, NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20, 0x1000, 0x4000, 1 << 18
MNT_DETACH = 2

# The same numbers on x86_64 and aarch64, but pivot_root and seccomp.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_MOUNT_SETATTR = 442
_AT_RECURSIVE = 0x8000

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38

# include/uapi/linux/capability.h
_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE"
    " NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO"
    " SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME"
    " SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG"
    " WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITIES = tuple(_NAMES.split())

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _call(number: int, what: str, *args: object) -> None:
    _checked(_libc.syscall(ctypes.c_long(number), *args), what)


# ---- namespaces and mounts -----------------------------------------------------


def unshare(flags: int) -> None:
    _checked(_libc.unshare(ctypes.c_int(flags)), f"unshare {flags:#x}")


def mount(
    source: str, target: str | Path, kind: str = "", flags: int = 0, options: str = ""
) -> None:
    encoded = (os.fsencode(source), os.fsencode(target), kind.encode() or None)
    done = _libc.mount(*encoded, ctypes.c_ulong(flags), options.encode() or None)
    _checked(done, f"mount {kind or source} on {target}")


def bind(source: str | Path, target: str | Path, flags: int = 0) -> None:
    """With flags other than MS_REC in a second step, as the kernel wants it."""
    mount(os.fspath(source), target, flags=MS_BIND | flags & MS_REC)
    if extra := flags & ~MS_REC:
        remount(target, extra)


def remount(path: str | Path, flags: int) -> None:
    """Adds flags to those of a mount, which inside a user namespace must stay."""
    mount("none", path, flags=MS_REMOUNT | MS_BIND | _flags_of(path) | flags)


def overlay(lower: str | Path, target: Path, scratch: Path) -> None:
    """Mounts `lower` at `target`; what is written there goes to `scratch`, a tmpfs."""
    name = f"{target.parent.name}-{target.name}"
    folders = [scratch / kind / name for kind in ("upper", "work")]
    for folder in folders:
        folder.mkdir(parents=True)
    # The directory at the top is the upper one, with its own mode.
    folders[0].chmod(stat.S_IMODE(os.stat(lower).st_mode))
    parts = [f"{folder.parent.name}dir={folder}" for folder in folders]
    mount("overlay", target, "overlay", options=",".join([f"lowerdir={lower}", *parts]))


def _flags_of(path: str | Path) -> int:
    found = os.statvfs(path).f_flag
    return found & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def read_only_below(path: str | Path) -> None:
    """Makes a mount and all mounts below it read-only (Linux 5.12)."""
    attributes = struct.pack("QQQQ", MS_RDONLY, 0, 0, 0)
    where = (ctypes.c_int(-100), os.fsencode(path), ctypes.c_uint(_AT_RECURSIVE))
    _call(_MOUNT_SETATTR, f"mount_setattr {path}", *where, attributes, ctypes.c_size_t(32))


def unmount(path: str | Path) -> None:
    _checked(_libc.umount2(os.fsencode(path), MNT_DETACH), f"umount {path}")


def enter_root(path: str | Path) -> None:
    """Makes a mount the root directory; the old one is gone."""
    os.chdir(path)
    _call(_PIVOT_ROOT[os.uname().machine], "pivot_root", b".", b".")
    unmount(".")
    os.chdir("/")


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        ioctl(sock, 0x8914, struct.pack("16sh22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


# ---- what a process may do -----------------------------------------------------


def die_with_parent() -> None:
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "PR_SET_PDEATHSIG")


def no_new_privileges() -> None:
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def bound_capabilities(kept: Iterable[str]) -> None:
    """After execve root has no more than these."""
    for number, name in enumerate(CAPABILITIES):
        if name in kept:
            continue
        # EINVAL: an older kernel, which does not know this one.
        failed = _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0
        if failed and ctypes.get_errno() != errno.EINVAL:
            _checked(-1, f"PR_CAPBSET_DROP {name}")


def install_filter(program: bytes) -> None:
    """As CAP_SYS_ADMIN, so that no_new_privs stays as it is."""
    room = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(room))
    number = _SECCOMP[os.uname().machine]
    _call(number, "seccomp", ctypes.c_uint(1), ctypes.c_uint(0), head)
