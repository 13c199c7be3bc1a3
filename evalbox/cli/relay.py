"""Between this program's stdin, stdout and stderr and those of a run.

Input is read only while the program takes it, so that a large file piped to a
program that does not read costs no memory; output is written as it comes. Who
closes our stdout (`| head`) ends the run.
"""

from __future__ import annotations

import os
import select
from typing import Final

from evalbox.cli.streams import STDERR, STDIN, STDOUT, write_all
from evalbox.errors import InternalError
from evalbox.events import Completed, Event, SandboxId, Stderr, Stdout, TimedOut
from evalbox.executor import Executor
from evalbox.output import Output
from evalbox.plan import Plan

_CHUNK: Final = 65536


class Relay:
    """One run of one executor, from its start to its end."""

    def __init__(self, executor: Executor, plan: Plan) -> None:
        self._executor = executor
        self._id: SandboxId = executor.spawn(plan)
        self._output: Output | None = None
        self._has_input = True

    def run(self) -> Output:
        """Passes on what comes until the run has ended.

        Raises:
            OutputClosedError: the run goes on, and is wanted no longer.
            OSError: so does it, and its output cannot be written.
        """
        while self._executor.active_count:
            self._wait()
            for event in self._executor.poll(0):
                self._take(event)
        if self._output is None:
            raise InternalError("the run ended without an end")
        return self._output

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._executor.fileno(), select.POLLIN)
        # While something is queued, the executor's descriptor says when it is taken.
        if self._has_input and not self._executor.unwritten(self._id):
            poller.register(STDIN, select.POLLIN)
        for fd, _ in poller.poll():
            if fd == STDIN:
                self._feed()

    def _feed(self) -> None:
        try:
            data = os.read(STDIN, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            try:
                self._executor.write_stdin(self._id, data)
            except BrokenPipeError:
                self._has_input = False
            return
        self._has_input = False
        self._executor.close_stdin(self._id)

    def _take(self, event: Event) -> None:
        match event:
            case Stdout(_, data):
                write_all(STDOUT, data)
            case Stderr(_, data):
                write_all(STDERR, data)
            case Completed(_, output) | TimedOut(_, output):
                self._output = output
