"""`evalbox grade`: results on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evalbox.errors import EvalboxError
from evalbox.grade import arguments
from evalbox.grade.dataset import Problem, Sample, canonical_samples, read_problems, read_samples
from evalbox.grade.grader import Grading, grade, summarize
from evalbox.grade.harness import DEFAULT_LIMITS, prepare
from evalbox.grade.progress import progress
from evalbox.grade.report import check_writable, write_report
from evalbox.grade.verdict import Cause, Graded
from evalbox.grade.words import counted
from evalbox.limits import Limits

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[Any]

EXIT_FAILED: Final = 125
EXIT_INTERRUPTED: Final = 130
DEFAULT_KS: Final = (1, 10, 100)
SHOWN_FAILURES: Final = 10


def add_parser(subparsers: Subparsers) -> None:
    """Adds `grade` to the program's subcommands."""
    parser = subparsers.add_parser(
        "grade",
        help="grade code samples against a HumanEval-format data set",
        description="Grades code samples against a HumanEval-format data set, each in a sandbox "
        "of its own, and prints pass@k. Exit code: 0 when everything was graded, whatever the "
        "verdicts; 125 when something could not be; 130 after Ctrl-C, with what was graded so far.",
    )
    add_arguments(parser)
    parser.set_defaults(main=main, usage_error=parser.error)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("problems", type=Path, metavar="PROBLEMS", help="the problems: .jsonl or .jsonl.gz")
    add(
        "samples",
        type=Path,
        nargs="?",
        metavar="SAMPLES",
        help="the samples: task_id and completion per line (default: the canonical solutions)",
    )
    add(
        "-k",
        type=arguments.ks,
        metavar="K,K",
        help="the k of pass@k (default: those of 1,10,100 that fit)",
    )
    add(
        "--timeout",
        type=arguments.seconds,
        default=DEFAULT_LIMITS.wall_time,
        metavar="S",
        help="seconds per sample (default: %(default)g)",
    )
    add("-j", "--jobs", type=arguments.jobs, default=_cpus(), metavar="N", help="sandboxes at once")
    add(
        "--memory",
        type=arguments.size,
        metavar="N",
        help="bytes per sample, or 512M (default: 256M)",
    )
    add("--python", default=sys.executable, metavar="PATH", help="the interpreter for the samples")
    add("--cold", action="store_true", help="start the interpreter anew for each sample")
    add("--report", type=Path, metavar="FILE.html", help="write a page with charts")
    add("--json", action="store_true", help="print one JSON object and nothing else")


def main(args: argparse.Namespace) -> int:
    """Grades as the arguments say; the exit code of the program."""
    # Before anything else: who grades for hours must not learn this at the end.
    if not _with_report(args, check_writable):
        return EXIT_FAILED
    try:
        grading = _grade(args)
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except (EvalboxError, OSError) as error:
        _say(str(error))
        return EXIT_FAILED
    title = (args.samples or args.problems).name
    try:
        _warn(grading, args.k or ())
        print(json.dumps(grading.to_dict()) if args.json else _text(grading), flush=True)
    finally:
        # Results that nobody reads to the end (`| head`) do not cost the report.
        written = _with_report(args, lambda path: write_report(path, grading, title))
    return _exit_code(grading, written)


def _exit_code(grading: Grading, written: bool) -> int:
    if grading.partial:
        return EXIT_INTERRUPTED
    return 0 if written and Cause.SETUP_ERROR not in grading.counts else EXIT_FAILED


def _with_report(args: argparse.Namespace, act: Callable[[Path], None]) -> bool:
    """Does this to the file of the report, if there is to be one; whether it worked."""
    if args.report is None:
        return True
    try:
        act(args.report)
    except OSError as error:
        _say(f"--report {args.report}: {error.strerror or error}")
        return False
    return True


def _grade(args: argparse.Namespace) -> Grading:
    problems = read_problems(args.problems)
    samples = read_samples(args.samples, problems) if args.samples else canonical_samples(problems)
    memory = DEFAULT_LIMITS.memory if args.memory is None else args.memory
    limits = replace(DEFAULT_LIMITS, wall_time=args.timeout, memory=memory)
    graded, elapsed = run(problems, samples, limits, args.python, args.jobs, args.cold)
    grading = summarize(graded, len(problems), args.k or DEFAULT_KS, elapsed, args.jobs)
    return replace(grading, left=len(samples) - len(graded))


def run(
    problems: dict[str, Problem],
    samples: Sequence[Sample],
    limits: Limits,
    python: str,
    jobs: int,
    cold: bool = False,
) -> tuple[list[Graded], float]:
    """The verdicts, in the order of the samples, and the seconds that they took.

    After Ctrl-C these are the verdicts until then.
    """
    # Where evalbox can be imported but not run, bad input is still named first.
    from evalbox.executor import Executor

    found: dict[int, Graded] = {}
    start = end = time.perf_counter()
    # The executor is left first, which kills what still runs.
    with suppress(KeyboardInterrupt), Executor() as executor, progress(len(samples)) as advance:
        harness = prepare(executor, python, limits, cold=cold)
        start = end = time.perf_counter()
        for index, graded in grade(executor, harness, problems, samples, jobs):
            found[index] = graded
            end = time.perf_counter()
            advance(graded.passed)
    return [found[index] for index in sorted(found)], end - start


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


# ---- messages -----------------------------------------------------------------


def _say(text: str) -> None:
    print(f"evalbox grade: {text}", file=sys.stderr)


def _warn(grading: Grading, wanted: Sequence[int]) -> None:
    for k, reason in grading.estimate.skipped.items():
        if k in wanted:
            _say(reason)
    left = grading.problems - grading.attempted
    if grading.partial:
        _say(f"{grading.partial}; the results are about those")
    elif left:
        tasks = counted(grading.problems, "task")
        has = "has" if left == 1 else "have"
        _say(f"{left} of {tasks} {has} no sample; pass@k is over the others")
    broken = grading.counts.get(Cause.SETUP_ERROR, 0)
    if broken:
        samples = counted(broken, "sample")
        _say(f"{samples} could not be graded: the problem's own test does not load")


def _text(grading: Grading) -> str:
    lines = [
        *([f"partial: {grading.partial}"] if grading.partial else []),
        f"{counted(len(grading.samples), 'sample')} of {counted(grading.attempted, 'task')}",
        f"{grading.elapsed:.1f} s, {grading.runs_per_second:.1f} runs/s, {grading.jobs} at once",
        "",
        *(f"pass@{k:<4} {value:7.2%}" for k, value in grading.estimate.values.items()),
        "",
        *(
            f"{cause.word:<4} {cause.value:<14} {count:>6}"
            for cause, count in grading.counts.items()
        ),
    ]
    failures = [sample for sample in grading.samples if not sample.passed]
    if failures:
        lines.append("")
        lines += [_failure(sample) for sample in failures[:SHOWN_FAILURES]]
    if len(failures) > SHOWN_FAILURES:
        lines.append(f"... and {counted(len(failures) - SHOWN_FAILURES, 'more failure')}")
    return "\n".join(lines)


def _failure(sample: Graded) -> str:
    text = f"{sample.task_id} #{sample.number}: {sample.cause.value}: {sample.detail}"
    return text if len(text) <= 160 else f"{text[:157]}..."
