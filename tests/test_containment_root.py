"""As root: each run has a uid of its own, or keeps uid 0 where only that reaches its grants."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evalbox
import tiers
from evalbox import PIPE, Executor, Limits, Plan, PlanError, Policy, Stdout
from evalbox._host import host
from probe import KILL_ALL, ends, open_directory, python, witness

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("tier")]


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_directory() as made:
        yield made


def told_while_all_live(plans: list[Plan]) -> list[int]:
    """The number that each prints; every one of them lives until the last has."""
    told: dict[int, int] = {}
    with Executor() as executor:
        runs = [executor.spawn(plan) for plan in plans]
        while len(told) < len(runs):
            told |= {e.id: int(e.data) for e in executor.poll() if isinstance(e, Stdout)}
        for run in runs:
            executor.close_stdin(run)
        assert all(output.ok for output in ends(executor).values())
    return [told[run] for run in runs]


def test_two_live_runs_have_uids_of_their_own() -> None:
    plan = Plan(["sh", "-c", "id -u; read x || :"], stdin=PIPE, stream=True)
    uids = told_while_all_live([plan, plan])
    assert len({*uids, 0}) == 3


def assert_weaker_because_of(output: evalbox.Output, name: str) -> None:
    """A run that keeps uid 0 says why, where it makes a difference."""
    report = output.enforcement
    # Nothing but a cgroup counts the processes of uid 0.
    counted = "pids" in host().cgroups.controllers
    assert report["processes"].level == ("enforced" if counted else "none")
    weaker = [report[item].reason for item in ("processes", "fs_metadata") if report[item].reason]
    assert [reason for reason in weaker if name not in reason] == []
    assert weaker or (counted and tiers.current() == "namespace")


def test_a_run_that_keeps_uid_0_does_what_was_granted_and_no_more(folder: Path) -> None:
    (folder / "granted").mkdir(mode=0o700)
    (folder / "other").write_text("x")
    script = "id -u; echo made > granted/new && cat granted/new; cat other; rm other; ls"
    policy = Policy(write=[folder / "granted"])
    output = evalbox.run(["sh", "-c", f"cd {folder} && {{ {script}; }}"], policy=policy)
    # In namespaces there is only what was granted, so that a list shows no more.
    listed = {"process": "", "namespace": "granted\n"}[tiers.current()]
    assert output.text == f"0\nmade\n{listed}", output.stderr
    assert (folder / "granted" / "new").read_text() == "made\n"
    assert (folder / "other").exists()
    assert_weaker_because_of(output, "granted")


def test_a_program_that_only_root_reaches_is_run_as_uid_0(folder: Path) -> None:
    private = folder / "private"
    (private / "bin").mkdir(parents=True)
    private.chmod(0o700)
    program = private / "bin" / "program"
    program.write_text("#!/bin/sh\nid -u\n")
    program.chmod(0o700)
    output = evalbox.run([program])
    assert output.text == "0\n", output.stderr
    assert_weaker_because_of(output, "private")


def test_a_program_that_nobody_reaches_names_directory_uid_and_remedy(folder: Path) -> None:
    private = folder / "private"
    private.mkdir(mode=0o700)
    program = private / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    os.chown(private, 12345, 12345)
    with pytest.raises(PlanError) as caught:
        evalbox.run([program])
    for told in (str(private), "12345", "chmod"):
        assert told in str(caught.value)
    os.chown(private, 0, 0)
    assert evalbox.run([program]).ok


FORKS = """
import os
made = 0
try:
    for _ in range(100):
        if os.fork() == 0:
            os.read(0, 1)
            os._exit(0)
        made += 1
except BlockingIOError:
    pass
print(made, flush=True)
os.read(0, 1)
"""


def test_processes_are_counted_for_each_run() -> None:
    command = [sys.executable, "-c", FORKS]
    plans = [
        Plan(command, stdin=PIPE, stream=True, limits=Limits(processes=number))
        for number in (20, 20, None)
    ]
    assert told_while_all_live(plans) == [19, 19, 100]


def test_kill_all_with_uid_0_reaches_only_the_own_tree(folder: Path) -> None:
    (folder / "mine").mkdir(mode=0o700)
    with witness() as other:
        output = python("import os; print(os.getuid())\n" + KILL_ALL, write=[folder / "mine"])
        assert output.text == "0\n[-9, -9, -9]\n", output.stderr
        assert other.poll() is None
