from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalbox.grade import estimate, pass_at_k


@st.composite
def tallies(draw: st.DrawFn, most: int) -> tuple[int, int, int]:
    total = draw(st.integers(1, most))
    return total, draw(st.integers(0, total)), draw(st.integers(1, total))


@given(tallies(most=9))
def test_it_is_the_share_of_all_choices_of_k_that_hold_a_pass(tally: tuple[int, int, int]) -> None:
    total, passed, k = tally
    choices = list(combinations([i < passed for i in range(total)], k))
    share = sum(any(choice) for choice in choices) / len(choices)
    assert pass_at_k(total, passed, k) == pytest.approx(share, abs=1e-12)


@given(tallies(most=3000))
def test_it_agrees_with_exact_binomials(tally: tuple[int, int, int]) -> None:
    total, passed, k = tally
    exact = 1 - comb(total - passed, k) / comb(total, k)
    assert pass_at_k(total, passed, k) == pytest.approx(exact, rel=1e-9, abs=1e-12)


@given(tallies(most=10**9))
def test_it_is_a_probability_and_grows_with_k(tally: tuple[int, int, int]) -> None:
    total, passed, k = tally[0], min(tally[1], 1000), tally[2]
    value = pass_at_k(total, passed, k)
    assert 0.0 <= value <= 1.0
    assert (value == 0.0) == (passed == 0) or value < 1e-6
    assert k == total or pass_at_k(total, passed, k + 1) >= value - 1e-12


@pytest.mark.parametrize(("total", "passed", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 4), (3, 1, 0)])
def test_impossible_numbers_are_refused(total: int, passed: int, k: int) -> None:
    with pytest.raises(ValueError, match="cannot"):
        pass_at_k(total, passed, k)


def test_the_data_sets_value_is_the_mean_over_its_tasks() -> None:
    result = estimate({"a": (4, 1), "b": (2, 2)}, [1, 2])
    assert result.values == {1: pytest.approx((0.25 + 1) / 2), 2: pytest.approx((0.5 + 1) / 2)}
    assert result.skipped == {}


def test_a_k_that_a_task_has_too_few_samples_for_is_skipped_and_says_why() -> None:
    result = estimate({"a": (10, 1), "b": (2, 2), "c": (1, 0)}, [1, 10])
    assert list(result.values) == [1]
    assert result.skipped == {
        10: "pass@10 skipped: it needs 10 samples of every task; b has 2"
        " and 1 other task has too few"
    }
    others = estimate(dict.fromkeys("abc", (1, 0)), [2]).skipped[2]
    assert others.endswith("a has 1 and 2 other tasks have too few")


def test_nothing_graded_has_no_value() -> None:
    assert estimate({}, [1]).skipped == {1: "pass@1 skipped: nothing was graded"}
