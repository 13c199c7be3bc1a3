"""The ways to start a program that are compared, each with the same two methods.

`latencies` starts programs one after the other and returns seconds for each;
`throughput` keeps a number of them running and returns runs per second.
Every contestant captures the program's output, except the floor, which is a C
loop of vfork, execve and wait4.  The sandboxes of others are in `peers`.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

import evalbox

HERE = Path(__file__).resolve().parent
AT_ONCE = 1000
DEFAULT = evalbox.Limits()

Command = tuple[str, ...]
Tier = Literal["process", "namespace"]


class PeerError(Exception):
    """A program of another project did not do what was asked."""


class Contestant(Protocol):
    """Attributes:
    name: in tables and results.
    most_at_once: how many of its runs the throughput is measured with at most.
    share: of the usual number of runs; less for what takes long.
    """

    name: str
    most_at_once: int
    share: float

    def latencies(self, command: Command, runs: int) -> list[float]: ...

    def throughput(self, command: Command, runs: int, at_once: int) -> float: ...


def compiler() -> str:
    return shutil.which("gcc") or shutil.which("cc") or "clang"


def build(folder: Path) -> tuple[Path, Path]:
    """Compiles the floor and the no-libc program into `folder`; returns their paths."""
    floor, true = folder / "floor", folder / "nolibc_true"
    cc = compiler()
    subprocess.run([cc, "-O2", "-o", floor, HERE / "floor.c"], check=True)
    bare = ["-O2", "-nostdlib", "-static", "-fno-stack-protector"]
    subprocess.run([cc, *bare, "-o", true, HERE / "nolibc_true.c"], check=True)
    return floor, true


class Floor:
    name = "floor"
    most_at_once = AT_ONCE
    share = 1.0

    def __init__(self, program: Path) -> None:
        self.program = str(program)

    def _run(self, command: Command, runs: int, at_once: int) -> list[int]:
        line = [self.program, str(runs), str(at_once), *command]
        printed = subprocess.run(line, capture_output=True, check=True, text=True).stdout
        return [int(number) for number in printed.split()]

    def latencies(self, command: Command, runs: int) -> list[float]:
        return [took / 1e9 for took in self._run(command, runs, 1)[1:]]

    def throughput(self, command: Command, runs: int, at_once: int) -> float:
        return runs / (self._run(command, runs, at_once)[0] / 1e9)


class Subprocess:
    """`subprocess.run(capture_output=True)`, with an optional sandbox in front."""

    def __init__(
        self,
        name: str = "subprocess",
        prefix: Command = (),
        most_at_once: int = AT_ONCE,
        share: float = 1.0,
    ) -> None:
        self.name = name
        self.prefix = prefix
        self.most_at_once = most_at_once
        self.share = share

    def _once(self, command: Command) -> None:
        ended = subprocess.run([*self.prefix, *command], capture_output=True)
        if ended.returncode:
            told = ended.stderr.decode(errors="replace").strip().splitlines()
            raise PeerError(f"exit code {ended.returncode}: {told[-1] if told else 'no message'}")

    def latencies(self, command: Command, runs: int) -> list[float]:
        return [timed(lambda: self._once(command)) for _ in range(runs)]

    def throughput(self, command: Command, runs: int, at_once: int) -> float:
        with ThreadPoolExecutor(at_once) as pool:
            begin = time.perf_counter()
            for _ in pool.map(self._once, [command] * runs):
                pass
            return runs / (time.perf_counter() - begin)


class Evalbox:
    """One `Executor` with the default policy, as a user would hold it; in one of the tiers."""

    most_at_once = AT_ONCE
    share = 1.0

    def __init__(
        self,
        executor: evalbox.Executor,
        tier: Tier,
        limits: evalbox.Limits = DEFAULT,
    ) -> None:
        self.executor = executor
        self.limits = limits
        self.name = f"evalbox, {tier}"
        self.policy = evalbox.Policy(isolation=tier)

    def latencies(self, command: Command, runs: int) -> list[float]:
        plan = self._plan(command)
        return [timed(lambda: expect_ok(self.executor.run(plan))) for _ in range(runs)]

    def throughput(self, command: Command, runs: int, at_once: int) -> float:
        plan = self._plan(command)
        return runs / timed(lambda: run_all(self.executor, lambda: plan, runs, at_once))

    def _plan(self, command: Command) -> evalbox.Plan:
        return evalbox.Plan(command, policy=self.policy, limits=self.limits)


def run_all(
    executor: evalbox.Executor, plan: Callable[[], evalbox.Plan], runs: int, at_once: int
) -> None:
    """So many runs, of which so many at once are kept running."""
    left = runs
    while left or executor.active_count:
        while left and executor.active_count < at_once:
            executor.spawn(plan())
            left -= 1
        for event in executor.poll():
            if isinstance(event, evalbox.Completed | evalbox.TimedOut):
                expect_ok(event.output)


def tiers() -> list[Tier]:
    """Those that this host has."""
    return ["process"] if evalbox.host().namespaces.why_not else ["process", "namespace"]


def evalboxes(executor: evalbox.Executor, limits: evalbox.Limits = DEFAULT) -> list[Evalbox]:
    """One for each tier that there is."""
    return [Evalbox(executor, tier, limits) for tier in tiers()]


def timed(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def expect_ok(output: evalbox.Output) -> None:
    if not output.ok:
        raise SystemExit(f"a measured run failed: {output.explain()}")
