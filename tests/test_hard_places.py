"""evalbox in hard places: it holds there what it promises, or says what is missing.

In each place a visitor runs something, attacks from inside a sandbox and, as
the control, from an ordinary process; see hard_places/visitor.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

import proc
from evalbox import _native
from evalbox.policy import ALL, CORE
from hard_places_here import HERE, base, run_there, visit_there

EVALBOX = [sys.executable, "-m", "evalbox"]
Words = tuple[str, ...]

# Why runs have no namespaces there, and what brings them.
_APPARMOR = (
    "kernel.apparmor_restrict_unprivileged_userns is 1",
    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    "AppArmor profile",
)
NO_NAMESPACES: dict[str, Words] = {
    "docker": ("user namespaces are forbidden", "--security-opt seccomp=unconfined"),
    "docker-cap-drop": ("user namespaces are forbidden", "--security-opt seccomp=unconfined"),
    "docker-no-new-privs": ("user namespaces are forbidden", "--security-opt seccomp=unconfined"),
    "docker-unconfined": ("/proc are masked", "--security-opt systempaths=unconfined"),
    "no-userns": ("user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces="),
    "debian-userns": (
        "kernel.unprivileged_userns_clone is 0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    "apparmor-userns": _APPARMOR,
    "apparmor-caps": _APPARMOR,
    "read-only-proc": ("/proc is mounted read-only", "mount -o remount,rw /proc"),
}
# Where no directory can hold the workspaces of runs that have no namespaces.
NO_WORKSPACE: dict[str, Words] = {
    "read-only-all": ("no directory for workspaces", "/tmp: not writable", "set TMPDIR"),
    "noexec-tmp": ("no directory for workspaces", "/tmp: mounted noexec", "set TMPDIR"),
}
# Where nothing runs: what is raised, and words of what it says.
NOTHING: dict[str, tuple[str, Words]] = {
    "no-proc": ("UnsupportedError", ("/proc is not mounted", "mount -t proc proc /proc")),
    "few-files": ("SetupError", ("EMFILE", "RLIMIT_NOFILE", "ulimit -n")),
    "few-processes": ("SetupError", ("EAGAIN", "RLIMIT_NPROC", "ulimit -u")),
}


def within(*tables: dict[str, Any]) -> list[str]:
    return [name for name in HERE if any(base(name) in table for table in tables)]


RUNS = [name for name in HERE if base(name) not in NOTHING]
NAMESPACES = [name for name in RUNS if base(name) not in NO_NAMESPACES]
# In its own namespaces or in the caller's: each place with every tier that it has.
PLACE_AND_TIER = [
    *((name, "auto") for name in RUNS),
    *((name, "process") for name in NAMESPACES if base(name) not in NO_WORKSPACE),
]


@cache
def visit(place: str, isolation: str = "auto") -> dict[str, Any]:
    return visit_there(place, isolation)


def lacking(words: Words, text: str) -> list[str]:
    return [word for word in words if word not in text]


# ---- where it runs ---------------------------------------------------------------


@pytest.mark.parametrize(("place", "isolation"), PLACE_AND_TIER)
def test_a_default_run_works_and_the_core_is_enforced(place: str, isolation: str) -> None:
    found = visit(place, isolation)["run"]
    assert (found.get("ok"), found.get("text")) == (True, "42"), found
    assert found["held"].keys() == ALL
    assert {name for name in CORE if found["held"][name][0] != "enforced"} == set()


@pytest.mark.parametrize("place", RUNS)
def test_namespaces_are_taken_where_they_can_be_had(place: str) -> None:
    _, mechanism = visit(place)["run"]["held"]["fs_metadata"]
    assert (mechanism == "mount namespace") == (place in NAMESPACES)


@pytest.mark.parametrize(("place", "isolation"), PLACE_AND_TIER)
def test_a_program_is_confined_and_what_it_tries_is_possible_outside(
    place: str, isolation: str
) -> None:
    found = visit(place, isolation)
    assert {name for name, seen in found["controls"].items() if seen != "ok"} == set()
    assert {name for name, seen in found["attacks"].items() if seen == "ok"} == set()
    assert found["attacks"].keys() == found["controls"].keys()


@pytest.mark.parametrize(("place", "isolation"), PLACE_AND_TIER)
def test_daemons_of_a_run_die_with_it(place: str, isolation: str) -> None:
    assert visit(place, isolation)["survivors"] == []


@pytest.mark.parametrize(
    ("place", "isolation"), [*PLACE_AND_TIER, *((name, "auto") for name in within(NOTHING))]
)
def test_nothing_is_left(place: str, isolation: str) -> None:
    left = visit(place, isolation)["left"]
    assert {name: found for name, found in left.items() if found} == {}


@pytest.mark.parametrize("place", within({"docker": ()}))
@pytest.mark.parametrize(
    ("script", "options", "code"),
    [
        ("exit 3", (), 3),
        ("kill -SEGV $$", (), 139),
        ("sleep 60", ("--timeout", "0.2"), 124),
    ],
)
def test_exit_codes_are_those_of_anywhere_else(
    place: str, script: str, options: Words, code: int
) -> None:
    done = run_there(place, [*EVALBOX, "run", *options, "--", "sh", "-c", script])
    assert done.returncode == code, done.stderr


# ---- where it does not -------------------------------------------------------------


@pytest.mark.parametrize("place", within(NO_NAMESPACES))
def test_without_namespaces_the_exact_setting_is_named(place: str) -> None:
    found = visit(place, "namespace")["run"]
    assert found.get("error") == "UnsupportedError", found
    assert found["text"].startswith("cannot enforce isolation: ")
    assert lacking(NO_NAMESPACES[base(place)], found["text"]) == []


@pytest.mark.parametrize("place", within(NO_WORKSPACE))
def test_without_a_directory_for_workspaces_each_that_was_tried_is_named(place: str) -> None:
    found = visit(place, "process")["run"]
    assert found.get("error") == "SetupError", found
    assert lacking(NO_WORKSPACE[base(place)], found["text"]) == []


@pytest.mark.parametrize("place", within(NOTHING))
def test_where_nothing_runs_the_remedy_is_told(place: str) -> None:
    error, words = NOTHING[base(place)]
    found = visit(place)["run"]
    assert found.get("error") == error, found
    assert lacking(words, found["text"]) == []


@pytest.mark.parametrize("place", within(NOTHING))
def test_the_command_exits_with_125_and_says_why(place: str) -> None:
    done = run_there(place, [*EVALBOX, "run", "--", "true"])
    assert done.returncode == 125
    assert lacking(NOTHING[base(place)][1], done.stderr) == []


# ---- doctor ------------------------------------------------------------------------


@cache
def doctor(place: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, what it found (nothing where it cannot look), and its errors."""
    done = run_there(place, [*EVALBOX, "doctor", "--json"])
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def told(found: dict[str, Any], thing: str) -> str:
    """What is missing, and the remedy, as one text."""
    return " ".join(f"{m['reason']} {m['remedy']}" for m in found["missing"] if m["thing"] == thing)


@pytest.mark.parametrize("place", [name for name in RUNS if base(name) != "closed-stdio"])
def test_doctor_names_the_setting_that_brings_namespaces(place: str) -> None:
    code, found, errors = doctor(place)
    assert (code, found["ok"], errors) == (0, True, "")
    assert found["namespaces"] == (place in NAMESPACES)
    assert lacking(NO_NAMESPACES.get(base(place), ()), told(found, "isolation")) == []
    assert (told(found, "isolation") == "") == (place in NAMESPACES)


@pytest.mark.parametrize("place", within(NO_NAMESPACES))
def test_what_namespaces_would_hold_has_their_remedy(place: str) -> None:
    found = doctor(place)[1]
    for name in ("fs_metadata", "proc_view", "disk"):
        assert NO_NAMESPACES[base(place)][1] in told(found, name)


def test_doctor_says_when_there_is_no_proc() -> None:
    for place in within({"no-proc": ()}):
        code, found, errors = doctor(place)
        assert (code, found["ok"], errors) == (1, False, "")
        assert "mount -t proc proc /proc" in told(found, "anything")


def test_doctor_says_when_no_directory_can_hold_workspaces() -> None:
    place = "docker-user+noexec-tmp-user"
    code, found, errors = doctor(place)
    assert (code, found["ok"], errors, found["workspaces"]) == (1, False, "", [])
    assert lacking(NO_WORKSPACE["noexec-tmp"], told(found, "workspace")) == []
    assert lacking(NO_WORKSPACE["noexec-tmp"], visit(place)["run"]["text"]) == []


def test_doctor_does_not_take_a_shortage_for_an_answer() -> None:
    code, found, errors = doctor("few-processes-user")
    assert (code, found) == (125, {})
    assert "RLIMIT_NPROC" in errors


# ---- at the limit of open files ------------------------------------------------------

_AT_EACH_LIMIT = """
import os, resource, sys
import evalbox

def attempt(isolation):
    try:
        with evalbox.Executor() as executor:
            policy = evalbox.Policy(isolation=isolation)
            return executor.run(evalbox.Plan(["true"], policy=policy)).exit_code
    except evalbox.SetupError as error:
        return "told" if "RLIMIT_NOFILE" in str(error) else str(error)

def children():
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) or "running"
    except ChildProcessError:
        return "none"

for limit in range(16, 100, 4):
    if os.fork() == 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        print(limit, attempt(sys.argv[1]), children(), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.parametrize("isolation", ["auto", "process"])
def test_with_any_limit_of_open_files_a_run_works_or_the_limit_is_named(isolation: str) -> None:
    command = [sys.executable, "-c", _AT_EACH_LIMIT, isolation]
    done = subprocess.run(command, capture_output=True, text=True)
    found = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines()]
    assert set(found) == {"told none", "0 none"}, done.stdout
    assert found == sorted(found, reverse=True), "what works with few works with more"
    assert done.stderr == ""


def test_a_launcher_that_cannot_be_started_leaves_no_process() -> None:
    before = proc.children(os.getpid())
    with pytest.raises(FileNotFoundError):
        _native.start_launcher("/no/such/launcher", [0])
    assert proc.children(os.getpid()) == before
