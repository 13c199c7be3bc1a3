"""Whether many at once cost more each than few: what a live run, an event and a run cost.

Ratios are to the first column, within a round that measures every column once: a
machine that slows down for a while slows down all of them.

    python bench/scale.py [--rounds N] [--alive 1 10 100 1000] [--tier process] [--json FILE]

- memory: what this process grows by for each run that is alive;
- event: CPU time of this process for one line that goes to a run and comes back, and
  how much of that is in user mode: the kernel's part grows with what no cache holds;
- busy: the same CPU time of a run, one after the other, while the others sleep;
- throughput: runs of `true` per second with so many at once;
- flood: how long a line takes to come back while other runs print without end, and
  how much of that is work of this process: the rest is waiting for a processor.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, get_args

import evalbox
from evalbox import (
    PIPE,
    Completed,
    Event,
    Executor,
    Limits,
    Plan,
    Policy,
    SandboxId,
    Started,
    Stdout,
    TimedOut,
)

Tier = Literal["process", "namespace"]
Measure = Callable[[Tier, int], float]
PAGE = os.sysconf("SC_PAGESIZE")
EVENTS = 8000
RUNS = 400
AT_ONCE = (8, 64, 256, 1000)
FLOODED = 300


def plan(tier: Tier, *command: str, **fields: Any) -> Plan:
    # Without a limit of memory they may all start at once, on any host.
    limits = Limits(wall_time=None, memory=None, processes=None, output=None)
    policy = Policy(isolation=tier, require=())
    return Plan(command, limits=limits, policy=policy, **fields)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


def until(executor: Executor, kind: type[Event], count: int) -> None:
    while count > 0:
        count -= sum(isinstance(event, kind) for event in executor.poll())


@contextmanager
def alive(executor: Executor, what: Plan, count: int) -> Iterator[list[SandboxId]]:
    """So many runs that have started; none of them afterwards."""
    runs = [executor.spawn(what) for _ in range(count)]
    until(executor, Started, count)
    try:
        yield runs
    finally:
        for run in runs:
            executor.kill(run)
        while executor.active_count:
            executor.poll()


# ---- what is measured ----------------------------------------------------------


def memory(tier: Tier, count: int) -> float:
    """Bytes for a live run, of a process that had none before and can use nothing again."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(memory_here, (tier, count))


def memory_here(tier: Tier, count: int) -> float:
    with Executor() as executor:
        executor.run(plan(tier, "true"))
        before = resident()
        with alive(executor, plan(tier, "sleep", "1000"), count):
            return (resident() - before) / count


def echoes(tier: Tier, count: int, clock: Callable[[], float]) -> float:
    """Microseconds for a line that goes to a run and comes back."""
    rounds = max(1, EVENTS // count)
    with (
        Executor() as executor,
        alive(executor, plan(tier, "cat", stdin=PIPE, stream=True), count) as runs,
    ):
        begun = clock()
        for _ in range(rounds):
            for run in runs:
                executor.write_stdin(run, b"x\n")
            until(executor, Stdout, count)
        return (clock() - begun) / (rounds * count) * 1e6


def event(tier: Tier, count: int) -> float:
    return echoes(tier, count, time.process_time)


def own_event(tier: Tier, count: int) -> float:
    return echoes(tier, count, lambda: resource.getrusage(resource.RUSAGE_SELF).ru_utime)


def busy(tier: Tier, count: int) -> float:
    """Microseconds."""
    short = plan(tier, "true")
    with Executor() as executor, alive(executor, plan(tier, "sleep", "1000"), count):
        executor.run(short)
        begun = time.process_time()
        for _ in range(RUNS):
            executor.run(short).check()
        return (time.process_time() - begun) / RUNS * 1e6


def throughput(tier: Tier, count: int) -> float:
    """Runs per second, with the default limits; the slots are there before."""
    short = Plan(["true"], policy=Policy(isolation=tier, require=()))
    with Executor() as executor:
        passed(executor, short, count, count)
        return passed(executor, short, max(2 * count, RUNS), count)


def passed(executor: Executor, what: Plan, runs: int, at_once: int) -> float:
    begun, left = time.perf_counter(), runs
    while left or executor.active_count:
        while left and executor.active_count < at_once:
            executor.spawn(what)
            left -= 1
        for said in executor.poll():
            if isinstance(said, Completed | TimedOut):
                said.output.check()
    return runs / (time.perf_counter() - begun)


def flood(tier: Tier, floods: int) -> list[tuple[float, float]]:
    """Milliseconds until a line is back, each of many, beside so many runs without an end.

    The second of each is CPU time of this process.
    """
    took = []
    with Executor() as executor:
        echo = executor.spawn(plan(tier, "cat", stdin=PIPE, stream=True))
        until(executor, Started, 1)
        # An end there is, as what is streamed is kept for the output as well.
        noise = plan(tier, "sh", "-c", "yes | head -c 200000000", stream=True)
        loud = [executor.spawn(noise) for _ in range(floods)]
        until(executor, Started, floods)
        for _ in range(FLOODED):
            begun, worked = time.perf_counter(), time.process_time()
            executor.write_stdin(echo, b"x\n")
            while not any(said.id == echo for said in executor.poll()):
                pass
            wall, work = time.perf_counter() - begun, time.process_time() - worked
            took.append((wall * 1000, work * 1000))
        for run in (echo, *loud):
            executor.kill(run)
        while executor.active_count:
            executor.poll()
    return took


# ---- report --------------------------------------------------------------------

COLUMNS: dict[str, tuple[Measure, str]] = {
    "memory": (memory, "bytes per live run"),
    "event": (event, "us per event"),
    "event, user mode": (own_event, "us per event"),
    "busy": (busy, "us per run"),
}


def in_rounds(
    measure: Measure, tier: Tier, counts: tuple[int, ...], rounds: int
) -> dict[int, tuple[float, float]]:
    """Median value and median ratio to the first, for each count."""
    rows = []
    for number in range(rounds):
        at = number % len(counts)
        row = {count: measure(tier, count) for count in (*counts[at:], *counts[:at])}
        rows.append(row)
    return {
        count: (
            statistics.median(row[count] for row in rows),
            statistics.median(row[count] / max(row[counts[0]], 1e-9) for row in rows),
        )
        for count in counts
    }


def table(what: str, unit: str, found: dict[int, tuple[float, float]]) -> None:
    print(f"| {what} | " + " | ".join(map(str, found)) + " |", flush=True)
    print(f"| {unit} | " + " | ".join(f"{value:.4g}" for value, _ in found.values()) + " |")
    print("| ratio | " + " | ".join(f"{ratio:.2f}" for _, ratio in found.values()) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alive", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--tier", choices=get_args(Tier))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    tiers: tuple[Tier, ...] = ("process", "namespace")
    if evalbox.host().namespaces.why_not or asked.tier:
        tiers = (asked.tier or "process",)
    results: dict[str, Any] = {}
    for tier in tiers:
        print(f"\n{tier}")
        for name, (measure, unit) in COLUMNS.items():
            found = in_rounds(measure, tier, tuple(sorted(asked.alive)), asked.rounds)
            table(f"{name}; alive", unit, found)
            results[f"{tier} {name}"] = found
        found = in_rounds(throughput, tier, AT_ONCE, asked.rounds)
        table("throughput; at once", "runs per s", found)
        results[f"{tier} throughput"] = found
        for floods in (0, 1, 8):
            for what, seen in zip(
                ("in all", "work"), zip(*flood(tier, floods), strict=True), strict=True
            ):
                cuts = statistics.quantiles(seen, n=100, method="inclusive")
                results[f"{tier} flood {floods} {what}"] = cuts[49], cuts[98]
                print(
                    f"beside {floods} floods, {what}: p50 / p99 {cuts[49]:.2f} / {cuts[98]:.2f} ms"
                )
    if asked.json:
        asked.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
