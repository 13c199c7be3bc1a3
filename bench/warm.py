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
from contestants import (
    AT_ONCE,
    Command,
    Contestant,
    Evalbox,
    Subprocess,
    Tier,
    expect_ok,
    run_all,
    tiers,
    timed,
)
from host import descendants
from measure import Program, Rounds, Settings
from peers import Driven
from results import Results

FORKER = Path(__file__).with_name("forker.py")
SYSTEM_PYTHON = Path("/usr/bin/python3")
CODE = "pass"
RUNS = 20
AT_ONCE_WARM = 8


Modules = tuple[str, ...]


def exists() -> bool:
    return hasattr(evalbox, "Template")


def interpreter() -> str:
    """One that every user may execute, as sandboxed programs have a uid of their own."""
    found = SYSTEM_PYTHON if SYSTEM_PYTHON.exists() else Path(sys.executable)
    return os.path.realpath(found)


def preloads(python: str) -> list[Modules]:
    """Nothing much, and something that takes long to import."""
    heavy = ("numpy",) if _imports(python, "numpy") else ("collections", "json", "re")
    return [("json",), heavy]


def _imports(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


class Warm:
    """One template, as a user would hold it."""

    most_at_once = AT_ONCE
    share = 1.0

    def __init__(self, executor: evalbox.Executor, tier: Tier, template: Any) -> None:
        self.name = f"evalbox warm, {tier}"
        self.executor = executor
        self.template = template

    def latencies(self, command: Command, runs: int) -> list[float]:
        code = command[0]
        return [timed(lambda: expect_ok(self.template.run(code, timeout=20))) for _ in range(runs)]

    def throughput(self, command: Command, runs: int, at_once: int) -> float:
        def plan() -> evalbox.Plan:
            made: evalbox.Plan = self.template.plan(command[0])
            return made

        return runs / timed(lambda: run_all(self.executor, plan, runs, at_once))


class Cold:
    """An interpreter that is started for the code and imports the same before it."""

    most_at_once = AT_ONCE
    # An import takes long, and its ratio needs no fine resolution.
    share = 0.3

    def __init__(self, starter: Contestant, python: str, modules: Modules) -> None:
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


def _template(executor: evalbox.Executor, tier: Tier, python: str, modules: Modules) -> Warm:
    # Not by its name: there are versions without it.
    make: Any = vars(evalbox)["Template"]
    policy = evalbox.Policy(isolation=tier)
    return Warm(executor, tier, make(preload=list(modules), policy=policy, python=python))


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
    results: Results, rounds: Rounds, how: Settings, python: str, modules: Modules
) -> None:
    program = Program(f"pass, {'+'.join(modules)} loaded", (CODE,), RUNS, AT_ONCE_WARM)
    eight = Settings(how.rounds, (AT_ONCE_WARM,), how.scale, ())
    fork = Driven("bare fork", [python, FORKER, *modules], AT_ONCE)
    with evalbox.Executor() as executor:
        warm = [_parked(results, rounds, executor, tier, python, modules) for tier in tiers()]
        starters: list[Contestant] = [Subprocess(), Evalbox(executor, "process")]
        cold = [Cold(starter, python, modules) for starter in starters]
        field: list[Contestant] = [fork, *warm, *cold]
        results.parts["warm"] |= rounds.latency(field, [program], how)
        results.parts["warm_throughput"] |= rounds.throughput(field, [program], eight)


def _parked(
    results: Results,
    rounds: Rounds,
    executor: evalbox.Executor,
    tier: Tier,
    python: str,
    modules: Modules,
) -> Warm:
    """A template that has run once, and what its interpreter keeps to itself."""
    before = set(descendants(os.getpid()))
    one = _template(executor, tier, python, modules)
    if why := getattr(one.template, "why_cold", ""):
        rounds.note(f"no run is warm here: {why}")
    one.latencies((CODE,), 2)
    label = f"{'+'.join(modules)}, {tier}"
    for pid in parked(python, before):
        if (kib := private_kib(pid)) is not None:
            results.memory[label] = kib
    if label not in results.memory:
        rounds.note(f"the memory of a parked interpreter ({label}) cannot be read")
    return one
