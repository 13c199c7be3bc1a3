"""Every attack, as every caller, in every tier: nothing gets out where that is enforced."""

from __future__ import annotations

from functools import cache

import pytest

import evalbox
from security.base import ATTACKS, TIERS, Result, Verdict
from security.callers import Told, callers_here, told_by
from security.catalogue import IDS
from security.table import NO_TIER, PAGE, Cells, cells_of, levels_of, read_page

# How many entries each section of the catalogue has; more may be added.
CATALOGUE = {"F": 42, "P": 25, "N": 18, "K": 20, "R": 25, "X": 11, "I": 10}

# What cgroups hold better than anything else.
COUNTED = frozenset({"memory", "cpu", "processes", "tree_kill"})

told = cache(told_by)


@pytest.fixture(params=callers_here())
def caller(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=TIERS)
def results(request: pytest.FixtureRequest, caller: str) -> list[Result]:
    found: Told = told(caller)
    if reason := found.missing.get(request.param):
        pytest.skip(f"{caller} has no {request.param} tier here: {reason}")
    return [row for row in found.results if row.tier == request.param]


@pytest.mark.timeout(900)
def test_no_attack_succeeds_where_its_property_is_enforced(results: list[Result]) -> None:
    assert {row.id: row.failure for row in results if row.failure} == {}
    assert [row.id for row in results] != []
    assert {row.id for row in results} == set(IDS)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tier", TIERS)
def test_no_attack_from_a_template_succeeds(tier: str) -> None:
    if evalbox.host().landlock.abi < 6:
        pytest.skip(
            f"Landlock ABI {evalbox.host().landlock.abi}: no template, see docs/templates.md"
        )
    found = told_by(callers_here()[0], tiers=[tier], warm=True)
    if reason := found.missing.get(tier):
        pytest.skip(f"no {tier} tier here: {reason}")
    assert {row.id: row.failure for row in found.results if row.failure} == {}
    assert {row.id for row in found.results} == set(IDS)


@pytest.mark.timeout(900)
def test_the_table_in_the_docs_is_what_was_seen(caller: str, results: list[Result]) -> None:
    attacks, levels = read_page(PAGE.read_text(encoding="utf-8"))
    here = levels_of({caller: told(caller)})
    # What is held in part, by looks now and then, goes one way or the other.
    by_chance = {row.id for row in results if row.level == "partial"}
    differs = {
        key: (cell, attacks.get(key))
        for key, cell in cells_of(row for row in results if not row.failure).items()
        if cell != attacks.get(key)
        and not (key[0] in by_chance and {cell, attacks.get(key)} == {"blocked", "allowed"})
        and not _lacks_something(key[0], cell, attacks.get(key))
        and not _holds_otherwise(key, here, levels)
    }
    assert differs == {}, "make test-security ATTACKS=--write puts what was seen into the docs"


def _lacks_something(name: str, here: str, there: str | None) -> bool:
    """A device, say, that only one of the two machines has."""
    return ATTACKS[name].depends_on_machine and Verdict.NOT_APPLICABLE in (here, there)


def _holds_otherwise(key: tuple[str, str, str], here: Cells, there: Cells) -> bool:
    """One of the machines has a newer kernel, or cgroups: the report differs too."""
    name, caller, tier = key
    of_property = (ATTACKS[name].property or "", caller, tier)
    return here.get(of_property) != there.get(of_property)


def test_the_table_has_every_attack_and_no_other() -> None:
    page, _ = read_page(PAGE.read_text(encoding="utf-8"))
    assert list(dict.fromkeys(name for name, _, _ in page)) == IDS


def test_every_attack_is_tried_by_somebody() -> None:
    page, _ = read_page(PAGE.read_text(encoding="utf-8"))
    idle = {Verdict.NOT_APPLICABLE.value, NO_TIER}
    tried = {name for (name, _, _), cell in page.items() if cell not in idle}
    assert [name for name in IDS if name not in tried] == []


def test_every_entry_of_the_catalogue_is_there() -> None:
    there = {name.partition(".")[0] for name in IDS}
    wanted = [f"{section}{n + 1}" for section, count in CATALOGUE.items() for n in range(count)]
    assert [name for name in wanted if name not in there] == []
