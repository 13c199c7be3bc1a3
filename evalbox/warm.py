"""How a run can begin in an interpreter that has started already.

A `Warm` is part of a Plan and plain data. It changes how fast a run starts and never
what it means: where it cannot be had, the same plan starts the interpreter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evalbox._values import (
    FrozenMap,
    JsonObject,
    json_fields,
    mapping,
    several,
    shown,
    store,
    text,
    whole,
)
from evalbox.errors import PlanError

# The file of a plan that its interpreter runs.
SCRIPT = "main.py"
# An interpreter, its C library and what it loads read these when they start.
START_NAMES = ("LANG", "LANGUAGE")
START_PREFIXES = ("PYTHON", "LC_", "LD_", "MALLOC_", "GLIBC_", "OMP_", "OPENBLAS_", "MKL_")
# More would not fit into the message in which it is sent.
TEXT_LIMIT = 65536
REQUESTS = 1000


@dataclass(frozen=True, slots=True, init=False)
class Warm:
    """What an interpreter does before runs are forked from it.

    Attributes:
        preload: names of the modules that it imports, in this order.
        warmup: code that it runs once after that, in names of its own.
        env: variables that it starts with; they are the runs' too.
        requests: so many runs are forked from one before it is started anew.

    Raises:
        PlanError: a name is no name of a module, `requests` is less than 1, or both
            texts together are more than 64 KiB.
    """

    preload: tuple[str, ...]
    warmup: str
    env: Mapping[str, str]
    requests: int

    def __init__(
        self,
        preload: Iterable[str] = (),
        *,
        warmup: str = "",
        env: Mapping[str, str] | None = None,
        requests: int = REQUESTS,
    ) -> None:
        store(
            self,
            preload=tuple(_module(name) for name in several(preload, "preload")),
            warmup=text(warmup, "warmup"),
            env=FrozenMap({text(k, "env"): text(v, "env") for k, v in _pairs(env)}),
            requests=_requests(requests),
        )
        size = len(repr((self.preload, self.warmup)).encode("utf-8", "surrogatepass"))
        if size > TEXT_LIMIT:
            raise PlanError(f"preload and warmup take {size} bytes, and {TEXT_LIMIT} fit")

    def refuses(self, env: Mapping[str, str]) -> str:
        """A variable that a run cannot have otherwise than its interpreter; else ""."""
        return next(
            (
                name
                for name, value in env.items()
                if (name in START_NAMES or name.startswith(START_PREFIXES))
                and self.env.get(name) != value
            ),
            "",
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "preload": list(self.preload),
            "warmup": self.warmup,
            "env": dict(self.env),
            "requests": self.requests,
        }

    @classmethod
    def from_dict(cls, data: JsonObject) -> Warm:
        """The reverse of `to_dict`; what is absent has its default."""
        return cls(**json_fields(data, "warm", ("preload", "warmup", "env", "requests")))


def _module(value: object) -> str:
    name = text(value, "name in preload")
    if not all(part.isidentifier() for part in name.split(".")):
        raise PlanError(f"name in preload is no name of a module: {shown(name)}")
    return name


def _pairs(env: Mapping[str, str] | None) -> Iterable[tuple[str, str]]:
    return () if env is None else mapping(env, "env").items()


def _requests(value: object) -> int:
    count = whole(value, "requests")
    if count < 1:
        raise PlanError("requests must be 1 or more")
    return count
