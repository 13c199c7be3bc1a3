"""Steps that make this machine a harder one: its settings, file systems and limits."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Mapping
from pathlib import Path

from evalbox._syscall_table import NUMBERS
from evalbox.compile.seccomp import (
    ALLOW,
    AUDIT_ARCH,
    ENOSYS,
    EPERM,
    ArgTest,
    Clause,
    FilterSpec,
    Rule,
    Verdict,
    any_bit,
    unless,
)

from . import linux
from .linux import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC

FILES, PROCESSES = 32, 4
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
_SETTINGS = Path("/proc/sys/kernel")
_NAMESPACES = (
    linux.NEWNS | linux.NEWCGROUP | linux.NEWUTS | linux.NEWIPC | linux.NEWPID | linux.NEWNET
)


# ---- /proc and settings ----------------------------------------------------------


def mount_proc() -> None:
    """That of the new PID namespace."""
    linux.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def no_proc() -> None:
    # An empty directory, as it is before anything is mounted on it.
    linux.mount("tmpfs", "/proc", "tmpfs", MS_RDONLY, "size=4k,mode=555")


def read_only_proc() -> None:
    linux.bind("/proc", "/proc", MS_REC | MS_RDONLY)


def forbid_user_namespaces() -> None:
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def show_settings(extra: Mapping[str, str]) -> None:
    """/proc/sys/kernel with files that this kernel does not have."""
    found = dict(_readable(_SETTINGS)) | dict(extra)
    linux.mount("tmpfs", _SETTINGS, "tmpfs", options="mode=755")
    for name, value in found.items():
        (_SETTINGS / name).write_text(f"{value}\n")
    linux.bind(_SETTINGS, _SETTINGS, MS_RDONLY)


def _readable(folder: Path) -> Mapping[str, str]:
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            found[path.name] = path.read_text().strip()
    return found


# ---- filters ---------------------------------------------------------------------


def _denying(verdicts: Mapping[str, Verdict]) -> FilterSpec:
    """A filter that allows all the rest."""
    machine = os.uname().machine
    numbers = NUMBERS[machine]
    return FilterSpec(
        arch=AUDIT_ARCH[machine],
        foreign_action=ALLOW,
        default_action=ALLOW,
        unknown_action=ALLOW,
        last_nr=max(numbers.values()),
        rules=tuple(sorted(Rule(numbers[name], verdict) for name, verdict in verdicts.items())),
    )


def no_user_namespace() -> FilterSpec:
    """EPERM for a user namespace; the flags of clone3 lie in memory, so it is missing."""
    denied = unless(Clause(EPERM, (any_bit(0, linux.NEWUSER),)))
    return _denying({"unshare": denied, "clone": denied, "clone3": Verdict(ENOSYS)})


def no_capabilities_in_namespaces() -> FilterSpec:
    """A user namespace can be made; what asks for a capability in it is EPERM.

    AppArmor denies the write of uid_map as well, which no filter can.
    """
    alone = (any_bit(0, _NAMESPACES), ArgTest(0, 0, mask=linux.NEWUSER))
    denied = unless(Clause(EPERM, alone))
    calls = (
        "mount umount2 pivot_root move_mount open_tree mount_setattr fsopen fsmount sethostname"
        " setdomainname setns chroot"
    )
    verdicts = dict.fromkeys(calls.split(), Verdict(EPERM))
    return _denying(
        verdicts | {"unshare": denied, "clone": denied, "clone3": Verdict(ENOSYS)},
    )


# ---- file systems ----------------------------------------------------------------


def disk_for_temporary_files() -> None:
    """Whatever is a tmpfs shows a directory of a disk instead."""
    on_disk = [path for path in ("/var/tmp", "/tmp") if _kind(path) != "tmpfs"]
    if not on_disk:
        raise OSError(errno.ENODEV, "neither /tmp nor /var/tmp is on a disk")
    for path in ("/var/tmp", "/tmp"):
        if path not in on_disk:
            linux.bind(on_disk[0], path)


def _kind(path: str) -> str:
    """The type of the file system that is mounted there or above."""
    found = ("", "")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        if f"{path}/".startswith(f"{point.rstrip('/')}/") and len(point) >= len(found[0]):
            found = (point, after.split()[0])
    return found[1]


def read_only_devices() -> None:
    """/dev with the usual nodes and nowhere to write: no /dev/shm."""
    room = Path("/mnt")
    linux.mount("tmpfs", room, "tmpfs", MS_NOSUID, "mode=755,size=64k")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (room / name).touch()
        linux.bind(f"/dev/{name}", room / name)
    linux.mount(os.fspath(room), "/dev", flags=linux.MS_BIND | MS_REC)
    linux.bind("/dev", "/dev", MS_RDONLY)
    linux.unmount(room)


def read_only_root() -> None:
    linux.read_only_below("/")


def tmpfs(path: str, size: int) -> Callable[[], None]:
    options = f"mode=1777,size={size}"
    return lambda: linux.mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options)


def noexec_temporary_files() -> None:
    for path in filter(os.path.isdir, _TEMPORARY):
        linux.bind(path, path, MS_NOSUID | MS_NODEV | MS_NOEXEC)


# ---- limits of the caller ----------------------------------------------------------


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


def few_processes() -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))


def close_stdio() -> None:
    for fd in range(3):
        os.close(fd)
