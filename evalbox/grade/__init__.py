"""Grades code samples against a HumanEval-format data set, one sandbox for each.

    problems = read_problems(path)
    with Executor() as executor:
        harness = prepare(executor, sys.executable)
        for index, verdict in grade(executor, harness, problems, samples, jobs=4):
            ...

It knows only the public engine. `inside` is what runs in the sandbox.
"""

from evalbox.grade.dataset import (
    DataSetError,
    Problem,
    Sample,
    canonical_samples,
    read_problems,
    read_samples,
)
from evalbox.grade.estimator import Estimate, estimate, pass_at_k
from evalbox.grade.grader import Grading, grade, summarize
from evalbox.grade.harness import DEFAULT_LIMITS, Harness, InterpreterError, prepare
from evalbox.grade.verdict import Cause, Graded

__all__ = [
    "DEFAULT_LIMITS",
    "Cause",
    "DataSetError",
    "Estimate",
    "Graded",
    "Grading",
    "Harness",
    "InterpreterError",
    "Problem",
    "Sample",
    "canonical_samples",
    "estimate",
    "grade",
    "pass_at_k",
    "prepare",
    "read_problems",
    "read_samples",
    "summarize",
]
