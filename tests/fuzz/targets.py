"""The fuzz targets: what each is made of. Read by tools/fuzz and by tests/test_fuzz_corpus.py.

python tests/fuzz/targets.py names
python tests/fuzz/targets.py flags
python tests/fuzz/targets.py sources filter
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "csrc"))

import sources  # noqa: E402  (needs the line above)

# Name of tests/fuzz/fuzz_NAME.c and tests/fuzz/corpus/NAME -> the sources under test.
TARGETS = {
    "job": ["protocol.c"],
    "tree": ["protocol.c"],
    "packet": ["protocol.c"],
    "filter": ["filter.c"],
}


def flags() -> list[str]:
    """For the compiler, from the project's root."""
    return [*sources.STANDARD, *sources.WARNINGS, *sources.SANITIZE, "-Icsrc", "-Itests/fuzz"]


if __name__ == "__main__":
    ANSWERS = {
        "names": lambda _: list(TARGETS),
        "flags": lambda _: flags(),
        "sources": lambda target: sources.paths(TARGETS[target]),
    }
    print(*ANSWERS[sys.argv[1]](*sys.argv[2:] or [""]))
