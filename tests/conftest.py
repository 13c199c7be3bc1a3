"""Rules for the whole suite: who runs a test, and that no skip hides.

A test for root only, or for an ordinary user only, is deselected for the other:
it shows in the count and needs no skip. Any other skip is a failure in CI
unless tests/allowed_skips.txt names it with a reason.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import tiers
from evalbox._host import host

ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")


def read_allowed_skips(text: str) -> list[str]:
    """The patterns of lines `pattern | reason`; a line without a reason is an error."""
    patterns = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        pattern, bar, reason = line.partition("|")
        if not bar or not reason.strip():
            raise ValueError(f"allowed_skips.txt needs `pattern | reason`: {line!r}")
        patterns.append(pattern.strip())
    return patterns


def _is_hidden_skip(nodeid: str) -> bool:
    patterns = read_allowed_skips(ALLOWED_SKIPS.read_text(encoding="utf-8"))
    return not any(fnmatchcase(nodeid, pattern) for pattern in patterns)


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    if not in_ci or not report.skipped or hasattr(report, "wasxfail"):
        return
    if _is_hidden_skip(report.nodeid):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI and not in tests/allowed_skips.txt: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = "user" if os.geteuid() == 0 else "root"
    dropped = [item for item in items if item.get_closest_marker(unwanted)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if not item.get_closest_marker(unwanted)]


@pytest.fixture(params=tiers.TIERS)
def tier(request: pytest.FixtureRequest) -> Iterator[str]:
    """Once for each way in which runs are isolated, which is what "auto" means then."""
    if request.param == "namespace" and host().namespaces.why_not:
        pytest.skip(host().namespaces.why_not)
    with tiers.only(request.param):
        yield request.param


@pytest.fixture
def process_tier() -> Iterator[None]:
    """For tests of what is there without namespaces only."""
    with tiers.only("process"):
        yield


@pytest.fixture
def namespace_tier() -> Iterator[None]:
    """For tests of what is there in namespaces only."""
    if host().namespaces.why_not:
        pytest.skip(host().namespaces.why_not)
    with tiers.only("namespace"):
        yield
