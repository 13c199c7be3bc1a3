"""The documentation is executed: a block that does not work is a failing test.

- ```python blocks run, each in a namespace and a directory of its own; when an
  ```output block follows, it must be exactly what was printed.
- ```console blocks: `$ evalbox ...` runs in a shell and what follows is its
  output (`...` stands for anything); `$ make target` must name a target.
- Links must lead somewhere.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    output: str | None  # the ```output block right behind it

    @property
    def id(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    for number, match in enumerate(found):
        behind = found[number + 1] if number + 1 < len(found) else None
        follows = (
            behind is not None
            and behind[1] == "output"
            and not text[match.end() : behind.start()].strip()
        )
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[1], match[2], behind[2] if behind and follows else None)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def blocks(language: str) -> list[object]:
    return [pytest.param(block, id=block.id) for block in BLOCKS if block.language == language]


@pytest.mark.parametrize("block", blocks("python"))
def test_python_block_runs(
    block: Block,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.id, "exec"), {"__name__": "__main__"})
    if block.output is not None:
        assert capsys.readouterr().out == block.output


def shell(command: str, folder: Path) -> str:
    # A reader has the environment's programs on PATH; the test may not.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.stdout


def conversation(text: str) -> Iterator[tuple[str, str]]:
    """Pairs of a command and the output that the page shows below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


@pytest.mark.parametrize("block", blocks("console"))
def test_console_block_is_true(block: Block, tmp_path: Path) -> None:
    for command, shown in conversation(block.text):
        words = command.split()
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert set(targets) <= make_targets(), command
            continue
        assert words[0] in ("evalbox", "python3", "printf", "echo", "cat"), command
        got = shell(command, tmp_path)
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(shown, got, flags), f"{command}\n{got}"


def test_pages_use_known_languages_only() -> None:
    known = {"python", "output", "console", "text", "json", "c"}
    assert [block.id for block in BLOCKS if block.language not in known] == []


def anchors(page: Path) -> set[str]:
    """The ids that a code host gives to headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    plain = (re.sub(r"[^\w\s-]", "", title.lower()) for title in HEADING.findall(text))
    return {re.sub(r"\s", "-", title.strip()) for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        goal = (page.parent / name).resolve() if name else page
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            broken.append(target)
    assert broken == []
