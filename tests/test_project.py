"""The project's own rules have teeth: each check fails when it should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evalbox import _core
from evalbox._launch import launcher

ROOT = Path(__file__).resolve().parent.parent
SKIPPING = """\
import pytest

def test_hidden():
    pytest.skip("the tool is missing")

@pytest.mark.skipif(True, reason="the feature is missing")
def test_marked():
    pass

def test_runs():
    pass
"""


def run_skipping_suite(folder: Path, allowed: str, ci: str) -> str:
    (folder / "test_skipping.py").write_text(SKIPPING, encoding="utf-8")
    (folder / "allowed_skips.txt").write_text(allowed, encoding="utf-8")
    for name in ("conftest.py", "tiers.py"):
        shutil.copy(ROOT / "tests" / name, folder)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    env = {**os.environ, "CI": ci}
    done = subprocess.run(
        [*command, "--rootdir", folder, folder], env=env, cwd=folder, capture_output=True, text=True
    )
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("allowed", "ci", "summary"),
    [
        ("", "true", "1 failed, 1 passed, 1 error"),
        ("*test_hidden | no such tool anywhere\n*test_marked | the same\n", "true", "2 skipped"),
        ("", "", "2 skipped"),
    ],
    ids=["in CI", "allowed in CI", "elsewhere"],
)
def test_a_skip_is_a_failure_in_ci(tmp_path: Path, allowed: str, ci: str, summary: str) -> None:
    assert summary in run_skipping_suite(tmp_path, allowed, ci)


WHERE = """\
import evalbox._core
from evalbox._launch.launcher import PROGRAM
print(evalbox._core.__file__, PROGRAM, sep="\\n")
"""


@pytest.mark.core
def test_the_build_under_test_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    # `make test-asan` names a second build; the first must not be imported in its
    # place, neither here nor by an interpreter that starts there or elsewhere.
    wanted = Path(os.environ.get("EVALBOX_EXPECT_FROM", ROOT), "evalbox")
    assert {Path(_core.__file__).parent, launcher.PROGRAM.parent} == {wanted}
    command = [sys.executable, "-c", WHERE]
    for cwd in (ROOT, tmp_path):
        printed = subprocess.run(command, cwd=cwd, capture_output=True, text=True).stdout
        assert [Path(line).parent for line in printed.splitlines()] == [wanted, wanted]


def test_a_missing_emulator_is_named_with_its_package() -> None:
    command = [sys.executable, "tools/kernels/run.py", "--suite", "expected"]
    env = {**os.environ, "PATH": "/nonexistent"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    line = "qemu-system-x86_64 is missing: apt-get install qemu-system-x86\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


def copy_for_check_child(folder: Path, addition: str) -> subprocess.CompletedProcess[str]:
    for name in ("csrc", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    child = folder / "csrc" / "child.c"
    child.write_text(child.read_text(encoding="utf-8") + addition, encoding="utf-8")
    command = ["tools/check-child", sys.executable]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_check_child_accepts_the_child(tmp_path: Path) -> None:
    assert copy_for_check_child(tmp_path, "").returncode == 0


def test_check_child_refuses_an_allocation(tmp_path: Path) -> None:
    addition = (
        "\nvoid *malloc(size_t);\nvoid *eb_bad(void);\nvoid *eb_bad(void) { return malloc(1); }\n"
    )
    done = copy_for_check_child(tmp_path, addition)
    assert done.returncode == 1
    assert "malloc" in done.stderr


def test_every_make_target_explains_itself() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    internal = {"lint-python", "lint-c"}
    phony = set(" ".join(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)).split())
    explained = set(re.findall(r"^([a-z-]+):[^#\n]*## ", makefile, re.MULTILINE))
    assert phony - internal == explained


def test_ci_calls_targets_only() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    code = re.sub(r"#.*", "", script)
    assert re.findall(r"\b(pytest|ruff|mypy|pip|python3 -m)\b(?! *\\?$)", code) == []
