"""The published schemas: valid, up to date, and true of what to_dict makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from evalbox import schema
from evalbox.errors import PlanError
from evalbox.output import Output
from evalbox.plan import PIPE, Plan
from evalbox.policy import Network, Policy, Syscalls
from value_samples import EVERY, NORMAL, RICH_PLAN

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schema"

PLANS = [
    Plan(["true"]),
    RICH_PLAN,
    Plan(["cat"], stdin=PIPE),
    Plan(["x"], policy=Policy(network=Network.host(), syscalls=Syscalls().deny("bpf"))),
]


def accepts(form: dict[str, Any], data: object) -> bool:
    validator = jsonschema.Draft202012Validator(form)
    return bool(validator.is_valid(data))


@pytest.mark.parametrize("make", schema.SCHEMAS.values())
def test_schemas_are_schemas(make: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(make())


@pytest.mark.parametrize("name", schema.SCHEMAS)
def test_published_files_are_up_to_date(name: str) -> None:
    published = (FOLDER / name).read_text(encoding="utf-8")
    assert published == schema.rendered(schema.SCHEMAS[name]()), (
        "run: python -m evalbox.schema docs/schema"
    )


def test_every_published_file_has_a_schema() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(schema.SCHEMAS)


def test_main_writes_both_files(tmp_path: Path) -> None:
    schema.main(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == set(schema.SCHEMAS)


@pytest.mark.parametrize("plan", PLANS)
def test_plan_schema_accepts_what_to_dict_makes(plan: Plan) -> None:
    jsonschema.validate(json.loads(json.dumps(plan.to_dict())), schema.plan_schema())


@pytest.mark.parametrize("output", [NORMAL, *EVERY.values()])
def test_output_schema_accepts_what_to_dict_makes(output: Output) -> None:
    jsonschema.validate(json.loads(json.dumps(output.to_dict())), schema.output_schema())


def test_schemas_describe_every_key() -> None:
    assert set(schema.plan_schema()["properties"]) == set(RICH_PLAN.to_dict())
    assert set(schema.output_schema()["properties"]) == set(NORMAL.to_dict())
    definitions = schema.plan_schema()["$defs"]
    assert set(definitions["policy"]["properties"]) == set(Policy().to_dict())
    assert set(definitions["limits"]["properties"]) == set(RICH_PLAN.limits.to_dict())


def test_defaults_in_the_schema_are_those_of_the_values() -> None:
    properties = schema.plan_schema()["properties"]
    given = {name: form["default"] for name, form in properties.items() if "default" in form}
    assert Plan.from_dict({"cmd": ["x"], **given}) == Plan(["x"])
    limits = schema.plan_schema()["$defs"]["limits"]["properties"]
    given = {name: form["default"] for name, form in limits.items()}
    assert Plan.from_dict({"cmd": ["x"], "limits": given}) == Plan(["x"])


REFUSED_BY_BOTH: list[dict[str, Any]] = [
    {},
    {"cmd": []},
    {"cmd": "ls"},
    {"cmd": [3]},
    {"cmd": ["a\0"]},
    {"cmd": ["ls"], "stdn": {}},
    {"cmd": ["ls"], "stdin": "text"},
    {"cmd": ["ls"], "cwd": "/"},
    {"cmd": ["ls"], "cwd": "a/../b"},
    {"cmd": ["ls"], "cwd": ".."},
    {"cmd": ["ls"], "files": {"/a": {"content": ""}}},
    {"cmd": ["ls"], "files": {"../a": {"content": ""}}},
    {"cmd": ["ls"], "env": {"A=B": ""}},
    {"cmd": ["ls"], "env": {"A": 1}},
    {"cmd": ["ls"], "limits": {"memory": -1}},
    {"cmd": ["ls"], "limits": {"memory": 2**63}},
    {"cmd": ["ls"], "limits": {"memory": "1"}},
    {"cmd": ["ls"], "policy": {"read": ["a"]}},
    {"cmd": ["ls"], "policy": {"require": ["tpc"]}},
    {"cmd": ["ls"], "policy": {"isolation": "none"}},
    {"cmd": ["ls"], "stream": 1},
]


@pytest.mark.parametrize("data", REFUSED_BY_BOTH)
def test_schema_and_from_dict_refuse_the_same(data: dict[str, Any]) -> None:
    assert not accepts(schema.plan_schema(), data)
    with pytest.raises(PlanError):
        Plan.from_dict(data)


ACCEPTED_BY_BOTH: list[dict[str, Any]] = [
    {"cmd": ["ls", "", "é"]},
    {"cmd": ["ls"], "cwd": "a/..b/c.."},
    {"cmd": ["ls"], "files": {"..a": {"content": "text"}}},
    {"cmd": ["ls"], "limits": {"memory": None, "wall_time": 0}},
    {"cmd": ["ls"], "policy": {"read": ["/a/../b"], "network": {}}},
]


@pytest.mark.parametrize("data", ACCEPTED_BY_BOTH)
def test_schema_and_from_dict_accept_the_same(data: dict[str, Any]) -> None:
    assert accepts(schema.plan_schema(), data)
    assert isinstance(Plan.from_dict(data), Plan)
