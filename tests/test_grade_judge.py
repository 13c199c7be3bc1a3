"""What the judge makes of a test and of answers, without a sandbox or a process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalbox.grade.inside import judge, wire
from grade_fakes import ADD


class LocalCandidate(judge.Candidate):
    """Answers from a function in this process, in the words of a subject."""

    def __init__(self, function: Callable[..., tuple[Any, ...]], name: str = "add") -> None:
        super().__init__(pid=-1, requests=-1, replies=-1, name=name)
        self.function = function

    def _exchange(self, request: bytes) -> Any:
        given: Any = wire.decode(request[4:])
        if given is None:
            return "value", None, None
        args, kwargs = given
        answer = self.function(*args, **kwargs)
        return wire.decode(wire.encode(answer))


def judged(
    function: Callable[..., tuple[Any, ...]], test: str = ADD.test, reference: str = ADD.reference
) -> tuple[str, str]:
    return judge.judge(LocalCandidate(function), reference, test)


def always(*answer: Any) -> Callable[..., tuple[Any, ...]]:
    return lambda *_: answer


def value(result: object, changed: object = None) -> tuple[Any, ...]:
    return "value", result, changed


def test_the_right_answers_pass() -> None:
    assert judged(lambda a, b: value(a + b)) == (wire.PASSED, "")


def test_a_wrong_answer_shows_the_line_of_the_test_and_what_came() -> None:
    assert judged(always(*value(3))) == (
        wire.WRONG_ANSWER,
        "assert candidate(2, 2) == 4: the last call returned 3",
    )


def test_an_error_in_the_test_about_the_answer_is_a_wrong_answer() -> None:
    test = "def check(candidate):\n    assert abs(candidate(1, 2) - 3) < 1e-6\n"
    cause, detail = judged(always(*value(None)), test)
    assert cause == wire.WRONG_ANSWER
    assert "TypeError: unsupported operand" in detail
    assert "returned None" in detail


def test_an_answer_that_does_not_cross_says_so() -> None:
    told = "the last call returned a set_like, which does not cross; see docs/grading.md"
    assert judged(always(*value(wire.Opaque("set_like")))) == (
        wire.WRONG_ANSWER,
        f"assert candidate(1, 2) == 3: {told}",
    )
    test = "def check(candidate):\n    assert abs(candidate(1, 2) - 3) < 1e-6\n"
    for result in (wire.Opaque("set_like"), [wire.Opaque("set_like")]):
        _, detail = judged(always(*value(result)), test)
        assert "set_like, which does not cross" in detail
        assert "Opaque" not in detail


@given(kind=st.text(st.characters(exclude_categories=())))
def test_no_name_of_a_type_makes_a_verdict_of_its_own(kind: str) -> None:
    cause, detail = judged(always(*value(wire.Opaque(kind))))
    assert cause == wire.WRONG_ANSWER
    assert len(detail) < 250


def raising(*names: str) -> Callable[..., tuple[Any, ...]]:
    return always("raised", list(names), f"{names[0]}: text (line 7)")


def test_what_the_sample_raises_is_its_own_error() -> None:
    cause, detail = judged(raising("ZeroDivisionError", "ArithmeticError", "Exception"))
    assert (cause, detail) == (wire.RUNTIME_ERROR, "ZeroDivisionError: text (line 7)")


def test_an_assertion_of_the_sample_is_not_one_of_the_test() -> None:
    assert judged(raising("AssertionError", "Exception"))[0] == wire.RUNTIME_ERROR


def test_a_memory_error_of_the_sample_is_its_memory_limit() -> None:
    assert judged(raising("MemoryError", "Exception"))[0] == wire.MEMORY_LIMIT


@pytest.mark.parametrize(
    "names",
    [
        ("ValueError", "Exception"),
        ("Mine", "ValueError", "Exception"),
        ("UnicodeDecodeError", "UnicodeError", "ValueError", "Exception"),
    ],
)
def test_a_test_can_expect_an_exception(names: tuple[str, ...]) -> None:
    test = (
        "def check(candidate):\n    try:\n        candidate(0)\n    except ValueError:\n"
        "        return\n    assert False\n"
    )
    assert judged(raising(*names), test) == (wire.PASSED, "")


def test_an_exception_without_a_built_in_base_is_still_raised() -> None:
    assert judged(raising("KeyboardInterrupt", "BaseException"))[0] == wire.RUNTIME_ERROR


def test_a_stop_iteration_of_the_sample_does_not_end_the_tests_own_iteration() -> None:
    test = "def check(candidate):\n    assert all(map(lambda x: candidate(x) == x, [1, 2]))\n"
    assert judged(raising("StopIteration", "Exception"), test)[0] == wire.RUNTIME_ERROR


ENDINGS = {
    ("exit", "SystemExit: 0"): wire.EARLY_EXIT,
    ("compile", "SyntaxError: x"): wire.COMPILE_ERROR,
    ("missing",): wire.RUNTIME_ERROR,
    ("forked",): wire.FORKED,
    ("passed", ""): wire.PROTOCOL,
    ("value",): wire.PROTOCOL,
    ("raised", 3, "x"): wire.PROTOCOL,
    (): wire.PROTOCOL,
}
SWALLOWS = "def check(candidate):\n    try:\n        candidate(1, 2)\n    except:\n        pass\n"


@pytest.mark.parametrize("test", [ADD.test, SWALLOWS], ids=["plain", "swallows"])
@pytest.mark.parametrize(("answer", "cause"), ENDINGS.items(), ids=str)
def test_an_end_of_the_sample_fails_it_even_if_the_test_swallows_it(
    answer: tuple[Any, ...], cause: str, test: str
) -> None:
    assert judged(always(*answer), test)[0] == cause


def test_a_sample_that_ended_is_not_asked_again() -> None:
    calls: list[int] = []

    def exits(*args: object) -> tuple[Any, ...]:
        calls.append(1)
        return "exit", "SystemExit"

    test = SWALLOWS + SWALLOWS.partition("\n")[2]
    assert judged(exits, test)[0] == wire.EARLY_EXIT
    assert calls == [1]


@pytest.mark.parametrize(
    "test", ["def check(", "x = 1", "import nothing_like_it", "raise SystemExit"]
)
def test_a_test_that_does_not_load_is_not_the_samples_fault(test: str) -> None:
    assert judged(always(*value(3)), test)[0] == wire.SETUP_ERROR


def test_a_test_that_passes_what_cannot_cross_is_not_the_samples_fault() -> None:
    test = "def check(candidate):\n    candidate([{1: print}])\n"
    cause, detail = judged(always(*value(3)), test)
    assert cause == wire.SETUP_ERROR
    assert "builtin_function_or_method" in detail


def test_an_object_of_the_sample_that_comes_back_to_it_is_a_wrong_answer() -> None:
    test = "def check(candidate):\n    assert candidate([candidate(1)]) == 1\n"
    cause, detail = judged(always(*value(object())), test)
    assert cause == wire.WRONG_ANSWER
    assert detail == (
        "the test passes on what the sample returned:"
        " an object, which does not cross; see docs/grading.md"
    )


@pytest.mark.parametrize("passed_in", ["iter([1])", "__import__('decimal').Decimal(1)"])
def test_a_test_may_pass_iterators_and_exact_numbers(passed_in: str) -> None:
    test = f"def check(candidate):\n    assert candidate({passed_in}) == 3\n"
    assert judged(always(*value(3)), test) == (wire.PASSED, "")


def test_a_test_may_use_the_helpers_of_the_prompt_and_the_name_of_the_function() -> None:
    reference = "def twice(x):\n    return 2 * x\ndef add(a, b):\n    return a + b\n"
    test = "def check(candidate):\n    assert add(1, 2) == twice(4)\n"
    assert judged(always(*value(8)), test, reference) == (wire.PASSED, "")


def test_a_test_sees_what_the_sample_did_to_its_arguments() -> None:
    test = (
        "def check(candidate):\n"
        "    inner = [3, 1]\n"
        "    outer = {'k': inner, 'gone': 1}\n"
        "    numbers = {1}\n"
        "    candidate(outer, numbers)\n"
        "    assert inner == [1, 3, 5], inner\n"
        "    assert outer == {'k': inner, 'new': (1,)}, outer\n"
        "    assert numbers == {1, 2}\n"
    )
    changed = [({"k": [1, 3, 5], "new": (1,)}, {1, 2}), {}]
    assert judged(always(*value(None, changed)), test) == (wire.PASSED, "")


# ---- over pipes ---------------------------------------------------------------


@pytest.fixture
def piped() -> Iterator[Callable[[bytes], judge.Candidate]]:
    """A candidate whose subject has already said all that it will say, and is gone."""
    open_ends: list[int] = []

    def make(said: bytes) -> judge.Candidate:
        request_end, requests = os.pipe()
        replies, reply_end = os.pipe()
        open_ends.extend((request_end, requests, replies))
        os.write(reply_end, said)
        os.close(reply_end)
        candidate = judge.Candidate(-1, requests, replies, "add")
        candidate.exit_code = 0
        return candidate

    yield make
    for end in open_ends:
        os.close(end)


def over(candidate: judge.Candidate) -> str:
    return judge.judge(candidate, ADD.reference, ADD.test)[0]


Piped = Callable[[bytes], judge.Candidate]
FRESH = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_answers_over_a_pipe_pass(piped: Piped) -> None:
    answers = (None, 3, 4)
    assert over(piped(b"".join(wire.message(value(item)) for item in answers))) == wire.PASSED


def test_silence_and_death_is_an_early_exit(piped: Piped) -> None:
    assert over(piped(b"")) == wire.EARLY_EXIT
    assert over(piped(wire.message(value(None)))) == wire.EARLY_EXIT


def test_death_in_the_middle_of_an_answer_is_an_early_exit(piped: Piped) -> None:
    assert over(piped(wire.message(value(None))[:-1])) == wire.EARLY_EXIT


def test_a_death_by_signal_is_named(piped: Piped) -> None:
    candidate = piped(b"")
    candidate.exit_code = -11
    assert judge.judge(candidate, ADD.reference, ADD.test) == (
        wire.SIGNALED,
        "the sample died of signal 11",
    )


@FRESH
@given(said=st.binary(max_size=200))
def test_no_bytes_pass_but_the_right_answers(piped: Piped, said: bytes) -> None:
    assert over(piped(said)) in (wire.PROTOCOL, wire.EARLY_EXIT)


@FRESH
@given(said=st.lists(st.sampled_from([*ENDINGS, value(None), value(3), value(True)]), max_size=4))
def test_no_sequence_of_answers_passes_but_the_right_ones(
    piped: Piped, said: list[tuple[Any, ...]]
) -> None:
    assert over(piped(b"".join(map(wire.message, said)))) != wire.PASSED
