"""A process with an executor that keeps runs of all kinds going until it is told to stop.

Each run's end is held against what its kind must come to and written down:

    exact  as if there were no chaos
    cut    killed, with a part of the output that it would have had
    wrong  anything else

Who was killed is for others to know: `judge` looks whether a cut has a cause. So that
it can, a run's end names launcher and init (by the inode of its socket).
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.kinds import Kind, Site, kinds
from evalbox import (
    Completed,
    Event,
    Executor,
    Output,
    SetupError,
    Started,
    Status,
    Stdout,
    TimedOut,
)
from evalbox._launch import Kit, Launcher, Slot
from evalbox.executor import dispatch
from evalbox.executor.record import Run
from proc import open_descriptors, zombies

AT_ONCE = 12
# Far more than any run takes: limits.wall_time is 120.
STUCK_SECONDS = 200.0


class Log:
    """Lines of JSON in a file; a kill cuts none, as each is one short write."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, what: str, **more: Any) -> None:
        line = json.dumps({"what": what, "at": time.monotonic(), **more})
        os.write(self._fd, line.encode() + b"\n")


@dataclass
class Active:
    name: str
    tier: str
    what: str
    kind: Kind
    since: float
    act_at: float
    stream: bool
    events: list[Event] = field(default_factory=list)


class Ties:
    """Notes which init and launcher each run is given to."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._peers: dict[int, int] = {}
        self._launchers: set[int] = set()
        self.of_run: dict[int, tuple[int, int]] = {}
        # Launcher and socket of the init or launcher that was made last.
        self.last = (0, 0)
        self._pair, self._hand_over = socket.socketpair, dispatch.Dispatcher._hand_over
        self._add_slot = Launcher.add_slot
        socket.socketpair = self._paired  # type: ignore[assignment]
        ties = self

        def add_slot(this: Launcher, token: int, kit: Kit) -> Slot:
            ties.last = (this.pid, 0)
            return ties._add_slot(this, token, kit)

        Launcher.add_slot = add_slot  # type: ignore[assignment, method-assign]

        def hand_over(this: dispatch.Dispatcher, run: Run, kit: Kit, slot: Slot) -> None:
            ties.note(run, slot)
            ties._hand_over(this, run, kit, slot)

        dispatch.Dispatcher._hand_over = hand_over  # type: ignore[assignment, method-assign]

    def _paired(self, *args: Any) -> tuple[socket.socket, socket.socket]:
        ours, theirs = self._pair(*args)
        self._peers[_inode(ours.fileno())] = _inode(theirs.fileno())
        self.last = (self.last[0], _inode(theirs.fileno()))
        return ours, theirs

    def note(self, run: Run, slot: Slot) -> None:
        launcher = slot.launcher
        self.of_run[run.life.id] = (launcher.pid, self._peers[_inode(slot.sock)])
        if launcher.pid not in self._launchers:
            self._launchers.add(launcher.pid)
            root = [] if launcher.root is None else [launcher.root.path]
            cgroups = [*dict.fromkeys(launcher.cgroups._paths.values())]
            self._log.write("launcher", pid=launcher.pid, places=[*root, *cgroups])


def _inode(fd: int) -> int:
    return os.fstat(fd).st_ino


class Crowd:
    """Runs of all kinds that are kept going."""

    def __init__(self, executor: Executor, sites: Sequence[Site], number: int, log: Log) -> None:
        self._executor = executor
        self._sites = sites
        self._kinds = {site.tier: kinds(site.tier) for site in sites}
        self._prefix = f"chaos-{sites[0].nap}-{number}"
        self._log = log
        self._ties = Ties(log)
        self._random = random.Random(number)
        self._count = 0
        self._active: dict[int, Active] = {}
        self._over: dict[int, SetupError] = {}

    def fill(self) -> None:
        while self._executor.active_count < AT_ONCE:
            self._spawn()

    def _spawn(self) -> None:
        site = self._random.choice(self._sites)
        what = self._random.choice(list(self._kinds[site.tier]))
        kind = self._kinds[site.tier][what]
        self._count += 1
        name = f"{self._prefix}-{self._count}"
        now = time.monotonic()
        act_at = now + self._random.expovariate(10) if kind.act else float("inf")
        plan = kind.plan(site, name)
        try:
            run = self._executor.spawn(plan)
        except SetupError as error:
            launcher, init = self._ties.last
            ties = {"run": name, "tier": site.tier, "launcher": launcher, "init": init}
            self._log.write("refused", kind=what, **ties, error=str(error))
            return
        self._active[run] = Active(name, site.tier, what, kind, now, act_at, plan.stream)

    def turn(self) -> None:
        """Events that are there, and what is to be done to runs meanwhile."""
        try:
            events = self._executor.poll(0.05)
        except SetupError as error:
            self._failed(error)
            return
        for event in events:
            assert event.id in self._active, f"after the end: {event} {self._over.get(event.id)}"
            self._active[event.id].events.append(event)
            if isinstance(event, Completed | TimedOut):
                self._ended(event.id, self._active.pop(event.id), event.output)
        now = time.monotonic()
        for run, active in self._active.items():
            assert now < active.since + STUCK_SECONDS, f"it never ends: {active}"
            if now >= active.act_at:
                self._act(run, active)

    def _failed(self, error: SetupError) -> None:
        assert error.id is not None
        self._over[error.id] = error
        self._write("error", error.id, self._active.pop(error.id), error=str(error))

    def _act(self, run: Any, active: Active) -> None:
        active.act_at = float("inf")
        if active.kind.act == "release":
            self._executor.release(run)
        elif active.kind.act == "kill":
            self._executor.kill(run)
        else:
            # Who read it may have been killed; what it then lacks shows in its output.
            with suppress(BrokenPipeError):
                self._executor.write_stdin(run, active.name.encode())
            self._executor.close_stdin(run)

    # ---- ends

    def _ended(self, run: int, active: Active, output: Output) -> None:
        whole = active.kind.whole(active.name)
        acknowledged = self._acknowledged(active)
        if fault := _fault_of_events(active, output):
            self._write("wrong", run, active, fault=fault, output=_shown(output))
        elif _is_exact(active.kind, whole, output):
            self._write("exact", run, active)
        elif _is_cut(whole, output):
            seen = output.stdout.count(b"\n")
            how = "signal" if output.status is Status.SIGNALED else "lost"
            self._write("cut", run, active, how=how, seen=seen, acknowledged=acknowledged)
        else:
            self._write("wrong", run, active, fault="end", output=_shown(output))

    def _acknowledged(self, active: Active) -> int:
        """Lines that the program knows it has written."""
        path = self._sites[0].acknowledged(active.name)
        if "writer" not in active.what or not path.exists():
            return 0
        count = path.read_bytes().count(b"\n")
        path.unlink()
        return count

    def _write(self, what: str, run: int, active: Active, **more: Any) -> None:
        launcher, init = self._ties.of_run.pop(run, (0, 0))
        ties = {"run": active.name, "tier": active.tier, "launcher": launcher, "init": init}
        self._log.write(what, kind=active.what, **ties, **more)

    @property
    def is_empty(self) -> bool:
        return not self._executor.active_count


def _is_exact(kind: Kind, whole: bytes, output: Output) -> bool:
    found = {name: getattr(output, name) for name in kind.wanted}
    return found == kind.wanted and output.stdout == whole


def _is_cut(whole: bytes, output: Output) -> bool:
    """Killed before it was done; its output is as far as it came."""
    killed = output.status is Status.KILLED or (
        output.status is Status.SIGNALED and output.signal == signal.SIGKILL
    )
    return killed and whole.startswith(output.stdout)


def _fault_of_events(active: Active, output: Output) -> str:
    if Started in [type(event) for event in active.events][1:]:
        return "not started first"
    streamed = b"".join(event.data for event in active.events if isinstance(event, Stdout))
    if active.stream and streamed != output.stdout:
        return f"streamed {len(streamed)} bytes and kept {len(output.stdout)}"
    return ""


def _shown(output: Output) -> str:
    return f"{output!r} {output.stdout[-200:]!r}"


# ---- the process


def serve(sites: Sequence[Site], number: int, log_path: Path) -> None:
    """Keeps runs going until SIGTERM, then lets the last ones end."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopped.append(number))
    log = Log(log_path)
    before = open_descriptors()
    try:
        with Executor() as executor:
            crowd = Crowd(executor, sites, number, log)
            while not stopped or not crowd.is_empty:
                if not stopped:
                    crowd.fill()
                crowd.turn()
        after = open_descriptors()
        left = [what for fd, what in after.items() if before.get(fd) != what]
        log.write("done", descriptors=left, zombies=zombies([os.getpid()]))
    except BaseException:
        log.write("crash", trace=traceback.format_exc()[-3000:])
        raise
