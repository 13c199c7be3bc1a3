"""What came of a run, as data.

Causes are recorded by the sandbox when they happen and the first one wins; no
status here is guessed from an exit code or a signal that the program chose.
"""

from __future__ import annotations

import enum
import signal as signals
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from evalbox._values import (
    FrozenMap,
    JsonObject,
    boolean,
    bytes_from_json,
    bytes_to_json,
    choice,
    instance,
    json_fields,
    mapping,
    needed,
    optional,
    shown,
    signal_name,
    size,
    store,
    text,
    whole,
)
from evalbox.errors import PlanError, ProgramFailed
from evalbox.limits import Limits
from evalbox.policy import PROPERTIES
from evalbox.usage import Usage

Level = Literal["enforced", "partial", "none"]
LEVELS = ("enforced", "partial", "none")


class Status(enum.StrEnum):
    """Why a run ended; the first cause wins."""

    EXITED = enum.auto()
    """It exited by itself; see `exit_code`."""
    SIGNALED = enum.auto()
    """It died of a signal that evalbox did not send; see `signal`."""
    WALL_TIME = enum.auto()
    CPU_TIME = enum.auto()
    MEMORY_LIMIT = enum.auto()
    OUTPUT_LIMIT = enum.auto()
    DISK_LIMIT = enum.auto()
    DENIED = enum.auto()
    """It was killed for a denied system call (on_denied="kill")."""
    KILLED = enum.auto()
    """It was ended by `Executor.kill`."""


@dataclass(frozen=True, slots=True)
class Enforcement:
    """How one property was held during a run.

    Attributes:
        level: "enforced", "partial" or "none".
        mechanism: what held it; "granted" where the policy itself allows it.
        reason: why it is not more; empty when it is enforced.
    """

    level: Level
    mechanism: str
    reason: str = ""

    def __post_init__(self) -> None:
        choice(self.level, "enforcement level", LEVELS)
        text(self.mechanism, "mechanism")
        text(self.reason, "reason")

    def to_dict(self) -> dict[str, str]:
        return {"level": self.level, "mechanism": self.mechanism, "reason": self.reason}

    @classmethod
    def from_dict(cls, data: JsonObject) -> Enforcement:
        given = json_fields(data, "enforcement", ("level", "mechanism", "reason"))
        needed(given, "enforcement", ("level", "mechanism"))
        return cls(**given)


_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, repr=False)
class Output:
    """What came of a run.

    Attributes:
        status: why it ended.
        exit_code: set exactly when it exited.
        signal: the number of the signal that ended it; None when it exited.
        stdout, stderr: the bytes that were kept, together at most limits.output.
        truncated: whether output was lost at that limit.
        usage: what it used.
        enforcement: for every property of `evalbox.ALL` how it was held.
        files: what `collect` brought back, path -> content.
        limits: those that applied.
        denied: the system call that it was killed for, when status is DENIED.
    """

    status: Status
    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool
    usage: Usage
    enforcement: Mapping[str, Enforcement]
    files: Mapping[str, bytes]
    limits: Limits = _DEFAULT_LIMITS
    denied: str | None = None

    def __post_init__(self) -> None:
        for name, wanted in _TYPES.items():
            instance(getattr(self, name), name, wanted)
        boolean(self.truncated, "truncated")
        optional(whole)(self.exit_code, "exit_code")
        optional(whole)(self.signal, "signal")
        optional(text)(self.denied, "denied")
        exited = self.status is Status.EXITED
        if exited != (self.exit_code is not None) or (exited and self.signal is not None):
            raise PlanError("exit_code belongs to EXITED, signal to every other status")
        if self.status is Status.SIGNALED and self.signal is None:
            raise PlanError("SIGNALED needs the signal")
        # A FrozenMap comes from here or from the table of properties.
        if type(self.enforcement) is not FrozenMap:
            store(self, enforcement=_checked_enforcement(self.enforcement))
        for path, content in self.files.items():
            instance(content, f"files[{shown(path)}]", bytes)
        store(self, files=FrozenMap(self.files))

    def __repr__(self) -> str:
        """Short: what was enforced fills a page, and is seldom asked for."""
        how = signal_name(self.signal) if self.signal else self.exit_code
        return (
            f"<Output {self.status.name} {how} stdout={shown(self.stdout)}"
            f" stderr={shown(self.stderr)} wall_time={self.usage.wall_time:.3g}>"
        )

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.exit_code == 0

    @property
    def returncode(self) -> int:
        """As in subprocess: the exit code, or the negative number of the signal."""
        if self.exit_code is not None:
            return self.exit_code
        return -(self.signal or signals.SIGKILL)

    @property
    def text(self) -> str:
        """stdout as UTF-8, with U+FFFD for what is not."""
        return self.stdout.decode("utf-8", "replace")

    def check(self) -> Self:
        """Itself when `ok`.

        Raises:
            ProgramFailed: in every other case, with the last lines of stderr.
        """
        if not self.ok:
            raise ProgramFailed(self)
        return self

    def explain(self) -> str:
        """Why it ended, in a sentence or two, and what to change."""
        return _EXPLAIN[self.status](self)

    def to_dict(self) -> dict[str, Any]:
        """The output as JSON-safe values; the form is that of `schema.output_schema()`."""
        return {
            "status": self.status.value,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "stdout": bytes_to_json(self.stdout),
            "stderr": bytes_to_json(self.stderr),
            "truncated": self.truncated,
            "usage": self.usage.to_dict(),
            "enforcement": {name: self.enforcement[name].to_dict() for name in PROPERTIES},
            "files": {path: bytes_to_json(data) for path, data in self.files.items()},
            "limits": self.limits.to_dict(),
            "denied": self.denied,
        }

    @classmethod
    def from_dict(cls, data: JsonObject) -> Output:
        """The reverse of `to_dict`."""
        given = json_fields(data, "output", OUTPUT_FIELDS)
        needed(given, "output", OUTPUT_FIELDS[:-2])
        for name, read in _FROM_JSON.items():
            if name in given:
                given[name] = read(given[name])
        return cls(**given)


def _checked_enforcement(value: Mapping[str, Enforcement]) -> FrozenMap[Enforcement]:
    if set(value) != set(PROPERTIES):
        raise PlanError(f"enforcement must name every property: {shown(value)}")
    for name, item in value.items():
        instance(item, f"enforcement[{name}]", Enforcement)
    return FrozenMap(value)


OUTPUT_FIELDS = tuple(field.name for field in fields(Output))
_TYPES: dict[str, type] = {
    "status": Status,
    "stdout": bytes,
    "stderr": bytes,
    "usage": Usage,
    "enforcement": Mapping,
    "files": Mapping,
    "limits": Limits,
}
_FROM_JSON: dict[str, Callable[[Any], object]] = {
    "status": lambda value: Status(choice(value, "status", [status.value for status in Status])),
    "stdout": lambda value: bytes_from_json(value, "stdout"),
    "stderr": lambda value: bytes_from_json(value, "stderr"),
    "usage": Usage.from_dict,
    "enforcement": lambda value: {
        name: Enforcement.from_dict(item) for name, item in mapping(value, "enforcement").items()
    },
    "files": lambda value: {
        path: bytes_from_json(item, "files") for path, item in mapping(value, "files").items()
    },
    "limits": Limits.from_dict,
}


# ---- explain -----------------------------------------------------------------


def _limit(count: int | None) -> str:
    return "none" if count is None else size(count)


def _seconds(limit: float | None) -> str:
    return "none" if limit is None else f"{limit:g} s"


def _exited(output: Output) -> str:
    if output.ok:
        return "It exited with 0."
    return f"It exited by itself with {output.exit_code}; its stderr may say why."


_SIGNAL_HINTS: dict[int, Callable[[Output], str]] = {
    signals.SIGSEGV: lambda out: (
        f"A crash, or a stack deeper than limits.stack ({_limit(out.limits.stack)})."
    ),
    signals.SIGABRT: lambda _: "It aborted itself: an assertion, or a failed allocation.",
    signals.SIGXFSZ: lambda out: (
        f"A file grew over limits.file_size ({_limit(out.limits.file_size)}); raise it."
    ),
    signals.SIGKILL: lambda _: (
        "It or a process of its tree sent it, or the kernel ran out of memory."
    ),
    signals.SIGSYS: lambda _: (
        "It sent that to itself, or it made a call of another architecture (int 0x80, x32),"
        " which no policy allows."
    ),
    signals.SIGPIPE: lambda _: "It wrote to a pipe that nobody reads.",
}


def _unknown_signal(_output: Output) -> str:
    return "evalbox did not send it; its stderr may say why."


def _signaled(output: Output) -> str:
    number = output.signal or 0
    hint = _SIGNAL_HINTS.get(number, _unknown_signal)
    return f"It died of {signal_name(number)}. {hint(output)}"


def _wall_time(output: Output) -> str:
    used = output.usage.cpu_time
    busy = used >= 0.5 * output.usage.wall_time
    what = (
        "It was computing: make it faster or raise the limit (timeout=, limits.wall_time)."
        if busy
        else "It was mostly waiting: look for input that never comes, a sleep or a deadlock,"
        " else raise the limit (timeout=, limits.wall_time)."
    )
    return (
        f"It was killed at the wall time limit of {_seconds(output.limits.wall_time)}"
        f" after {used:.3g} s of processor time. {what}{_interference(output)}"
    )


# Less is what a shared machine always has.
_MUCH_STOLEN = 0.1
_MUCH_THROTTLED = 0.1


def _interference(output: Output) -> str:
    """What else may have been the reason, when there was much of it; begins with a space."""
    usage = output.usage
    found = []
    if (usage.steal_share or 0.0) >= _MUCH_STOLEN:
        found.append(
            f"the hypervisor gave {usage.steal_share:.0%} of the wanted processor time to others"
        )
    if (usage.throttled_time or 0.0) >= _MUCH_THROTTLED * max(usage.wall_time, 0.1):
        found.append(f"a CPU quota kept this cgroup waiting for {usage.throttled_time:.3g} s")
    if not found:
        return ""
    return f" But meanwhile {' and '.join(found)}: on a quiet machine it may be in time."


def _cpu_time(output: Output) -> str:
    return (
        f"It was killed at the limit of {_seconds(output.limits.cpu_time)} of processor time,"
        " counted over all its processes. Make it faster or raise limits.cpu_time."
        f"{_interference(output)}"
    )


def _memory(output: Output) -> str:
    return (
        f"It was killed at the memory limit of {_limit(output.limits.memory)} (largest seen:"
        f" {size(output.usage.peak_memory)}). Make it use less or raise limits.memory."
    )


def _output(output: Output) -> str:
    return (
        f"It was killed when stdout and stderr together passed {_limit(output.limits.output)};"
        " what was printed until then is kept. Make it print less or raise limits.output."
    )


def _disk(output: Output) -> str:
    return (
        f"It was killed when its files passed {_limit(output.limits.disk)}, HOME and TMPDIR"
        " included. Make it write less or raise limits.disk."
    )


def _denied(output: Output) -> str:
    call = output.denied or "a system call"
    return (
        f"It was killed for {call}, which its policy denies. Allow it"
        f" (Syscalls().allow({output.denied or 'name'!r})) if it is harmless here, or let it fail"
        " instead (on_denied='errno')."
    )


def _killed(_output: Output) -> str:
    return "It was ended from outside with Executor.kill; nothing needs to be changed."


_EXPLAIN: dict[Status, Callable[[Output], str]] = {
    Status.EXITED: _exited,
    Status.SIGNALED: _signaled,
    Status.WALL_TIME: _wall_time,
    Status.CPU_TIME: _cpu_time,
    Status.MEMORY_LIMIT: _memory,
    Status.OUTPUT_LIMIT: _output,
    Status.DISK_LIMIT: _disk,
    Status.DENIED: _denied,
    Status.KILLED: _killed,
}
