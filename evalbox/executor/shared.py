"""The executors behind `evalbox.run`: a thread borrows one for each run.

So any number of threads run at once, a thread that ends leaves nothing, and as
many stay as were busy at once, at most MOST_IDLE.
"""

from __future__ import annotations

import os
import threading

from evalbox.errors import EvalboxError
from evalbox.executor import Executor
from evalbox.output import Output
from evalbox.plan import Plan

MOST_IDLE = 8
_idle: list[Executor] = []
_lock = threading.Lock()


def run(plan: Plan) -> Output:
    executor = _borrow()
    try:
        output = executor.run(plan)
    except EvalboxError:
        _give_back(executor)
        raise
    except BaseException:
        # Interrupted: what runs is killed before the caller goes on.
        executor.close()
        raise
    _give_back(executor)
    return output


def _borrow() -> Executor:
    with _lock:
        if _idle:
            return _idle.pop()
    return Executor()


def _give_back(executor: Executor) -> None:
    with _lock:
        if len(_idle) < MOST_IDLE:
            _idle.append(executor)
            return
    executor.close()


def _forget() -> None:
    """In a forked child: the parent's executors are not ours, and the lock may be held."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    while _idle:
        _idle.pop().close()


os.register_at_fork(after_in_child=_forget)
