"""How little of the kernel and of the host a program can reach; the page says the same."""

from __future__ import annotations

import pytest

import evalbox
from evalbox import Syscalls
from security import exposure
from security.exposure import BEGIN, END, PAGE, _policy, in_table, longest_path, with_command

TIERS = ("process", "namespace")


@pytest.fixture(params=TIERS)
def seen(request: pytest.FixtureRequest) -> exposure.Figures:
    if request.param == "namespace" and evalbox.host().namespaces.why_not:
        pytest.skip(f"no namespace tier here: {evalbox.host().namespaces.why_not}")
    return exposure.with_evalbox(_policy(request.param))


def test_a_program_reaches_little(seen: exposure.Figures) -> None:
    assert int(seen["answered"]) <= 150
    assert seen["descriptors"] == "3"
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        # Only who may drop it has no bounding set; without it no_new_privs does the same.
        if name != "CapBnd":
            assert int(seen[name], 16) == 0
    assert int(seen["processes"]) <= 2


def test_the_measure_sees_more_where_there_is_no_sandbox() -> None:
    bare = with_command()
    assert int(bare["answered"]) > 250
    assert int(bare["processes"]) > 0


def test_the_table_of_calls_is_short() -> None:
    assert in_table(_policy("auto")) <= 150
    assert in_table(_policy("auto", Syscalls.compute())) <= 100
    assert longest_path(_policy("auto")) <= 64


def test_the_page_has_these_figures() -> None:
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for line in text.splitlines()
        if line.startswith("| ") and (cells := line.strip("| ").split(" | "))
    }
    for tier, column in (("process", 2), ("namespace", 3)):
        if tier == "namespace" and evalbox.host().namespaces.why_not:
            continue
        figures = exposure.with_evalbox(_policy(tier))
        for title in list(exposure.MEASURES)[:4]:
            assert rows[title][column] == exposure.MEASURES[title](figures), (tier, title)
