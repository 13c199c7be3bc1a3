"""What a warm start costs at least: fork, exit and wait, in an interpreter that has its modules.

    forker.py MODULE...

Reads one JSON object a line, {"runs": N, "at_once": N}, and answers each with
{"all": seconds, "each": [seconds, ...]}. Run by the interpreter that is also warm.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time


def forks(runs: int, at_once: int) -> dict[str, object]:
    each: list[float] = []
    alive: dict[int, float] = {}
    left = runs
    begin = time.perf_counter()
    while left or alive:
        while left and len(alive) < at_once:
            started = time.perf_counter()
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            alive[pid] = started
            left -= 1
        pid, _ = os.wait()
        each.append(time.perf_counter() - alive.pop(pid))
    return {"all": time.perf_counter() - begin, "each": each}


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(forks(order["runs"], order["at_once"])), flush=True)


if __name__ == "__main__":
    main()
