"""The sandboxes of other projects: how each is started, and what it then confines.

None is needed: what is not installed or does not run is named with the reason,
never left out in silence.  They do not do the same, so a ratio alone says
nothing: `confines` and `leaves` stand beside each.  Each is started for every run,
in the lightest way that its manual has for an untrusted command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contestants import HERE, Command, Contestant, PeerError, Subprocess

# Where `make bench-peers` installs the libraries.
LIBRARIES = HERE.parent / "build" / "peers"
TRIED: Command = ("/bin/true",)


class Driven:
    """A program of our own in another interpreter, which is told what to run line by line."""

    def __init__(
        self, name: str, line: list[str | Path], most_at_once: int = 64, share: float = 1.0
    ) -> None:
        self.name = name
        self.most_at_once = most_at_once
        self.share = share
        pipe = subprocess.PIPE
        self._driver = subprocess.Popen(
            line, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def _ask(self, command: Command, runs: int, at_once: int) -> tuple[float, list[float]]:
        to, back = self._driver.stdin, self._driver.stdout
        if to is None or back is None:
            raise PeerError("its driver has no pipes")
        try:
            to.write(json.dumps({"command": command, "runs": runs, "at_once": at_once}) + "\n")
            to.flush()
            answer = json.loads(back.readline() or '{"error": "its driver ended"}')
        except BrokenPipeError:
            raise PeerError("its driver ended") from None
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["all"], answer["each"]

    def latencies(self, command: Command, runs: int) -> list[float]:
        return self._ask(command, runs, 1)[1]

    def throughput(self, command: Command, runs: int, at_once: int) -> float:
        return runs / self._ask(command, runs, at_once)[0]


class Isolate(Subprocess):
    """ioi/isolate: its box is made before and used again, only `--run` is measured."""

    def __init__(self) -> None:
        # A box holds one run at a time.
        super().__init__("isolate", most_at_once=1)
        if shutil.which("isolate") is None:
            raise PeerError("isolate is not installed")
        made = subprocess.run(["isolate", "--init"], capture_output=True, text=True)
        if made.returncode:
            raise PeerError(made.stderr.strip())

    def _once(self, command: Command) -> None:
        line = ("isolate", "--silent", "--processes=64", f"--dir={Path(command[0]).parent}")
        super()._once((*line, "--run", "--", *command))


def _library(name: str) -> Contestant:
    """A sandbox that is a Python library, in the interpreter that has it (driver.py)."""
    python = LIBRARIES / "bin" / "python"
    if not python.exists():
        raise PeerError("not installed")
    return Driven(name, [python, HERE / "driver.py", name])


def _command(name: str, *prefix: str, most: int = 64, share: float = 1.0) -> Contestant:
    if shutil.which(prefix[0]) is None:
        raise PeerError(f"{prefix[0]} is not installed")
    return Subprocess(name, prefix, most, share)


def _firejail() -> Contestant:
    line = "firejail --quiet --noprofile --net=none --seccomp --caps.drop=all --nonewprivs"
    return _command("firejail", *line.split(), "--read-only=/", "--", most=8, share=0.25)


def _gvisor() -> Contestant:
    rootless = () if os.geteuid() == 0 else ("--rootless",)
    line = ("runsc", "--network=none", *rootless, "do")
    return _command("gVisor", *line, most=8, share=0.1)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another sandbox.

    Attributes:
        name: of the contestant.
        confines, leaves: what it takes from the program as it is started here, and what not.
        install: how to get it on Debian.
        make: the contestant; PeerError when it is not there.
    """

    name: str
    confines: str
    leaves: str
    install: str
    make: Callable[[], Contestant]


PEERS = (
    Peer(
        "bubblewrap",
        "namespaces of every kind; all files read-only",
        "system calls; time, memory, output and number of processes; what can be read of the"
        " host's files",
        "apt-get install bubblewrap",
        lambda: _command(
            "bubblewrap",
            *"bwrap --ro-bind / / --unshare-all --die-with-parent".split(),
            most=256,
        ),
    ),
    Peer(
        "nsjail",
        "namespaces of every kind, a read-only root, rlimits, wall time",
        "system calls, unless a filter is written for it; memory and processes of the whole tree,"
        " unless it has a cgroup; output",
        "built from its source; no package in Debian 12",
        lambda: _command("nsjail", *"nsjail -Mo --really_quiet --chroot / --".split()),
    ),
    Peer(
        "isolate",
        "mount, PID, IPC and network namespaces, a tree of chosen directories, a uid of its own,"
        " rlimits, processes",
        "system calls; memory of the whole tree, unless it has a cgroup. Its box is made before"
        " it is measured",
        "built from its source; no package in Debian 12",
        Isolate,
    ),
    Peer(
        "firejail",
        "mount, PID and network namespaces, a list of denied system calls, no capabilities; all"
        " files read-only",
        "time, memory, output and number of processes; what can be read of most of the host's"
        " files",
        "apt-get install firejail",
        _firejail,
    ),
    Peer(
        "gVisor",
        "a kernel of its own in user space, so few system calls reach the host's; no network;"
        " writes go to an overlay",
        "what can be read of the host's files; time and output; memory, unless it has a cgroup",
        "apt-get install runsc",
        _gvisor,
    ),
    Peer(
        "sandlock",
        "files by Landlock, system calls by seccomp, the network; memory, processes and"
        " descriptors by a supervisor that is asked about system calls",
        "output; there are no namespaces",
        "make bench-peers",
        lambda: _library("sandlock"),
    ),
    Peer(
        "dmoj",
        "system calls by seccomp and ptrace, which also decides about each file; time, memory"
        " and processes by rlimits and its watchdog",
        "there are no namespaces; a file is judged by a name that the kernel reads once more"
        " after that",
        "apt-get install libseccomp-dev g++ python3-dev, then make bench-peers",
        lambda: _library("dmoj"),
    ),
)


def find(wanted: frozenset[str] | None = None) -> tuple[list[Contestant], dict[str, str]]:
    """The peers that run a program here, and why each of the others is not measured."""
    there: list[Contestant] = []
    absent: dict[str, str] = {}
    for peer in PEERS:
        if wanted is not None and peer.name not in wanted:
            absent[peer.name] = "not asked for"
            continue
        try:
            made = peer.make()
            made.latencies(TRIED, 1)
        except (PeerError, OSError) as error:
            absent[peer.name] = f"{error} ({peer.install})"
        else:
            there.append(made)
    return there, absent
