"""The table of places: what each is, and the steps that make it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from evalbox import _native

from . import docker, linux
from .enter import Inside

USER = 1000
_CONTAINER = linux.NEWIPC | linux.NEWUTS | linux.NEWNET | linux.NEWCGROUP


@dataclass(frozen=True, slots=True)
class Place:
    """`make` gives the way in for a command of this uid."""

    summary: str
    make: Callable[[int], Inside]


def _docker(uid: int) -> Inside:
    volumes = docker.needed_volumes()
    program = _native.filter_program(docker.profile())
    return Inside(
        namespaces=_CONTAINER | _user_namespace(),
        mounts=(_name_host, linux.loopback_up, lambda: docker.enter_root(volumes)),
        filters=(program,),
        capabilities=docker.CAPABILITIES,
        uid=uid,
        env={"HOME": "/root" if uid == 0 else "/", "HOSTNAME": _HOSTNAME},
    )


_HOSTNAME = "0123456789ab"


def _name_host() -> None:
    socket.sethostname(_HOSTNAME)


def _user_namespace() -> int:
    """An ordinary user needs one to make anything else."""
    return 0 if os.geteuid() == 0 else linux.NEWUSER


PLACES: dict[str, Place] = {
    "docker": Place("a container with Docker's defaults", _docker),
}


def names() -> list[str]:
    return [f"{name}-{who}" for name in PLACES for who in ("root", "user")]


def inside(name: str) -> Inside:
    """The way into a place, named like `docker-root`.

    Raises:
        ValueError: there is no such place, or this caller cannot make it.
    """
    base, _, who = name.rpartition("-")
    if base not in PLACES or who not in ("root", "user"):
        raise ValueError(f"no such place: {name}; there are {', '.join(names())}")
    if who == "root" and os.geteuid() != 0:
        raise ValueError(f"only root can make {name}")
    if who == "root":
        return PLACES[base].make(0)
    return PLACES[base].make(USER if os.geteuid() == 0 else os.geteuid())
