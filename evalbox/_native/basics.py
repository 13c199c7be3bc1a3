"""What the other files of this package share: enums of C, errno made into exceptions."""

from __future__ import annotations

import enum
import fcntl
import os
from typing import Final, NamedTuple

from evalbox._core import lib

MESSAGE_MAX: Final[int] = lib.EB_MESSAGE_MAX


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


def checked(result: int) -> int:
    """What a function of csrc/evalbox.h returned, or the OSError of its -errno."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


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
