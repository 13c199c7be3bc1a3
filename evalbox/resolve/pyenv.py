"""The program behind a pyenv shim, without asking pyenv.

A shim is a shell script `<root>/shims/NAME` that runs `pyenv exec NAME`, which
chooses `<root>/versions/VERSION/bin/NAME`. Granting what that needs (a shell,
all of pyenv and of its versions) is far more than the one program. The choice is
made here instead, by pyenv's own rules, as the sandboxed program would see them:
PYENV_VERSION of the plan's `env`, then a `.python-version` file of the plan,
then `<root>/version`.
"""

from __future__ import annotations

import os
import re

from evalbox.errors import CommandNotFound
from evalbox.resolve.reach import read_start

VERSION_VARIABLE = "PYENV_VERSION"
VERSION_FILE = ".python-version"
SYSTEM = "system"
_SHIM = re.compile(rb"^exec .*\bpyenv\"? exec ", re.MULTILINE)
_SIZE = 1024


def versions_in(content: bytes) -> str:
    """The versions in a version file, separated by colons as in PYENV_VERSION."""
    lines = content[:_SIZE].decode("utf-8", "replace").splitlines()
    return ":".join(word for line in lines for word in line.partition("#")[0].split())


def is_shim(path: str) -> bool:
    # Asked by name first, so that an ordinary program is not opened here.
    return "/shims/" in path and _SHIM.search(_read(path)) is not None


def behind_shim(path: str, wanted: str) -> str | None:
    """The program that the shim at `path` stands for; None: what the system has.

    Raises:
        CommandNotFound: no chosen version has the program, or one is no name of a version.
    """
    folder, name = os.path.split(path)
    root = os.path.dirname(folder)
    chosen = wanted or versions_in(_read(os.path.join(root, "version"))) or SYSTEM
    for version in chosen.split(":"):
        if version == SYSTEM:
            return None
        if not _is_plain(version):
            raise CommandNotFound(path, f"a pyenv shim, and {version!r} is no name of a version")
        program = os.path.join(root, "versions", _exact(root, version), "bin", name)
        if os.access(program, os.X_OK):
            return program
    raise CommandNotFound(path, _remedy(root, name, chosen))


def _is_plain(version: str) -> bool:
    """Whether it names one entry of a directory; the plan's file may hold anything."""
    return version not in ("", ".", "..") and not set(version) & {"/", "\0"}


def _read(path: str) -> bytes:
    try:
        return read_start(path, _SIZE)
    except OSError:
        return b""


def _installed(root: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.join(root, "versions")), key=_order)
    except OSError:
        return []


def _order(version: str) -> list[tuple[int, str]]:
    """3.9 before 3.10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in version.split(".")]


def _exact(root: str, version: str) -> str:
    """`3.11` means the newest 3.11.x, as pyenv has it since 2.3."""
    installed = _installed(root)
    if version in installed:
        return version
    newer = [name for name in installed if name.startswith(f"{version}.")]
    return newer[-1] if newer else version


def _remedy(root: str, name: str, chosen: str) -> str:
    having = [
        version
        for version in _installed(root)
        if os.access(os.path.join(root, "versions", version, "bin", name), os.X_OK)
    ]
    reason = f"a pyenv shim, and the chosen version ({chosen}) has no {name}"
    if not having:
        return f"{reason}, nor has any other"
    return f"{reason}; add {VERSION_VARIABLE!r}: {having[-1]!r} to env (of: {', '.join(having)})"
