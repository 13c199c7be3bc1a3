"""What fuzzing found interesting is tried again, without libFuzzer; `make fuzz` looks for more.

A target holds the code under test to a second description of what it does. That
it does so is shown here with code that is wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUZZ = ROOT / "tests" / "fuzz"


@cache
def asked(*question: str) -> list[str]:
    """What tests/fuzz/targets.py answers, as tools/fuzz asks it."""
    command = [sys.executable, FUZZ / "targets.py", *question]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def build(target: str, sources: list[str], program: Path) -> None:
    command = ["gcc", *asked("flags"), f"tests/fuzz/fuzz_{target}.c", "tests/fuzz/replay.c"]
    subprocess.run([*command, *sources, "-o", program], cwd=ROOT, check=True)


def replay(program: Path, target: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ASAN_OPTIONS": "", "LD_PRELOAD": ""}
    command = [program, FUZZ / "corpus" / target]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("target", asked("names"))
def test_the_corpus_finds_nothing(target: str, tmp_path: Path) -> None:
    build(target, asked("sources", target), tmp_path / target)
    done = replay(tmp_path / target, target)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
    assert sorted(done.stdout.split()) == sorted(os.listdir(FUZZ / "corpus" / target))
    assert done.stdout


# Target, a piece of the code under test, and what is put in its place.
WRONG = [
    ("filter", "BPF_JGE, ranges[half]", "BPF_JGT, ranges[half]"),
    ("filter", "whole ? words[0].word : NO_WORD", "words[0].word"),
    ("filter", "rule->nr <= rule[-1].nr", "rule->nr < rule[-1].nr"),
    ("filter", "RANGES_PER_STEP = 4", "RANGES_PER_STEP = 0"),
    ("filter", "REACH = UINT8_MAX - 1", "REACH = UINT8_MAX + 1"),
    ("job", "job->argc == 0 ||", ""),
    ("job", "job->strings > payload_size ||", ""),
    ("tree", "(uint32_t)(2 * n)", "(uint32_t)n"),
    ("tree", "size < sizeof view->tree", "size < 8"),
    ("packet", "MSG_TRUNC | MSG_CTRUNC", "MSG_CTRUNC"),
    ("packet", "close(packet->fds[i])", "(void)packet->fds[i]"),
]


@pytest.mark.parametrize(("target", "right", "wrong"), WRONG)
def test_the_corpus_finds_what_is_wrong(
    target: str, right: str, wrong: str, tmp_path: Path
) -> None:
    (source,) = asked("sources", target)
    text = (ROOT / source).read_text(encoding="utf-8")
    assert right in text
    copy = tmp_path / Path(source).name
    copy.write_text(text.replace(right, wrong), encoding="utf-8")
    build(target, [os.fspath(copy)], tmp_path / target)
    assert replay(tmp_path / target, target).returncode != 0


def test_the_corpus_is_small() -> None:
    files = [path for path in (FUZZ / "corpus").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 200_000
    assert len(files) < 1000
