"""`evalbox grade`: results on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evalbox.errors import EvalboxError
from evalbox.grade.dataset import Problem, Sample, canonical_samples, read_problems, read_samples
from evalbox.grade.grader import Grading, grade, summarize
from evalbox.grade.harness import DEFAULT_LIMITS, prepare
from evalbox.grade.progress import progress
from evalbox.grade.report import write_report
from evalbox.grade.verdict import Cause, Graded
from evalbox.limits import GiB, KiB, Limits, MiB

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[Any]

EXIT_FAILED: Final = 125
EXIT_INTERRUPTED: Final = 130
DEFAULT_KS: Final = (1, 10, 100)
SHOWN_FAILURES: Final = 10
_UNITS: Final = {"": 1, "K": KiB, "M": MiB, "G": GiB}


def add_parser(subparsers: Subparsers) -> None:
    """Adds `grade` to the program's subcommands."""
    parser = subparsers.add_parser(
        "grade",
        help="grade code samples against a HumanEval-format data set",
        description="Grades code samples against a HumanEval-format data set, each in a sandbox "
        "of its own, and prints pass@k. Exit code: 0 when everything was graded, whatever the "
        "verdicts; 125 when something could not be; 130 after Ctrl-C.",
    )
    add_arguments(parser)
    parser.set_defaults(main=main)


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
    add("-k", type=_ks, metavar="K,K", help="the k of pass@k (default: those of 1,10,100 that fit)")
    add(
        "--timeout",
        type=float,
        default=DEFAULT_LIMITS.wall_time,
        metavar="S",
        help="seconds per sample (default: %(default)g)",
    )
    add("-j", "--jobs", type=_jobs, default=_cpus(), metavar="N", help="sandboxes at once")
    add("--memory", type=size, metavar="N", help="bytes per sample, or 512M (default: 256M)")
    add("--python", default=sys.executable, metavar="PATH", help="the interpreter for the samples")
    add("--report", type=Path, metavar="FILE.html", help="write a page with charts")
    add("--json", action="store_true", help="print one JSON object and nothing else")


def main(args: argparse.Namespace) -> int:
    """Grades as the arguments say; the exit code of the program."""
    try:
        grading = _grade(args)
        if args.report:
            write_report(args.report, grading, (args.samples or args.problems).name)
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except (EvalboxError, OSError) as error:
        _say(str(error))
        return EXIT_FAILED
    _warn(grading, args.k or ())
    print(json.dumps(grading.to_dict()) if args.json else _text(grading))
    return EXIT_FAILED if Cause.SETUP_ERROR in grading.counts else 0


def _grade(args: argparse.Namespace) -> Grading:
    problems = read_problems(args.problems)
    samples = read_samples(args.samples, problems) if args.samples else canonical_samples(problems)
    memory = DEFAULT_LIMITS.memory if args.memory is None else args.memory
    limits = replace(DEFAULT_LIMITS, wall_time=args.timeout, memory=memory)
    graded, elapsed = run(problems, samples, limits, args.python, args.jobs)
    return summarize(graded, len(problems), args.k or DEFAULT_KS, elapsed, args.jobs)


def run(
    problems: dict[str, Problem], samples: Sequence[Sample], limits: Limits, python: str, jobs: int
) -> tuple[list[Graded], float]:
    """Every verdict, in the order of the samples, and the seconds that it took."""
    # Where evalbox can be imported but not run, bad input is still named first.
    from evalbox.executor import Executor

    with Executor() as executor, progress(len(samples)) as advance:
        harness = prepare(executor, python, limits)
        start = time.perf_counter()
        found: dict[int, Graded] = {}
        for index, graded in grade(executor, harness, problems, samples, jobs):
            found[index] = graded
            advance(graded.passed)
        elapsed = time.perf_counter() - start
    return [found[index] for index in sorted(found)], elapsed


# ---- arguments ----------------------------------------------------------------


def _ks(text: str) -> tuple[int, ...]:
    ks = tuple(int(part) for part in text.split(","))
    if not ks or min(ks) < 1:
        raise argparse.ArgumentTypeError("every k is at least 1")
    return tuple(dict.fromkeys(ks))


def _jobs(text: str) -> int:
    jobs = int(text)
    if jobs < 1:
        raise argparse.ArgumentTypeError("at least 1 at once")
    return jobs


def size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(f"not a size: {text!r}; write 512M")
    return int(match[1]) * _UNITS[match[2].upper()]


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
    if left:
        _say(f"{left} of {grading.problems} tasks have no sample; pass@k is over the others")
    broken = grading.counts.get(Cause.SETUP_ERROR, 0)
    if broken:
        _say(f"{broken} samples could not be graded: their problem's own test does not load")


def _text(grading: Grading) -> str:
    lines = [
        f"{len(grading.samples)} samples of {grading.attempted} tasks",
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
        lines.append(f"... and {len(failures) - SHOWN_FAILURES} more failures")
    return "\n".join(lines)


def _failure(sample: Graded) -> str:
    text = f"{sample.task_id} #{sample.number}: {sample.cause.value}: {sample.detail}"
    return text if len(text) <= 160 else f"{text[:157]}..."
