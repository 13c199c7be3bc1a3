"""evalbox in hard places: it holds there what it promises, or says what is missing.

In each place a visitor runs something, attacks from inside a sandbox and, as
the control, from an ordinary process; see hard_places/visitor.py.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import Any

import pytest

import hard_places
from evalbox.policy import CORE
from hard_places_here import HERE, skip_unless_made

EVALBOX = [sys.executable, "-m", "evalbox"]
CONTAINERS = ("docker", "docker-unconfined")
# Where nothing runs: what is raised, and words of what it says.
REFUSED = {
    "read-only-root": ("SetupError", ("workspace", "TMPDIR")),
    "read-only-all": ("SetupError", ("workspace", "TMPDIR")),
    "noexec-tmp": ("SetupError", ("/tmp: mounted noexec", "set TMPDIR")),
    "no-proc": ("UnsupportedError", ("/proc is not mounted", "mount -t proc proc /proc")),
    "few-files": ("SetupError", ("EMFILE", "RLIMIT_NOFILE")),
    "few-processes": ("SetupError", ("EAGAIN", "RLIMIT_NPROC")),
}


def base(place: str) -> str:
    return place.rpartition("-")[0]


RUNS = [name for name in HERE if base(name) not in REFUSED]
RUNS_NOT = [name for name in HERE if base(name) in REFUSED]


@cache
def visit(place: str, isolation: str = "process") -> dict[str, Any]:
    skip_unless_made(place)
    return hard_places.visit(place, isolation)


# ---- where it runs ---------------------------------------------------------------


@pytest.mark.parametrize("place", RUNS)
def test_a_default_run_works_and_the_core_is_enforced(place: str) -> None:
    found = visit(place)["run"]
    assert (found.get("ok"), found.get("text")) == (True, "42"), found
    assert {name for name in CORE if found["levels"][name] != "enforced"} == set()


@pytest.mark.parametrize("place", RUNS)
def test_a_program_is_confined_and_what_it_tries_is_possible_outside(place: str) -> None:
    found = visit(place)
    assert {name for name, seen in found["controls"].items() if seen != "ok"} == set()
    assert {name for name, seen in found["attacks"].items() if seen == "ok"} == set()
    assert found["attacks"].keys() == found["controls"].keys()


@pytest.mark.parametrize("place", RUNS)
def test_daemons_of_a_run_die_with_it(place: str) -> None:
    assert visit(place)["survivors"] == []


@pytest.mark.parametrize("place", HERE)
def test_nothing_is_left(place: str) -> None:
    left = visit(place)["left"]
    assert left == {name: [] for name in left}


@pytest.mark.parametrize("place", [name for name in RUNS if base(name) in CONTAINERS])
@pytest.mark.parametrize(
    ("script", "options", "code"),
    [
        ("exit 3", (), 3),
        ("kill -SEGV $$", (), 139),
        ("sleep 60", ("--timeout", "0.2"), 124),
    ],
)
def test_exit_codes_are_those_of_anywhere_else(
    place: str, script: str, options: tuple[str, ...], code: int
) -> None:
    skip_unless_made(place)
    done = hard_places.run(place, [*EVALBOX, "run", *options, "--", "sh", "-c", script])
    assert done.returncode == code, done.stderr


# ---- where it does not -------------------------------------------------------------


@pytest.mark.parametrize("place", RUNS_NOT)
def test_what_is_missing_is_told_with_the_remedy(place: str) -> None:
    error, words = REFUSED[base(place)]
    found = visit(place)["run"]
    assert found.get("error") == error, found
    assert [word for word in words if word not in found["text"]] == []


@pytest.mark.parametrize("place", RUNS_NOT)
def test_the_command_exits_with_125_and_says_why(place: str) -> None:
    words = REFUSED[base(place)][1]
    skip_unless_made(place)
    done = hard_places.run(place, [*EVALBOX, "run", "--", "true"])
    assert done.returncode == 125
    assert [word for word in words if word not in done.stderr] == []


# ---- doctor ------------------------------------------------------------------------


@pytest.mark.parametrize("place", HERE)
def test_doctor_answers_everywhere(place: str) -> None:
    skip_unless_made(place)
    done = hard_places.run(place, [*EVALBOX, "doctor", "--json"])
    assert done.stderr == ""
    if base(place) == "closed-stdio":
        return
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    # Limits of the caller are for the one run that meets them.
    if base(place) not in ("few-files", "few-processes"):
        assert found["ok"] == (place in RUNS)
