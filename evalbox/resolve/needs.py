"""What a program needs to be readable, besides what every program has.

Followed as execve follows it: a script's `#!` line to its interpreter, an ELF
program's header to its loader; at each step the libraries of the installation.

A file of the plan, and one that the run could have changed, is content that is
not trusted. Nothing is granted because such a file names it: what it names must
be covered by the policy, or the run is refused. The one exception is a plain
NAME behind `env`, found in the plan's PATH, whose directories the author chose.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
import struct
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from evalbox.errors import CommandNotFound, PlanError, SetupError
from evalbox.resolve.installation import libraries_of, loader_libraries, venv_configuration
from evalbox.resolve.reach import changeable_file, changeable_name, covers, read_start
from evalbox.resolve.search import STAGE, Found, View, executable_on_host, find

# The kernel reads this much of a script's first line (BINPRM_BUF_SIZE).
_LINE = 256
# The program headers stand at the beginning; linkers put them behind the ELF header.
_HEADER = 4096
_MOST_INTERPRETERS = 5  # exec_binprm(): one more is ELOOP
_ELF64 = b"\x7fELF\x02\x01"
_PT_INTERP = 3
_SPLIT = re.compile(r"-[iv]*S")
_ENV_FLAGS = ("-i", "--ignore-environment", "-v")


class _NotCoveredError(SetupError):
    """A file of the plan names what the policy does not let be read."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What was found.

    Attributes:
        grants: the real paths that a program needs; sorted, and none below another.
        only_host: whether no step was, or could have been, a file of the plan.
    """

    grants: tuple[str, ...]
    only_host: bool


@dataclass(frozen=True, slots=True)
class _Source:
    """Content that is not trusted: a file of the plan, or what `writable` lets be changed."""

    file: str
    writable: str = ""

    def refusal(self, path: str) -> Exception:
        if self.writable:
            return PlanError(
                f"{self.file} can be changed by the run itself (write={self.writable}), so {path},"
                f" to which it leads, is not granted for it; put {path!r} into read="
            )
        message = (
            f"{path} is named by {self.file}, a file of the plan, and the policy does not let"
            f" it be read; add read=[{path!r}] to the policy"
        )
        return _NotCoveredError(STAGE, errno.EACCES, message)


@dataclass(slots=True)
class _Search:
    view: View
    wanted: set[str] = field(default_factory=set)
    only_host: bool = True

    def demand(self, real: str, source: _Source) -> None:
        if not covers(self.view.policy, real):
            raise source.refusal(real)


def needs(found: Found, view: View) -> Needs:
    """What a program needs; a host's program is part of it, a file of the plan is not.

    Raises:
        CommandNotFound: there is no interpreter for it.
        PlanError: a file that the run can change leads to what the policy does not cover.
        SetupError: an interpreter cannot be executed, or a file of the plan names one
            that the policy does not cover.
    """
    search = _Search(view)
    _follow(found, None, search)
    wanted = search.wanted
    grants = sorted(path for path in wanted if not _above(path) & wanted)
    return Needs(tuple(grants), search.only_host)


def _above(path: str) -> set[str]:
    return {os.fspath(parent) for parent in PurePosixPath(path).parents}


def header_of(found: Found, view: View) -> bytes:
    """How a program begins; empty where it may be executed and not read (mode 0711)."""
    if found.in_workspace:
        file = view.file_at(found.path)
        return file.content[:_HEADER] if file else b""
    try:
        return read_start(found.path, _HEADER)
    except (PermissionError, FileNotFoundError):
        return b""


def _follow(found: Found, named_by: _Source | None, search: _Search, depth: int = 0) -> None:
    """Adds what a step needs; `named_by` is the untrusted content that led to it, if any did."""
    if depth > _MOST_INTERPRETERS:
        raise SetupError(
            STAGE, errno.ELOOP, f"{found.path}: its interpreters are scripts, too deep"
        )
    source = named_by
    if found.in_workspace:
        search.only_host = False
        source = _Source(found.path)
    elif named_by is None:
        source = _want_installation(found.path, search)
    header = header_of(found, search.view)
    _want_loader(_loader(header), found.path, source, search)
    interpreter, argument = _hash_bang(header)
    if not interpreter:
        return
    if os.path.basename(interpreter) == "env":
        _follow_env(_program_of_env(argument), found.path, source, search, depth + 1)
    # A name without a slash is no name for PATH here, but a file in cwd.
    path = interpreter if "/" in interpreter else f"./{interpreter}"
    _follow(_named(path, found.path, source, search), source, search, depth + 1)


def _want_installation(program: str, search: _Search) -> _Source | None:
    """Wants a host's program and its libraries; what of them must be covered is demanded."""
    policy = search.view.policy
    files = (program, venv_configuration(program))
    writable = next((w for file in files if file and (w := changeable_file(policy, file))), "")
    real = os.path.realpath(program)
    parts = [(program, real), *((part.named, part.real) for part in libraries_of(program))]
    for named, path in parts:
        changed = writable or changeable_name(policy, named)
        if changed:
            search.demand(path, _Source(program, changed))
        else:
            search.wanted.add(path)
    return _Source(program, writable) if writable else None


def _want_loader(loader: str, program: str, source: _Source | None, search: _Search) -> None:
    real = os.path.realpath(loader) if loader else ""
    # Without its loader a program is refused by execve itself.
    if not real or not os.path.exists(real):
        return
    if source is None and (writable := changeable_name(search.view.policy, loader)):
        source = _Source(program, writable)
    if source:
        search.demand(real, source)
    elif stat.S_ISREG(os.stat(real).st_mode) and os.access(real, os.X_OK):
        search.wanted.update(loader_libraries(real))


def _follow_env(
    name: str, script: str, source: _Source | None, search: _Search, depth: int
) -> None:
    """What `env` will start. When that cannot work, env itself will say so, as it always does."""
    if not name:
        return
    try:
        if "/" in name:
            _follow(_named(name, script, source, search), source, search, depth)
            return
        search.only_host = search.only_host and search.view.only_host
        _follow(find(name, search.view), None, search, depth)
    except _NotCoveredError:
        raise
    except (CommandNotFound, SetupError):
        return


def _named(path: str, script: str, source: _Source | None, search: _Search) -> Found:
    """The program at a path, with a slash in it, that the content of `script` names."""
    if not path.startswith("/"):
        search.only_host = False
    try:
        if source is None or not path.startswith("/"):
            return find(path, search.view)
        # Asked as execve asks, without what a pyenv shim would stand for.
        status = executable_on_host(path)
        if status is None:
            raise CommandNotFound(path, "no such file")
    except CommandNotFound as error:
        reason = f"named by the #! line of {script}: {error.reason}"
        raise CommandNotFound(path, reason) from None
    search.demand(os.path.realpath(path), source)
    return Found(path, status)


# ---- #! ----------------------------------------------------------------------


def _hash_bang(header: bytes) -> tuple[str, str]:
    """Interpreter and its one argument, as fs/binfmt_script.c cuts them; "" when none."""
    if not header.startswith(b"#!"):
        return "", ""
    # To the kernel a NUL ends the line as well.
    line = re.split(rb"[\n\0]", header[2:_LINE], maxsplit=1)[0].strip(b" \t")
    interpreter, _, argument = line.replace(b"\t", b" ").partition(b" ")
    return os.fsdecode(interpreter), os.fsdecode(argument.strip(b" "))


def _program_of_env(argument: str) -> str:
    """The program in `env PROGRAM` or `env -S [OPTION] [NAME=VALUE] PROGRAM ARGUMENT`.

    Empty for whatever is not surely read as env reads it: other options, env's own
    escapes, comments and variables, and a PATH of its own.
    """
    if not argument.startswith("-"):
        # Without -S the whole rest of the line is one name.
        return "" if "=" in argument else argument
    split = _SPLIT.match(argument)
    if not split or set(argument) & set("\\$#"):
        return ""
    try:
        words = shlex.split(argument[split.end() :])
    except ValueError:
        return ""
    return _program_in(words)


def _program_in(words: list[str]) -> str:
    rest = words[::-1]
    while rest and rest[-1].startswith("-") and rest[-1] != "-":
        option = rest.pop()
        if option == "--":
            break
        if option == "-u" and rest and rest[-1] != "PATH":
            rest.pop()
        elif option not in _ENV_FLAGS:
            return ""
    if rest and rest[-1] == "-":
        rest.pop()
    while rest and "=" in rest[-1]:
        if rest.pop().startswith("PATH="):
            return ""
    return rest[-1] if rest else ""


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
