"""Runs of an attack that it does not simply start and wait for."""

from __future__ import annotations

from typing import Any

from evalbox import Completed, Executor, Output, Plan, TimedOut
from evalbox.flat import plan_from_fields
from security.base import PYTHON, Context


def plan(ctx: Context, cmd: list[Any], **fields: Any) -> Plan:
    """What `ctx.run` would run."""
    return plan_from_fields(cmd, **ctx.plan_fields(fields))


def python_plan(ctx: Context, script: str, *args: str, **fields: Any) -> Plan:
    return plan(ctx, [PYTHON, "-c", script, *args], **fields)


def end_of(executor: Executor, run: int, ctx: Context) -> Output:
    """Waits for one run; its report is then that of the attack."""
    while executor.active_count:
        for event in executor.poll():
            if event.id == run and isinstance(event, Completed | TimedOut):
                ctx.enforcement = event.output.enforcement
                return event.output
    raise AssertionError("the run was not there any more")


def run_with(executor: Executor, ctx: Context, script: str, **fields: Any) -> Output:
    """A Python program, in an executor that the attack looks into."""
    output = executor.run(python_plan(ctx, script, **fields))
    ctx.enforcement = output.enforcement
    return output


def ends(ctx: Context, executor: Executor) -> list[Output]:
    """What is left of an executor's runs, in the order of their ends."""
    found = []
    while executor.active_count:
        for event in executor.poll():
            if isinstance(event, Completed | TimedOut):
                found.append(event.output)
                ctx.enforcement = event.output.enforcement
    return found
