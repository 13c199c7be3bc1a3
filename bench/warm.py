"""Python code in interpreters that are warm, against a bare fork and against a cold start.

Part of a benchmark where `evalbox.Template` exists.  The base of its ratios is
`forker.py`: os.fork, os._exit and wait in an interpreter of the same kind with
the same modules, which confines nothing and captures nothing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evalbox
from contestants import AT_ONCE, Command, Contestant, Evalbox, Subprocess, expect_ok, timed
from host import descendants
from measure import Program, Rounds, Settings
from peers import Driven
from results import Results

FORKER = Path(__file__).with_name("forker.py")
SYSTEM_PYTHON = Path("/usr/bin/python3")
CODE = "pass"
RUNS = 20
AT_ONCE_WARM = 8


def exists() -> bool:
    return hasattr(evalbox, "Template")


def interpreter() -> str:
    """One that every user may execute, as sandboxed programs have a uid of their own."""
    found = SYSTEM_PYTHON if SYSTEM_PYTHON.exists() else Path(sys.executable)
    return os.path.realpath(found)


def preloads(python: str) -> list[tuple[str, ...]]:
    """Nothing much, and something that takes long to import."""
    heavy = ("numpy",) if _imports(python, "numpy") else ("collections", "json", "re")
    return [("json",), heavy]


def _imports(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


class Warm:
    """One template, as a user would hold it."""

    most_at_once = AT_ONCE
    share = 1.0

    def __init__(self, executor: evalbox.Executor, tier: str, template: Any) -> None:
        self.name = f"evalbox warm, {tier}"
        self.executor = executor
        self.template = template

    def latencies(self, command: Command, runs: int) -> list[float]:
        code = command[0]
        return [timed(lambda: expect_ok(self.template.run(code, timeout=20))) for _ in range(runs)]

    def throughput(self, command: Command, runs: int, at_once: int) -> float:
        done, left = 0, runs

        def all_of_them() -> None:
            nonlocal done, left
            while done < runs:
                while left and self.executor.active_count < at_once:
                    self.executor.spawn(self.template.plan(command[0]))
                    left -= 1
                for event in self.executor.poll():
                    if isinstance(event, evalbox.Completed | evalbox.TimedOut):
                        expect_ok(event.output)
                        done += 1

        return runs / timed(all_of_them)


class Cold:
    """An interpreter that is started for the code and imports the same before it."""

    most_at_once = AT_ONCE
    # An import takes long, and its ratio needs no fine resolution.
    share = 0.3

    def __init__(self, starter: Contestant, python: str, modules: tuple[str, ...]) -> None:
        self.name = f"cold, {starter.name}"
        self.starter = starter
        self.line = (python, "-c", f"import {', '.join(modules)}")

    def _whole(self, code: Command) -> Command:
        *start, imports = self.line
        return (*start, f"{imports}\n{code[0]}")

    def latencies(self, command: Command, runs: int) -> list[float]:
        return self.starter.latencies(self._whole(command), runs)

    def throughput(self, command: Command, runs: int, at_once: int) -> float:
        return self.starter.throughput(self._whole(command), runs, at_once)


def _templates(executor: evalbox.Executor, python: str, modules: tuple[str, ...]) -> Iterator[Warm]:
    make: Any = evalbox.Template  # type: ignore[attr-defined]
    tiers = ["process"] if evalbox.host().namespaces.why_not else ["process", "namespace"]
    for tier in tiers:
        policy = evalbox.Policy(isolation=tier)  # type: ignore[arg-type]
        yield Warm(executor, tier, make(preload=list(modules), policy=policy, python=python))


def _close(template: Any) -> None:
    if hasattr(template, "close"):
        template.close()


def private_kib(pid: int) -> float | None:
    """Pages that a process shares with nobody; None when it may not be looked at."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        lines = [line.split() for line in text.splitlines() if line.startswith("Private_")]
        return sum(float(words[1]) for words in lines if words[0] != "Private_Hugetlb:")
    return None


def parked(python: str, before: set[int]) -> Iterator[int]:
    """The interpreters that were not there before."""
    for pid in set(descendants(os.getpid())) - before:
        with contextlib.suppress(OSError):
            if os.path.realpath(f"/proc/{pid}/exe") == python:
                yield pid


def measure(results: Results, rounds: Rounds, how: Settings) -> None:
    """Adds the warm parts to the results."""
    python = interpreter()
    results.parts["warm"] = {}
    results.parts["warm_throughput"] = {}
    for modules in preloads(python):
        _one_preload(results, rounds, how, python, modules)


def _one_preload(
    results: Results, rounds: Rounds, how: Settings, python: str, modules: tuple[str, ...]
) -> None:
    label = f"pass, {'+'.join(modules)} loaded"
    fork = Driven("bare fork", [python, FORKER, *modules], AT_ONCE)
    fork.latencies((), 1)
    with evalbox.Executor() as executor:
        before = set(descendants(os.getpid()))
        warm = list(_templates(executor, python, modules))
        for one in warm:
            one.latencies((CODE,), 2)
        for pid in parked(python, before):
            kib = private_kib(pid)
            if kib is not None:
                results.memory[f"{'+'.join(modules)}, {len(results.memory) + 1}"] = kib
        cold: list[Contestant] = [
            Cold(Subprocess(), python, modules),
            Cold(Evalbox(executor, "process"), python, modules),
        ]
        field: list[Contestant] = [fork, *warm, *cold]
        program = Program(label, (CODE,), RUNS, AT_ONCE_WARM)
        results.parts["warm"] |= rounds.latency(field, [program], how)
        eight = Settings(how.rounds, (AT_ONCE_WARM,), how.scale, ())
        results.parts["warm_throughput"] |= rounds.throughput(field, [program], eight)
        for one in warm:
            _close(one.template)
