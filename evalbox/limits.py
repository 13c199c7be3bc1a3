"""How much a run may use.

Limits are held by the sandbox itself: they hold whether or not the host polls.
Seconds are floats, sizes are bytes. None means no limit, 0 means zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from evalbox._values import JsonObject, json_fields, optional, seconds, store, whole

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one run; a value that is negative or not finite is a PlanError.

    Attributes:
        wall_time: seconds from execve (of a held run: from its release) to the end.
        cpu_time: seconds of processor time of the whole tree, orphans included.
        memory: bytes held by the whole tree.
        processes: processes and threads alive at once.
        open_files: descriptors per process.
        file_size: bytes of a single file that is written.
        output: bytes of stdout and stderr together; exactly that many are kept.
        disk: bytes written to the workspace, HOME and TMPDIR together; it also
            caps what `collect` brings back.
        stack: bytes of the main thread's stack.
    """

    wall_time: float | None = 30.0
    cpu_time: float | None = None
    memory: int | None = 256 * MiB
    processes: int | None = 64
    open_files: int | None = 256
    file_size: int | None = 16 * MiB
    output: int | None = 16 * MiB
    disk: int | None = 64 * MiB
    stack: int | None = 8 * MiB

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            store(self, **{name: check(getattr(self, name), f"limits.{name}")})

    def to_dict(self) -> dict[str, float | int | None]:
        """The limits as JSON-safe values."""
        return {name: getattr(self, name) for name in _CHECKS}

    @classmethod
    def from_dict(cls, data: JsonObject) -> Limits:
        """The reverse of `to_dict`; what is absent has its default."""
        return cls(**json_fields(data, "limits", _CHECKS))


_seconds = optional(seconds)
_whole = optional(whole)
_CHECKS = {
    "wall_time": _seconds,
    "cpu_time": _seconds,
    "memory": _whole,
    "processes": _whole,
    "open_files": _whole,
    "file_size": _whole,
    "output": _whole,
    "disk": _whole,
    "stack": _whole,
}
LIMIT_FIELDS = tuple(_CHECKS)
