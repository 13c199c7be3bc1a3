"""Random input: a value is made or a PlanError is raised, and nothing else happens.

Every plan that is made must survive JSON and pickle and fit its own schema.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalbox.errors import PlanError
from evalbox.flat import PlanFields, plan_from_fields
from evalbox.limits import LIMIT_FIELDS, Limits
from evalbox.plan import PIPE, PLAN_FIELDS, File, Plan
from evalbox.policy import ALL, Network, Policy, Syscalls
from evalbox.schema import plan_schema
from evalbox.warm import Warm

LONG = settings(
    max_examples=200_000,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SHORT = settings(LONG, max_examples=500)

SCHEMA = jsonschema.Draft202012Validator(plan_schema())

# ---- what people write, right and wrong --------------------------------------

names = st.sampled_from(["a", "b", "a/b", "./a", "a//b", ".", "..", "/a", "a/../b", "", "a\0b"])
odd_text = st.text(max_size=8) | st.text(st.characters(categories=["Cs", "Cc"]), max_size=4)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd_text | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3),
    max_leaves=4,
)
paths = names | odd_text | st.builds(Path, st.sampled_from(["a", "/b", "c/../d"]))
numbers = st.none() | st.integers(-1, 2**64) | st.floats() | junk
flags = st.booleans() | junk


def some(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(items, max_size=3) | st.tuples(items) | junk


def table(keys: st.SearchStrategy[Any], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(keys, values, max_size=3) | junk


limit_fields = dict.fromkeys(LIMIT_FIELDS, numbers)
policy_fields = {
    "read": some(paths),
    "write": some(st.just("/srv") | paths),
    "network": st.sampled_from([Network.none(), Network.host(), "host"]) | junk,
    "syscalls": st.just(Syscalls().allow("bpf")) | junk,
    "isolation": st.sampled_from(["auto", "process", "namespace", "none"]) | junk,
    "require": some(st.sampled_from([*sorted(ALL), "tpc"])),
    "on_denied": st.sampled_from(["errno", "kill", "die"]) | junk,
    "system": flags,
}
plan_fields = {
    "executable": st.none() | paths | st.binary(max_size=4) | junk,
    "stdin": st.binary(max_size=8) | st.just(PIPE) | junk,
    "env": table(st.sampled_from(["A", "PATH", "A=B", ""]) | odd_text, odd_text | junk),
    "cwd": paths | junk,
    "files": table(names | odd_text, st.binary(max_size=8) | odd_text | st.just(File("x")) | junk),
    "collect": some(st.sampled_from(["*", "**/x", "../*"]) | paths),
    "limits": st.just(Limits(memory=1)) | junk,
    "policy": st.just(Policy(system=False)) | junk,
    "stream": flags,
    "hold": flags,
    "warm": st.none() | st.just(Warm(["json"])) | junk,
}
commands = some(st.sampled_from(["ls", "./a", "", b"x"]) | paths | st.binary(max_size=4))
# A few fields at a time, or hardly any plan would be good in all of them.
few = st.lists(st.sampled_from(sorted(PlanFields.__optional_keys__)), max_size=3, unique=True)


@st.composite
def fields(draw: st.DrawFn) -> dict[str, Any]:
    known = {**plan_fields, **policy_fields, **limit_fields, "timeout": numbers}
    return {name: draw(known[name]) for name in draw(few)}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | odd_text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*PLAN_FIELDS, *policy_fields, *limit_fields, "base64", "content"])
            | odd_text,
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def made(make: Callable[[], Plan]) -> Plan | None:
    try:
        return make()
    except PlanError as error:
        said = str(error)
    assert 0 < len(said) < 1000
    return None


def check(plan: Plan | None) -> None:
    """What holds of every plan that could be made."""
    if plan is None:
        return
    text = json.dumps(plan.to_dict(), allow_nan=False)
    assert Plan.from_dict(json.loads(text)) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert isinstance(hash(plan), int)
    assert SCHEMA.is_valid(json.loads(text))


@SHORT
@given(commands, fields())
def test_random_fields_make_a_plan_or_a_plan_error(cmd: Any, chosen: dict[str, Any]) -> None:
    check(made(lambda: plan_from_fields(cmd, **chosen)))


@SHORT
@given(
    st.fixed_dictionaries(
        {"cmd": json_values}, optional=dict.fromkeys(PLAN_FIELDS[1:], json_values)
    )
)
def test_random_json_makes_a_plan_or_a_plan_error(data: dict[str, Any]) -> None:
    check(made(lambda: Plan.from_dict(data)))


@pytest.mark.long
@LONG
@given(commands, fields())
def test_200_000_random_plans_never_crash(cmd: Any, chosen: dict[str, Any]) -> None:
    check(made(lambda: plan_from_fields(cmd, **chosen)))
