"""The door to C: structures, errno made into exceptions, descriptors with an owner.

Nothing else imports evalbox._core. What comes back from here is plain Python;
what fails is an OSError of the kind that the errno stands for.

`Wire` is what an event loop uses: buffers that are reused from call to call, so
that a run costs no allocation here. It belongs to one thread.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from evalbox.compile.seccomp import FilterSpec
from evalbox.errors import UnsupportedError

try:
    from evalbox._core import ffi, lib
    from evalbox._native.tree import NamespaceConfig
except ImportError as missing:
    raise UnsupportedError(
        "anything", f"the compiled part does not load ({missing})", "build it on Linux: make build"
    ) from missing

UNLIMITED: Final = 2**64 - 1
KEEP_ID: Final = 2**32 - 1
MOST_FDS: Final = lib.EB_PACKET_FDS
MESSAGE_MAX: Final = lib.EB_MESSAGE_MAX
CGROUP_MEMORY: Final[int] = lib.EB_CGROUP_MEMORY
CGROUP_PIDS: Final[int] = lib.EB_CGROUP_PIDS
CGROUP_CPU: Final[int] = lib.EB_CGROUP_CPU
CGROUP_UNIFIED: Final[int] = lib.EB_CGROUP_UNIFIED
CGROUP_HOME: Final[int] = lib.EB_CGROUP_HOME
_BATCH: Final = 256


class Cause(enum.IntEnum):
    """enum eb_cause: why init ended a run."""

    EXIT = lib.EB_CAUSE_EXIT
    WALL_TIME = lib.EB_CAUSE_WALL_TIME
    CPU_TIME = lib.EB_CAUSE_CPU_TIME
    MEMORY = lib.EB_CAUSE_MEMORY
    OUTPUT = lib.EB_CAUSE_OUTPUT
    DISK = lib.EB_CAUSE_DISK
    DENIED = lib.EB_CAUSE_DENIED
    KILLED = lib.EB_CAUSE_KILLED
    SETUP = lib.EB_CAUSE_SETUP


class ReportType(enum.IntEnum):
    """enum eb_report_type."""

    STARTED = lib.EB_REPORT_STARTED
    STDOUT = lib.EB_REPORT_STDOUT
    STDERR = lib.EB_REPORT_STDERR
    ENDED = lib.EB_REPORT_ENDED
    READY = lib.EB_REPORT_READY


class Control(enum.IntEnum):
    """enum eb_control_type."""

    SPAWN = lib.EB_CONTROL_SPAWN
    KILL = lib.EB_CONTROL_KILL
    GONE = lib.EB_CONTROL_GONE
    READY = lib.EB_CONTROL_READY
    FAILED = lib.EB_CONTROL_FAILED
    CGROUP = lib.EB_CONTROL_CGROUP


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


# ---- policy --------------------------------------------------------------------


def filter_spec(spec: FilterSpec) -> tuple[Any, list[Any]]:
    """struct eb_filter_spec, and what has to live as long as it."""
    rules: list[tuple[int, ...]] = []
    clauses: list[tuple[int, ...]] = []
    tests: list[tuple[int, ...]] = []
    for nr, (action, rule_clauses) in spec.rules:
        rules.append((nr, action, len(clauses), len(rule_clauses)))
        for clause_action, clause_tests in rule_clauses:
            clauses.append((clause_action, len(tests), len(clause_tests)))
            tests += [(test.arg, test.negate, test.mask, test.value) for test in clause_tests]
    arrays = [
        ffi.new("struct eb_rule[]", rules),
        ffi.new("struct eb_clause[]", clauses),
        ffi.new("struct eb_test[]", tests),
    ]
    head = (
        spec.arch,
        spec.foreign_action,
        spec.default_action,
        spec.unknown_action,
        spec.last_nr,
    )
    sized = (item for array in arrays for item in (array, len(array)))
    return ffi.new("struct eb_filter_spec *", (*head, *sized)), arrays


def filter_program(spec: FilterSpec) -> bytes:
    """The BPF program of a filter, an array of struct sock_filter.

    Raises:
        OSError: E2BIG when it is longer than the kernel takes, 4096 instructions.
    """
    c_spec, _alive = filter_spec(spec)
    program = ffi.new("struct eb_insn[]", lib.EB_FILTER_MAX)
    length = _checked(lib.eb_filter_compile(c_spec, program, lib.EB_FILTER_MAX))
    return bytes(ffi.buffer(program)[: length * ffi.sizeof("struct eb_insn")])


def ruleset(
    entries: Sequence[tuple[int, int]], handled_fs: int, handled_net: int, scoped: int
) -> int:
    """A Landlock ruleset descriptor of O_PATH descriptors and their rights."""
    rules = ffi.new("struct eb_path_rule[]", list(entries))
    spec = ffi.new(
        "struct eb_ruleset_spec *",
        {
            "handled_fs": handled_fs & UNLIMITED,
            "handled_net": handled_net,
            "scoped": scoped,
            "rules": rules,
            "n_rules": len(rules),
        },
    )
    return _checked(lib.eb_ruleset_create(spec))


@cache
def stage_name(stage: int) -> str:
    """What SetupError calls it; kept, because each report of an end asks."""
    name = lib.eb_stage_name(stage)
    return f"stage {stage}" if name == ffi.NULL else ffi.string(name).decode("ascii")


# ---- directories ---------------------------------------------------------------


def tree_clear(dirfd: int) -> None:
    """Removes all below a directory, never through a link."""
    _checked(lib.eb_tree_clear(dirfd))


def tree_remove(parent: int, name: str) -> None:
    """Removes a directory and all below it, never through a link."""
    _checked(lib.eb_tree_remove(parent, os.fsencode(name)))


# ---- the launcher --------------------------------------------------------------


def start_launcher(path: str, fds: Sequence[int]) -> int:
    """Starts the launcher with fds[i] as its descriptor 3 + i; returns its pid."""
    return _checked(lib.eb_launcher_start(os.fsencode(path), list(fds), len(fds)))


def config(
    root_name: str,
    launcher_filter: bytes,
    child_filter: bytes,
    listen: bool,
    namespaces: NamespaceConfig | None = None,
) -> bytes:
    """The first message to a launcher."""
    insn = ffi.sizeof("struct eb_insn")
    message = ffi.new("struct eb_config *")
    message.version = lib.EB_PROTOCOL_VERSION
    message.flags = lib.EB_CONFIG_LISTEN if listen else 0
    if namespaces is not None:
        message.flags |= namespaces.flags
        message.host_name = os.fsencode(namespaces.host_name)
        message.uid_map = namespaces.uid_map.encode("ascii")
        message.gid_map = namespaces.gid_map.encode("ascii")
    message.launcher_filter = len(launcher_filter) // insn
    message.child_filter = len(child_filter) // insn
    message.root_name = os.fsencode(root_name)
    return bytes(ffi.buffer(message))


def control(kind: Control, slot: int, uid: int = KEEP_ID, name: str = "", cgroup: int = 0) -> bytes:
    """An order to a launcher."""
    message = ffi.new("struct eb_control *")
    message.type = kind
    message.slot = slot
    message.uid = uid
    message.name = os.fsencode(name)
    message.cgroup = cgroup
    return bytes(ffi.buffer(message))


class ControlReport(NamedTuple):
    """What a launcher said."""

    type: Control
    slot: int
    stage: int
    error: int


def sealed_memfd(*parts: bytes) -> int:
    """A memfd with these bytes that nobody can change any more."""
    fd = os.memfd_create("evalbox", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in parts:
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(fd, rest) :]
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


# ---- jobs and reports ------------------------------------------------------------


class Job(NamedTuple):
    """What struct eb_job holds; limits in bytes and ns, UNLIMITED for none."""

    run_id: int
    ruleset_id: int
    uid: int
    stream: bool
    hold: bool
    keep: bool
    strings: bytes
    argc: int
    envc: int
    stdin: bytes
    limits: tuple[int, ...]


class JobFds(NamedTuple):
    """The descriptors that go with a job; each -1 when absent."""

    ruleset: int = -1
    stdin: int = -1
    gate: int = -1


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
        self._job = ffi.new("struct eb_job *")
        self.fd = _checked(lib.eb_poll_create())

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    # -- epoll

    def add(self, fd: int, events: int, token: int) -> None:
        _checked(lib.eb_poll_add(self.fd, fd, events, token))

    def remove(self, fd: int) -> None:
        _checked(lib.eb_poll_remove(self.fd, fd))

    def wait(self, timeout_ms: int) -> list[int]:
        """Tokens of what is ready, at most 256; none when a signal came. -1: no limit."""
        count = _checked(lib.eb_poll_wait(self.fd, self._tokens, _BATCH, timeout_ms))
        return list(ffi.unpack(self._tokens, count))

    # -- messages; all of them raise BlockingIOError instead of waiting

    def send(self, sock: int, message: bytes, fds: Sequence[int] = ()) -> None:
        _checked(lib.eb_send(sock, message, len(message), ffi.NULL, 0, list(fds), len(fds)))

    def send_job(self, sock: int, job: Job, fds: JobFds) -> None:
        head = self._job
        head.type = lib.EB_ORDER_RUN
        head.flags = (
            (lib.EB_JOB_STREAM if job.stream else 0)
            | (lib.EB_JOB_HOLD if job.hold else 0)
            | (lib.EB_JOB_KEEP if job.keep else 0)
        )
        head.run_id, head.ruleset_id, head.uid = job.run_id, job.ruleset_id, job.uid
        head.argc, head.envc = job.argc, job.envc
        head.strings, head.stdin_size = len(job.strings), len(job.stdin)
        head.limits = job.limits
        sent = [fd for fd in fds if fd >= 0]
        head.fds = sum(1 << bit for bit, fd in enumerate(fds) if fd >= 0)
        size = ffi.sizeof("struct eb_job")
        if size + len(job.strings) + len(job.stdin) <= MESSAGE_MAX:
            body = job.strings + job.stdin if job.stdin else job.strings
            _checked(lib.eb_send(sock, head, size, body, len(body), sent, len(sent)))
            return
        payload = sealed_memfd(job.strings, job.stdin)
        try:
            head.fds |= lib.EB_JOB_FD_PAYLOAD
            sent.append(payload)
            _checked(lib.eb_send(sock, head, size, ffi.NULL, 0, sent, len(sent)))
        finally:
            os.close(payload)

    def send_kill(self, sock: int, run_id: int) -> None:
        head = self._job
        head.type, head.run_id, head.fds = lib.EB_ORDER_KILL, run_id, 0
        _checked(lib.eb_send(sock, head, ffi.sizeof("struct eb_job"), ffi.NULL, 0, [], 0))

    def _receive(self, sock: int) -> int:
        """Size of the message that is now in the buffer; 0 at end of file."""
        size = lib.eb_receive(sock, self._buffer, MESSAGE_MAX, self._fds, self._n_fds)
        if size == -errno.ECONNRESET:
            return 0
        return _checked(size)

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
        head = ffi.sizeof("struct eb_report")
        size = self._receive(sock)
        if size < head:
            return None
        said = self._report
        flags = said.flags
        if flags & lib.EB_REPORT_IN_FDS:
            out, err = map(_read_whole, self._take_fds())
        elif said.type == ReportType.STDERR:
            out, err = b"", self._view[head:size]
        else:
            middle = size if said.type == ReportType.STDOUT else head + said.stdout_size
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


def write(fd: int, data: bytes | memoryview) -> int:
    """os.write that raises BrokenPipeError and never makes a SIGPIPE."""
    return _checked(lib.eb_write(fd, ffi.from_buffer(data), len(data)))


def timer() -> int:
    """A timerfd that is not set."""
    return _checked(lib.eb_timer_create())


def set_timer(fd: int, at: float | None) -> None:
    """Makes it readable from `at` on, seconds of time.monotonic(); None: never."""
    _checked(lib.eb_timer_set(fd, 0 if at is None else max(1, round(at * 1e9))))
