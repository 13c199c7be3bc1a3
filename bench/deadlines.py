"""How long a tree of processes outlives its deadline, and what the host feels of it.

An output is returned when not a single process of its run is left, so the moment
of the event less the deadline is the time that the whole tree took to die. Beside
it a process sleeps for 1 ms again and again: by how much it oversleeps is what
another process of the host feels.

    python bench/deadlines.py [--runs N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import evalbox
from evalbox import Completed, Executor, Limits, Plan, Policy, TimedOut

PYTHON = "/usr/bin/python3"
DEADLINE = 0.3
# Daemons with a session of their own, which no signal to a process group reaches.
DAEMONS = """
import os, sys, time
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        os.setsid()
        break
time.sleep(60)
"""
BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
TREES: dict[str, tuple[str, ...]] = {
    "1 process": (DAEMONS, "1"),
    "64 daemons": (DAEMONS, "64"),
    "500 daemons": (DAEMONS, "500"),
    "fork bomb (200)": (BOMB,),
}
MOST = {"500 daemons": 512, "fork bomb (200)": 200}


def plan(tier: str, tree: str) -> Plan:
    limits = Limits(wall_time=DEADLINE, processes=MOST.get(tree, 70), memory=None)
    policy = Policy(isolation=tier, require=())  # type: ignore[arg-type]
    command = [PYTHON, "-S", "-c", *TREES[tree]]
    return Plan(command, limits=limits, policy=policy)


def overrun(executor: Executor, todo: Plan) -> float:
    """Seconds from the deadline of a run until nothing of it is left.

    The clock of the run starts a little after `spawn`, so this is never too short.
    """
    spawned = time.monotonic()
    executor.spawn(todo)
    while True:
        for event in executor.poll():
            if isinstance(event, TimedOut):
                return time.monotonic() - spawned - DEADLINE
            if isinstance(event, Completed):
                raise SystemExit(f"it ended before its deadline: {event.output}")


def sleep_shortly(stop: Connection) -> None:
    """Sleeps for 1 ms until it is told to stop; then tells by how much it overslept."""
    over: list[float] = []
    while not stop.poll():
        before = time.monotonic()
        time.sleep(0.001)
        over.append(time.monotonic() - before - 0.001)
    stop.send(over)


def measured(tier: str, tree: str, runs: int) -> dict[str, Any]:
    ours, theirs = multiprocessing.Pipe()
    sleeper = multiprocessing.Process(target=sleep_shortly, args=(theirs,))
    sleeper.start()
    with Executor() as executor:
        todo = plan(tier, tree)
        overrun(executor, todo)
        deaths = [overrun(executor, todo) for _ in range(runs)]
    ours.send(None)
    over = ours.recv()
    sleeper.join()
    return {"tier": tier, "tree": tree, "dead": shares(deaths), "sleeper": shares(over)}


def shares(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile in ms."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": cuts[49] * 1000, "p99": cuts[98] * 1000}


def tiers() -> list[str]:
    missing = evalbox.host().namespaces.why_not
    return ["process"] if missing else ["process", "namespace"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    print("| tier | tree | dead after its deadline, p50 / p99 | a sleeper of 1 ms oversleeps |")
    print("|---|---|---|---|")
    rows = []
    for tree in TREES:
        for tier in tiers():
            row = measured(tier, tree, asked.runs)
            rows.append(row)
            dead, sleeper = row["dead"], row["sleeper"]
            print(
                f"| {tier} | {tree} | {dead['p50']:.1f} / {dead['p99']:.1f} ms"
                f" | {sleeper['p50']:.2f} / {sleeper['p99']:.2f} ms |",
                flush=True,
            )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
