"""From samples to verdicts, on an engine that starts nothing."""

from __future__ import annotations

import pytest

from evalbox.grade import DEFAULT_LIMITS, Cause, InterpreterError, grade, prepare, summarize
from evalbox.grade.harness import Harness
from evalbox.grade.inside import wire
from evalbox.grade.words import printable
from evalbox.limits import Limits
from evalbox.output import Output, Status
from evalbox.plan import Plan
from evalbox.policy import Policy
from grade_fakes import ADD, FakeEngine, graded, output, sample, secret_of, verdict

HARNESS = Harness("/usr/bin/python3", b"compiled", DEFAULT_LIMITS, Policy())
PROBLEMS = {ADD.task_id: ADD}


def cause_and_detail(answer: Output) -> tuple[Cause, str]:
    ((_, one),) = grade(FakeEngine(lambda _: answer), HARNESS, PROBLEMS, [sample("    pass")], 1)
    return one.cause, one.detail


def test_every_sample_has_its_verdict_whatever_the_order_of_their_ends() -> None:
    samples = [sample(f"    return {number}", number=number) for number in range(20)]

    def answer(plan: Plan) -> Output:
        assert isinstance(plan.stdin, bytes)
        return verdict(plan, wire.PASSED if b"return 7\n" in plan.stdin else wire.WRONG_ANSWER)

    found = dict(grade(FakeEngine(answer), HARNESS, PROBLEMS, samples, 6))
    assert sorted(found) == list(range(20))
    assert [index for index in found if found[index].passed] == [7]
    assert all(found[index].number == index for index in found)


def test_at_most_that_many_run_at_once() -> None:
    engine = FakeEngine(lambda plan: verdict(plan, wire.PASSED))
    list(grade(engine, HARNESS, PROBLEMS, [sample("    pass")] * 10, 3))
    assert engine.most_at_once == 3


def test_each_run_has_a_secret_of_its_own() -> None:
    engine = FakeEngine(lambda plan: verdict(plan, wire.PASSED))
    list(grade(engine, HARNESS, PROBLEMS, [sample("    pass")] * 10, 2))
    assert len({secret_of(plan) for plan in engine.spawned}) == 10


def test_the_test_comes_after_the_first_message() -> None:
    plan = HARNESS.plan(ADD, sample("    return 0"), b"s" * wire.SECRET_BYTES)
    assert isinstance(plan.stdin, bytes)
    first, hidden = plan.stdin.split(b"s" * wire.SECRET_BYTES)
    assert b"def check" not in first
    assert b"def check" in hidden
    assert not any(b"check" in file.content for file in plan.files.values())


@pytest.mark.parametrize("stdout", [b"", b"passed\n", wire.encode((wire.PASSED, ""))])
def test_exit_0_without_the_secret_is_no_verdict(stdout: bytes) -> None:
    cause, detail = cause_and_detail(output(stdout=stdout, stderr=b"noise\nlast line\n"))
    assert cause is Cause.PROTOCOL
    assert detail == "the judge exited with 0 and no verdict; it said: last line"


def test_a_verdict_of_a_judge_that_then_failed_does_not_count() -> None:
    for change in (
        {"exit_code": 1},
        {"status": Status.MEMORY_LIMIT, "exit_code": None, "signal": 9},
    ):

        def answer(plan: Plan, change: dict[str, object] = change) -> Output:
            said = secret_of(plan) + wire.encode((wire.PASSED, ""))
            return output(**{"stdout": said, **change})  # type: ignore[arg-type]

        ((_, one),) = grade(FakeEngine(answer), HARNESS, PROBLEMS, [sample("    pass")], 1)
        assert not one.passed


ENDS = {
    Status.SIGNALED: (Cause.SIGNALED, "RE", "the judge died of SIGKILL"),
    Status.WALL_TIME: (Cause.WALL_TIME, "TLE", "no verdict within 2 s (0.30 s of processor time)"),
    Status.CPU_TIME: (Cause.CPU_TIME, "TLE", "more than 1 s of processor time"),
    Status.MEMORY_LIMIT: (Cause.MEMORY_LIMIT, "MLE", "more than 256 MiB of memory"),
    Status.OUTPUT_LIMIT: (Cause.OUTPUT_LIMIT, "OLE", "more than 16 MiB of output"),
    Status.DISK_LIMIT: (Cause.DISK_LIMIT, "RE", "more than 64 MiB of files"),
    Status.DENIED: (Cause.DENIED, "RE", "killed for the system call ptrace"),
    Status.KILLED: (Cause.KILLED, "RE", "ended from outside"),
}


def test_every_status_of_the_sandbox_has_its_cause() -> None:
    assert {*ENDS, Status.EXITED} == set(Status)


@pytest.mark.parametrize("status", ENDS)
def test_the_cause_is_the_sandboxes_when_it_ended_the_run(status: Status) -> None:
    cause, word, detail = ENDS[status]
    limits = Limits(wall_time=2, cpu_time=1)
    denied = "ptrace" if status is Status.DENIED else None
    found = cause_and_detail(output(status, limits=limits, denied=denied))
    assert found == (cause, detail)
    assert found[0].word == word


def test_every_cause_of_the_judge_is_a_cause() -> None:
    words = [
        value for name, value in vars(wire).items() if name.isupper() and isinstance(value, str)
    ]
    assert all(Cause(word) for word in words)


def test_what_a_hostile_detail_holds_is_printable() -> None:
    hostile = "\x1b[2J\r\n\x00\u202e\ud800\u2028<b>é"
    assert printable(hostile) == r"\x1b[2J\r\n\x00\u202e\ud800\u2028<b>é"
    engine = FakeEngine(lambda plan: verdict(plan, wire.WRONG_ANSWER, hostile))
    ((_, one),) = grade(engine, HARNESS, PROBLEMS, [sample("    pass")], 1)
    assert one.detail.isprintable()


def test_prepare_takes_the_compiled_harness_from_the_sandbox() -> None:
    harness = prepare(FakeEngine(lambda _: output()), "/usr/bin/python3")
    assert harness.code == b"compiled"
    assert harness.limits == DEFAULT_LIMITS


def test_an_interpreter_that_cannot_run_the_harness_is_an_error_with_its_words() -> None:
    class Broken(FakeEngine):
        def run(self, _plan: Plan, /) -> Output:
            return output(exit_code=1, stderr=b"Traceback\nPython 3.10 or newer is needed\n")

    with pytest.raises(InterpreterError, match=r"/opt/python2 cannot run .* 3\.10 or newer"):
        prepare(Broken(lambda _: output()), "/opt/python2")


def test_a_summary_counts_causes_and_tasks() -> None:
    samples = [
        graded(),
        graded(Cause.WALL_TIME, number=1),
        graded(Cause.WRONG_ANSWER, task_id="Small/1"),
        graded(task_id="Small/1", number=1),
    ]
    grading = summarize(samples, problems=3, ks=(1, 2, 5), elapsed=2.0, jobs=2)
    assert grading.counts == {Cause.PASSED: 2, Cause.WRONG_ANSWER: 1, Cause.WALL_TIME: 1}
    assert grading.estimate.values == {1: 0.5, 2: 1.0}
    assert list(grading.estimate.skipped) == [5]
    assert (grading.runs_per_second, grading.attempted) == (2.0, 2)
