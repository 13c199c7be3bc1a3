"""What `Executor.poll` returns.

Per spawned run: Started at most once, any number of Stdout and Stderr (only for
a plan with stream=True), then exactly one of Completed and TimedOut.

    match event:
        case Stdout(id, data): ...
        case Completed(id, output) | TimedOut(id, output): ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from evalbox.output import Output

SandboxId = NewType("SandboxId", int)


@dataclass(frozen=True, slots=True)
class Started:
    """execve succeeded: the program runs."""

    id: SandboxId


@dataclass(frozen=True, slots=True)
class Stdout:
    """The program wrote to its stdout."""

    id: SandboxId
    data: bytes


@dataclass(frozen=True, slots=True)
class Stderr:
    """The program wrote to its stderr."""

    id: SandboxId
    data: bytes


@dataclass(frozen=True, slots=True)
class Completed:
    """The run is over, for any reason but its wall time."""

    id: SandboxId
    output: Output


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The run was ended at limits.wall_time."""

    id: SandboxId
    output: Output


Event = Started | Stdout | Stderr | Completed | TimedOut
