"""Problems and samples as JSON lines, plain or gzipped, checked line by line.

The layout is HumanEval's. A `Problem` holds what grading needs and nothing of
that layout, so another data set is another reader that makes the same value.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalbox.errors import EvalboxError

PROBLEM_KEYS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
SAMPLE_KEYS = ("task_id", "completion")
_GZIP_MAGIC = b"\x1f\x8b"


class DataSetError(EvalboxError, ValueError):
    """A file is not what it should be; the message begins with file and line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One task.

    Attributes:
        task_id: its name, unique in the data set.
        entry_point: the name of the function that a sample defines.
        prompt: what stands before a completion to make a program.
        reference: a program that solves it; the test may use its helpers.
        test: Python that defines `check(candidate)`, which raises if the
            candidate is wrong.
    """

    task_id: str
    entry_point: str
    prompt: str
    reference: str
    test: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One attempt at a task.

    Attributes:
        task_id: the task.
        number: which attempt at that task it is, counted from 0.
        program: the whole program, prompt included.
        label: what it is called beside its task; empty when that says enough.
    """

    task_id: str
    number: int
    program: str
    label: str = ""


def read_problems(path: Path) -> dict[str, Problem]:
    """The problems of a HumanEval-format file, by task id and in its order.

    Raises:
        DataSetError: the file cannot be read, or a line of it is wrong.
    """
    problems: dict[str, Problem] = {}
    for where, record in _records(path):
        task_id, prompt, entry_point, solution, test = _texts(where, record, PROBLEM_KEYS)
        if task_id in problems:
            raise DataSetError(f"{where}: task_id {task_id!r} is there twice")
        if not entry_point.isidentifier():
            raise DataSetError(f"{where}: entry_point {entry_point!r} is no name of a function")
        problems[task_id] = Problem(
            task_id=task_id,
            entry_point=entry_point,
            prompt=prompt,
            reference=f"{prompt}{solution}\n",
            test=test,
        )
    return problems


def read_samples(path: Path, problems: Mapping[str, Problem]) -> list[Sample]:
    """The samples of a HumanEval-format file, in its order.

    Raises:
        DataSetError: the file cannot be read, or a line of it is wrong.
    """
    samples = []
    seen: Counter[str] = Counter()
    for where, record in _records(path):
        task_id, completion = _texts(where, record, SAMPLE_KEYS)
        if task_id not in problems:
            raise DataSetError(f"{where}: task_id {task_id!r} is not among the problems")
        program = f"{problems[task_id].prompt}{completion}\n"
        samples.append(Sample(task_id=task_id, number=seen[task_id], program=program))
        seen[task_id] += 1
    return samples


def canonical_samples(problems: Mapping[str, Problem]) -> list[Sample]:
    """One sample per problem: its own reference solution."""
    return [
        Sample(task_id=problem.task_id, number=0, program=problem.reference)
        for problem in problems.values()
    ]


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as plain:
            magic = plain.read(len(_GZIP_MAGIC))
        # By content and not by name: a downloaded file often has the wrong one.
        with gzip.open(path) if magic == _GZIP_MAGIC else path.open("rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataSetError(f"{path}: cannot be read: {reason}") from error


def _records(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The non-empty lines as `file:line` and object."""
    empty = True
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            empty = False
            where = f"{path}:{number}"
            yield where, _record(where, line)
    if empty:
        raise DataSetError(f"{path}: is empty")


def _record(where: str, line: bytes) -> Mapping[str, object]:
    try:
        record = json.loads(line.strip())
    except UnicodeDecodeError as error:
        raise DataSetError(f"{where}: not UTF-8: {error.reason}") from None
    except json.JSONDecodeError as error:
        raise DataSetError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
    except (RecursionError, ValueError) as error:
        raise DataSetError(f"{where}: not usable JSON: {error}") from None
    if not isinstance(record, dict):
        raise DataSetError(f"{where}: not an object but {json.dumps(record)[:40]}")
    return record


def _texts(where: str, record: Mapping[str, object], keys: Sequence[str]) -> list[str]:
    missing = [key for key in keys if key not in record]
    if missing:
        raise DataSetError(f"{where}: {', '.join(missing)} missing; found {', '.join(record)}")
    texts = []
    for key in keys:
        value = record[key]
        if not isinstance(value, str):
            raise DataSetError(f"{where}: {key} is not a string")
        texts.append(value)
    return texts
