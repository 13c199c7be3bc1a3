"""The table of places: what each is, who can be there, and the steps that make it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from evalbox import _native

from . import docker, linux, machine
from .enter import Inside, joined

# Who a command is where root makes the place for an ordinary user.
USER = 1000
_CONTAINER = linux.NEWIPC | linux.NEWUTS | linux.NEWNET | linux.NEWCGROUP
_HOSTNAME = "0123456789ab"
_MEBIBYTE = 1 << 20
BOTH, ONLY_USER = ("root", "user"), ("user",)


@dataclass(frozen=True, slots=True)
class Place:
    """`make` gives the way in for a command of this uid."""

    summary: str
    make: Callable[[int], Inside]
    who: tuple[str, ...] = BOTH


# ---- containers ------------------------------------------------------------------


def _docker(uid: int) -> Inside:
    program = _native.filter_program(docker.profile())
    return joined(_docker_unconfined(uid), Inside(filters=(program,)))


def _docker_unconfined(uid: int) -> Inside:
    volumes = machine.needed_volumes()
    return Inside(
        namespaces=_CONTAINER | _user_namespace(),
        mounts=(_name_host, linux.loopback_up, lambda: docker.enter_root(volumes)),
        capabilities=docker.CAPABILITIES,
        uid=uid,
        env={"HOME": "/root" if uid == 0 else "/", "HOSTNAME": _HOSTNAME},
    )


def _name_host() -> None:
    socket.sethostname(_HOSTNAME)


def _user_namespace() -> int:
    """An ordinary user needs one to make anything else."""
    return 0 if os.geteuid() == 0 else linux.NEWUSER


def _machine(uid: int, *mounts: Callable[[], None]) -> Inside:
    """This machine as it is, with a PID namespace and mounts of its own."""
    volumes = machine.needed_volumes()
    start = (lambda: machine.own_temporary_files(volumes), machine.mount_proc)
    return Inside(namespaces=_user_namespace(), mounts=(*start, *mounts), uid=uid)


# ---- no user namespaces ----------------------------------------------------------


def _no_userns(uid: int) -> Inside:
    # The limit is that of the user namespace in which it is set, so a fresh one
    # keeps it away from everybody else.
    fresh = Inside(namespaces=linux.NEWUSER)
    return joined(_machine(uid, machine.forbid_user_namespaces), fresh)


def _debian_userns(uid: int) -> Inside:
    setting = {"unprivileged_userns_clone": "0"}
    deny = Inside(filters=(_native.filter_program(machine.no_user_namespace()),))
    return joined(_machine(uid, lambda: machine.show_settings(setting)), deny)


def _apparmor_userns(uid: int) -> Inside:
    deny = Inside(filters=(_native.filter_program(machine.no_user_namespace()),))
    return joined(_machine(uid, _show_apparmor), deny)


def _apparmor_caps(uid: int) -> Inside:
    deny = Inside(filters=(_native.filter_program(machine.no_capabilities_in_namespaces()),))
    return joined(_machine(uid, _show_apparmor), deny)


def _show_apparmor() -> None:
    machine.show_settings({"apparmor_restrict_unprivileged_userns": "1"})


# ---- file systems ------------------------------------------------------------------


def _no_tmpfs(uid: int) -> Inside:
    return joined(
        _machine(uid, machine.read_only_devices),
        Inside(env={"TMPDIR": "/tmp"}),
    )


def _read_only_root(uid: int) -> Inside:
    small = machine.tmpfs("/mnt", 16 * _MEBIBYTE)
    return joined(
        _machine(uid, machine.read_only_root, machine.mount_proc, small),
        Inside(env={"TMPDIR": "/mnt"}),
    )


def _read_only_all(uid: int) -> Inside:
    return joined(
        _machine(uid, machine.read_only_root, machine.mount_proc),
        Inside(env={"TMPDIR": "/tmp"}),
    )


def _noexec_tmp(uid: int) -> Inside:
    return joined(_machine(uid, machine.noexec_temporary_files), Inside(env={"TMPDIR": "/tmp"}))


def _no_proc(uid: int) -> Inside:
    return _machine(uid, machine.no_proc)


def _read_only_proc(uid: int) -> Inside:
    return _machine(uid, machine.read_only_proc)


# ---- limits of the caller ------------------------------------------------------------


def _few_files(uid: int) -> Inside:
    return joined(_machine(uid), Inside(last=(machine.few_files,)))


def _few_processes(uid: int) -> Inside:
    # An own user namespace counts apart, and only what is in it.
    fresh = Inside(namespaces=linux.NEWUSER, last=(machine.few_processes,))
    return joined(_machine(uid), fresh)


def _closed_stdio(uid: int) -> Inside:
    return joined(_machine(uid), Inside(last=(machine.close_stdio,)))


PLACES: dict[str, Place] = {
    "docker": Place("a container with Docker's defaults", _docker),
    "docker-unconfined": Place(
        "the same with seccomp=unconfined: user namespaces, but a masked /proc",
        _docker_unconfined,
    ),
    "no-userns": Place("user.max_user_namespaces=0", _no_userns),
    "debian-userns": Place(
        "machine.unprivileged_userns_clone=0: EPERM for an ordinary user", _debian_userns, ONLY_USER
    ),
    "apparmor-userns": Place(
        "AppArmor denies a user namespace: EPERM", _apparmor_userns, ONLY_USER
    ),
    "apparmor-caps": Place(
        "AppArmor as in Ubuntu 24.04: a user namespace without capabilities",
        _apparmor_caps,
        ONLY_USER,
    ),
    "no-tmpfs": Place("temporary files only on a disk, no /dev/shm", _no_tmpfs),
    "read-only-root": Place("all read-only but TMPDIR, a tmpfs of 16 MiB", _read_only_root),
    "read-only-all": Place("no directory that can be written", _read_only_all),
    "noexec-tmp": Place("/tmp, /var/tmp and /dev/shm mounted noexec", _noexec_tmp),
    "no-proc": Place("/proc is not mounted", _no_proc),
    "read-only-proc": Place("/proc is mounted read-only", _read_only_proc),
    "few-files": Place("RLIMIT_NOFILE is 32", _few_files),
    "few-processes": Place("RLIMIT_NPROC is 2", _few_processes, ONLY_USER),
    "closed-stdio": Place("descriptors 0, 1 and 2 are closed", _closed_stdio),
}


def names() -> list[str]:
    """All that this caller may ask for, like `docker-root`."""
    return [f"{name}-{who}" for name, place in PLACES.items() for who in place.who]


def inside(name: str) -> Inside:
    """The way into a place; several, joined with `+`, have the same caller.

    Raises:
        ValueError: there is no such place, or this caller cannot make it.
    """
    first, *more = name.split("+")
    ways = [_one(part) for part in (first, *more)]
    return joined(*ways)


def _one(name: str) -> Inside:
    base, _, who = name.rpartition("-")
    if name not in names():
        raise ValueError(f"no such place: {name}; there are {', '.join(names())}")
    if who == "root" and os.geteuid() != 0:
        raise ValueError(f"only root can make {name}")
    if who == "root":
        return PLACES[base].make(0)
    return PLACES[base].make(USER if os.geteuid() == 0 else os.geteuid())
