"""A little chaos in each tier, and that what looks for harm would see it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos import remains
from chaos.judge import Record, Verdicts
from chaos.kinds import IPC_KEYS
from chaos.victims import Kill
from evalbox import Executor, Plan, Status
from leaks import launchers_of
from proc import children, mark, until

TESTS = Path(__file__).parents[1]
_IPC_CREAT, _IPC_EXCL, _IPC_RMID = 0o1000, 0o2000, 0


def _drive(*arguments: str) -> dict[str, Any]:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-m", "chaos.drive", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout, done.stderr
    return {"code": done.returncode, "stderr": done.stderr, **json.loads(done.stdout)}


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.long)])
def test_kills_hurt_nobody_else_and_leave_nothing(tier: str, count: int) -> None:
    report = _drive("--tiers", tier, "--kills", str(count))
    assert report["clean"], report
    assert report["code"] == 0, report
    assert report["sent"] >= count
    assert report["ends"]["exact"] > 0


# ---- what it has found


def test_the_death_of_a_launcher_loses_nothing_that_was_written(tier: str, tmp_path: Path) -> None:
    """Its inits still tell what their runs wrote, streamed or not."""
    with Executor() as executor:
        script = "echo written; echo also >&2; echo >$HOME/f; cat"
        executor.spawn(Plan(["sh", "-c", script], stdin=_pipe()))
        (launcher,) = launchers_of(executor)
        (slot,) = launcher.slots.values()
        until(lambda: any(path.exists() for path in _homes(launcher, slot)), "it has written")
        os.kill(launcher.pid, signal.SIGKILL)
        (event,) = [event for event in _until_end(executor) if hasattr(event, "output")]
    assert event.output.status is Status.KILLED
    assert (event.output.stdout, event.output.stderr) == (b"written\n", b"also\n")
