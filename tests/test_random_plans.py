"""Random plans are made, and a sample of those that can be made is really run.

Whatever a plan says, a run has one end: an Output that keeps its limits, or an
error that was foreseen. Nothing is left of any of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalbox import (
    PIPE,
    CommandNotFound,
    Completed,
    Executor,
    Limits,
    MiB,
    Output,
    Plan,
    PlanError,
    SandboxId,
    SetupError,
    Started,
    TimedOut,
    UnsupportedError,
)
from evalbox.flat import plan_from_fields
from evalbox.policy import PROPERTIES
from leaks import watched_executor
from proc import mark
from test_values_fuzz import LONG, commands, fields, made

pytestmark = pytest.mark.usefixtures("tier")

MARK = mark()
SCRIPTS = ["echo $A; ls -lA", "cat; exit 3", "yes", f"sleep {MARK} & echo x > a", "kill -9 $$", ""]
# Hardly a random command exists.
programs = st.one_of(
    st.sampled_from([["true"], ["cat"], ["ls", "-la", "/"], ["./a"], [b"x"], ["sleep", MARK]]),
    st.sampled_from(SCRIPTS).map(lambda script: ["sh", "-c", script]),
)
# These, too, are small numbers now and then.
MOST = {"wall_time": 0.3, "memory": 64 * MiB, "output": MiB, "disk": MiB, "file_size": MiB}
AT_ONCE = 16
FORESEEN = (PlanError, UnsupportedError, CommandNotFound, SetupError)


def gathered(count: int) -> list[Plan]:
    """The different plans among `count` attempts to make one."""
    plans: dict[Plan, None] = {}

    @settings(LONG, max_examples=count)
    @given(programs | commands, fields())
    def gather(cmd: Any, chosen: dict[str, Any]) -> None:
        plan = made(lambda: plan_from_fields(cmd, **chosen))
        if plan is not None:
            plans[plan] = None

    gather()
    return list(plans)


def small(plan: Plan) -> Plan:
    """The same plan with limits that end it soon."""
    given = plan.limits.to_dict()
    lower = {
        name: most if given[name] is None else min(given[name], most) for name, most in MOST.items()
    }
    return dataclasses.replace(plan, limits=Limits(**{**given, **lower}))


def check(plan: Plan, output: Output) -> None:
    """What holds of every output."""
    limits = plan.limits
    assert set(output.enforcement) == set(PROPERTIES)
    assert limits.output is not None
    assert limits.disk is not None
    assert len(output.stdout) + len(output.stderr) <= limits.output
    assert sum(map(len, output.files.values())) <= limits.disk
    assert output.files == {} or plan.collect
    assert output.explain()
    assert isinstance(output.returncode, int)
    assert Output.from_dict(output.to_dict()) == output


class Runs:
    """Plans that are run, AT_ONCE at once, each to its one end."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.active: dict[SandboxId, Plan] = {}
        self.outputs = 0
        self.failed = 0
        self.refused = 0

    def start(self, plan: Plan) -> None:
        try:
            run = self.executor.spawn(plan)
        except FORESEEN:
            self.refused += 1
            return
        self.active[run] = plan
        self.executor.release(run)
        if plan.stdin is PIPE:
            # It may have ended already.
            with contextlib.suppress(BrokenPipeError):
                self.executor.write_stdin(run, b"fed")
            self.executor.close_stdin(run)

    def poll(self) -> None:
        try:
            events = self.executor.poll()
        except FORESEEN:
            self.failed += 1
            return
        for event in events:
            plan = self.active[event.id]
            if isinstance(event, Completed | TimedOut):
                del self.active[event.id]
                self.outputs += 1
                check(plan, event.output)
            else:
                assert plan.stream or isinstance(event, Started)


def run_some(plans: list[Plan], count: int) -> Runs:
    chosen = random.Random(count).sample(plans, min(count, len(plans)))
    with watched_executor(MARK) as executor:
        runs = Runs(executor)
        for plan in chosen:
            runs.start(small(plan))
            while executor.active_count >= AT_ONCE:
                runs.poll()
        while executor.active_count:
            runs.poll()
    assert len(runs.active) == runs.failed
    assert runs.outputs + runs.failed + runs.refused == len(chosen)
    return runs


@pytest.mark.parametrize(
    ("count", "runs"),
    [(600, 100), pytest.param(200_000, 600, marks=pytest.mark.long)],
    ids=["600", "200 000"],
)
def test_random_plans_are_made_and_run_to_one_end(count: int, runs: int) -> None:
    came_of_it = run_some(gathered(count), runs)
    # Else this would have tested nothing.
    assert came_of_it.outputs >= runs // 10
    assert came_of_it.refused > 0
