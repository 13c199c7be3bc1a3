"""A container as `docker run` makes it by default, without Docker.

What is reproduced: the published default seccomp profile, the default
capabilities, the mounts with their options, the masked and the read-only paths,
and own PID, mount, IPC, UTS, network and cgroup namespaces. The root directory
is this machine's, as root under an overlay of which nothing is kept; /tmp and
/var/tmp are empty. What is not: the devices cgroup, AppArmor, and a bridge to the network.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evalbox._syscall_table import NUMBERS
from evalbox.compile.seccomp import (
    ALLOW,
    AUDIT_ARCH,
    ENOSYS,
    EPERM,
    LONG,
    ArgTest,
    Clause,
    FilterSpec,
    Rule,
    Verdict,
)

from . import linux, machine
from .linux import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC

_CAPABILITIES = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP"
    " SETGID SETPCAP SETUID SYS_CHROOT"
)
CAPABILITIES = tuple(_CAPABILITIES.split())

# What Docker's default specification masks and makes read-only.
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}
_PROFILE = Path(__file__).with_name("docker_seccomp.json")


# ---- the seccomp profile ---------------------------------------------------------


def profile(capabilities: Iterable[str] = CAPABILITIES) -> FilterSpec:
    """The default profile for a container with these capabilities.

    Other architectures are let through: their numbers are not in evalbox's table,
    and whoever is confined further must deny them anyway.
    """
    facts = json.loads(_PROFILE.read_text(encoding="utf-8"))
    machine = os.uname().machine
    numbers = NUMBERS[machine]
    verdicts = _verdicts(facts, set(capabilities))
    rules = [Rule(numbers[name], verdict) for name, verdict in verdicts.items() if name in numbers]
    # runc answers ENOSYS for whatever is newer than all that a profile names.
    last = max(numbers[name] for name in _named(facts) if name in numbers)
    return FilterSpec(
        arch=AUDIT_ARCH[machine],
        foreign_action=ALLOW,
        default_action=EPERM,
        unknown_action=ENOSYS,
        last_nr=last,
        rules=tuple(sorted(rules)),
    )


def _verdicts(facts: dict[str, Any], capabilities: set[str]) -> dict[str, Verdict]:
    allowed = dict.fromkeys(_names(facts["allowed"]), Verdict(ALLOW))
    allowed["socket"] = _only(facts["socket_families"])
    allowed["personality"] = _only(facts["personality"])
    if "SYS_ADMIN" not in capabilities:
        flags = int(facts["without_cap_sys_admin"]["clone_without_flags"], 16)
        none_set = Clause(ALLOW, (ArgTest(0, 0, mask=flags),))
        allowed["clone"] = Verdict(EPERM, (none_set,))
        allowed["clone3"] = Verdict(ENOSYS)
    for capability, names in facts["allowed_with_capability"].items():
        if capability.removeprefix("CAP_") in capabilities:
            allowed |= dict.fromkeys(_names(names), Verdict(ALLOW))
    return allowed


def _only(ranges: str) -> Verdict:
    """Allowed for a first argument in one of the ranges, written like `1-11 0x20`."""
    clauses = (Clause(ALLOW, (ArgTest(0, value, LONG),)) for value in _values(ranges))
    return Verdict(EPERM, tuple(clauses))


def _values(ranges: str) -> Iterator[int]:
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from range(int(first, 0), int(last or first, 0) + 1)


def _names(lines: list[str]) -> list[str]:
    return " ".join(lines).split()


def _named(facts: dict[str, Any]) -> Iterator[str]:
    yield from _names(facts["allowed"])
    for names in facts["allowed_with_capability"].values():
        yield from _names(names)


# ---- the root directory ------------------------------------------------------------


def enter_root(volumes: Sequence[str], *, masked: bool) -> None:
    """Makes the container's root directory this process's; needs its namespaces.

    Not `masked`: with systempaths=unconfined.
    """
    scratch = Path("/run")
    linux.mount("tmpfs", scratch, "tmpfs", options="mode=755")
    root = scratch / "root"
    for name in ("root", "etc"):
        (scratch / name).mkdir()
    if os.geteuid() == 0:
        linux.overlay("/", root, scratch)
    else:
        # No overlay of less than all that is mounted, inside a user namespace; but
        # there an ordinary user can change no more than it can outside.
        linux.bind("/", root, MS_REC)
    machine.private_temporary_files(volumes, scratch, root)
    _mount_kernel(root)
    _mount_devices(root / "dev")
    _write_names(scratch / "etc", root / "etc")
    linux.enter_root(root)
    if masked:
        _mask()


def _mount_kernel(root: Path) -> None:
    closed = MS_NOSUID | MS_NODEV | MS_NOEXEC
    linux.mount("proc", root / "proc", "proc", closed)
    linux.mount("sysfs", root / "sys", "sysfs", closed | MS_RDONLY)
    cgroups = root / "sys/fs/cgroup"
    linux.bind("/sys/fs/cgroup", cgroups, MS_REC)
    linux.read_only_below(cgroups)


def _mount_devices(dev: Path) -> None:
    linux.mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755,size=65536k")
    for name, minor in _DEVICES.items():
        _device(dev / name, 1, minor)
    _device(dev / "tty", 5, 0)
    for name, target in _LINKS.items():
        (dev / name).symlink_to(target)
    for name, kind, options, flags in (
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=0620", MS_NOSUID | MS_NOEXEC),
        ("shm", "tmpfs", "mode=1777,size=65536k", MS_NOSUID | MS_NODEV | MS_NOEXEC),
        ("mqueue", "mqueue", "", MS_NOSUID | MS_NODEV | MS_NOEXEC),
    ):
        (dev / name).mkdir()
        linux.mount(kind, dev / name, kind, flags, options)


def _device(path: Path, major: int, minor: int) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        path.chmod(0o666)
    except PermissionError:
        # Inside a user namespace; Docker binds them there, too.
        path.touch()
        linux.bind(f"/dev/{path.name}", path)


def _write_names(files: Path, etc: Path) -> None:
    """The three files that Docker binds into /etc."""
    name = os.uname().nodename
    for file, text in (
        ("hostname", f"{name}\n"),
        ("hosts", f"127.0.0.1\tlocalhost\n::1\tlocalhost\n172.17.0.2\t{name}\n"),
        ("resolv.conf", "nameserver 172.17.0.1\n"),
    ):
        (files / file).write_text(text)
        if (etc / file).exists():
            linux.bind(files / file, etc / file)


def _mask() -> None:
    """A directory becomes empty and read-only, a file reads as nothing."""
    for path in filter(os.path.exists, READ_ONLY):
        linux.bind(path, path, MS_REC | MS_RDONLY)
    for path in MASKED:
        if os.path.isdir(path):
            linux.mount("tmpfs", path, "tmpfs", MS_RDONLY)
        elif os.path.exists(path):
            linux.bind("/dev/null", path)
