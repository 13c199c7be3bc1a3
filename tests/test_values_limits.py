"""Limits: what is a limit, what is not, and that it survives JSON and pickle."""

from __future__ import annotations

import copy
import dataclasses
import fractions
import json
import math
import pickle
from typing import Any

import pytest

from evalbox.errors import PlanError
from evalbox.limits import LIMIT_FIELDS, GiB, KiB, Limits, MiB

SECONDS = ("wall_time", "cpu_time")
WHOLE = tuple(name for name in LIMIT_FIELDS if name not in SECONDS)


def made(name: str, value: Any) -> Limits:
    return Limits(**{name: value})


def test_defaults_are_those_of_the_contract() -> None:
    assert Limits().to_dict() == {
        "wall_time": 30.0,
        "cpu_time": None,
        "memory": 256 * 1024**2,
        "processes": 64,
        "open_files": 256,
        "file_size": 16 * 1024**2,
        "output": 16 * 1024**2,
        "disk": 64 * 1024**2,
        "stack": 8 * 1024**2,
    }
    assert (KiB, MiB, GiB) == (2**10, 2**20, 2**30)


@pytest.mark.parametrize("name", LIMIT_FIELDS)
@pytest.mark.parametrize("value", [None, 0, 1, 2**31])
def test_none_zero_and_ordinary_numbers_are_limits(name: str, value: int | None) -> None:
    assert getattr(made(name, value), name) == value


@pytest.mark.parametrize("name", LIMIT_FIELDS)
@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.5,
        math.nan,
        math.inf,
        -math.inf,
        True,
        False,
        "1",
        b"1",
        [],
        1j,
        2**63,
        10**400,
        -(10**400),
        fractions.Fraction(10**400, 3),
        1e300,
    ],
)
def test_everything_else_is_refused_and_the_error_names_the_limit(name: str, value: object) -> None:
    with pytest.raises(PlanError, match=name):
        made(name, value)


@pytest.mark.parametrize("name", LIMIT_FIELDS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_too_long_to_be_printed_is_refused_like_any_other(name: str, sign: int) -> None:
    with pytest.raises(PlanError, match=name):
        made(name, sign * 10**5000)


@pytest.mark.parametrize("name", WHOLE)
def test_sizes_and_counts_are_whole(name: str) -> None:
    stored = getattr(made(name, 0.5 * GiB), name)
    assert stored == GiB // 2
    assert type(stored) is int
    with pytest.raises(PlanError, match="whole"):
        made(name, 1.5)


@pytest.mark.parametrize("name", SECONDS)
def test_seconds_are_stored_as_float(name: str) -> None:
    for value in (2, 2.0, fractions.Fraction(4, 2)):
        stored = getattr(made(name, value), name)
        assert stored == 2.0
        assert type(stored) is float


def test_largest_values_fit_63_bits_as_bytes_and_as_nanoseconds() -> None:
    limits = Limits(memory=2**63 - 1, wall_time=(2**63 - 1) // 10**9)
    assert limits.memory == 2**63 - 1
    assert limits.wall_time is not None
    assert int(limits.wall_time) * 10**9 < 2**63


def test_limits_are_frozen_keyword_only_and_hashable() -> None:
    limits = Limits(memory=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        limits.memory = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(3.0)  # type: ignore[call-arg]
    assert hash(limits) == hash(Limits(memory=1))
    assert dataclasses.replace(limits, memory=2) == Limits(memory=2)


def test_replace_checks_again() -> None:
    with pytest.raises(PlanError):
        dataclasses.replace(Limits(), memory=-1)


def test_round_trips() -> None:
    limits = Limits(wall_time=0.5, cpu_time=None, memory=0, disk=None)
    assert Limits.from_dict(json.loads(json.dumps(limits.to_dict()))) == limits
    assert pickle.loads(pickle.dumps(limits)) == limits
    assert copy.deepcopy(limits) == limits
    assert Limits.from_dict({}) == Limits()


@pytest.mark.parametrize("data", [{"memroy": 1}, {1: 2}, [], None, "x", {"memory": "1"}])
def test_from_dict_refuses_what_is_no_limits(data: Any) -> None:
    with pytest.raises(PlanError):
        Limits.from_dict(data)


def test_from_dict_names_the_nearest_key() -> None:
    with pytest.raises(PlanError, match="did you mean 'memory'"):
        Limits.from_dict({"memroy": 1})
