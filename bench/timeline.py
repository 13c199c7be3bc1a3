"""One run as a line of time: what happened when, made into steps that add up to the whole.

Facts come as points, the begin or end of something at a time, from two sides with
one clock: the host process, and launcher with init and child.  The path of a run
goes host, launcher, host; nothing on it is counted twice:

    host     from the call of run() until it begins to send the job
    between  sent, and init woken
    launcher from init's waking until it begins to send its report: a stretch
             belongs to the call that began last, whichever process made it, as
             of init and child only one runs between clone and execve
    between  reported, and the host woken
    host     until run() returns

What init does after its report is beside the path: it delays only the next run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["host", "between", "launcher", "afterwards"]
SEND, WAIT = "send", "wait"
SENT = "the job is sent, and init wakes"
REPORTED = "the report is sent, and the host wakes"
OWN = "(own code)"
CLONES = ("clone", "fork", "eb_cgroup_clone")


@dataclass(frozen=True, slots=True)
class Point:
    """The begin or the end of something; times in ns."""

    at: int
    name: str
    is_end: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """Attributes:
    name: of the step, with its phase in the launcher.
    calls: how many calls begin with it, 0 for the rest of one.
    """

    side: Side
    name: str
    ns: int
    calls: int


class BrokenError(Exception):
    """A run whose points are not those of one ordinary run."""


def split(points: Sequence[Point], name: str) -> list[list[Point]]:
    """The points of each run, from the begin of what has this name to its end."""
    runs: list[list[Point]] = []
    for point in points:
        if point.name == name and not point.is_end:
            runs.append([])
        if runs:
            runs[-1].append(point)
    return runs


def matched(
    runs: Sequence[Sequence[Point]], launcher: Sequence[Point]
) -> Iterator[tuple[Sequence[Point], list[Point]]]:
    """Each run with what the launcher did from its begin to the end of the next."""
    for number, run in enumerate(runs):
        end = runs[number + 1][-1].at if number + 1 < len(runs) else math.inf
        yield run, [point for point in launcher if run[0].at <= point.at <= end]


def stretches(host: Sequence[Point], launcher: Sequence[Point]) -> list[Stretch]:
    """The whole of a run, of whose launcher there may be points before and after.

    Raises:
        BrokenError: something that is not of an ordinary run came between.
    """
    begin, end = host[0].at, host[-1].at
    sent = _first(host, SEND, is_end=False)
    woken = _first(host[::-1], WAIT, is_end=True)
    points = sorted(launcher, key=lambda point: point.at)
    # What init does after its last report may reach into this run; then it waits in ppoll().
    taken = _first([one for one in points if one.at >= sent.at], "ppoll", is_end=True)
    path = [one for one in points if taken.at <= one.at <= woken.at]
    reported = _first(path[::-1], "sendmsg", is_end=False)
    after = [one for one in points if one.at >= reported.at]
    path = [one for one in path if one.at <= reported.at]
    if not begin <= sent.at <= woken.at <= end:
        raise BrokenError("the order of a run is another")
    return [
        *_host(host, begin, sent.at),
        Stretch("between", SENT, taken.at - sent.at, 0),
        *_launcher(path),
        Stretch("between", REPORTED, woken.at - reported.at, 0),
        *_host(host, woken.at, end),
        *_afterwards(after),
    ]


def _first(points: Sequence[Point], name: str, *, is_end: bool) -> Point:
    for point in points:
        if point.name == name and point.is_end == is_end:
            return point
    raise BrokenError(f"no {name}")


def _host(points: Sequence[Point], begin: int, end: int) -> Iterator[Stretch]:
    """Own times: a stretch belongs to the innermost that is open."""
    open_: list[str] = []
    for point, after in itertools.pairwise(points):
        if not point.is_end:
            open_.append(point.name)
        elif open_:
            open_.pop()
        ns = min(after.at, end) - max(point.at, begin)
        if ns > 0:
            name = open_[-1] if open_ else OWN
            yield Stretch("host", name, ns, int(not point.is_end))


def _launcher(points: Sequence[Point]) -> Iterator[Stretch]:
    """Whatever began last has the time until the next point, and own code that after an end."""
    last_wait = max(
        (n for n, point in enumerate(points) if point.name == "ppoll" and point.is_end), default=0
    )
    phase = "start"
    for number, (point, after) in enumerate(itertools.pairwise(points)):
        if point.name in CLONES:
            phase = "watch" if point.is_end else "child"
        if phase == "watch" and number >= last_wait:
            phase = "end"
        name = OWN if point.is_end else point.name
        # The child is not there yet while it is being made.
        shown = "start" if point.name in CLONES and not point.is_end else phase
        yield Stretch("launcher", f"{shown}: {name}", after.at - point.at, int(not point.is_end))


def _afterwards(points: Sequence[Point]) -> Iterator[Stretch]:
    # Until it waits for an order again.
    for point, after in itertools.pairwise(points):
        if point.name == "ppoll" and not point.is_end:
            return
        name = OWN if point.is_end else point.name
        yield Stretch("afterwards", name, after.at - point.at, int(not point.is_end))


def summed(found: Iterable[Stretch]) -> dict[tuple[Side, str], tuple[int, int]]:
    """ns and calls by side and name, in the order in which they first came."""
    sums: dict[tuple[Side, str], tuple[int, int]] = {}
    for stretch in found:
        key = (stretch.side, stretch.name)
        ns, calls = sums.get(key, (0, 0))
        sums[key] = ns + stretch.ns, calls + stretch.calls
    return sums
