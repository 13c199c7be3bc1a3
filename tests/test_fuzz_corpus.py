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


class Workshop:
    """Compiles the targets; what does not change, once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _compile(self, source: str | Path, name: str) -> Path:
        made = self.folder / name
        command = ["gcc", *asked("flags"), "-c", source, "-o", made]
        subprocess.run(command, cwd=ROOT, check=True)
        return made

    @cache  # noqa: B019  # lives as long as this module's tests
    def _target(self, name: str) -> Path:
        return self._compile(f"tests/fuzz/{name}.c", f"{name}.o")

    def build(self, target: str, source: str | Path) -> Path:
        """The target's program, around one source under test."""
        program = self.folder / target
        objects = [self._target(f"fuzz_{target}"), self._target("replay")]
        tested = self._compile(source, "tested.o")
        command = ["gcc", *asked("flags"), *objects, tested, "-o", program]
        subprocess.run(command, cwd=ROOT, check=True)
        return program


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


def replay(program: Path, target: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ASAN_OPTIONS": "", "LD_PRELOAD": ""}
    command = [program, FUZZ / "corpus" / target]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("target", asked("names"))
def test_the_corpus_finds_nothing(target: str, workshop: Workshop) -> None:
    (source,) = asked("sources", target)
    done = replay(workshop.build(target, source), target)
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
    target: str, right: str, wrong: str, workshop: Workshop
) -> None:
    (source,) = asked("sources", target)
    text = (ROOT / source).read_text(encoding="utf-8")
    assert right in text
    copy = workshop.folder / Path(source).name
    copy.write_text(text.replace(right, wrong), encoding="utf-8")
    assert replay(workshop.build(target, copy), target).returncode != 0


def test_the_corpus_is_small() -> None:
    files = [path for path in (FUZZ / "corpus").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 200_000
    assert len(files) < 1000
