"""The kinds of runs that a host keeps going, and what each must come to.

A run's `name` is on its command line, so that who kills it knows which it was.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from evalbox import PIPE, KiB, Limits, MiB, Plan, Policy, Status, Syscalls

CAP = 64 * KiB
LIMITS = Limits(wall_time=120.0, output=CAP, disk=4 * MiB, processes=None)
BRIEF = Limits(wall_time=0.3, processes=None)
LINES = 400
VARIABLE = "CHAOS_RUN"
GIVEN = bytes(range(256)) * 200
# Of objects that runs make in an IPC namespace, one key for each run.
IPC_KEYS = range(0x65760000, 0x65770000)
IPC_CALLS = ("shmget", "semget", "msgget")

# Each line is written before the number of it is; a kill comes anywhere between.
_WRITE = """
exec 3>>"${1:-/dev/null}"
while [ ${n:=0} -lt LINES ]; do
    echo "$0 $n"; echo $n >&3
    n=$((n+1)); [ $((n % 40)) -ne 0 ] || sleep 0.02
done
""".replace("LINES", str(LINES))

_MAKE_IPC = f"""
import ctypes, sys
libc = ctypes.CDLL(None)
key = {IPC_KEYS.start} + int(sys.argv[1].rpartition("-")[2]) % {len(IPC_KEYS)}
made = libc.shmget(key, 64, 0o1600), libc.semget(key, 1, 0o1600), libc.msgget(key, 0o1600)
print([number >= 0 for number in made], flush=True)
"""


@dataclass(frozen=True)
class Site:
    """Where and how runs are made.

    Attributes:
        tier: "process" or "namespace".
        folder: with what is granted: `given` to read, `acknowledged/` to write.
        nap: for `sleep`, so that nothing else on this machine looks like it.
    """

    tier: Any
    folder: Path
    nap: str

    @property
    def isolated(self) -> Policy:
        return Policy(isolation=self.tier)

    def acknowledged(self, name: str) -> Path:
        return self.folder / "acknowledged" / name


def _nothing(_name: str) -> bytes:
    return b""


def lines_of(name: str) -> bytes:
    """What a writer writes."""
    return b"".join(b"%s %d\n" % (name.encode(), n) for n in range(LINES))


@dataclass(frozen=True)
class Kind:
    """What a run does and must come to.

    Attributes:
        plan: makes the plan of one with this name.
        whole: what it writes to stdout when nothing ends it.
        wanted: other attributes of its output.
        act: what the host does some time after the start: "release", "kill", "feed".
    """

    plan: Callable[[Site, str], Plan]
    whole: Callable[[str], bytes] = _nothing
    wanted: dict[str, Any] = field(default_factory=dict)
    act: str = ""


def _shell(script: str, site: Site, name: str, **fields: Any) -> Plan:
    fields = {"policy": site.isolated, **fields}
    return _named(["sh", "-c", script.replace("NAP", site.nap), name], name, **fields)


def _named(command: list[str], name: str, **fields: Any) -> Plan:
    """With the name in the environment, which every process of the run has."""
    return Plan(command, env={VARIABLE: name}, **{"limits": LIMITS, **fields})


def shell(script: str, **fields: Any) -> Callable[[Site, str], Plan]:
    return partial(_shell, script, **fields)


def _writer(stream: bool, site: Site, name: str) -> Plan:
    path = site.acknowledged(name)
    policy = Policy(isolation=site.tier, write=[path.parent])
    command = ["sh", "-c", _WRITE, name, str(path)]
    return _named(command, name, policy=policy, stream=stream)


def _reader(site: Site, name: str) -> Plan:
    given = site.folder / "given"
    policy = Policy(isolation=site.tier, read=[given])
    return _named(["sh", "-c", f"cat {given}", name], name, policy=policy)


def _fed(site: Site, name: str) -> Plan:
    return _shell("cat", site, name, stdin=PIPE)


def _ipc(site: Site, name: str) -> Plan:
    """Only in a namespace of its own may it make what would stay."""
    calls = Syscalls().allow(*IPC_CALLS) if site.tier == "namespace" else Syscalls()
    policy = Policy(isolation=site.tier, syscalls=calls)
    return _named(["python3", "-ISc", _MAKE_IPC, name], name, policy=policy)


def _exits(code: int = 0, **more: Any) -> dict[str, Any]:
    return {"status": Status.EXITED, "exit_code": code, **more}


_SLEEPERS = "setsid sleep NAP >/dev/null 2>&1 & (setsid sleep NAP &); "


def kinds(tier: str) -> dict[str, Kind]:
    """By name; what some come to depends on the tier."""
    own = str(tier == "namespace")
    return {
        "true": Kind(shell("exit 0"), wanted=_exits()),
        "exit": Kind(shell("exit 3"), wanted=_exits(3)),
        "signal": Kind(
            shell("kill -11 $$"), wanted={"status": Status.SIGNALED, "signal": signal.SIGSEGV}
        ),
        "brief": Kind(shell(_WRITE), lines_of, _exits()),
        "stream": Kind(shell(_WRITE, stream=True), lines_of, _exits()),
        "writer": Kind(partial(_writer, False), lines_of, _exits()),
        "streaming writer": Kind(partial(_writer, True), lines_of, _exits()),
        "reader": Kind(_reader, lambda _: GIVEN, _exits()),
        "flood": Kind(shell("yes"), lambda _: b"y\n" * (CAP // 2), {"status": Status.OUTPUT_LIMIT}),
        "daemon": Kind(shell(_SLEEPERS + "sleep 0.2; echo hi"), lambda _: b"hi\n", _exits()),
        "timeout": Kind(
            shell(_SLEEPERS + "sleep NAP", limits=BRIEF), wanted={"status": Status.WALL_TIME}
        ),
        "killed": Kind(
            shell(_SLEEPERS + "sleep NAP"), wanted={"status": Status.KILLED}, act="kill"
        ),
        "held": Kind(shell("echo go", hold=True), lambda _: b"go\n", _exits(), "release"),
        "held for ever": Kind(
            shell("echo go", hold=True), wanted={"status": Status.KILLED}, act="kill"
        ),
        "fed": Kind(_fed, lambda name: name.encode(), _exits(), "feed"),
        "collect": Kind(
            shell("mkdir -p d/e; echo x > d/e/f; chmod 0 d; touch $HOME/h", collect=["**"]),
            wanted=_exits(files={"d/e/f": b"x\n"}),
        ),
        "ipc": Kind(_ipc, lambda _: f"[{own}, {own}, {own}]\n".encode(), _exits()),
        "shm": Kind(
            shell(": 2>/dev/null > /dev/shm/$0 && sleep 0.1"),
            wanted=_exits(0 if tier == "namespace" else 2),
        ),
    }
