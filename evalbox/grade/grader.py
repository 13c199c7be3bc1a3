"""Grades many samples at once, each in a sandbox of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from evalbox.events import Completed, Event, SandboxId, TimedOut
from evalbox.grade.dataset import Problem, Sample
from evalbox.grade.estimator import Estimate, estimate
from evalbox.grade.harness import Harness, graded, new_secret
from evalbox.grade.verdict import Cause, Graded
from evalbox.grade.words import counted
from evalbox.plan import Plan

SCHEMA_VERSION = 1


class Engine(Protocol):
    """What is needed of an Executor to grade."""

    def spawn(self, plan: Plan, /) -> SandboxId: ...

    def poll(self, timeout: float | None = None) -> list[Event]: ...


def grade(
    engine: Engine,
    harness: Harness,
    problems: Mapping[str, Problem],
    samples: Sequence[Sample],
    jobs: int,
) -> Iterator[tuple[int, Graded]]:
    """Each sample's index and verdict, as they come; `jobs` sandboxes at a time.

    Raises:
        EvalboxError: a sandbox could not start; nothing is graded by guessing.
    """
    waiting = enumerate(samples)
    active: dict[SandboxId, tuple[int, bytes]] = {}
    while True:
        while len(active) < jobs and (following := next(waiting, None)):
            index, sample = following
            secret = new_secret()
            active[engine.spawn(harness.plan(problems[sample.task_id], sample, secret))] = (
                index,
                secret,
            )
        if not active:
            return
        for event in engine.poll():
            if isinstance(event, Completed | TimedOut):
                index, secret = active.pop(event.id)
                yield index, graded(samples[index], secret, event.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grading:
    """What came of a data set.

    Attributes:
        samples: the verdicts, in the order of the samples.
        problems: how many tasks the data set has.
        estimate: pass@k.
        elapsed: seconds for all of them together.
        jobs: how many sandboxes there were at once.
        left: how many samples were not graded, because it was interrupted.
    """

    samples: Sequence[Graded]
    problems: int
    estimate: Estimate
    elapsed: float
    jobs: int
    left: int = 0

    @property
    def partial(self) -> str:
        """How far it came when it was interrupted; empty when it was not."""
        if not self.left:
            return ""
        done = len(self.samples)
        return f"interrupted after {done} of {counted(done + self.left, 'sample')}"

    @property
    def counts(self) -> dict[Cause, int]:
        """How many samples ended for each cause, those that occur, in the order of `Cause`."""
        found = Counter(sample.cause for sample in self.samples)
        return {cause: found[cause] for cause in Cause if found[cause]}

    @property
    def runs_per_second(self) -> float:
        return len(self.samples) / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def attempted(self) -> int:
        """How many tasks have a sample."""
        return len({sample.task_id for sample in self.samples})

    def to_dict(self) -> dict[str, object]:
        """What `--json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            **({"partial": True} if self.partial else {}),
            "pass_at_k": {str(k): value for k, value in self.estimate.values.items()},
            "counts": {cause.value: count for cause, count in self.counts.items()},
            "runs_per_second": self.runs_per_second,
            "samples": [sample.to_dict() for sample in self.samples],
        }


def summarize(
    samples: Sequence[Graded], problems: int, ks: Sequence[int], elapsed: float, jobs: int
) -> Grading:
    totals = Counter(sample.task_id for sample in samples)
    passed = Counter(sample.task_id for sample in samples if sample.passed)
    tallies = {task: (total, passed[task]) for task, total in totals.items()}
    return Grading(
        samples=samples,
        problems=problems,
        estimate=estimate(tallies, ks),
        elapsed=elapsed,
        jobs=jobs,
    )
