"""Thousands of runs of every kind through one executor, and nothing is left of them.

In the chaos versions programs, inits and launchers are killed meanwhile: every
run still ends once, and those that nobody touched end as they should. Nothing
here is timed; a run that never ends is a test that times out.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import tiers
from evalbox import (
    PIPE,
    Completed,
    Event,
    Executor,
    File,
    KiB,
    Limits,
    MiB,
    Output,
    Plan,
    SandboxId,
    SetupError,
    Started,
    Status,
    Stderr,
    Stdout,
    TimedOut,
)
from evalbox._launch import Slot
from leaks import launchers_of, watched_executor
from proc import children, helpers, mark, marked, open_descriptors, until, zombies

pytestmark = pytest.mark.usefixtures("tier")

AT_ONCE = 64
CAP = 64 * KiB
# Of a user without uids for his runs the kernel counts all processes together.
LIMITS = Limits(wall_time=120.0, output=CAP, disk=4 * MiB, processes=None)
BRIEF = Limits(wall_time=0.05, processes=None)
# A tenth of the floods of 9000 more runs would be more, were they kept.
HOST_GROWTH = 8 * MiB
HELPER_GROWTH = 1 * MiB

# ---- the kinds of runs

MARK = mark()
SLEEP = f"sleep {MARK}"


@dataclass(frozen=True)
class Kind:
    """What is done to a run after `spawn`, and what its output must be.

    Attributes:
        wanted: attributes of the output; None for a run that cannot start.
    """

    plan: Plan
    wanted: dict[str, Any] | None
    then: Callable[[Executor, SandboxId], None] = lambda _executor, _run: None


def shell(script: str, limits: Limits = LIMITS, **fields: Any) -> Plan:
    return Plan(["sh", "-c", script], limits=limits, **fields)


def feed(executor: Executor, run: SandboxId) -> None:
    # Its init may have been killed; what it then lacks shows in its output.
    with contextlib.suppress(BrokenPipeError):
        executor.write_stdin(run, b"fed")
    executor.close_stdin(run)


def exits(code: int = 0, stdout: bytes = b"", **wanted: Any) -> dict[str, Any]:
    return {"status": Status.EXITED, "exit_code": code, "stdout": stdout, **wanted}


KINDS = {
    "true": Kind(Plan(["true"], limits=LIMITS), exits()),
    "exit": Kind(shell("exit 3"), exits(3)),
    "signal": Kind(shell("kill -11 $$"), {"status": Status.SIGNALED, "signal": signal.SIGSEGV}),
    "flood": Kind(shell("yes"), {"status": Status.OUTPUT_LIMIT, "stdout": b"y\n" * (CAP // 2)}),
    "streamed flood": Kind(shell("yes >&2", stream=True), {"status": Status.OUTPUT_LIMIT}),
    "daemon": Kind(
        shell(f"setsid {SLEEP} >/dev/null 2>&1 & (setsid {SLEEP} &); echo hi"),
        exits(stdout=b"hi\n"),
    ),
    "timeout": Kind(shell(f"{SLEEP} & {SLEEP}", BRIEF), {"status": Status.WALL_TIME}),
    "killed": Kind(shell(f"{SLEEP} & {SLEEP}"), {"status": Status.KILLED}, Executor.kill),
    "not started": Kind(Plan(["./x"], files={"x": File(b"\x7fELF", executable=True)}), None),
    "collect": Kind(
        shell(
            "mkdir -p d/e; echo x > d/e/f; chmod 0 d; ln -s / l; touch $HOME/h $TMPDIR/t",
            files={"g": b"given"},
            collect=["**"],
        ),
        exits(files={"d/e/f": b"x\n", "g": b"given"}),
    ),
    "dirty": Kind(
        shell("mkdir -p d/e $HOME/h; mkfifo d/e/p $TMPDIR/p; chmod 0 d . $HOME $TMPDIR"), exits()
    ),
    "clean": Kind(
        shell("find . $HOME $TMPDIR -mindepth 1; stat -c %a . $HOME $TMPDIR"),
        exits(stdout=b"700\n700\n700\n"),
    ),
    "disk": Kind(shell("yes > $TMPDIR/f"), {"status": Status.DISK_LIMIT}),
    "fed": Kind(Plan(["cat"], stdin=PIPE, limits=LIMITS), exits(stdout=b"fed"), feed),
    "held": Kind(shell("echo go", hold=True), exits(stdout=b"go\n"), Executor.release),
    "held for ever": Kind(
        shell("echo go", hold=True), {"status": Status.KILLED, "stdout": b""}, Executor.kill
    ),
}


def mix(count: int) -> Iterator[str]:
    """Names of kinds, all of them about as often, in an order that is always the same."""
    names = [name for _ in range(count // len(KINDS) + 1) for name in KINDS][:count]
    random.Random(count).shuffle(names)
    return iter(names)


# ---- a crowd of runs


@dataclass
class Crowd:
    """Runs that go through an executor, at most AT_ONCE at once, and what came of them.

    Attributes:
        active: runs without an end, name of their kind and their events so far.
        victims: runs that may end in any way.
    """

    executor: Executor
    active: dict[SandboxId, tuple[str, list[Event]]] = field(default_factory=dict)
    victims: set[int] = field(default_factory=set)
    ends: Counter[str] = field(default_factory=Counter)
    errors: list[SetupError] = field(default_factory=list)
    refused: list[SetupError] = field(default_factory=list)

    def spawn(self, name: str) -> None:
        kind = KINDS[name]
        try:
            run = self.executor.spawn(kind.plan)
        except SetupError as error:
            self.refused.append(error)
            return
        self.active[run] = (name, [])
        kind.then(self.executor, run)

    def poll(self) -> None:
        try:
            events = self.executor.poll()
        except SetupError as error:
            self.errors.append(error)
            return
        for event in events:
            # A KeyError here is an event after the end.
            name, said = self.active[event.id]
            said.append(event)
            if isinstance(event, Completed | TimedOut):
                del self.active[event.id]
                self.ends[name] += 1
                self.check(name, said, event.output)

    def check(self, name: str, said: list[Event], output: Output) -> None:
        kind = KINDS[name]
        kinds = [type(event) for event in said]
        assert kinds.count(Started) <= 1
        assert Started not in kinds[1:]
        if kind.plan.stream:
            for stream, whole in ((Stdout, output.stdout), (Stderr, output.stderr)):
                assert b"".join(event.data for event in said if isinstance(event, stream)) == whole
        if said[0].id in self.victims:
            return
        assert kind.wanted is not None, name
        found = {field: getattr(output, field) for field in kind.wanted}
        assert found == kind.wanted, (name, output)

    def go_through(self, names: Iterator[str], meanwhile: Callable[[], None] | None = None) -> None:
        """Spawns all of them and polls until nothing is active."""
        for name in names:
            self.spawn(name)
            while self.executor.active_count >= AT_ONCE:
                self.poll()
            if meanwhile is not None:
                meanwhile()
        while self.executor.active_count:
            self.poll()

    def settle(self) -> None:
        """Every run has exactly one end: an output, or an error, which has no id."""
        assert len(self.active) == len(self.errors)


def check_idle(executor: Executor) -> None:
    """Between two runs the slots are empty, and nothing of a run is left."""
    assert marked(MARK) == []
    assert zombies([os.getpid(), *helpers()]) == []
    for launcher in launchers_of(executor):
        assert len(launcher.idle) == len(launcher.slots) <= most_slots()
        for slot in launcher.slots.values():
            assert [os.listdir(fd) for fd in closed_later(slot.places())] == [[]] * places()
        if launcher.root is not None:
            names = {slot.name for slot in launcher.slots.values()}
            assert {*os.listdir(launcher.root.path)} == names


def closed_later(fds: tuple[int, ...]) -> Iterator[int]:
    for fd in fds:
        yield fd
        os.close(fd)


def places() -> int:
    """Directories of a workspace: in namespaces /dev/shm is one."""
    return 3 if tiers.current() == "process" else 4


def most_slots() -> int:
    """In namespaces as many again wait for a run with another program."""
    return AT_ONCE if tiers.current() == "process" else 2 * AT_ONCE


def descriptors_of_slots() -> int:
    """In namespaces the host has one of the workspace too."""
    return most_slots() * (1 if tiers.current() == "process" else 2)


def resident(pid: int) -> int:
    """VmRSS in bytes."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(text.partition("VmRSS:")[2].split()[0]) * KiB


# ---- without chaos


@pytest.mark.parametrize(
    ("first", "more"),
    [(100, 200), pytest.param(1000, 9000, marks=pytest.mark.long)],
    ids=["300", "10 000"],
)
def test_many_runs_of_every_kind_leave_nothing(first: int, more: int) -> None:
    with watched_executor(MARK) as executor:
        crowd = Crowd(executor)
        crowd.go_through(mix(first))
        check_idle(executor)
        descriptors = len(open_descriptors())
        host, those = resident(os.getpid()), max(map(resident, helpers()))
        crowd.go_through(mix(more))
        check_idle(executor)
        assert len(open_descriptors()) <= descriptors + descriptors_of_slots()
        assert resident(os.getpid()) < host + HOST_GROWTH
        assert max(map(resident, helpers())) < those + HELPER_GROWTH
        crowd.settle()
    assert crowd.refused == []
    assert {name for name, _ in crowd.active.values()} == {"not started"}
    assert sum(crowd.ends.values()) + len(crowd.errors) == first + more
    assert set(crowd.ends) == set(KINDS) - {"not started"}


def test_a_crowd_notices_a_wrong_end() -> None:
    with Executor() as executor:
        crowd = Crowd(executor)
        run = executor.spawn(shell("exit 4"))
        crowd.active[run] = ("exit", [])
        with pytest.raises(AssertionError, match="exit_code"):
            crowd.go_through(iter(()))


# ---- with chaos


class Chaos:
    """Somebody who kills processes of an executor, one kind in turn."""

    def __init__(self, crowd: Crowd, every: int) -> None:
        self.crowd = crowd
        self.every = every
        self.random = random.Random(every)
        self.killed: Counter[str] = Counter()
        self._calls = 0
        self._due = 0

    def __call__(self) -> None:
        self._calls += 1
        if self._calls % self.every == 0:
            self._due += 1
        turns = (self._kill_program, self._kill_init, self._kill_program, self._kill_launcher)
        # Where there is nobody to kill at the moment, there is a little later.
        if self.killed.total() < self._due:
            turns[(self.killed.total() + 1) % 4]()

    def _kill_program(self) -> None:
        for pid, run in self._programs():
            if _kill(pid):
                self.crowd.victims.add(run)
                self.killed["program"] += 1
                return

    def _kill_init(self) -> None:
        for pid, run in self._programs():
            init = _parent(pid)
            # Only a child of one of ours is an init.
            if init in helpers() and _kill(init):
                self.crowd.victims.add(run)
                self.killed["init"] += 1
                # Until it is buried: a launcher that is killed meanwhile buries nobody.
                while run in self.crowd.active:
                    self.crowd.poll()
                return

    def _kill_launcher(self) -> None:
        launcher = self.random.choice(launchers_of(self.crowd.executor))
        self.crowd.victims |= {slot.run_id for slot in launcher.slots.values()}
        # Those that wait may be given to its inits before the executor knows.
        loop = self.crowd.executor._loop
        assert loop is not None
        self.crowd.victims |= set(loop._dispatcher._queue)
        assert _kill(launcher.pid)
        self.killed["launcher"] += 1
        # Until the executor knows: what is spawned before may be hit too.
        while launcher in launchers_of(self.crowd.executor) and self.crowd.active:
            self.crowd.poll()

    def _programs(self) -> list[tuple[int, int]]:
        """Pids of live programs and the runs that they are of, in random order."""
        found = []
        for launcher in launchers_of(self.crowd.executor):
            slots = {_box(slot): slot for slot in launcher.slots.values()}
            for init in children(launcher.pid):
                for pid in children(init):
                    slot = slots.get(_box_of(pid))
                    if slot is not None and slot.run_id in self.crowd.active:
                        found.append((pid, slot.run_id))
        self.random.shuffle(found)
        return found


def _box(slot: Slot) -> tuple[int, int]:
    """Which directory the programs of a slot start in."""
    root = slot.launcher.root
    if root is None:
        status = os.stat("box", dir_fd=slot.workspace)
    else:
        status = os.stat(f"{slot.name}/box", dir_fd=root.fd)
    return status.st_dev, status.st_ino


def _box_of(pid: int) -> tuple[int, int] | None:
    """Which directory a program works in; None when it is gone."""
    try:
        status = os.stat(f"/proc/{pid}/cwd")
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(") ")[2].split()[1])


def _kill(pid: int) -> bool:
    """SIGKILL for a process below this one; returns when it is dead."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor is of the process that had the number just now.
        if not _is_below(pid):
            return False
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    until(lambda: _is_dead(pid), "it dies of SIGKILL")
    return True


def _is_below(pid: int) -> bool:
    while pid > 1:
        pid = _parent(pid)
        if pid == os.getpid():
            return True
    return False


def _is_dead(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return stat.rpartition(") ")[2][0] in "ZX"


def _no_zombies(executor: Executor) -> bool:
    """Whoever polls is told of the dead, and buries them."""
    assert executor.poll(0) == []
    return zombies([os.getpid(), *helpers()]) == []


@pytest.mark.parametrize(
    ("count", "every"),
    [(300, 15), pytest.param(6000, 30, marks=pytest.mark.long)],
    ids=["300", "6000"],
)
def test_what_is_killed_meanwhile_hits_nobody_else(count: int, every: int) -> None:
    with watched_executor(MARK) as executor:
        crowd = Crowd(executor)
        chaos = Chaos(crowd, every)
        crowd.go_through(mix(count), chaos)
        until(lambda: _no_zombies(executor), "the dead are buried")
        # And it goes on, with a new launcher if the last one was killed.
        assert executor.run(shell("exit 0")).ok
        crowd.settle()
    assert set(chaos.killed) == {"program", "init", "launcher"}
    assert sum(crowd.ends.values()) + len(crowd.errors) + len(crowd.refused) == count
    # An init that is killed when its run has just ended may be given one more.
    assert len(crowd.refused) <= chaos.killed["init"]
    names = {name for run, (name, _) in crowd.active.items() if run not in crowd.victims}
    assert names <= {"not started"}
