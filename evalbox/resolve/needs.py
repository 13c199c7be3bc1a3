"""What a program needs to be readable, besides what every program has.

Followed as execve follows it: a script's `#!` line to its interpreter, an ELF
program's header to its loader; at each step the libraries of the installation.
"""

from __future__ import annotations

import errno
import os
import shlex
import struct
from pathlib import PurePosixPath

from evalbox.errors import CommandNotFound, SetupError
from evalbox.resolve.installation import libraries_of, loader_libraries
from evalbox.resolve.search import STAGE, Found, View, find

# The kernel reads this much of a script's first line (BINPRM_BUF_SIZE).
_LINE = 256
# The program headers stand at the beginning; linkers put them behind the ELF header.
_HEADER = 4096
_MOST_INTERPRETERS = 5  # exec_binprm(): one more is ELOOP
_ELF64 = b"\x7fELF\x02\x01"
_PT_INTERP = 3


def needs(found: Found, view: View) -> tuple[str, ...]:
    """The real paths that a program needs; sorted, and none below another.

    A host's program is one of them, a file of the plan is not.
    """
    wanted: set[str] = set()
    _follow(found, view, wanted)
    return tuple(sorted(path for path in wanted if not _above(path) & wanted))


def _above(path: str) -> set[str]:
    return {os.fspath(parent) for parent in PurePosixPath(path).parents}


def header_of(found: Found, view: View) -> bytes:
    """How a program begins; empty where it may be executed and not read (mode 0711)."""
    if found.in_workspace:
        file = view.file_at(found.path)
        return file.content[:_HEADER] if file else b""
    try:
        with open(found.path, "rb") as program:
            return program.read(_HEADER)
    except PermissionError:
        return b""


def _follow(found: Found, view: View, wanted: set[str], depth: int = 0) -> None:
    if depth > _MOST_INTERPRETERS:
        raise SetupError(
            STAGE, errno.ELOOP, f"{found.path}: its interpreters are scripts, too deep"
        )
    header = header_of(found, view)
    if not found.in_workspace:
        wanted.add(os.path.realpath(found.path))
        wanted.update(libraries_of(found.path))
    loader = _loader(header)
    if loader and os.path.exists(loader):
        wanted.update(loader_libraries(loader))
    interpreter, argument = _hash_bang(header)
    if not interpreter:
        return
    if os.path.basename(interpreter) == "env":
        _follow_env(_program_of_env(argument), view, wanted, depth + 1)
    _follow(_interpreter(interpreter, found.path, view), view, wanted, depth + 1)


def _follow_env(name: str, view: View, wanted: set[str], depth: int) -> None:
    """What `env` will start. When that cannot work, env itself will say so, as it always does."""
    if not name:
        return
    try:
        _follow(find(name, view), view, wanted, depth)
    except (CommandNotFound, SetupError):
        return


def _interpreter(path: str, script: str, view: View) -> Found:
    try:
        # A name without a slash is no name for PATH here, but a file in cwd.
        return find(path if "/" in path else f"./{path}", view)
    except CommandNotFound as error:
        reason = f"named by the #! line of {script}: {error.reason}"
        raise CommandNotFound(path, reason) from None


# ---- #! ----------------------------------------------------------------------


def _hash_bang(header: bytes) -> tuple[str, str]:
    """Interpreter and its one argument, as fs/binfmt_script.c cuts them; "" when none."""
    if not header.startswith(b"#!"):
        return "", ""
    line = header[2:_LINE].split(b"\n", 1)[0].strip(b" \t")
    interpreter, _, argument = line.replace(b"\t", b" ").partition(b" ")
    return os.fsdecode(interpreter), os.fsdecode(argument.strip(b" "))


def _program_of_env(argument: str) -> str:
    """The program in `env PROGRAM` or `env -S [-i] [NAME=VALUE] PROGRAM ARGUMENT`."""
    if not argument.startswith("-"):
        # Without -S the whole rest of the line is one name.
        return argument
    _, split, rest = argument.partition("S")
    if not split:
        return ""
    try:
        words = shlex.split(rest)
    except ValueError:
        return ""
    return next((word for word in words if not word.startswith("-") and "=" not in word), "")


# ---- ELF ---------------------------------------------------------------------


def _loader(header: bytes) -> str:
    """The loader (PT_INTERP) that a 64-bit ELF program names; "" when none."""
    if not header.startswith(_ELF64) or len(header) < 64:
        return ""
    (table,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    for index in range(count):
        at = table + index * size
        if size < 56 or at + 56 > len(header):
            return ""
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", header, at)
        if kind == _PT_INTERP:
            name = header[offset : offset + length].split(b"\0", 1)[0]
            return os.fsdecode(name) if name.startswith(b"/") else ""
    return ""
