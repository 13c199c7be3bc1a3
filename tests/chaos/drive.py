"""Kills at random what belongs to some hosts, and reports what came of it.

    python -m chaos.drive --kills 10000 --tiers process,namespace [--seed N]

Exits with 1 when anything survived, was lost, ended wrongly or was left.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos import host, remains
from chaos.judge import Record, Verdicts
from chaos.kinds import GIVEN, Site
from chaos.victims import Killer
from evalbox import Executor, Plan, Policy
from evalbox._host import host as facts
from hard_places import linux
from proc import mark, marked

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PAUSE = 0.005
# So many kills, then a moment without any to look around in.
_CALM_EVERY = 100
_END_SECONDS = 300.0


@dataclass
class Report:
    """What came of it; the lists should be empty.

    Attributes:
        kills: SIGKILLs that were sent, by tier and victim.
        strokes: those that died at once, by tier.
        left: directories and cgroups left for the next start, as they may be: launcher and host
        were killed.
    unsupervised: what survived because nobody was left above it: all were killed in one
        moment, though not at one stroke.
    survivors: what survived in any other case.
    early: cgroups left for the next start by a host that was killed while a launcher started.
    """

    seed: int
    tiers: list[str]
    kills: Counter[str] = field(default_factory=Counter)
    strokes: Counter[str] = field(default_factory=Counter)
    hosts: int = 0
    seconds: float = 0.0
    left: int = 0
    early: int = 0
    unsupervised: list[str] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return sum(self.kills.values())


class Drive:
    """Owner of all hosts; whatever they leave becomes a child of this process."""

    def __init__(self, tiers: list[str], seed: int, hosts: int, pause: float) -> None:
        self._most, self._mean = hosts, pause
        self._has_cgroups = facts().cgroups.version > 0
        self._killer = Killer(seed, self._has_cgroups)
        self._nap = mark()
        self.report = Report(seed, tiers)
        self.verdicts = Verdicts()
        self.orphans = remains.Orphans()
        self._hosts: dict[int, Record] = {}
        self._all: dict[int, Record] = {}
        self._dead: list[Record] = []
        self._pids: set[int] = set()
        # Else other users of this machine with our uid have directories there too.
        self._is_ours = _has_shm_of_its_own() or os.geteuid() != 0
        self.folder = _folder()
        self._sites = [Site(tier, self.folder, self._nap) for tier in tiers]
        # Looked at once, for all hosts.
        self._place = facts().workspaces[0]
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    # ---- all of it

    def run(self, kills: int, runs: int) -> None:
        """Until so many were killed, and so many runs have ended."""
        begun = time.monotonic()
        next_calm = _CALM_EVERY
        while self.report.sent < kills or sum(self.verdicts.ends.values()) < runs:
            self._wait(self._killer.pause(self._mean))
            self._keep_hosts()
            if self.report.sent < kills:
                self._strike()
            if self.report.sent >= next_calm:
                next_calm = self.report.sent + _CALM_EVERY
                self._calm()
        self._end()
        self.report.seconds = round(time.monotonic() - begun, 1)

    def _strike(self) -> None:
        kills = self._killer.stroke([*self._hosts])
        for kill in kills:
            self._hosts[kill.host].kills.append(kill)
            self.report.kills[f"{kill.tier or 'any'} {kill.what}"] += 1
        if kills:
            self.report.strokes["+".join(kill.what for kill in kills)] += 1

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            self._reap()
            self._read()
            self._settle()
            if time.monotonic() >= until:
                return
            time.sleep(min(_PAUSE, seconds))

    def _calm(self) -> None:
        """Nobody is killed until the orphans are gone; then nothing of the dead is there."""
        self._until_no_orphans()
        self._look_around()

    def _until_no_orphans(self) -> None:
        # One that survives is killed and reported after its grace.
        while self.orphans.look({*self._hosts}) or self._dead:
            self._wait(_PAUSE)

    # ---- hosts

    def _keep_hosts(self) -> None:
        # What the dead leave is looked at before a new start would sweep it.
        if not self._dead:
            for _ in range(self._most - len(self._hosts)):
                self._start(host.serve)

    def _start(self, serve: Any) -> None:
        self.report.hosts += 1
        number = self.report.hosts
        log = self.folder / f"host-{number}"
        pid = os.fork()
        if pid == 0:
            _serve(lambda: serve(self._sites, number, log))
        self._pids.add(pid)
        self._hosts[pid] = self._all[number] = Record(number, pid, log)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                record = self._hosts.pop(dead[0], None)
                if record is not None:
                    self._on_dead_host(record, dead[1])

    def _on_dead_host(self, record: Record, status: int) -> None:
        self.verdicts.take(record)
        killed = any(kill.what == "host" for kill in record.kills)
        if not killed and not (record.is_done and status == 0):
            self.verdicts.wrong.append({"what": "host", "status": status, **_told(record)})
        record.log.unlink(missing_ok=True)
        self._dead.append(record)

    def _read(self) -> None:
        for record in self._hosts.values():
            self.verdicts.take(record)

    def _settle(self) -> None:
        """Looks at what dead hosts left when all that was below them is gone."""
        if self.orphans.look({*self._hosts}):
            return
        self._judge_survivors()
        dead, self._dead = self._dead, []
        for record in dead:
            self._look_at(record)

    def _judge_survivors(self) -> None:
        found, self.orphans.survivors = self.orphans.survivors, []
        for told, run in found:
            record = self._all.get(int(run.split("-")[-2])) if run else None
            if record is not None and record.lost_all_above(self._has_cgroups):
                self.report.unsupervised.append(f"{told} {run} {_told(record)}")
            else:
                kills = record and _told(record)
                self.report.survivors.append(f"{told} {run} {kills}")

    def _look_at(self, record: Record) -> None:
        """What may stay until the next start is that of launchers that were killed.

        And of those that were not ready: nobody but the host knew of it.
        """
        for launcher, place in record.places:
            if os.path.exists(place):
                self.report.left += 1
                if not record.has_killed(launcher):
                    self.report.leaks.append(f"{place} {_told(record)}")
        known = {place for _, place in record.places}
        self.report.early += len(set(remains.cgroups_of(record.pid)) - known)

    def _look_around(self) -> None:
        for what, found in (
            ("mount", remains.mounts(self.folder, {*self._hosts})),
            ("IPC object", remains.ipc_objects()),
            ("shared memory", remains.shared_memory(self._nap)),
        ):
            self.report.leaks += [f"{what} {item}" for item in found]

    # ---- the end

    def _end(self) -> None:
        """Lets the hosts end by themselves, and looks whether the next start sweeps all."""
        for pid in self._hosts:
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + _END_SECONDS
        while self._hosts and time.monotonic() < until:
            self._wait(_PAUSE)
        for pid, record in self._hosts.items():
            self.verdicts.wrong.append({"what": "never ends", **_told(record)})
            os.kill(pid, signal.SIGKILL)
        self._until_no_orphans()
        self._look_around()
        self.report.leaks += [f"process {pid}" for pid in self._others()]
        self._sweep()

    def _others(self) -> list[int]:
        return [pid for pid in marked(self._nap) if pid != os.getpid()]

    def _sweep(self) -> None:
        self._start(_run_once)
        while self._hosts:
            self._wait(_PAUSE)
        self._until_no_orphans()
        left = remains.directories(self._place) if self._is_ours else []
        for pid in self._pids:
            left += remains.cgroups_of(pid)
        self.report.leaks += [f"after the next start: {path}" for path in left]

    @property
    def is_clean(self) -> bool:
        verdicts = self.verdicts
        report = self.report
        return not (verdicts.wrong or verdicts.lost or report.leaks or report.survivors)

    def to_dict(self) -> dict[str, Any]:
        return {
            "clean": self.is_clean,
            "sent": self.report.sent,
            **vars(self.report),
            **vars(self.verdicts),
            "longest": round(self.orphans.longest, 2),
        }


def _told(record: Record) -> dict[str, Any]:
    kills = [f"{kill.what} {kill.pid} {kill.tier} {kill.at:.3f}" for kill in record.kills[-6:]]
    return {"host": record.number, "pid": record.pid, "last kills": kills}


def _prctl(option: int, value: int) -> None:
    assert ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0


def _has_shm_of_its_own() -> bool:
    """Whether root could mount an empty /dev/shm for this process and its hosts."""
    try:
        linux.unshare(linux.NEWNS)
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("chaos", "/dev/shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV)
    except OSError:
        return False
    return True


def _folder() -> Path:
    """With what is granted; not below a directory that runs in namespaces have anew."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "acknowledged").mkdir()
    (folder / "given").write_bytes(GIVEN)
    return folder


def _serve(function: Any) -> None:
    """In a forked child: it ends here."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        function()
        os._exit(0)
    finally:
        traceback.print_exc()
        os._exit(1)


def _run_once(_sites: list[Site], _number: int, log: Path) -> None:
    with Executor() as executor:
        executor.run(Plan(["true"], policy=Policy(isolation="process"))).check()
    host.Log(log).write("done", descriptors=[], zombies=[])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="chaos.drive")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=0, help="so many at least")
    parser.add_argument("--tiers", default="process,namespace")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.05, help="mean seconds between strokes")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    drive = Drive(options.tiers.split(","), options.seed, options.hosts, options.pause)
    try:
        drive.run(options.kills, options.runs)
    finally:
        print(json.dumps(drive.to_dict(), indent=2), flush=True)
        shutil.rmtree(drive.folder)
    return 0 if drive.is_clean else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
