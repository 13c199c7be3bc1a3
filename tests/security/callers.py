"""Runs drive.py as each caller that this one can become.

Root is everything: itself, root in a container (tests/hard_places) and an
ordinary user. An ordinary user is only that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import evalbox
from security.base import CALLERS, TIERS, Result, Verdict

TESTS = Path(__file__).resolve().parent.parent
PACKAGE = Path(evalbox.__file__).resolve().parent
# Far longer than all attacks of a caller take.
PATIENCE = 900.0
# Outside what runs are given (compile/identity.py), and not nobody's.
_FIRST_UID = 61300
_UIDS = 100
# What tests/hard_places ends with where a place cannot be made.
_CANNOT_MAKE = 125


def callers_here() -> tuple[str, ...]:
    return CALLERS if os.geteuid() == 0 else ("user",)


@dataclass
class Told:
    """What one caller's attacks came to.

    Attributes:
        missing: tier -> why this caller has not got it here.
        levels: tier -> property -> how an ordinary run reports it.
        results: of the tiers that it has.
    """

    missing: dict[str, str] = field(default_factory=dict)
    levels: dict[str, dict[str, str]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)


def told_by(
    caller: str,
    ids: Iterable[str] = (),
    tiers: Iterable[str] = TIERS,
    launcher: Path | None = None,
    cgroups: bool = True,
    warm: bool = False,
) -> Told:
    """All results of a caller, or why there are none.

    With another launcher if there is one, on request as where there are no cgroups, and with
    `warm` from a template.
    """
    arguments = ["--caller", caller, *(f"--tier={tier}" for tier in tiers), *ids]
    if launcher is not None:
        arguments.insert(0, f"--launcher={launcher}")
    if not cgroups:
        arguments.insert(0, "--without-cgroups")
    if warm:
        arguments.insert(0, "--warm")
    with ExitStack() as stack:
        prefix, root = _COMMANDS[caller](stack)
        command = [*prefix, sys.executable, "-m", "security.drive", *arguments]
        path = os.pathsep.join((str(root), str(root / "tests")))
        done = subprocess.run(
            command,
            cwd=root,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    if caller == "container" and done.returncode == _CANNOT_MAKE:
        return Told(missing=dict.fromkeys(tiers, done.stderr.strip()))
    told = _read(done.stdout)
    if done.returncode != 0:
        raise RuntimeError(f"attacks as {caller} ended with {done.returncode}:\n{done.stderr}")
    return told


def _read(text: str) -> Told:
    told = Told()
    for line in text.splitlines():
        row = json.loads(line)
        if "id" in row:
            told.results.append(Result(**{**row, "verdict": Verdict(row["verdict"])}))
        elif row["missing"]:
            told.missing[row["tier"]] = row["missing"]
        else:
            told.levels[row["tier"]] = row["levels"]
    return told


# ---- what stands before the command, and where it runs ---------------------------------------


def _here(_: ExitStack) -> tuple[list[str], Path]:
    return [], TESTS.parent


def _in_container(_: ExitStack) -> tuple[list[str], Path]:
    return [sys.executable, "-m", "tests.hard_places", "docker-root", "--"], TESTS.parent


def _as_user(stack: ExitStack) -> tuple[list[str], Path]:
    if os.geteuid() != 0:
        return _here(stack)
    uid = str(_FIRST_UID + os.getpid() % _UIDS)
    root = stack.enter_context(_copy_for_everybody())
    drop = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps=-all"]
    home = root / "home"
    home.mkdir()
    os.chown(home, int(uid), int(uid))
    return [*drop, "env", f"HOME={home}"], root


_COMMANDS = {"root": _here, "container": _in_container, "user": _as_user}


@contextmanager
def _copy_for_everybody() -> Iterator[Path]:
    """A clone may lie where only its owner comes; nothing in the copy can be changed."""
    root = Path(tempfile.mkdtemp(prefix="evalbox-attacks-"))
    try:
        root.chmod(0o755)
        skip = shutil.ignore_patterns("__pycache__", "c", "*.c")
        shutil.copytree(PACKAGE, root / "evalbox", ignore=skip)
        shutil.copytree(TESTS, root / "tests", ignore=skip)
        yield root
    finally:
        shutil.rmtree(root)
