"""Whether runs can be forked from an interpreter, and the order that starts it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from evalbox._host import host
from evalbox._launch.slot import Slot, encode_env
from evalbox._native import KEEP_ID, UNLIMITED, Job, Runner, sealed_memfd
from evalbox.plan import Plan
from evalbox.policy import Policy
from evalbox.resolve import Program, resolve
from evalbox.warm import SCRIPT, Warm

# Loaded into the interpreter (csrc/interpreter.c) from memory, as its descriptor 4: so
# it need not be granted, and no run sees where it lies.
_LIBRARY = Path(__file__).parent.parent / "_interpreter.so"
_LOADED_FROM = "/proc/self/fd/4"
_INSIDE = Path(__file__).parent.parent / "template" / "inside.py"
_MARK = "EVALBOX_TEMPLATE"
# Imports take seconds on a slow disk.
_START_SECONDS = 60
_NS = 10**9


def why_cold(plan: Plan) -> str:
    """Why a plan with `warm` starts its interpreter; "" when it need not."""
    return reason_against(plan.policy, resolve(plan))


def reason_against(policy: Policy, program: Program) -> str:
    if reason := host().why_cold:
        return reason
    if policy.on_denied == "kill":
        return 'with on_denied="kill" each program needs a listener of its own'
    if program.in_workspace:
        return "the interpreter is a file of the plan"
    return ""


def start_job(
    warm: Warm, plan: Plan, program: Program, slot: Slot, ruleset_id: int
) -> tuple[Job, Runner]:
    """The order that starts the interpreter of a slot."""
    own = {"LD_PRELOAD": _LOADED_FROM, _MARK: "1"}
    env = {**slot.env, **warm.env, **own}
    items = (program.executable, ".", plan.cmd[0], SCRIPT)
    job = Job(
        ruleset_id=ruleset_id,
        flags=0,
        argc=2,
        strings=b"".join(os.fsencode(item) + b"\0" for item in items),
        stdin=_text(warm),
        limits=(_START_SECONDS * _NS, *(9 * (UNLIMITED,))),
        requests=warm.requests,
    )
    uid = KEEP_ID if slot.uid is None else slot.uid
    return job, Runner(0, uid, len(env), encode_env(env))


def library() -> int:
    """A descriptor of what is loaded into the interpreter, which the caller closes."""
    return sealed_memfd(_library())


@cache
def _library() -> bytes:
    return _LIBRARY.read_bytes()


@cache
def _inside() -> str:
    return _INSIDE.read_text(encoding="utf-8")


def _text(warm: Warm) -> bytes:
    call = f"\npreload({warm.preload!r}, {warm.warmup!r})\n"
    return (_inside() + call).encode() + b"\0"
