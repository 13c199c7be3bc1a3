"""What the grade tests share: small problems, and an engine that starts nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from evalbox import policy
from evalbox.events import Completed, Event, SandboxId, Started, TimedOut
from evalbox.grade import Cause, Graded, Problem, Sample
from evalbox.grade.inside import wire
from evalbox.limits import Limits
from evalbox.output import Enforcement, Output, Status
from evalbox.plan import Plan
from evalbox.usage import Usage

ADD = Problem(
    task_id="Small/0",
    entry_point="add",
    prompt="def add(a, b):\n",
    reference="def add(a, b):\n    return a + b\n",
    test="""
def check(candidate):
    assert candidate(1, 2) == 3
    assert candidate(2, 2) == 4
""",
)


def record(problem: Problem, **changes: object) -> dict[str, object]:
    """The problem as a line of a HumanEval-format file holds it."""
    solution = problem.reference.removeprefix(problem.prompt)
    return {
        "task_id": problem.task_id,
        "prompt": problem.prompt,
        "entry_point": problem.entry_point,
        "canonical_solution": solution,
        "test": problem.test,
        **changes,
    }


def write_lines(path: Path, *records: Mapping[str, object]) -> Path:
    path.write_text("".join(f"{json.dumps(item)}\n" for item in records), encoding="utf-8")
    return path


def sample(completion: str, problem: Problem = ADD, number: int = 0) -> Sample:
    program = f"{problem.prompt}{completion}\n"
    return Sample(task_id=problem.task_id, number=number, program=program)


def graded(cause: Cause = Cause.PASSED, **changes: object) -> Graded:
    fields: dict[str, object] = {
        "task_id": "Small/0",
        "number": 0,
        "cause": cause,
        "detail": "" if cause is Cause.PASSED else "one line",
        "wall_time": 0.05,
        "cpu_time": 0.04,
        "peak_memory": 10_000_000,
    }
    return Graded(**{**fields, **changes})  # type: ignore[arg-type]


def output(status: Status = Status.EXITED, **changes: object) -> Output:
    exited = status is Status.EXITED
    fields: dict[str, object] = {
        "status": status,
        "exit_code": 0 if exited else None,
        "signal": None if exited else 9,
        "stdout": b"",
        "stderr": b"",
        "truncated": False,
        "usage": Usage(
            wall_time=0.5, user_time=0.2, system_time=0.1, cpu_time=0.3, peak_memory=1000
        ),
        "enforcement": {name: Enforcement("none", "fake", "") for name in policy.PROPERTIES},
        "files": {},
        "limits": Limits(),
    }
    return Output(**{**fields, **changes})  # type: ignore[arg-type]


def secret_of(plan: Plan) -> bytes:
    """The secret in the stdin of a plan: it stands behind the first message."""
    assert isinstance(plan.stdin, bytes)
    start = 4 + int.from_bytes(plan.stdin[:4], "big")
    return plan.stdin[start : start + wire.SECRET_BYTES]


def verdict(plan: Plan, cause: str, detail: str = "") -> Output:
    return output(stdout=secret_of(plan) + wire.encode((cause, detail)))


class FakeEngine:
    """Ends each run, the newest first, with what `answer` makes of its plan."""

    def __init__(self, answer: Callable[[Plan], Output]) -> None:
        self.answer = answer
        self.active: dict[SandboxId, Plan] = {}
        self.most_at_once = 0
        self.spawned: list[Plan] = []

    def run(self, plan: Plan, /) -> Output:
        return output(files={"harness": b"compiled"}) if plan.collect else self.answer(plan)

    def spawn(self, plan: Plan, /) -> SandboxId:
        self.spawned.append(plan)
        name = SandboxId(len(self.spawned))
        self.active[name] = plan
        self.most_at_once = max(self.most_at_once, len(self.active))
        return name

    def poll(self, timeout: float | None = None) -> list[Event]:
        assert timeout is None
        name, plan = self.active.popitem()
        out = self.answer(plan)
        end = TimedOut if out.status is Status.WALL_TIME else Completed
        return [Started(name), end(name, out)]

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.active.clear()
