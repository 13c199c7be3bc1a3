"""Who can be killed below the hosts, and the SIGKILLs themselves.

All processes that die at one stroke are held by pidfd before the first signal is
sent, so that nobody who gets a number anew is hit.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from proc import children

# How often each is hit of a hundred strokes, by what dies at one stroke.
STROKES = {
    ("program",): 46,
    ("init",): 24,
    ("launcher",): 10,
    ("host",): 4,
    ("program", "init"): 3,
    ("init", "launcher"): 5,
    ("init", "host"): 2,
    ("launcher", "host"): 3,
    ("init", "launcher", "host"): 3,
}
# When both die at once, only the namespace tier still has somebody who ends the tree: the
# kernel. In the process tier the host does it where there are cgroups, if it lives.
ABOVE = {"init", "launcher"}

_NAME = re.compile(rb"chaos-[0-9.]+-[0-9]+-[0-9]+")


@dataclass(frozen=True)
class Chain:
    """A program and who is above it; 0 where the stroke does not reach."""

    host: int
    launcher: int = 0
    init: int = 0
    program: int = 0


@dataclass(frozen=True)
class Kill:
    """One SIGKILL that was sent.

    Attributes:
        what: "program", "init", "launcher" or "host".
        host: pid of the host that it is, or that it belongs to.
        pid: whose it was.
        launcher: pid of that which it is or belongs to, 0 for a host.
        tier: of the launcher; "" for a host.
        run: name of the run, of a program that had come to its execve.
        sockets: inodes of those of the init that it is, or that the program is below; of
            a launcher its own.
        at: just before.
        stroke: what died with it.
    """

    what: str
    host: int
    pid: int
    launcher: int
    tier: str
    run: str
    sockets: frozenset[int]
    at: float
    stroke: tuple[str, ...]


class Killer:
    """Chooses by a seed: the same kinds of victims in the same order."""

    def __init__(self, seed: int, has_cgroups: bool) -> None:
        self._has_cgroups = has_cgroups
        self._random = random.Random(seed)
        self._own_namespace = os.readlink("/proc/self/ns/user")

    def pause(self, mean: float) -> float:
        return self._random.expovariate(1 / mean)

    def stroke(self, hosts: Sequence[int]) -> list[Kill]:
        """The kills; none when there was no such victim at this moment."""
        wanted = self._random.choices([*STROKES], [*STROKES.values()])[0]
        return self._strike(wanted, hosts)

    def _strike(self, wanted: tuple[str, ...], hosts: Sequence[int]) -> list[Kill]:
        chain = self._choose(wanted, hosts)
        if chain is None:
            return []
        tier = self._tier(chain.launcher)
        if tier == "process" and self._leaves_nobody(wanted):
            return []
        with ExitStack() as stack:
            held = []
            for what in wanted:
                with suppress(ProcessLookupError):
                    fd = os.pidfd_open(getattr(chain, what))
                    stack.callback(os.close, fd)
                    held.append((what, fd))
            return self._kill(wanted, held, chain, tier)

    def _leaves_nobody(self, wanted: tuple[str, ...]) -> bool:
        """In the process tier, to end the tree."""
        return {*wanted} >= ABOVE and not (self._has_cgroups and "host" not in wanted)

    def _kill(
        self, wanted: tuple[str, ...], held: list[tuple[str, int]], chain: Chain, tier: str
    ) -> list[Kill]:
        if len(held) < len(wanted) or not _is_as_it_was(chain):
            return []
        run = _run_of(chain.program)
        sockets = {what: _sockets_of(chain.init) for what in wanted}
        sockets["launcher"] = _sockets_of(chain.launcher)
        done = []
        at = time.monotonic()
        for what, fd in held:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                done.append(what)
        return [
            Kill(
                what=what,
                host=chain.host,
                pid=getattr(chain, what),
                launcher=chain.launcher if what != "host" else 0,
                tier="" if what == "host" else tier,
                run=run if what == "program" else "",
                sockets=sockets[what],
                at=at,
                stroke=wanted,
            )
            for what in done
        ]

    # ---- choice

    def _choose(self, wanted: tuple[str, ...], hosts: Sequence[int]) -> Chain | None:
        """A random one as deep as it has to be."""
        if not hosts:
            return None
        host = self._random.choice(sorted(hosts))
        if wanted == ("host",):
            return Chain(host)
        launcher = self._one_of([pid for pid in children(host) if _is_launcher(pid)])
        if not launcher:
            return None
        if not {"init", "program"} & set(wanted):
            return Chain(host, launcher)
        inits = children(launcher)
        if "program" in wanted:
            inits = [pid for pid in inits if children(pid)]
        init = self._one_of(inits)
        program = self._one_of(_programs(init)) if init and "program" in wanted else 0
        if not init or ("program" in wanted and not program):
            return None
        return Chain(host, launcher, init, program)

    def _one_of(self, pids: list[int]) -> int:
        """0 of none."""
        return self._random.choice(sorted(pids)) if pids else 0

    def _tier(self, launcher: int) -> str:
        try:
            namespace = os.readlink(f"/proc/{launcher}/ns/user")
        except OSError:
            return ""
        return "process" if namespace == self._own_namespace else "namespace"


def _is_as_it_was(chain: Chain) -> bool:
    """Each is still below the one above: what the descriptors hold is who was chosen."""
    line = [pid for pid in (chain.host, chain.launcher, chain.init, chain.program) if pid]
    return all(child in children(parent) for parent, child in pairwise(line))


def _is_launcher(pid: int) -> bool:
    return _command(pid).rstrip(b"\0").endswith(b"_launcher")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _programs(init: int) -> list[int]:
    """Children of an init that carry the name of a run, or have not come to execve."""
    return [pid for pid in children(init) if _NAME.search(_command(pid)) or _is_launcher(pid)]


def _run_of(program: int) -> str:
    """Of a process with the name of its run on its command line."""
    found = _NAME.search(_command(program)) if program else None
    return found[0].decode() if found else ""


def _sockets_of(pid: int) -> frozenset[int]:
    """Inodes; one is of that on which it takes its orders. None when it is gone."""
    folder = f"/proc/{pid}/fd"
    found = set()
    with suppress(OSError):
        for name in os.listdir(folder) if pid else ():
            with suppress(FileNotFoundError):
                target = os.readlink(f"{folder}/{name}")
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    return frozenset(found)
