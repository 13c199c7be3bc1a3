"""Hard places, reproduced: where evalbox has to hold what it promises or to say so.

    python -m tests.hard_places --list
    python -m tests.hard_places docker-root -- evalbox doctor
    python -m tests.hard_places docker-user+noexec-tmp-user -- sh

The command is PID 1 there. Its exit code is passed on; 125 says that the place
cannot be made here, and why. From a test:

    done = run("docker-root", ["evalbox", "doctor", "--json"])
    report = visit("docker-root")            what visitor.py sees there

Both raise CannotMake where the caller, or the machine, cannot make the place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["CannotMake", "run", "visit"]

_ROOT = Path(__file__).parents[2]
_CANNOT_MAKE, _TOOL = 125, "hard_places: "
_REPORT = "HARD_PLACES_REPORT"


class CannotMake(Exception):  # noqa: N818  # reads as what happened
    """Why this caller cannot make a place here."""


def run(
    place: str, command: Sequence[str | Path], pass_fds: Sequence[int] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """A command in a place, with its output."""
    paths = [os.fspath(_ROOT), os.fspath(_ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.hard_places", place, "--", *map(os.fspath, command)],
        env=os.environ | {"PYTHONPATH": ":".join(filter(None, paths))} | env,
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        pass_fds=pass_fds,
        timeout=240,
    )
    if done.returncode == _CANNOT_MAKE and done.stderr.startswith(_TOOL):
        raise CannotMake(done.stderr.strip())
    return done


def visit(place: str, *arguments: str) -> dict[str, Any]:
    """What visitor.py reports from there.

    It has a descriptor of its own for that: not every place has a stdout.
    """
    reader, writer = os.pipe()
    try:
        command = [sys.executable, "-m", "tests.hard_places.visitor", *arguments]
        done = run(place, command, pass_fds=(writer,), **{_REPORT: str(writer)})
    finally:
        os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as file:
        text = file.read()
    assert text, f"{place}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    found: dict[str, Any] = json.loads(text)
    return found
