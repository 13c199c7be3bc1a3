"""Why a sample passed or failed, in one list."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from evalbox.grade.inside import wire


class Cause(enum.StrEnum):
    """What ended the grading of a sample.

    The judge names those up to SETUP_ERROR, the sandbox those behind it.
    """

    PASSED = wire.PASSED
    WRONG_ANSWER = wire.WRONG_ANSWER
    """The test raised because of what the sample returned."""
    RUNTIME_ERROR = wire.RUNTIME_ERROR
    """The sample raised."""
    COMPILE_ERROR = wire.COMPILE_ERROR
    EARLY_EXIT = wire.EARLY_EXIT
    """It exited, in whatever way, before the test had ended."""
    FORKED = wire.FORKED
    """It made a copy of its interpreter, so that two would go on."""
    PROTOCOL = wire.PROTOCOL
    """It broke what it shares with the judge, or the judge itself."""
    SETUP_ERROR = wire.SETUP_ERROR
    """The problem cannot be graded: its test does not load. Not the sample's fault."""
    SIGNALED = wire.SIGNALED
    MEMORY_LIMIT = wire.MEMORY_LIMIT
    WALL_TIME = "wall_time"
    CPU_TIME = "cpu_time"
    OUTPUT_LIMIT = "output_limit"
    DISK_LIMIT = "disk_limit"
    DENIED = "denied"
    """It was killed for a system call that the policy denies."""
    KILLED = "killed"

    @property
    def word(self) -> str:
        """The contest word: AC, WA, RE, CE, TLE, MLE, OLE or IE."""
        return _WORDS.get(self, "RE")


_WORDS: Final = {
    Cause.PASSED: "AC",
    Cause.WRONG_ANSWER: "WA",
    Cause.COMPILE_ERROR: "CE",
    Cause.WALL_TIME: "TLE",
    Cause.CPU_TIME: "TLE",
    Cause.MEMORY_LIMIT: "MLE",
    Cause.OUTPUT_LIMIT: "OLE",
    Cause.SETUP_ERROR: "IE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """One sample with its verdict.

    Attributes:
        task_id: the task.
        number: which attempt at that task it is, counted from 0.
        cause: what ended the grading.
        detail: one line, without control characters; empty when it passed.
        wall_time: seconds, the start of the interpreter included.
        cpu_time: seconds of processor time, of all its processes.
        peak_memory: bytes, as `Usage.peak_memory` counts them.
        label: what the sample is called beside its task; mostly empty.
    """

    task_id: str
    number: int
    cause: Cause
    detail: str
    wall_time: float
    cpu_time: float
    peak_memory: int
    label: str = ""

    @property
    def passed(self) -> bool:
        return self.cause is Cause.PASSED

    def to_dict(self) -> dict[str, object]:
        """The sample as JSON-safe values."""
        return {
            "task_id": self.task_id,
            "completion_id": self.number,
            "passed": self.passed,
            "verdict": self.cause.word,
            "cause": self.cause.value,
            "detail": self.detail,
            "wall_time": self.wall_time,
            "cpu_time": self.cpu_time,
            "peak_memory": self.peak_memory,
            **({"label": self.label} if self.label else {}),
        }
