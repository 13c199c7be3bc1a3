"""What the reference says of defaults and names is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import evalbox
from evalbox._host import Missing
from evalbox.limits import GiB, KiB, Limits, MiB
from evalbox.output import Enforcement, Output, Status
from evalbox.plan import Plan
from evalbox.policy import CORE, PROPERTIES, Policy
from evalbox.usage import Usage

DOCS = Path(__file__).resolve().parent.parent / "docs"
REFERENCE = (DOCS / "reference.md").read_text(encoding="utf-8")
SECURITY = (DOCS / "security-model.md").read_text(encoding="utf-8")
UNITS = {"s": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB}


def table_under(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its header."""
    _, _, below = page.partition(f"\n{heading}\n")
    assert below, f"no heading {heading!r}"
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert lines, f"no table below {heading!r}"
    rows = [line.strip().strip("|").split(" | ") for line in lines[0].splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def names(rows: list[list[str]]) -> list[str]:
    return [name for row in rows for name in re.findall(r"`(\w+)", row[0])]


def amount(cell: str) -> float | None:
    if cell == "none":
        return None
    number, _, unit = cell.partition(" ")
    return float(number) * UNITS[unit or "s"] if unit else float(number)


def test_limits_have_the_documented_defaults() -> None:
    rows = table_under(REFERENCE, "### Limits")
    documented = {names([row])[0]: amount(row[1]) for row in rows}
    assert documented == Limits().to_dict()


def test_plan_and_policy_fields_are_documented_in_order() -> None:
    assert names(table_under(REFERENCE, "### Plan")) == list(Plan.__dataclass_fields__)
    fields = [name for name in Policy.__dataclass_fields__ if name != "digest"]
    assert names(table_under(REFERENCE, "### Policy")) == fields


def test_statuses_are_documented() -> None:
    assert names(table_under(REFERENCE, "### Status")) == [status.name for status in Status]


def test_output_members_are_documented() -> None:
    public = {name for name in dir(Output) if not name.startswith("_")} - {"to_dict", "from_dict"}
    assert set(names(table_under(REFERENCE, "### Output"))) == public
    assert set(names(table_under(REFERENCE, "### Usage"))) == set(Usage.__dataclass_fields__)
    assert list(Enforcement.__dataclass_fields__) == ["level", "mechanism", "reason"]


def test_executor_members_are_documented() -> None:
    public = {name for name in dir(evalbox.Executor) if not name.startswith("_")}
    assert set(names(table_under(REFERENCE, "### Executor"))) == public


def test_properties_are_documented_with_their_place_in_core() -> None:
    rows = table_under(SECURITY, "## Properties")
    assert tuple(names(rows)) == PROPERTIES
    assert {names([row])[0] for row in rows if row[-1] == "yes"} == CORE


def test_host_members_are_documented() -> None:
    members = names(table_under(REFERENCE, "## The host"))
    assert all(hasattr(evalbox.host(), name) for name in members)
    missing = {"thing", "reason", "remedy"}
    assert missing == set(Missing.__dataclass_fields__)
    assert all(f"`{name}`" in REFERENCE for name in missing)


def test_every_public_name_is_in_the_reference() -> None:
    missing = [name for name in evalbox.__all__ if not re.search(rf"\b{name}\b", REFERENCE)]
    assert missing == []
