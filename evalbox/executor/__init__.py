"""Runs plans: one and wait, or many at once from one event loop.

    evalbox.run(["true"])            one, on a shared executor
    with Executor() as executor:     many
        id = executor.spawn(plan)
        for event in executor.poll(): ...

No thread, no fork: a few C processes supervise the runs, and one epoll
descriptor says when there is something to do.
"""

from __future__ import annotations

import atexit
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self, Unpack, overload

from evalbox._values import Argument, optional, positive, shown
from evalbox.errors import PlanError, UnsupportedError
from evalbox.events import Event, SandboxId
from evalbox.flat import PlanFields, plan_from_fields
from evalbox.output import Output
from evalbox.plan import Plan

if TYPE_CHECKING:
    from evalbox.executor.loop import Loop

__all__ = ["Executor", "run"]


# Closed at the end of the interpreter, when nobody else has.
_open: weakref.WeakSet[Executor] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for executor in list(_open):
        executor.close()


class _Run:
    """`Executor.run`: on the class with the shared executor, on an instance with that."""

    @overload
    def __get__(self, instance: None, owner: type[Executor]) -> Callable[[Plan], Output]: ...

    @overload
    def __get__(self, instance: Executor, owner: type[Executor]) -> Callable[[Plan], Output]: ...

    def __get__(self, instance: Executor | None, owner: type[Executor]) -> Callable[[Plan], Output]:
        if instance is None:
            return run_on_shared
        return instance._run


class Executor:
    """Drives any number of sandboxed runs from one thread.

    Use it as a context manager: leaving it kills what still runs and leaves no
    process, descriptor or directory behind. The end of the interpreter and a
    SIGKILL of this process have the same effect. It serves the process that made
    it until it is closed: after that, and in a forked child, its methods raise
    ValueError.

    Any number of runs can be spawned; those that may not start yet wait in the
    order of their spawn, and their clocks do not run: a run's time begins with its
    own execve. A run starts when all of this holds:

    - it is the first of those that wait;
    - fewer than `max_running` are alive (None: however many). Held runs are alive;
    - not too many others are starting just now;
    - there are descriptors for it below the soft RLIMIT_NOFILE of this process;
    - the host's memory, and that of the cgroups of this process, can hold its
      `limits.memory`, besides what has been promised to those that have just
      started. A run that has had a processor for a quarter of a second counts with
      what it uses by then. While no other runs one always starts.

    For programs that compute, `max_running=len(os.sched_getaffinity(0))` keeps one
    run from being another's reason to time out; for certainty about memory,
    `max_running` times `limits.memory` has to fit.

    Raises:
        PlanError: `max_running` is not a whole number above 0.
        UnsupportedError: this is not Linux, or the compiled part does not load.
        SetupError: there is no descriptor left for it.
    """

    run = _Run()

    def __init__(self, *, max_running: int | None = None) -> None:
        self._loop: Loop | None = None
        optional(positive)(max_running, "max_running")
        check_system()
        # Here and not above, so that evalbox can be imported anywhere.
        from evalbox.executor.dispatch import as_setup_error
        from evalbox.executor.loop import Loop

        try:
            self._loop = Loop(max_running)
        except OSError as error:
            raise as_setup_error(error) from error
        self._pid = os.getpid()
        _open.add(self)

    def spawn(self, plan: Plan) -> SandboxId:
        """Starts a run and returns at once; its events come from `poll`.

        Raises:
            PlanError, UnsupportedError, CommandNotFound: as `run`.
        """
        return self._mine().spawn(_checked(plan))

    def poll(self, timeout: float | None = None) -> list[Event]:
        """The events that are there; waits for the first at most `timeout` seconds.

        [] at once when no run is active. None waits without a limit.

        Raises:
            PlanError: `timeout` is not a number; or it is None, every run that was
                started is held, and the others wait behind these.
            SetupError: a run could not start, or what it left not be collected; `id` says
                which, and no event of it follows. Those of other runs come with the next
                call.
        """
        return self._mine().poll(timeout)

    def write_stdin(self, id: SandboxId, data: bytes) -> None:  # noqa: A002  # its name in events
        """Queues input for a run with stdin=PIPE; never blocks.

        Raises:
            BrokenPipeError: the run has ended, or its stdin is closed.
            KeyError: there was no such run.
            PlanError: its plan has no stdin=PIPE, or `data` is not bytes.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise PlanError(f"write_stdin takes bytes (of a str: .encode()), not {shown(data)}")
        self._mine().write_stdin(id, bytes(data))

    def unwritten(self, id: SandboxId) -> int:  # noqa: A002
        """Bytes that `write_stdin` has queued and the program has not taken yet.

        While it is more than 0, `fileno()` becomes readable when the pipe takes
        more. KeyError: there was no such run.
        """
        return self._mine().unwritten(id)

    def close_stdin(self, id: SandboxId) -> None:  # noqa: A002
        """Closes the input behind what is queued. KeyError: there was no such run."""
        self._mine().close_stdin(id)

    def kill(self, id: SandboxId) -> None:  # noqa: A002
        """Ends a run with status KILLED, one that waits at once.

        KeyError: there was no such run.
        """
        self._mine().kill(id)

    def release(self, id: SandboxId) -> None:  # noqa: A002
        """Lets a held run start. KeyError: there was no such run."""
        self._mine().release(id)

    @property
    def active_count(self) -> int:
        """Runs whose Completed or TimedOut `poll` has not returned yet, waiting ones too."""
        return self._mine().unreturned

    def fileno(self) -> int:
        """A descriptor that is readable when `poll(0)` has something to do."""
        return self._mine().wire.fd

    def close(self) -> None:
        """Kills what runs and waits until nothing is left; a second call does nothing."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if self._pid == os.getpid():
            loop.close()
        else:
            # A forked child has copies of descriptors; the runs are its parent's.
            loop.forget()

    def __enter__(self) -> Self:
        self._mine()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_loop", None) is not None and self._pid == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def _mine(self) -> Loop:
        if self._loop is None:
            raise ValueError("this Executor is closed")
        if self._pid != os.getpid():
            raise ValueError("this Executor belongs to the process that made it; make one here")
        return self._loop

    def _run(self, plan: Plan) -> Output:
        """Runs a plan and waits; the events of other runs are kept for the next `poll`.

        Raises:
            PlanError: the plan asks for something impossible on this host.
            UnsupportedError: a required property cannot be enforced here.
            CommandNotFound: there is no such program.
            SetupError: the sandbox could not start.
        """
        return self._mine().run(_checked(plan))


def check_system() -> None:
    """Before the first import of what only Linux has.

    Raises:
        UnsupportedError: this is another system.
    """
    if sys.platform != "linux":
        raise UnsupportedError("anything", f"this is {sys.platform}", "Linux 5.13 or newer")


def _checked(plan: object) -> Plan:
    if not isinstance(plan, Plan):
        raise PlanError(f"a Plan is needed, not {type(plan).__name__}; write Plan([...])")
    return plan


def run_on_shared(plan: Plan) -> Output:
    """Runs a plan on an executor that is kept for this; any number of threads may call it.

    Raises:
        EvalboxError: as `run` of an instance.
    """
    check_system()
    from evalbox.executor import shared

    return shared.run(_checked(plan))


def run(cmd: Sequence[Argument], *, check: bool = False, **fields: Unpack[PlanFields]) -> Output:
    """Runs a program in a sandbox and waits for its end.

    `fields` are those of Plan, Policy and Limits side by side; `timeout` is
    another name for `wall_time`, in seconds. Any number of threads may call it.

    Raises:
        PlanError: something impossible is asked for; no process existed.
        UnsupportedError: this host cannot enforce what the policy requires.
        CommandNotFound: there is no such program where the plan's PATH looks.
        SetupError: the sandbox could not start.
        ProgramFailed: only with `check`, when the program did not exit with 0.
    """
    output = run_on_shared(plan_from_fields(cmd, **fields))
    return output.check() if check else output
