"""The libraries that stand beside a program, and what is never given away.

A program in `<prefix>/bin` may read `<prefix>/lib`, `<prefix>/share` and their
like; a Python also its standard library and, in a virtual environment, both
prefixes. Never granted are `/`, a home directory and what is above one, nor the
prefix itself. A link that leads out of its prefix is not followed: pyvenv.cfg
and the links in a virtual environment may be written by whom one does not trust.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from evalbox.resolve.reach import read_start

# With `system=True` these are granted anyway, and with `system=False` not through here.
SYSTEM_PREFIXES = ("/", "/usr", "/usr/local")
_PROGRAMS = ("bin", "sbin")
_LIBRARIES = ("lib", "lib32", "lib64", "libexec", "share", "conf")
_VENV_PARTS = ("bin", "include", *_LIBRARIES)
_PYTHON = re.compile(r"(python|pypy)[0-9.]*t?d?")
_PYTHON_LIBRARY = re.compile(r"(python|pypy)[0-9][0-9.]*t?|lib(python|pypy)[0-9].*\.so[0-9.]*")
# pyvenv.cfg has a handful of lines.
_CONFIGURATION_SIZE = 1 << 16


class Part(NamedTuple):
    """A part of an installation: as it was looked up, and where that led."""

    named: str
    real: str


def libraries_of(program: str) -> Iterator[Part]:
    """What the program at this absolute path reads of its installation."""
    real = os.path.realpath(program)
    prefixes = dict.fromkeys(prefix for path in (program, real) if (prefix := _prefix(path)))
    for prefix in prefixes:
        if not is_shared(prefix):
            yield from _parts(prefix, _LIBRARIES)
    if _PYTHON.fullmatch(os.path.basename(program)) or _PYTHON.fullmatch(os.path.basename(real)):
        yield from _python(program, prefixes)


def loader_libraries(loader: str) -> Iterator[str]:
    """The loader of an ELF program; a private one with the C library beside it."""
    real = os.path.realpath(loader)
    yield real
    folder = os.path.dirname(real)
    in_system = folder.startswith(("/usr/", "/lib")) or os.path.dirname(folder) in SYSTEM_PREFIXES
    if not in_system and not is_shared(folder) and not is_shared(os.path.dirname(folder)):
        yield folder


def is_shared(directory: str) -> bool:
    """Whether more than one installation lives there, so that none may have all of it."""
    real = os.path.realpath(directory)
    if real in SYSTEM_PREFIXES or gives_away_home(real):
        return True
    try:
        status = os.stat(real)
    except OSError:
        return True
    # /tmp and its like belong to everybody.
    if status.st_mode & stat.S_ISVTX:
        return True
    local = (os.path.join(home, ".local") for home in _homes(status.st_uid))
    return gives_away_home(real, status.st_uid) or real in local


def gives_away_home(real: str, owner: int | None = None) -> bool:
    """Whether a real path is `/`, a home directory or above one."""
    path = PurePosixPath(real)
    return path == PurePosixPath("/") or any(
        PurePosixPath(home).is_relative_to(path) for home in _homes(owner)
    )


def _homes(owner: int | None = None) -> set[str]:
    """Home directories of the caller, of root and of who owns what is looked at."""
    named = {os.environ.get("HOME", "/"), "/root"}
    for uid in {os.geteuid(), owner}:
        try:
            named.add("/" if uid is None else pwd.getpwuid(uid).pw_dir)
        except KeyError:
            continue
    return {real for home in named if (real := os.path.realpath(home)) != "/"}


def _prefix(program: str) -> str:
    """`/opt/x` for `/opt/x/bin/x`; "" when a program stands elsewhere."""
    folder, name = os.path.split(os.path.dirname(program))
    return folder if name in _PROGRAMS else ""


def _parts(prefix: str, names: tuple[str, ...]) -> Iterator[Part]:
    """Those parts of a prefix that exist and lie in it."""
    real_prefix = os.path.realpath(prefix)
    for name in names:
        named = os.path.join(prefix, name)
        real = os.path.realpath(named)
        inside = real.startswith(f"{real_prefix}/")
        if inside and os.path.exists(real) and not gives_away_home(real):
            yield Part(named, real)


# ---- Python ------------------------------------------------------------------


def _python(program: str, prefixes: dict[str, None]) -> Iterator[Part]:
    for prefix in prefixes:
        yield from _standard_library(prefix)
    configuration = venv_configuration(program)
    if not configuration:
        return
    yield Part(configuration, os.path.realpath(configuration))
    prefix = os.path.dirname(configuration)
    if is_shared(prefix):
        yield from _standard_library(prefix, holds=("site-packages",))
    else:
        yield from _parts(prefix, _VENV_PARTS)
    base = _base_prefix(configuration)
    if base:
        yield from _standard_library(base)


def venv_configuration(program: str) -> str:
    """pyvenv.cfg where Modules/getpath.py looks for it; "" outside a virtual environment."""
    folder = os.path.dirname(program)
    for place in (folder, os.path.dirname(folder)):
        path = os.path.join(place, "pyvenv.cfg")
        if os.path.isfile(path):
            return path
    return ""


def _base_prefix(configuration: str) -> str:
    """The prefix of the Python that a virtual environment was made with."""
    try:
        content = read_start(configuration, _CONFIGURATION_SIZE)
    except OSError:
        return ""
    lines = [line.partition("=") for line in content.decode("utf-8", "replace").split("\n")]
    settings = {name.strip().lower(): value.strip() for name, _, value in lines}
    home = settings.get("home", "")
    # Not resolved here: the way there decides whether a run could have changed it.
    return os.path.join(home, "..") if home.startswith("/") and "\0" not in home else ""


def _standard_library(prefix: str, holds: tuple[str, ...] = ("os.py",)) -> Iterator[Part]:
    """`lib/python3.x` where it is one, and the shared library of the interpreter."""
    if os.path.realpath(prefix) in SYSTEM_PREFIXES:
        return
    for folder in ("lib", "lib64"):
        place = os.path.join(prefix, folder)
        try:
            names = [name for name in os.listdir(place) if _PYTHON_LIBRARY.fullmatch(name)]
        except OSError:
            continue
        for part in _parts(prefix, tuple(os.path.join(folder, name) for name in names)):
            held = (os.path.exists(os.path.join(part.real, name)) for name in holds)
            if os.path.isfile(part.real) or any(held):
                yield part
