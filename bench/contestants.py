"""The ways to start a program that are compared, each with the same two methods.

`latencies` starts programs one after the other and returns seconds for each;
`throughput` keeps a number of them running and returns runs per second.
Every contestant captures the program's output, except the floor, which is a C
loop of vfork, execve and wait4.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

import evalbox

HERE = Path(__file__).resolve().parent
BWRAP = ("bwrap", "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent")

Command = tuple[str, ...]


class Contestant(Protocol):
    name: str

    def latencies(self, command: Command, runs: int) -> list[float]: ...

    def throughput(self, command: Command, runs: int, at_once: int) -> float: ...


def build(folder: Path) -> tuple[Path, Path]:
    """Compiles the floor and the no-libc program into `folder`; returns their paths."""
    floor, true = folder / "floor", folder / "nolibc_true"
    cc = shutil.which("gcc") or shutil.which("cc") or "clang"
    subprocess.run([cc, "-O2", "-o", floor, HERE / "floor.c"], check=True)
    bare = ["-O2", "-nostdlib", "-static", "-fno-stack-protector"]
    subprocess.run([cc, *bare, "-o", true, HERE / "nolibc_true.c"], check=True)
    return floor, true


class Floor:
    name = "floor"

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

    def __init__(self, name: str = "subprocess", prefix: Command = ()) -> None:
        self.name = name
        self.prefix = prefix

    def _once(self, command: Command) -> None:
        subprocess.run([*self.prefix, *command], capture_output=True, check=True)

    def latencies(self, command: Command, runs: int) -> list[float]:
        return [_timed(lambda: self._once(command)) for _ in range(runs)]

    def throughput(self, command: Command, runs: int, at_once: int) -> float:
        with ThreadPoolExecutor(at_once) as pool:
            begin = time.perf_counter()
            for _ in pool.map(self._once, [command] * runs):
                pass
            return runs / (time.perf_counter() - begin)


class Evalbox:
    """One `Executor` with the default policy, as a user would hold it; in one of the tiers."""

    def __init__(self, executor: evalbox.Executor, tier: Literal["process", "namespace"]) -> None:
        self.executor = executor
        self.name = f"evalbox, {tier}"
        self.policy = evalbox.Policy(isolation=tier)

    def latencies(self, command: Command, runs: int) -> list[float]:
        plan = evalbox.Plan(command, policy=self.policy)
        return [_timed(lambda: _expect_ok(self.executor.run(plan))) for _ in range(runs)]

    def throughput(self, command: Command, runs: int, at_once: int) -> float:
        plan = evalbox.Plan(command, policy=self.policy)
        begin = time.perf_counter()
        left = runs
        while left or self.executor.active_count:
            while left and self.executor.active_count < at_once:
                self.executor.spawn(plan)
                left -= 1
            for event in self.executor.poll():
                if isinstance(event, evalbox.Completed | evalbox.TimedOut):
                    _expect_ok(event.output)
        return runs / (time.perf_counter() - begin)


def evalboxes(executor: evalbox.Executor) -> list[Evalbox]:
    """One for each tier that there is."""
    if why_not := evalbox.host().namespaces.why_not:
        print(f"no namespaces here ({why_not})", file=sys.stderr)
        return [Evalbox(executor, "process")]
    return [Evalbox(executor, "process"), Evalbox(executor, "namespace")]


def _timed(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def _expect_ok(output: evalbox.Output) -> None:
    if not output.ok:
        raise SystemExit(f"a measured run failed: {output.explain()}")


def bubblewrap() -> Subprocess | None:
    """Bubblewrap when it is installed and may make namespaces here, else None."""
    if shutil.which(BWRAP[0]) is None:
        print("bubblewrap is not installed and is left out", file=sys.stderr)
        return None
    tried = subprocess.run([*BWRAP, "/bin/true"], capture_output=True, text=True)
    if tried.returncode != 0:
        print(f"bubblewrap does not run here: {tried.stderr.strip()}", file=sys.stderr)
        return None
    return Subprocess("bubblewrap", BWRAP)
