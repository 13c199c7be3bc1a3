"""The framework itself: it finds a sandbox that does not hold, and an attack that is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evalbox import Enforcement
from evalbox.policy import PROPERTIES
from security import base, batch, engine, table
from security.base import Attack, Context, Result, Verdict, make_context
from security.callers import TESTS
from security.catalogue import IDS
from security.world import World

ATTACK = Attack(
    id="F999",
    title="an attack",
    property="fs_read",
    blocked=frozenset({"EACCES"}),
    reached=frozenset({"OK"}),
    act='open(f"{DIR}/secret").read()',
)
PRIVILEGED = replace(ATTACK, privileged="more than it has")
NO_PROPERTY = replace(ATTACK, property=None)


@pytest.fixture(params=[1, 20], ids=["alone", "together"], autouse=True)
def acts_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found does not depend on how many acts one interpreter makes."""
    monkeypatch.setattr(batch, "SIZE", request.param)


@pytest.fixture
def context() -> Iterator[Context]:
    with World() as world:
        yield make_context("F999", "process", "root", world.base, world)


def judged(context: Context, item: Attack, answer: str, control: str, level: str) -> Result:
    context.enforcement = {"fs_read": Enforcement(level, "", "")} if level else {}  # type: ignore[arg-type]
    return engine.judge(item, context, answer, control)


@pytest.mark.parametrize(
    ("item", "answer", "control", "level", "verdict", "failure"),
    [
        (ATTACK, "EACCES", "OK", "enforced", "blocked", ""),
        (ATTACK, "EACCES", "OK", "partial", "blocked", ""),
        (ATTACK, "OK", "OK", "enforced", "allowed", "although fs_read is enforced"),
        (ATTACK, "OK", "OK", "partial", "allowed", ""),
        (ATTACK, "OK", "OK", "none", "allowed", ""),
        (NO_PROPERTY, "EACCES", "OK", "", "blocked", ""),
        (NO_PROPERTY, "OK", "OK", "none", "allowed", "although this is enforced"),
        (ATTACK, "EIO", "OK", "enforced", "blocked", "neither a success nor one of"),
        (ATTACK, "EACCES", "EACCES", "enforced", "blocked", "proves nothing"),
        (ATTACK, "EACCES", "OK", "", "blocked", "no run says how"),
        (PRIVILEGED, "EACCES", "EPERM", "enforced", "n/a", ""),
        (PRIVILEGED, "OK", "EPERM", "enforced", "allowed", "although fs_read is enforced"),
    ],
)
def test_an_attack_is_judged_by_answer_control_and_report(
    context: Context,
    item: Attack,
    answer: str,
    control: str,
    level: str,
    verdict: str,
    failure: str,
) -> None:
    result = judged(context, item, answer, control, level)
    assert result.verdict == verdict
    assert failure in result.failure
    assert bool(failure) == bool(result.failure)


def results_of(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Result:
    monkeypatch.setitem(base.ATTACKS, "F999", replace(ATTACK, **changes))
    monkeypatch.setattr(engine, "_controls", {})
    [result] = engine.run_attacks(["F999"], "process", "root")
    return result


def test_what_the_sandbox_blocks_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    result = results_of(monkeypatch)
    assert (result.verdict, result.answer, result.control) == ("blocked", "EACCES", "OK")
    assert result.failure == ""
    assert result.level == "enforced"


def test_a_sandbox_that_lets_an_attack_through_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    result = results_of(monkeypatch, fields=lambda ctx: {"read": [ctx.dir]})
    assert result.verdict == "allowed"
    assert "although fs_read is enforced" in result.failure


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"act": "open('/no/such/file')"}, "ENOENT"),
        ({"act": "1 / 0"}, "ZeroDivisionError"),
        ({"act": "os.kill(os.getpid(), 9)"}, "SIGKILL"),
        ({"act": "os._exit(7)"}, "exit 7"),
        ({"act": "pass", "harm": lambda _: False}, "unharmed"),
        ({"fields": lambda _: {"read": ["/no/such/file"]}}, "raised PlanError"),
        ({"given": lambda _: {"DIR": os.environ["NO_SUCH"]}}, "KeyError"),
    ],
)
def test_a_broken_attack_does_not_count_as_blocked(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    result = results_of(monkeypatch, **changes)
    assert result.failure
    assert told in f"{result.answer} {result.control}"


def test_an_act_made_after_one_that_ends_them_all_is_judged_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fatal = "import time; os.kill(os.getppid(), 9); time.sleep(1)"
    monkeypatch.setitem(base.ATTACKS, "F998", replace(ATTACK, id="F998", act=fatal))
    monkeypatch.setitem(base.ATTACKS, "F999", ATTACK)
    monkeypatch.setattr(engine, "_controls", {"F998": "OK"})
    told = {row.id: row for row in engine.run_attacks(["F998", "F999"], "process", "root")}
    assert told["F998"].failure
    assert (told["F999"].answer, told["F999"].failure) == ("EACCES", "")


def test_harm_decides_instead_of_the_programs_word(monkeypatch: pytest.MonkeyPatch) -> None:
    act = 'open(f"{DIR}/secret", "w").close(); held("nothing")'
    changes = {"act": act, "property": "fs_write", "harm": _emptied}
    held = results_of(monkeypatch, **changes)
    assert (held.answer, held.control, held.failure) == ("EACCES", "OK", "")
    granted = results_of(monkeypatch, **changes, fields=lambda ctx: {"write": [ctx.dir]})
    assert granted.answer == "OK"


def _emptied(ctx: Context) -> bool:
    return (ctx.dir / "secret").read_text() == ""


def test_a_function_that_raises_is_a_failure_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Context) -> str:
        raise RuntimeError("broken")

    result = results_of(monkeypatch, act="", function=broken, control=lambda _: "OK")
    assert "broken" in result.failure


def test_the_page_is_read_back_as_it_was_written() -> None:
    some = base.ATTACKS["F1.read"]
    result = Result(
        id=some.id,
        caller="user",
        tier="process",
        verdict=Verdict.ALLOWED,
        answer="OK",
        control="OK",
        level="none",
        reason="nothing holds it",
    )
    levels = {("fs_read", "user", "process"): "none"}
    page = f"before\n{table.BEGIN}{table.generated([result], levels)}{table.END}after\n"
    attacks, read = table.read_page(page)
    assert attacks["F1.read", "user", "process"] == "allowed"
    assert attacks["F1.read", "root", "process"] == table.NO_TIER
    assert len(attacks) == len(IDS) * len(table.COLUMNS)
    assert read["fs_read", "user", "process"] == "none"
    assert len(read) == len(PROPERTIES) * len(table.COLUMNS)
    assert "`fs_read` is none: nothing holds it (F1.read)" in page


def test_a_caller_is_driven_by_a_command_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "security.drive", "--caller", "user", "--tier", "process"]
    env = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([*command, "F1.read"], env=env, cwd=tmp_path, capture_output=True)
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["tier"], first["missing"]) == ("process", "")
    assert first["levels"]["fs_read"] == "enforced"
    assert (second["id"], second["verdict"], second["failure"]) == ("F1.read", "blocked", "")
