"""The keywords of `evalbox.run`: a Plan, its Limits and its Policy side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

from evalbox._values import Argument, StrPath, unknown
from evalbox.errors import PlanError
from evalbox.limits import LIMIT_FIELDS, Limits
from evalbox.plan import Files, Pipe, Plan
from evalbox.policy import POLICY_FIELDS, Isolation, Network, OnDenied, Policy, Syscalls
from evalbox.warm import Warm


class PlanFields(TypedDict, total=False):
    """The keywords of `evalbox.run`: those of Plan, Limits and Policy, and `timeout`."""

    executable: Argument | None
    stdin: bytes | Literal[Pipe.PIPE]
    env: Mapping[str, str]
    cwd: StrPath
    files: Files
    collect: Iterable[StrPath]
    limits: Limits
    policy: Policy
    stream: bool
    hold: bool
    warm: Warm | None
    # Policy
    read: Iterable[StrPath]
    write: Iterable[StrPath]
    network: Network
    syscalls: Syscalls
    isolation: Isolation
    require: Iterable[str]
    on_denied: OnDenied
    system: bool
    # Limits
    timeout: float | None
    wall_time: float | None
    cpu_time: float | None
    memory: int | None
    processes: int | None
    open_files: int | None
    file_size: int | None
    output: int | None
    disk: int | None
    stack: int | None


def plan_from_fields(cmd: Sequence[Argument], **fields: Unpack[PlanFields]) -> Plan:
    """A Plan from flat keywords; `timeout` is another name for `wall_time`.

    A field of Policy together with `policy=`, or of Limits together with
    `limits=`, is a PlanError: which of the two should win is not for us to guess.
    """
    given: dict[str, Any] = dict(fields)
    for name in given:
        if name not in PlanFields.__optional_keys__:
            raise unknown("field", name, PlanFields.__optional_keys__)
    if "timeout" in given:
        if "wall_time" in given:
            raise PlanError("timeout= and wall_time= are the same limit: give one of them")
        given = {("wall_time" if name == "timeout" else name): given[name] for name in given}
    _fold(given, "policy", POLICY_FIELDS, Policy)
    _fold(given, "limits", LIMIT_FIELDS, Limits)
    return Plan(cmd, **given)


def _fold(given: dict[str, Any], whole: str, parts: Iterable[str], make: type) -> None:
    """Moves the flat fields of one value into that value."""
    flat = {name: given.pop(name) for name in parts if name in given}
    if flat and whole in given:
        raise PlanError(
            f"{whole}= and {', '.join(flat)}= together: put all of it into the {make.__name__}"
        )
    if flat:
        given[whole] = make(**flat)
