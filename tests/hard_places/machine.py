"""Steps that make this machine a harder one: its settings, file systems and limits."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
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

FILES, PROCESSES = 32, 2
_MADE_BY = os.geteuid()
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
_TEMPORARY_PATH = re.compile(r"/(?:var/)?tmp/")
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


def needed_volumes() -> list[str]:
    """What tests need that new temporary directories, or an overlay of /, would hide."""
    here = os.stat("/").st_dev
    wanted = (Path(__file__).parents[2], Path.cwd(), Path(sys.prefix), Path(sys.base_prefix))
    hidden = [
        path for path in wanted if path.stat().st_dev != here or _TEMPORARY_PATH.match(str(path))
    ]
    return list(dict.fromkeys(map(str, hidden)))


def private_temporary_files(volumes: Sequence[str], scratch: Path, root: str | Path = "/") -> None:
    """New /tmp and /var/tmp, whose file system does not call itself a tmpfs.

    What others have there is not seen, and nothing is left there.
    """
    empty = scratch / "empty"
    empty.mkdir()
    empty.chmod(0o1777)
    # Held open: the paths may be below what is about to be covered.
    sources = {volume: os.open(volume, os.O_PATH | os.O_DIRECTORY) for volume in volumes}
    for name in ("tmp", "var/tmp"):
        linux.overlay(empty, Path(root, name), scratch)
    for volume, fd in sources.items():
        target = Path(root, volume.lstrip("/"))
        target.mkdir(parents=True, exist_ok=True)
        linux.bind(f"/proc/self/fd/{fd}", target, MS_REC)
        os.close(fd)


def own_temporary_files(volumes: Sequence[str]) -> None:
    """The same for this machine's root directory, and a new /dev/shm."""
    scratch = Path("/mnt")
    linux.mount("tmpfs", scratch, "tmpfs", options="mode=755")
    private_temporary_files(volumes, scratch)
    linux.unmount(scratch)
    linux.mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")


def read_only_devices() -> None:
    """/dev with the usual nodes and nowhere to write: no /dev/shm."""
    room = Path("/mnt")
    linux.mount("tmpfs", room, "tmpfs", MS_NOSUID, "mode=755,size=64k")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (room / name).touch()
        linux.bind(f"/dev/{name}", room / name)
    linux.bind(room, "/dev", MS_REC)
    linux.remount("/dev", MS_RDONLY)
    linux.unmount(room)


def read_only_root() -> None:
    linux.read_only_below("/")


def tmpfs(path: str, size: int) -> Callable[[], None]:
    options = f"mode=1777,size={size}"
    return lambda: linux.mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options)


def noexec_temporary_files() -> None:
    for path in filter(os.path.isdir, _TEMPORARY):
        linux.bind(path, path, MS_REC | MS_NOSUID | MS_NODEV | MS_NOEXEC)


# ---- limits of the caller ----------------------------------------------------------


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))


def few_processes() -> None:
    # An ordinary user's process of the tool is in the same user namespace, and counts.
    limit = PROCESSES + (_MADE_BY != 0)
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))


def close_stdio() -> None:
    for fd in range(3):
        os.close(fd)
