"""`evalbox grade` on an engine that starts nothing: what it prints and returns."""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from evalbox.errors import SetupError
from evalbox.grade import command, progress
from evalbox.grade.inside import wire
from evalbox.output import Output
from evalbox.plan import Plan
from grade_fakes import ADD, FakeEngine, record, verdict, write_lines

Answer = Callable[[Plan], Output]
OTHER = record(ADD, task_id="Small/1")


def right_if_it_adds(plan: Plan) -> Output:
    assert isinstance(plan.stdin, bytes)
    program = plan.stdin[: 4 + int.from_bytes(plan.stdin[:4], "big")]
    if b"a + b" in program:
        return verdict(plan, wire.PASSED)
    return verdict(plan, wire.WRONG_ANSWER, "assert candidate(1, 2) == 3: \x1b[31m")


@pytest.fixture
def problems(tmp_path: Path) -> str:
    return str(write_lines(tmp_path / "problems.jsonl", record(ADD), OTHER))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], FakeEngine]:
    def use(answer: Answer) -> FakeEngine:
        fake = FakeEngine(answer)
        module = types.ModuleType("evalbox.executor")
        vars(module)["Executor"] = lambda: fake
        monkeypatch.setitem(sys.modules, "evalbox.executor", module)
        return fake

    return use


def evalbox_grade(*words: str) -> int:
    parser = argparse.ArgumentParser(prog="evalbox")
    command.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["grade", *words])
    assert args.main is command.main
    return command.main(args)


def samples_file(tmp_path: Path, *completions: tuple[str, str]) -> str:
    lines = [{"task_id": task, "completion": text} for task, text in completions]
    return str(write_lines(tmp_path / "samples.jsonl", *lines))


Use = Callable[[Answer], FakeEngine]
Capture = pytest.CaptureFixture[str]


def test_without_samples_the_canonical_solutions_are_graded(
    problems: str, engine: Use, capsys: Capture
) -> None:
    engine(right_if_it_adds)
    assert evalbox_grade(problems) == 0
    out, err = capsys.readouterr()
    assert "2 samples of 2 tasks" in out
    assert "pass@1    100.00%" in out
    assert "AC   passed" in out
    assert err == "graded 2 of 2, 2 passed\n"


def test_json_is_one_object_on_stdout_and_nothing_else(
    problems: str, engine: Use, capsys: Capture, tmp_path: Path
) -> None:
    engine(right_if_it_adds)
    samples = samples_file(tmp_path, ("Small/1", "    return 1"), ("Small/0", "    return a + b"))
    assert evalbox_grade(problems, samples, "--json", "-k", "1,2") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert list(found) == ["schema_version", "pass_at_k", "counts", "runs_per_second", "samples"]
    assert found["schema_version"] == 1
    assert found["pass_at_k"] == {"1": 0.5}
    assert found["counts"] == {"passed": 1, "wrong_answer": 1}
    assert found["samples"][0] == {
        "task_id": "Small/1",
        "completion_id": 0,
        "passed": False,
        "verdict": "WA",
        "cause": "wrong_answer",
        "detail": "assert candidate(1, 2) == 3: \\x1b[31m",
        "wall_time": 0.5,
        "cpu_time": 0.3,
        "peak_memory": 1000,
    }
    assert "pass@2 skipped: it needs 2 samples of every task; Small/1 has 1" in err


def test_a_k_that_was_not_asked_for_is_left_out_in_silence(
    problems: str, engine: Use, capsys: Capture
) -> None:
    engine(right_if_it_adds)
    evalbox_grade(problems)
    assert "skipped" not in capsys.readouterr().err


def test_tasks_without_a_sample_are_told(
    problems: str, engine: Use, capsys: Capture, tmp_path: Path
) -> None:
    engine(right_if_it_adds)
    assert evalbox_grade(problems, samples_file(tmp_path, ("Small/0", "    return 1"))) == 0
    out, err = capsys.readouterr()
    assert "1 of 2 tasks has no sample" in err
    assert "Small/0 #0: wrong_answer: assert candidate" in out
    assert "\x1b" not in out


def test_a_report_is_written(problems: str, engine: Use, tmp_path: Path) -> None:
    engine(right_if_it_adds)
    report = tmp_path / "report.html"
    assert evalbox_grade(problems, "--report", str(report)) == 0
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_options_reach_the_plan(problems: str, engine: Use) -> None:
    fake = engine(right_if_it_adds)
    words = ("--timeout", "2.5", "--memory", "512M", "--python", "/opt/python", "-j", "7")
    assert evalbox_grade(problems, *words) == 0
    plan = fake.spawned[0]
    assert (plan.limits.wall_time, plan.limits.memory) == (2.5, 512 * 1024 * 1024)
    assert plan.cmd == ("/opt/python", "main.py")
    assert plan.warm is not None
    assert fake.most_at_once == 2


def test_with_cold_each_sample_starts_its_interpreter(problems: str, engine: Use) -> None:
    fake = engine(right_if_it_adds)
    assert evalbox_grade(problems, "--cold") == 0
    plan = fake.spawned[0]
    assert plan.cmd[1:3] == ("-I", "-S")
    assert plan.warm is None


def test_bad_input_is_125_with_file_and_line(
    problems: str, engine: Use, capsys: Capture, tmp_path: Path
) -> None:
    engine(right_if_it_adds)
    assert evalbox_grade(problems, samples_file(tmp_path, ("Else/0", ""))) == 125
    out, err = capsys.readouterr()
    assert out == ""
    assert "samples.jsonl:1: task_id 'Else/0'" in err


def test_a_sandbox_that_cannot_start_is_125(problems: str, engine: Use, capsys: Capture) -> None:
    def fails(plan: Plan) -> Output:
        raise SetupError("landlock", 1)

    engine(fails)
    assert evalbox_grade(problems) == 125
    assert "cannot start the sandbox at stage landlock" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_told_before_anything_is_graded(
    problems: str, engine: Use, tmp_path: Path, capsys: Capture
) -> None:
    fake = engine(right_if_it_adds)
    for path, reason in (
        (tmp_path / "no" / "r.html", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        assert evalbox_grade(problems, "--report", str(path)) == 125
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"evalbox grade: --report {path}: {reason}\n")
    assert fake.spawned == []


def test_results_outlive_a_report_that_cannot_be_written_in_the_end(
    problems: str, engine: Use, capsys: Capture
) -> None:
    engine(right_if_it_adds)
    assert evalbox_grade(problems, "--report", "/dev/full") == 125
    out, err = capsys.readouterr()
    assert "2 samples of 2 tasks" in out
    assert err.endswith("--report /dev/full: No space left on device\n")


def test_a_report_outlives_results_that_cannot_be_printed(
    problems: str, engine: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine(right_if_it_adds)
    with Path("/dev/full").open("w", encoding="utf-8", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OSError, match="No space"):
            evalbox_grade(problems, "--report", str(tmp_path / "r.html"))
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            full.close()
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_grading_that_fails_leaves_the_last_report_alone(
    problems: str, engine: Use, tmp_path: Path
) -> None:
    engine(right_if_it_adds)
    report = tmp_path / "r.html"
    for there in (False, True):
        if there:
            report.write_text("the last one")
        assert evalbox_grade("/no/problems", "--report", str(report)) == 125
        assert report.exists() is there
    assert report.read_text() == "the last one"


def test_a_broken_problem_is_125_and_says_so(problems: str, engine: Use, capsys: Capture) -> None:
    engine(lambda plan: verdict(plan, wire.SETUP_ERROR, "the test does not load: x"))
    assert evalbox_grade(problems) == 125
    out, err = capsys.readouterr()
    assert "IE   setup_error" in out
    assert "2 samples could not be graded" in err


def test_one_of_a_thing_is_told_in_the_singular(
    engine: Use, capsys: Capture, tmp_path: Path
) -> None:
    engine(lambda plan: verdict(plan, wire.SETUP_ERROR, "the test does not load: x"))
    problems = write_lines(tmp_path / "problems.jsonl", record(ADD))
    assert evalbox_grade(str(problems)) == 125
    out, err = capsys.readouterr()
    assert out.startswith("1 sample of 1 task\n")
    assert "1 sample could not be graded" in err


def test_ctrl_c_is_130(problems: str, engine: Use, capsys: Capture) -> None:
    def interrupted(plan: Plan) -> Output:
        raise KeyboardInterrupt

    fake = engine(interrupted)
    assert evalbox_grade(problems) == 130
    out, err = capsys.readouterr()
    assert "interrupted after 0 of 2 samples" in err
    assert out.startswith("partial: interrupted after 0 of 2 samples\n0 samples of 0 tasks\n")
    assert not fake.active


def stops_at_the_second(plan: Plan) -> Output:
    if isinstance(plan.stdin, bytes) and b"return 0" in plan.stdin:
        raise KeyboardInterrupt
    return right_if_it_adds(plan)


@pytest.fixture
def interrupted(engine: Use, problems: str, tmp_path: Path) -> list[str]:
    """Words that grade one sample of three before Ctrl-C."""
    engine(stops_at_the_second)
    completions = ("    return a + b", "    return 0", "    return a + b")
    samples = samples_file(tmp_path, *(("Small/0", text) for text in completions))
    return [problems, samples, "-j", "1"]


def test_ctrl_c_tells_what_was_graded_so_far_and_writes_its_report(
    interrupted: list[str], capsys: Capture, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    assert evalbox_grade(*interrupted, "--report", str(report)) == 130
    out, err = capsys.readouterr()
    head = "partial: interrupted after 1 of 3 samples"
    assert out.startswith(f"{head}\n1 sample of 1 task\n")
    assert "pass@1    100.00%" in out
    assert err == "evalbox grade: interrupted after 1 of 3 samples; the results are about those\n"
    assert f"P{head[1:]}." in report.read_text(encoding="utf-8")


def test_json_says_that_it_is_partial(interrupted: list[str], capsys: Capture) -> None:
    assert evalbox_grade(*interrupted, "--json") == 130
    found = json.loads(capsys.readouterr().out)
    assert found["partial"] is True
    assert len(found["samples"]) == 1


@pytest.mark.parametrize(
    ("option", "text", "told"),
    [
        ("-k", "0", "at least 1"),
        ("-k", "x", "write whole numbers with commas between them, for example 1,10"),
        ("-k", "", "for example 1,10"),
        ("-j", "0", "at least 1"),
        ("-j", "x", "write a whole number"),
        ("--timeout", "5s", "write seconds, for example 5"),
        ("--memory", "1T", "512M"),
        ("--memory", "-1", "512M"),
    ],
)
def test_wrong_options_are_refused_with_what_to_write(
    option: str, text: str, told: str, problems: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit):
        evalbox_grade(problems, option, text)
    assert told in capsys.readouterr().err


def test_a_timeout_that_cannot_be_is_125(problems: str, engine: Use) -> None:
    engine(right_if_it_adds)
    assert evalbox_grade(problems, "--timeout", "-1") == 125
    assert evalbox_grade(problems, "--timeout", "nan") == 125


# ---- progress -----------------------------------------------------------------


def test_lines_come_at_the_end_and_not_too_often(capsys: Capture) -> None:
    with progress.progress(1000) as advance:
        for number in range(1000):
            advance(number % 2 == 0)
    assert capsys.readouterr().err == "graded 1000 of 1000, 500 passed\n"


def test_lines_tell_how_far_it_is(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with progress.progress(100) as advance:
        for _ in range(100):
            advance(True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "graded 10 of 100, 10 passed"


def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


def test_a_terminal_shows_a_bar(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress(3) as advance:
        for _ in range(3):
            advance(True)
    assert "3/3" in capsys.readouterr().err


def test_a_terminal_without_rich_shows_lines(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal(monkeypatch)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with progress.progress(1) as advance:
        advance(True)
    assert capsys.readouterr().err == "graded 1 of 1, 1 passed\n"
