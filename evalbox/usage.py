"""What a run used, and what was kept from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evalbox._values import JsonObject, json_fields, needed, optional, seconds, share, store, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the run used; the whole tree, orphans included.

    Attributes:
        wall_time: seconds from execve to the end.
        user_time: seconds in user mode.
        system_time: seconds in the kernel.
        cpu_time: seconds of both together.
        peak_memory: bytes; of the tree where the kernel counts it, else of the
            largest process. `Output.enforcement["memory"]` says which.
        processes: the most that were alive at once; None where not counted.
        steal_share: of the time for which processors were wanted on this machine
            during the run, the share that its hypervisor gave to others, 0 to 1;
            None for a run of less than about 0.1 s.
        throttled_time: seconds for which a CPU quota kept threads of this process'
            cgroup, the runs among them, waiting; added up over the processors.
            None as above.
    """

    wall_time: float
    user_time: float
    system_time: float
    cpu_time: float
    peak_memory: int
    processes: int | None = None
    steal_share: float | None = None
    throttled_time: float | None = None

    def __post_init__(self) -> None:
        for name, check in _USAGE_CHECKS.items():
            store(self, **{name: check(getattr(self, name), f"usage.{name}")})

    def to_dict(self) -> dict[str, float | int | None]:
        return {name: getattr(self, name) for name in _USAGE_CHECKS}

    @classmethod
    def from_dict(cls, data: JsonObject) -> Usage:
        given = json_fields(data, "usage", _USAGE_CHECKS)
        needed(given, "usage", [name for name in _USAGE_CHECKS if name not in _NOT_ALWAYS])
        return cls(**given)


_USAGE_CHECKS: dict[str, Callable[[object, str], float | int | None]] = {
    "wall_time": seconds,
    "user_time": seconds,
    "system_time": seconds,
    "cpu_time": seconds,
    "peak_memory": whole,
    "processes": optional(whole),
    "steal_share": optional(share),
    "throttled_time": optional(seconds),
}
_NOT_ALWAYS = ("processes", "steal_share", "throttled_time")
