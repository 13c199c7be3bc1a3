"""What is measured: each part is a function from contestants to ratios.

Every round measures every contestant once, in an order that rotates, and the
ratio is taken within the round: a machine that slows down for a while slows
down all of them.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import contestants
import evalbox
from contestants import Command, Contestant
from tables import Ratio

MICROSECONDS = 1e6
BALLAST_SIZE = 2 << 30
IDLE_THREADS = 8


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    command: Command
    runs: int  # per contestant and round, one after the other


@dataclass(frozen=True, slots=True)
class Settings:
    rounds: int
    at_once: tuple[int, ...]
    scale: float  # how many of the usual runs per round

    def runs(self, program: Program) -> int:
        return max(3, round(program.runs * self.scale))


Results = dict[str, dict[str, Ratio]]


def rotated(items: Sequence[Contestant], by: int) -> list[Contestant]:
    start = by % len(items)
    return [*items[start:], *items[:start]]


def in_rounds(
    field: Sequence[Contestant], rounds: int, measure: Callable[[Contestant], float], scale: float
) -> dict[str, Ratio]:
    """Measures each contestant once per round; the first of `field` is the floor."""
    values: dict[str, list[float]] = {contestant.name: [] for contestant in field}
    for contestant in field:
        measure(contestant)
    for number in range(rounds):
        for contestant in rotated(field, number):
            values[contestant.name].append(measure(contestant))
    floor = values[field[0].name]
    return {name: Ratio.of(seen, floor, scale) for name, seen in values.items()}


def latency(field: Sequence[Contestant], programs: Sequence[Program], how: Settings) -> Results:
    def one(program: Program) -> dict[str, Ratio]:
        runs = how.runs(program)
        return in_rounds(
            field,
            how.rounds,
            lambda who: statistics.median(who.latencies(program.command, runs)),
            MICROSECONDS,
        )

    return {program.name: one(program) for program in programs}


def throughput(field: Sequence[Contestant], programs: Sequence[Program], how: Settings) -> Results:
    def one(program: Program, at_once: int) -> dict[str, Ratio]:
        runs = max(at_once, how.runs(program) * 4)
        return in_rounds(
            field, how.rounds, lambda who: who.throughput(program.command, runs, at_once), 1.0
        )

    return {
        f"{program.name}, {at_once} at once": one(program, at_once)
        for program in programs
        for at_once in how.at_once
    }


def descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in map(int, (task / "children").read_text(encoding="ascii").split()):
                yield child
                yield from descendants(child)


def cpu_seconds_of(pid: int) -> float:
    """Time on a processor, in the kernel's nanosecond count; 0 for a process that is gone."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii")
        return int(text.split()[0]) / 1e9
    return 0.0


def own_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def cpu_per_run(who: Contestant, program: Program, how: Settings) -> dict[str, float]:
    """Microseconds of CPU per run: this process alone, and the launcher with its inits.

    Only processes that live as long as the executor are counted; a program
    that is running never is.
    """
    # The helpers that eight at once need are there before the count begins.
    who.throughput(program.command, 16, 8)
    runs = how.runs(program) * how.rounds
    helpers = list(descendants(os.getpid()))
    before = own_cpu_seconds(), {pid: cpu_seconds_of(pid) for pid in helpers}
    who.throughput(program.command, runs, 8)
    host = own_cpu_seconds() - before[0]
    launcher = sum(max(0.0, cpu_seconds_of(pid) - was) for pid, was in before[1].items())
    return {"host": host / runs * MICROSECONDS, "launcher": launcher / runs * MICROSECONDS}


@contextlib.contextmanager
def large_host() -> Iterator[None]:
    """2 GB resident and 8 threads that wait, as in a process that does other work too."""
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(IDLE_THREADS)]
    for thread in threads:
        thread.start()
    # Ones, so that every page is really there.
    ballast = bytearray(b"\x01") * BALLAST_SIZE
    try:
        yield
    finally:
        del ballast
        gc.collect()
        done.set()
        for thread in threads:
            thread.join()


def host_size(floor: Contestant, program: Program, how: Settings) -> Results:
    """The same latency in a small host and in a large one, with an executor made there."""

    def here() -> dict[str, Ratio]:
        with evalbox.Executor() as executor:
            field = [floor, contestants.Subprocess(), *contestants.evalboxes(executor)]
            return latency(field, [program], how)[program.name]

    small = here()
    with large_host():
        return {"small host": small, "2 GB and 8 threads": here()}
