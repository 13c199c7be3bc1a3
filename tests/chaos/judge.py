"""What hosts wrote down about their runs, held against who was killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.victims import Kill

# A launcher's number may be given anew some time after it was killed.
_MEMORY_SECONDS = 100.0
# So long it takes those above a tree that are left, on a machine under load.
_MOMENT_SECONDS = 2.0


@dataclass
class Record:
    """One host: what it wrote, and who was killed of it.

    Attributes:
        number: by which it is known; pids are given anew.
        places: directory and cgroups of each launcher that it had ready, and its pid.
        is_done: it ended by itself, with nothing left.
    """

    number: int
    pid: int
    log: Path
    kills: list[Kill] = field(default_factory=list)
    places: list[tuple[int, str]] = field(default_factory=list)
    is_done: bool = False
    _read: int = 0

    def news(self) -> Iterator[dict[str, Any]]:
        """Lines that were not there before."""
        if not self.log.exists():
            return
        with self.log.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                yield json.loads(line)

    def has_killed(self, launcher: int) -> bool:
        return any(kill.what == "launcher" and kill.pid == launcher for kill in self.kills)

    def lost_all_above(self, has_cgroups: bool) -> bool:
        """Whether launcher and init of a tree died in one moment, though not at one stroke.

        In the process tier nobody was left to end it: but the host where there are
        cgroups, if that did not die as well.
        """
        if has_cgroups and not any(kill.what == "host" for kill in self.kills):
            return False
        return any(
            first.what == "launcher"
            and second.what == "init"
            and first.tier == "process"
            and first.pid == second.launcher
            and abs(first.at - second.at) < _MOMENT_SECONDS
            for first in self.kills
            for second in self.kills
        )


@dataclass
class Verdicts:
    """Counts, and what should not have been."""

    ends: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    lost: list[dict[str, Any]] = field(default_factory=list)

    def take(self, record: Record) -> None:
        """What the host has written since the last time; after the kills are noted."""
        for line in record.news():
            self._take(record, line)

    def _take(self, record: Record, line: dict[str, Any]) -> None:
        what = line["what"]
        if what == "launcher":
            record.places += [(line["pid"], place) for place in line["places"]]
        elif what == "done":
            record.is_done = True
            if line["descriptors"] or line["zombies"]:
                self.wrong.append(line)
        elif what == "crash":
            self.wrong.append(line)
        else:
            self.ends[what] += 1
            self._hold_against(record, line)

    def _hold_against(self, record: Record, line: dict[str, Any]) -> None:
        if line["what"] == "exact":
            return
        cause = "" if line["what"] == "wrong" else cause_of(record.kills, line)
        if not cause:
            self.wrong.append(line)
            return
        self.causes[f"{line['what']}: {cause}"] += 1
        if "error" in line:
            self.errors[f"{line['tier']} {line['what']}: {line['error']}"] += 1
        # With its init what it had not taken from the pipe is gone.
        if cause in ("program", "launcher") and line.get("seen", 0) < line.get("acknowledged", 0):
            self.lost.append(line)


def cause_of(kills: list[Kill], line: dict[str, Any]) -> str:
    """Which kill explains that a run ended before its end; "" when none does."""
    found = {cause for kill in kills for cause in _causes(kill, line)}
    for cause in ("init", "program", "launcher", "start"):
        if cause in found:
            return cause
    return ""


def _causes(kill: Kill, line: dict[str, Any]) -> Iterator[str]:
    if not 0 <= line["at"] - kill.at <= _MEMORY_SECONDS:
        return
    if line["what"] in ("error", "refused"):
        # It did not come to start: those it was given to, or that were made for it, are dead.
        if line["init"] in kill.sockets or line["launcher"] == kill.pid:
            yield "start"
    elif kill.what == "launcher" and line["how"] == "lost" and kill.pid == line["launcher"]:
        yield "launcher"
    elif kill.what == "init" and line["init"] in kill.sockets:
        yield "init"
    elif kill.what == "program" and line["how"] == "signal" and _is_of(kill, line):
        yield "program"


def _is_of(kill: Kill, line: dict[str, Any]) -> bool:
    """Whether the program was the run's; before execve only its init tells."""
    return kill.run == line["run"] if kill.run else line["init"] in kill.sockets
