"""The second import contract: one module knows the C door.

import-linter cannot see it, because evalbox._core is an extension module.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import evalbox

PACKAGE = Path(evalbox.__file__).parent
DOOR = "evalbox._core"


def imported_names(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            base = f"evalbox.{module}".rstrip(".") if node.level else module
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_the_door(path: Path) -> bool:
    names = imported_names(path.read_text(encoding="utf-8"))
    return any(name == DOOR or name.startswith(f"{DOOR}.") for name in names)


def test_only_native_imports_core() -> None:
    importers = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if imports_the_door(path)
    }
    assert importers == {f"_native/{name}.py" for name in ("__init__", "basics", "tree", "wire")}
