"""Runs of an attempt that are more than one, or that are looked at while they go on."""

from __future__ import annotations

from typing import Any

import evalbox
from evalbox import Completed, Executor, Plan, TimedOut
from evalbox.plan import plan_from_fields
from security.base import Context


def plan(ctx: Context, command: list[str], **fields: Any) -> Plan:
    return plan_from_fields(command, **ctx.plan_fields(fields))


def ends(ctx: Context, executor: Executor) -> list[evalbox.Output]:
    """What is left of an executor's runs, in the order of their ends."""
    found = []
    while executor.active_count:
        for event in executor.poll():
            if isinstance(event, Completed | TimedOut):
                found.append(event.output)
                ctx.enforcement = event.output.enforcement
    return found
