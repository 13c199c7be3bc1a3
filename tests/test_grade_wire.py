"""The bytes between judge and subject: exact for plain data, safe for all else."""

from __future__ import annotations

import collections
import decimal
import enum
import fractions
import math
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalbox.grade.inside import wire

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 5)),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4),
    max_leaves=8,
)
plain = st.recursive(
    hashable | st.builds(bytearray, st.binary()) | st.sets(hashable, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hashable, inner, max_size=4),
    max_leaves=12,
)


def same(one: object, other: object) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type]
    if isinstance(one, dict):
        return all(map(same, one.items(), other.items()))  # type: ignore[attr-defined]
    return one == other


@given(plain)
def test_plain_data_comes_back_as_it_was(value: object) -> None:
    assert same(wire.decode(wire.encode(value)), value)


def test_nan_comes_back_as_nan() -> None:
    value = wire.decode(wire.encode(math.nan))
    assert isinstance(value, float)
    assert math.isnan(value)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    try:
        wire.decode(data)
    except wire.Malformed:
        return


@given(plain, st.data())
def test_a_value_that_is_cut_or_goes_on_is_malformed(value: object, data: st.DataObject) -> None:
    body = wire.encode(value)
    with pytest.raises(wire.Malformed):
        wire.decode(body[: data.draw(st.integers(0, len(body) - 1))])
    with pytest.raises(wire.Malformed):
        wire.decode(body + b"n")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        b"l\xff\xff\xff\xffn",
        b"l\0\0\0\x01" * 100_000,
        b"S\0\0\0\x01l\0\0\0\0",
        b"d\0\0\0\x01n",
        b"f\0\0\0\x02xx",
        b"s\0\0\0\x01\xff",
        b"c\0\0\0\x02nn",
        b"r\0\0\0\x03" + wire.encode(1) + wire.encode(1) + wire.encode(0),
        b"D\0\0\0\x01x",
        b"Q\0\0\0\x031/0",
    ],
)
def test_what_encode_never_makes_is_malformed(data: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.decode(data)


class EqualToAll:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


class EqualToAllList(list[int]):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def test_an_object_of_a_sample_never_crosses() -> None:
    value = wire.decode(wire.encode([EqualToAll()]))
    assert value != [EqualToAllList]
    assert value != [1]
    assert repr(value) == "[<an EqualToAll, which does not cross>]"


def test_python_does_not_tell_our_name_for_what_does_not_cross() -> None:
    value: Any = wire.decode(wire.encode(EqualToAll()))
    with pytest.raises(TypeError, match="'object that does not cross' and 'int'"):
        value - 1


def test_the_name_of_a_type_is_cut() -> None:
    assert len(str(wire.decode(wire.encode(wire.Opaque("x" * 5_000_000))))) < 200


class Colour(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "crosses_as"),
    [
        (EqualToAllList([1]), [1]),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (Point(1, 2), (1, 2)),
        (Colour.RED, 1),
        (True, True),
        (decimal.Decimal("0.10"), decimal.Decimal("0.10")),
        (fractions.Fraction(1, 3), fractions.Fraction(1, 3)),
    ],
)
def test_a_subclass_crosses_as_what_it_extends(value: object, crosses_as: object) -> None:
    got = wire.decode(wire.encode(value))
    assert type(got) is type(crosses_as)
    assert got == crosses_as


def test_an_iterator_crosses_as_an_iterator_over_the_same_items() -> None:
    value = wire.decode(wire.encode(x * x for x in range(3)))
    assert value != [0, 1, 4]
    assert list(value) == [0, 1, 4]  # type: ignore[call-overload]


def test_a_value_that_contains_itself_is_a_recursion_error() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(RecursionError):
        wire.encode(value)


def test_messages_follow_each_other_on_one_pipe() -> None:
    end, start = os.pipe()
    try:
        wire.write_all(start, wire.message([1]) + wire.message("two"))
        assert wire.decode(wire.read_body(end)) == [1]
        assert wire.decode(wire.read_body(end)) == "two"
        os.write(start, b"\0\0")
        os.close(start)
        with pytest.raises(EOFError):
            wire.read_body(end)
    finally:
        os.close(end)


def test_a_message_that_is_too_large_is_refused_before_it_is_read() -> None:
    end, start = os.pipe()
    try:
        os.write(start, b"\xff\xff\xff\xff")
        with pytest.raises(wire.Malformed, match="at most"):
            wire.read_body(end)
    finally:
        os.close(end)
        os.close(start)


def test_an_exception_whose_text_raises_is_still_described() -> None:
    class SlyError(Exception):
        def __str__(self) -> str:
            raise SystemExit(0)

    assert wire.describe(SlyError()) == "SlyError"
    assert wire.describe(ValueError("one\ntwo")) == "ValueError: one"
