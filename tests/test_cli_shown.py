"""What the command line shows: help, `doctor`, and colours on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from evalbox.policy import ALL

EVALBOX = [sys.executable, "-m", "evalbox"]


def test_version() -> None:
    done = subprocess.run([*EVALBOX, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "evalbox")


@pytest.mark.parametrize("command", ["run", "doctor", "grade"])
def test_what_a_command_does_not_know_points_to_its_own_help(command: str) -> None:
    done = subprocess.run([*EVALBOX, command, "--bogus", "x"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (125, "")
    assert "unrecognized arguments: --bogus" in done.stderr
    assert f"see evalbox {command} --help" in done.stderr


@pytest.mark.parametrize("command", ["run", "doctor", "grade"])
def test_help_names_the_options(command: str) -> None:
    done = subprocess.run([*EVALBOX, command, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--json" in done.stdout


def test_doctor_says_what_is_enforced_and_what_is_missing() -> None:
    shown = subprocess.run([*EVALBOX, "doctor"], capture_output=True, text=True)
    told = subprocess.run([*EVALBOX, "doctor", "--json"], capture_output=True, text=True)
    report = json.loads(told.stdout)
    assert shown.returncode == told.returncode == (0 if report["ok"] else 1)
    for name in ALL:
        assert name in shown.stdout
    words = " ".join(shown.stdout.split())
    for missing in report["missing"]:
        assert missing["remedy"]
        assert words.count(missing["reason"]) == 1
    # The path of a cgroup is as long as it is.
    rows = [row for row in shown.stdout.splitlines() if "/sys/fs/cgroup" not in row]
    assert max(map(len, rows)) <= 90


BARE_DOCTOR = """
import evalbox._host as here, sys
here.namespaces = lambda *_: here.Namespaces("forbidden here", "allow them")
here.find = lambda: here.NO_CGROUPS
from evalbox.cli import main
sys.exit(main(["doctor"]))
"""


def test_doctor_shows_what_a_limit_would_get_that_is_not_set_by_default() -> None:
    command = [sys.executable, "-c", BARE_DOCTOR]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    assert "\ncpu +            partial   watch of the tree\n" in shown
    assert "\n+ with a limit; by default there is none\n" in shown
    assert "granted" not in shown
    for remedy in ("namespaces (see isolation)", "cgroup v2, delegated to the caller"):
        assert f"to have it: {remedy}" in shown


def on_terminal(*arguments: str, **env: str) -> bytes:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", **env}
    if "NO_COLOR" not in env:
        environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [*EVALBOX, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 4096):
            written += part
    except OSError:
        pass  # EIO: the other end is closed
    os.close(ours)
    process.wait()
    return written


@pytest.mark.parametrize("arguments", [("run", "--", "no-such-program"), ("doctor",)])
def test_colours_are_for_terminals_and_no_color_is_respected(arguments: tuple[str, ...]) -> None:
    assert b"\x1b[" in on_terminal(*arguments)
    assert b"\x1b[" not in on_terminal(*arguments, NO_COLOR="1")
    piped = subprocess.run([*EVALBOX, *arguments], capture_output=True)
    assert b"\x1b[" not in piped.stdout + piped.stderr


def test_colours_need_the_extra(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['rich'] = None\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    for arguments in (("run", "--", "no-such-program"), ("doctor",)):
        assert b"\x1b[" not in on_terminal(*arguments, PYTHONPATH=path)


def test_doctor_needs_no_extra() -> None:
    code = "import sys; sys.modules['rich'] = None; from evalbox.cli import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "wall_time" in done.stdout
