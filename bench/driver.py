"""Starts programs with a sandbox that is a Python library; run by the interpreter that has it.

    driver.py sandlock|dmoj

Reads one JSON object a line, {"command": [...], "runs": N, "at_once": N}, and answers
each with {"all": seconds, "each": [seconds, ...]} or {"error": "..."}.  It stands
beside evalbox's own process because these libraries are installed where the
project's environment does not see them.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SYSTEM = ["/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev"]

Run = Callable[[], None]
Maker = Callable[[list[str]], Run]


def readable(command: list[str]) -> list[str]:
    """What the command needs: the system, and the directory that its program is in."""
    present = [path for path in SYSTEM if Path(path).exists()]
    return [*present, str(Path(command[0]).parent)]


def sandlock(command: list[str]) -> Run:
    library: Any = importlib.import_module("sandlock")

    def run() -> None:
        # One sandbox holds one program at a time, so each run makes its own.
        sandbox = library.Sandbox(
            fs_readable=readable(command), max_processes=64, max_memory="1G", max_open_files=256
        )
        result = sandbox.run(command, timeout=60)
        if not result.success:
            raise RuntimeError(f"sandlock: {result}")

    return run


def dmoj(command: list[str]) -> Run:
    box: Any = importlib.import_module("dmoj.cptbox")
    judge: Any = importlib.import_module("dmoj.executors.base_executor")
    rules: Any = importlib.import_module("dmoj.cptbox.filesystem_policies")
    folder = rules.RecursiveDir(str(Path(command[0]).parent))
    arguments = [os.fsencode(word) for word in command]
    # As the judge's own executors do for each test case; only they know more languages.
    rights = box.IsolateTracer(
        read_fs=[*judge.BASE_FILESYSTEM, folder], write_fs=judge.BASE_WRITE_FILESYSTEM
    )

    def run() -> None:
        program = box.TracedPopen(
            arguments,
            executable=arguments[0],
            security=rights,
            time=60,
            memory=1 << 20,
            stderr=-1,
            env={"PATH": "/usr/bin:/bin"},
            cwd=b"/",
            nproc=64,
        )
        program.communicate()
        # When its watchdog thread sleeps, it does so for whole seconds: nobody waits for it.
        if program.returncode != 0:
            raise RuntimeError(f"dmoj: exit code {program.returncode}, {program.protection_fault}")

    return run


MAKERS: dict[str, Maker] = {"sandlock": sandlock, "dmoj": dmoj}


def timed(run: Run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def answer(maker: Maker, order: dict[str, Any]) -> dict[str, Any]:
    run = maker(order["command"])
    begin = time.perf_counter()
    if order["at_once"] == 1:
        each = [timed(run) for _ in range(order["runs"])]
    else:
        with ThreadPoolExecutor(order["at_once"]) as pool:
            each = list(pool.map(lambda _: timed(run), range(order["runs"])))
    return {"all": time.perf_counter() - begin, "each": each}


def main() -> None:
    maker = MAKERS[sys.argv[1]]
    # What a library prints must not come between the answers.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = answer(maker, json.loads(line))
        except Exception as error:  # noqa: BLE001 (whatever a library raises is told)
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
