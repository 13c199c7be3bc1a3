"""The process that holds the executor: its size, and the processor time it uses."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import contestants
import evalbox
from contestants import Contestant
from machine import memory
from measure import MICROSECONDS, Program, Rounds, Settings
from results import Rows, Series

MOST_GB = 10
IDLE_THREADS = 32
GB = 1 << 30
PIECE = 64 << 20


def usual_size() -> float:
    """GB that a large host may have here: a third of what is free, at most ten."""
    return round(min(MOST_GB, memory("MemAvailable") / GB / 3), 1)


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
def large_host(gb: float) -> Iterator[None]:
    """So many GB resident and 32 threads that wait, as in a process that does other work too."""
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(IDLE_THREADS)]
    for thread in threads:
        thread.start()
    # Ones, so that every page is really there; in pieces, as they are never copied whole.
    ballast = [bytearray(b"\x01") * PIECE for _ in range(max(1, int(gb * GB / PIECE)))]
    try:
        yield
    finally:
        ballast.clear()
        gc.collect()
        done.set()
        for thread in threads:
            thread.join()


def host_size(
    rounds: Rounds, floor: Contestant, program: Program, how: Settings, gb: float
) -> Rows:
    """The same latency in a small host and in a large one, with an executor made there."""

    def here() -> Series:
        with evalbox.Executor() as executor:
            field = [floor, contestants.Subprocess(), *contestants.evalboxes(executor)]
            return rounds.latency(field, [program], how)[program.name]

    small = here()
    with large_host(gb):
        return {"small host": small, f"{gb:g} GB and {IDLE_THREADS} threads": here()}
