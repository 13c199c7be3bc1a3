"""What an event loop uses: an epoll set with tokens, and messages to and from init and launcher.

Its buffers are reused from call to call, so that a run costs no allocation here.
A `Wire` belongs to one thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from evalbox._core import ffi, lib
from evalbox._native.basics import (
    MESSAGE_MAX,
    Control,
    ControlReport,
    ReportType,
    checked,
    sealed_memfd,
)

MOST_FDS: Final = lib.EB_PACKET_FDS
_BATCH: Final = 256
_JOB_SIZE: Final = ffi.sizeof("struct eb_job")
_REPORT_SIZE: Final = ffi.sizeof("struct eb_report")
# Members of an enum are looked up slowly.
_STDOUT: Final = int(ReportType.STDOUT)
_STDERR: Final = int(ReportType.STDERR)


# ---- jobs and reports ------------------------------------------------------------


class Job:
    """What struct eb_job holds for every run of a plan: made once, sent for each of them.

    `strings` are the program, its directory and its arguments, each with its NUL;
    limits are in bytes and ns, UNLIMITED for none; `requests`, of a template: how many runs
    before it is started anew.
    """

    __slots__ = ("head", "stdin", "strings")

    def __init__(
        self,
        *,
        ruleset_id: int,
        flags: int,
        argc: int,
        strings: bytes,
        stdin: bytes,
        limits: tuple[int, ...],
        requests: int = 0,
    ) -> None:
        self.head = ffi.new("struct eb_job *")
        self.head.type = lib.EB_ORDER_TEMPLATE if requests else lib.EB_ORDER_RUN
        self.head.requests = requests
        self.head.ruleset_id, self.head.flags, self.head.argc = ruleset_id, flags, argc
        self.head.stdin_size, self.head.limits = len(stdin), limits
        self.strings = strings
        self.stdin = stdin


class Runner(NamedTuple):
    """Who a job is for.

    Attributes:
        run_id: of the run.
        uid: that it gets, or KEEP_ID.
        envc: how many variables it has.
        env: these, each with its NUL.
    """

    run_id: int
    uid: int
    envc: int
    env: bytes


class JobFds(NamedTuple):
    """The descriptors that go with a job; each -1 when absent."""

    ruleset: int = -1
    stdin: int = -1
    gate: int = -1
    payload: int = -1
    library: int = -1


NO_FDS: Final = JobFds()


class Report(NamedTuple):
    """struct eb_report with its payload; times in ns."""

    type: int
    run_id: int
    cause: int
    execed: bool
    truncated: bool
    dirty: bool
    stage: int
    error: int
    wait_status: int
    denied_nr: int
    wall_time: int
    user_time: int
    system_time: int
    peak_memory: int
    processes: int
    stdout: bytes
    stderr: bytes


class Ready(NamedTuple):
    """Whether an init has its files.

    Attributes:
        stage, error: where it failed; 0.
        item: which mount that was, -1 for none.
        workspace: descriptor of the directory with its places.
    """

    stage: int
    error: int
    item: int
    workspace: int


class Wire:
    """One epoll set with tokens, and messages to and from init and launcher."""

    def __init__(self) -> None:
        self._tokens = ffi.new("uint64_t[]", _BATCH)
        self._buffer = ffi.new("unsigned char[]", MESSAGE_MAX)
        self._view = ffi.buffer(self._buffer)
        self._report = ffi.cast("struct eb_report *", self._buffer)
        self._control = ffi.cast("struct eb_control *", self._buffer)
        self._fds = ffi.new("int32_t[]", MOST_FDS)
        self._n_fds = ffi.new("int32_t *")
        self._kill = ffi.new("struct eb_job *", {"type": lib.EB_ORDER_KILL})
        self.fd = checked(lib.eb_poll_create())

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    # -- epoll

    def add(self, fd: int, events: int, token: int) -> None:
        checked(lib.eb_poll_add(self.fd, fd, events, token))

    def remove(self, fd: int) -> None:
        checked(lib.eb_poll_remove(self.fd, fd))

    def wait(self, timeout_ms: int) -> list[int]:
        """Tokens of what is ready, at most 256; none when a signal came. -1: no limit."""
        count = checked(lib.eb_poll_wait(self.fd, self._tokens, _BATCH, timeout_ms))
        tokens: list[int] = ffi.unpack(self._tokens, count)
        return tokens

    # -- messages; all of them raise BlockingIOError instead of waiting

    def send(self, sock: int, message: bytes, fds: Sequence[int] = ()) -> None:
        checked(lib.eb_send(sock, message, len(message), ffi.NULL, 0, list(fds), len(fds)))

    def send_job(self, sock: int, job: Job, runner: Runner, fds: JobFds) -> None:
        head = job.head
        head.run_id, head.uid, head.envc, env = runner
        strings = job.strings + env
        head.strings = len(strings)
        if _JOB_SIZE + len(strings) + len(job.stdin) <= MESSAGE_MAX:
            body = strings + job.stdin if job.stdin else strings
            self._send_head(sock, head, body, fds)
            return
        payload = sealed_memfd(strings, job.stdin)
        try:
            self._send_head(sock, head, b"", fds._replace(payload=payload))
        finally:
            os.close(payload)

    def _send_head(self, sock: int, head: Any, body: bytes, fds: JobFds) -> None:
        sent: Sequence[int] = ()
        head.fds = 0
        if fds is not NO_FDS:
            sent = [fd for fd in fds if fd >= 0]
            head.fds = sum(1 << bit for bit, fd in enumerate(fds) if fd >= 0)
        checked(lib.eb_send(sock, head, _JOB_SIZE, body, len(body), sent, len(sent)))

    def send_kill(self, sock: int, run_id: int) -> None:
        head = self._kill
        head.run_id = run_id
        checked(lib.eb_send(sock, head, _JOB_SIZE, ffi.NULL, 0, (), 0))

    def _receive(self, sock: int) -> int:
        """Size of the message that is now in the buffer; 0 at end of file."""
        size = lib.eb_receive(sock, self._buffer, MESSAGE_MAX, self._fds, self._n_fds)
        if size == -errno.ECONNRESET:
            return 0
        return checked(size)

    def _take_fds(self) -> list[int]:
        return [self._fds[i] for i in range(self._n_fds[0])]

    def receive_control(self, sock: int) -> ControlReport | None:
        """What a launcher said; None when it is gone."""
        if self._receive(sock) < ffi.sizeof("struct eb_control"):
            return None
        said = self._control
        return ControlReport(Control(said.type), said.slot, said.stage, said.error)

    def receive_ready(self, sock: int) -> Ready | None:
        """What an init in namespaces says first; None when it is gone."""
        if self._receive(sock) < ffi.sizeof("struct eb_report"):
            return None
        said = self._report
        fds = self._take_fds()
        return Ready(said.stage, said.error, said.denied_nr, fds[0] if fds else -1)

    def receive_report(self, sock: int) -> Report | None:
        """What an init said; None when it is gone."""
        head = _REPORT_SIZE
        size = self._receive(sock)
        if size < head:
            return None
        said = self._report
        flags = said.flags
        if flags & lib.EB_REPORT_IN_FDS:
            out, err = map(_read_whole, self._take_fds())
        elif said.type == _STDERR:
            out, err = b"", self._view[head:size]
        else:
            middle = size if said.type == _STDOUT else head + said.stdout_size
            out, err = self._view[head:middle], self._view[middle:size]
        return Report(
            said.type,
            said.run_id,
            said.cause,
            bool(flags & lib.EB_REPORT_EXECED),
            bool(flags & lib.EB_REPORT_TRUNCATED),
            bool(flags & lib.EB_REPORT_DIRTY),
            said.stage,
            said.error,
            said.wait_status,
            said.denied_nr,
            said.wall_time,
            said.user_time,
            said.system_time,
            said.peak_memory,
            said.processes,
            out,
            err,
        )


def _read_whole(fd: int) -> bytes:
    """All of a memfd, which is closed."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read()
