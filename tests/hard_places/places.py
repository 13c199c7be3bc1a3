"""The table of places: what each is, who can be there, and the steps that make it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from . import docker, linux, machine
from .enter import Inside, joined

# Who a command is where root makes the place for an ordinary user.
USER = 1000
_CONTAINER = linux.NEWIPC | linux.NEWUTS | linux.NEWNET | linux.NEWCGROUP
_HOSTNAME = "0123456789ab"
BOTH, ONLY_ROOT, ONLY_USER = ("root", "user"), ("root",), ("user",)


@dataclass(frozen=True, slots=True)
class Place:
    """`base` is what it starts from, `harder` what is added; both for a command of this uid."""

    summary: str
    harder: Inside
    base: Callable[[int], Inside]
    who: tuple[str, ...] = BOTH


# ---- what a place starts from ------------------------------------------------------


def _user_namespace() -> int:
    """An ordinary user needs one to make anything else."""
    return 0 if os.geteuid() == 0 else linux.NEWUSER


def _machine(uid: int) -> Inside:
    """This machine as it is, with processes and temporary files of its own."""
    volumes = machine.needed_volumes()
    steps = (lambda: machine.own_temporary_files(volumes), machine.mount_proc)
    return Inside(namespaces=_user_namespace(), mounts=steps, uid=uid)


def _container(uid: int, *, masked: bool = True) -> Inside:
    volumes = machine.needed_volumes()
    enter = partial(docker.enter_root, volumes, masked=masked)
    return Inside(
        namespaces=_CONTAINER | _user_namespace(),
        mounts=(_name_host, linux.loopback_up, enter),
        capabilities=docker.CAPABILITIES,
        uid=uid,
        env={"HOME": "/root" if uid == 0 else "/", "HOSTNAME": _HOSTNAME},
    )


def _name_host() -> None:
    socket.sethostname(_HOSTNAME)


# ---- what is added -------------------------------------------------------------------


def _settings(**values: str) -> Callable[[], None]:
    return lambda: machine.show_settings(values)


_TMP = {"TMPDIR": "/tmp"}
_DEBIAN = _settings(unprivileged_userns_clone="0")
_APPARMOR = _settings(apparmor_restrict_unprivileged_userns="1")
_READ_ONLY = (machine.read_only_root, machine.mount_proc)
_SMALL = machine.tmpfs("/mnt", 16 << 20)

PLACES: dict[str, Place] = {
    "docker": Place(
        "a container with Docker's defaults", Inside(filters=(docker.profile,)), _container
    ),
    "docker-unconfined": Place(
        "the same with seccomp=unconfined: user namespaces, but a masked /proc",
        Inside(),
        _container,
    ),
    "docker-open": Place(
        "the same with systempaths=unconfined: nothing is in the way of namespaces",
        Inside(),
        partial(_container, masked=False),
    ),
    "docker-cap-drop": Place(
        "a container with --cap-drop=ALL",
        Inside(filters=(partial(docker.profile, ()),), capabilities=()),
        _container,
        ONLY_ROOT,
    ),
    "docker-no-new-privs": Place(
        "a container with --security-opt=no-new-privileges",
        Inside(filters=(docker.profile,), last=(linux.no_new_privileges,)),
        _container,
    ),
    "no-userns": Place(
        "user.max_user_namespaces=0",
        # The limit is that of the user namespace in which it is set: a fresh one
        # keeps it away from everybody else.
        Inside(namespaces=linux.NEWUSER, mounts=(machine.forbid_user_namespaces,)),
        _machine,
    ),
    "debian-userns": Place(
        "kernel.unprivileged_userns_clone=0: EPERM for an ordinary user",
        Inside(mounts=(_DEBIAN,), filters=(machine.no_user_namespace,)),
        _machine,
        ONLY_USER,
    ),
    "apparmor-userns": Place(
        "AppArmor denies a user namespace: EPERM",
        Inside(mounts=(_APPARMOR,), filters=(machine.no_user_namespace,)),
        _machine,
        ONLY_USER,
    ),
    "apparmor-caps": Place(
        "AppArmor as in Ubuntu 24.04: a user namespace without capabilities",
        Inside(mounts=(_APPARMOR,), filters=(machine.no_capabilities_in_namespaces,)),
        _machine,
        ONLY_USER,
    ),
    "no-tmpfs": Place(
        "temporary files only on a disk, no /dev/shm",
        Inside(mounts=(machine.read_only_devices,), env=_TMP),
        _machine,
    ),
    "read-only-root": Place(
        "all read-only but TMPDIR, a tmpfs of 16 MiB",
        Inside(mounts=(*_READ_ONLY, _SMALL), env={"TMPDIR": "/mnt"}),
        _machine,
    ),
    "read-only-all": Place(
        "no directory that can be written", Inside(mounts=_READ_ONLY, env=_TMP), _machine
    ),
    "noexec-tmp": Place(
        "/tmp, /var/tmp and /dev/shm mounted noexec",
        Inside(mounts=(machine.noexec_temporary_files,), env=_TMP),
        _machine,
    ),
    "no-proc": Place("/proc is not mounted", Inside(mounts=(machine.no_proc,)), _machine),
    "read-only-proc": Place(
        "/proc is mounted read-only", Inside(mounts=(machine.read_only_proc,)), _machine
    ),
    "few-files": Place("RLIMIT_NOFILE is 32", Inside(last=(machine.few_files,)), _machine),
    "few-processes": Place(
        "RLIMIT_NPROC is 2",
        # A fresh user namespace counts only what is in it.
        Inside(namespaces=linux.NEWUSER, last=(machine.few_processes,)),
        _machine,
        ONLY_USER,
    ),
    "closed-stdio": Place(
        "descriptors 0, 1 and 2 are closed", Inside(last=(machine.close_stdio,)), _machine
    ),
}


def names() -> list[str]:
    """All there are, like `docker-root`."""
    return [f"{name}-{who}" for name, place in PLACES.items() for who in place.who]


def inside(name: str) -> Inside:
    """The way into a place, or into several in one, like `docker-user+few-files-user`.

    Raises:
        ValueError: there is no such place, or this caller cannot make it.
    """
    parts = name.split("+")
    for part in parts:
        if part not in names():
            raise ValueError(f"no such place: {part}; there are {', '.join(names())}")
    who = {part.rpartition("-")[2] for part in parts}
    if len(who) > 1:
        raise ValueError(f"one caller for all of {name}")
    if who == {"root"} and os.geteuid() != 0:
        raise ValueError(f"only root can make {name}")
    return _way([PLACES[part.rpartition("-")[0]] for part in parts], is_root=who == {"root"})


def _way(places: Sequence[Place], *, is_root: bool) -> Inside:
    mine = os.geteuid()
    uid = 0 if is_root else mine or USER
    bases = [place.base for place in places if place.base is not _machine]
    base = bases[0] if bases else _machine
    return joined(base(uid), *(place.harder for place in places))
