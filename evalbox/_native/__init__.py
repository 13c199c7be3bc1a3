"""The door to C: structures, errno made into exceptions, descriptors with an owner.

Nothing else imports evalbox._core. What comes back from here is plain Python;
what fails is an OSError of the kind that the errno stands for.

    wire.py    what an event loop uses: epoll with tokens, messages
    tree.py    the files of an init in namespaces, as a message
    basics.py  what these two and this file share
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from evalbox.compile.seccomp import FilterSpec
from evalbox.errors import UnsupportedError

try:
    from evalbox._core import ffi, lib
    from evalbox._native.basics import (
        MESSAGE_MAX,
        Cause,
        Control,
        ControlReport,
        ReportType,
        checked,
        sealed_memfd,
    )
    from evalbox._native.tree import NamespaceConfig
    from evalbox._native.wire import MOST_FDS, NO_FDS, Job, JobFds, Ready, Report, Runner, Wire
except ImportError as missing:
    raise UnsupportedError(
        "anything", f"the compiled part does not load ({missing})", "build it on Linux: make build"
    ) from missing

# Defined in the other files of this package.
__all__ = [
    "MESSAGE_MAX",
    "MOST_FDS",
    "NO_FDS",
    "Cause",
    "Control",
    "ControlReport",
    "Job",
    "JobFds",
    "Ready",
    "Report",
    "ReportType",
    "Runner",
    "Wire",
    "sealed_memfd",
]

UNLIMITED: Final = 2**64 - 1
KEEP_ID: Final = 2**32 - 1
JOB_STREAM: Final[int] = lib.EB_JOB_STREAM
JOB_HOLD: Final[int] = lib.EB_JOB_HOLD
JOB_KEEP: Final[int] = lib.EB_JOB_KEEP
CGROUP_MEMORY: Final[int] = lib.EB_CGROUP_MEMORY
CGROUP_PIDS: Final[int] = lib.EB_CGROUP_PIDS
CGROUP_CPU: Final[int] = lib.EB_CGROUP_CPU
CGROUP_UNIFIED: Final[int] = lib.EB_CGROUP_UNIFIED
CGROUP_HOME: Final[int] = lib.EB_CGROUP_HOME


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
    length = checked(lib.eb_filter_compile(c_spec, program, lib.EB_FILTER_MAX))
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
    return checked(lib.eb_ruleset_create(spec))


@cache
def stage_name(stage: int) -> str:
    """What SetupError calls it; kept, because each report of an end asks."""
    name = lib.eb_stage_name(stage)
    return f"stage {stage}" if name == ffi.NULL else ffi.string(name).decode("ascii")


# ---- directories ---------------------------------------------------------------


def tree_clear(dirfd: int) -> None:
    """Removes all below a directory, never through a link."""
    checked(lib.eb_tree_clear(dirfd))


def tree_remove(parent: int, name: str) -> None:
    """Removes a directory and all below it, never through a link."""
    checked(lib.eb_tree_remove(parent, os.fsencode(name)))


# ---- the launcher --------------------------------------------------------------


def start_launcher(path: str, fds: Sequence[int]) -> int:
    """Starts the launcher with fds[i] as its descriptor 3 + i; returns its pid."""
    return checked(lib.eb_launcher_start(os.fsencode(path), list(fds), len(fds)))


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


def write(fd: int, data: bytes | memoryview) -> int:
    """os.write that raises BrokenPipeError and never makes a SIGPIPE."""
    return checked(lib.eb_write(fd, ffi.from_buffer(data), len(data)))


def timer() -> int:
    """A timerfd that is not set."""
    return checked(lib.eb_timer_create())


def set_timer(fd: int, at: float | None) -> None:
    """Makes it readable from `at` on, seconds of time.monotonic(); None: never."""
    checked(lib.eb_timer_set(fd, 0 if at is None else max(1, round(at * 1e9))))
