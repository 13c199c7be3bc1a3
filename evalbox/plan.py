"""What is to be run: a Plan holds all of it and is plain data.

Everything that is wrong in itself is refused here. What depends on the host (a
path that is missing, a feature) is found by `run` and `spawn`, so a plan can be
made on one machine, sent as JSON or pickle, and run on another.

Facts about execve that the checks rely on (fs/exec.c):

- one argument or "NAME=value" is at most 32 pages with its NUL (MAX_ARG_STRLEN);
- all of them together with their pointers are at most a quarter of the stack
  limit, at most 6 MiB and at least 128 KiB.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any, Final, Literal, Protocol

from evalbox._values import (
    Argument,
    FrozenMap,
    JsonObject,
    StrPath,
    argument,
    boolean,
    bytes_from_json,
    bytes_to_json,
    fits_execve,
    instance,
    json_fields,
    kind,
    mapping,
    needed,
    optional,
    relative_path,
    several,
    shown,
    store,
    text,
    text_from_json,
    text_to_json,
)
from evalbox.errors import PlanError
from evalbox.limits import KiB, Limits, MiB
from evalbox.policy import Policy
from evalbox.warm import Warm

# What PATH, HOME, TMPDIR, USER, LANG and the name of the program may add.
BASE_ENVIRONMENT = 8 * KiB
POINTER = 8


class Pipe(enum.Enum):
    """The type of `PIPE`: stdin stays open for `write_stdin` and `close_stdin`."""

    PIPE = "pipe"

    def __repr__(self) -> str:
        return "evalbox.PIPE"


PIPE: Final = Pipe.PIPE


@dataclass(frozen=True, slots=True, init=False)
class File:
    """A file to put into the workspace.

    Attributes:
        content: bytes; a str is encoded as UTF-8.
        executable: whether the program may execute it by its name.
    """

    content: bytes
    executable: bool

    def __init__(self, content: bytes | str, executable: bool = False) -> None:
        store(
            self,
            content=_content(content, "content of a File"),
            executable=boolean(executable, "executable"),
        )

    def to_dict(self) -> dict[str, Any]:
        return {"content": bytes_to_json(self.content), "executable": self.executable}

    @classmethod
    def from_dict(cls, data: JsonObject) -> File:
        """The reverse of `to_dict`; a plain string as content is its text."""
        fields = json_fields(data, "file", ("content", "executable"))
        needed(fields, "file", ("content",))
        return cls(**{**fields, "content": text_from_json(fields["content"], "content")})


Content = bytes | str | File


class Files(Protocol):
    """The type of a mapping path -> content.

    Not written as Mapping[StrPath, Content]: the keys of a Mapping are
    invariant, and a dict[str, bytes] would be refused.
    """

    def items(self) -> Set[tuple[StrPath, Content]]: ...


_DEFAULT_LIMITS = Limits()
_DEFAULT_POLICY = Policy()
_NOTHING: FrozenMap[Any] = FrozenMap({})


@dataclass(frozen=True, slots=True, init=False)
class Plan:
    """One run: the program, what it gets, what it may use and what it may do.

    Attributes:
        cmd: the argument list; cmd[0] is looked up in the plan's own PATH, and
            with a slash in it relative to `cwd`.
        executable: the program, when it is another than cmd[0].
        stdin: the bytes that it reads, or `PIPE`.
        env: variables added to PATH, HOME, TMPDIR, USER and LANG; nothing else
            of the host's environment is there.
        cwd: the working directory, relative to the workspace.
        files: what the working directory holds at the start, path -> File.
        collect: glob patterns of the files to bring back in `Output.files`.
        limits: how much it may use.
        policy: what it may do.
        stream: whether output also arrives as Stdout and Stderr events.
        hold: whether the run waits before execve for `Executor.release`.
        warm: with it cmd is [PYTHON, SCRIPT, ...], and the run may be forked from an
            interpreter that has started already; `Template.plan` makes such plans.

    Raises:
        PlanError: for any value that could never work, on any host.
    """

    cmd: tuple[str | bytes, ...]
    executable: str | bytes | None
    stdin: bytes | Literal[Pipe.PIPE]
    env: Mapping[str, str]
    cwd: str
    files: Mapping[str, File]
    collect: tuple[str, ...]
    limits: Limits
    policy: Policy
    stream: bool
    hold: bool
    warm: Warm | None

    def __init__(
        self,
        cmd: Sequence[Argument],
        *,
        executable: Argument | None = None,
        stdin: bytes | Literal[Pipe.PIPE] = b"",
        env: Mapping[str, str] = _NOTHING,
        cwd: StrPath = ".",
        files: Files = _NOTHING,
        collect: Iterable[StrPath] = (),
        limits: Limits = _DEFAULT_LIMITS,
        policy: Policy = _DEFAULT_POLICY,
        stream: bool = False,
        hold: bool = False,
        warm: Warm | None = None,
    ) -> None:
        store(
            self,
            cmd=_command(cmd),
            executable=optional(_program)(executable, "executable"),
            stdin=_stdin(stdin),
            env=_environment(env),
            cwd=relative_path(cwd, "cwd"),
            files=_files(files),
            collect=tuple(relative_path(item, "collect") for item in several(collect, "collect")),
            limits=instance(limits, "limits", Limits),
            policy=instance(policy, "policy", Policy),
            stream=boolean(stream, "stream"),
            hold=boolean(hold, "hold"),
            warm=None if warm is None else instance(warm, "warm", Warm),
        )
        _check_warm(self)
        _check_tree(self.files, self.cwd)
        _check_total(self)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-safe values; the form is that of `schema.plan_schema()`."""
        return {
            "cmd": [text_to_json(item) for item in self.cmd],
            "executable": None if self.executable is None else text_to_json(self.executable),
            "stdin": {"pipe": True} if self.stdin is PIPE else bytes_to_json(self.stdin),
            "env": dict(self.env),
            "cwd": self.cwd,
            "files": {path: file.to_dict() for path, file in self.files.items()},
            "collect": list(self.collect),
            "limits": self.limits.to_dict(),
            "policy": self.policy.to_dict(),
            "stream": self.stream,
            "hold": self.hold,
            "warm": None if self.warm is None else self.warm.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: JsonObject) -> Plan:
        """The reverse of `to_dict`; what is absent has its default."""
        fields = json_fields(data, "plan", PLAN_FIELDS)
        needed(fields, "plan", ("cmd",))
        for name, read in _FROM_JSON.items():
            if name in fields:
                fields[name] = read(fields[name])
        return cls(**fields)


PLAN_FIELDS = tuple(field.name for field in fields_of(Plan))


# ---- checks ------------------------------------------------------------------


def _program(value: object, what: str) -> str | bytes:
    name = argument(value, what)
    if not name:
        raise PlanError(f"{what} names no program: it is empty")
    return name


def _command(value: object) -> tuple[str | bytes, ...]:
    if isinstance(value, str | bytes):
        raise PlanError(f"cmd must be a list of arguments; write shlex.split({shown(value)})")
    items = tuple(argument(item, f"cmd[{i}]") for i, item in enumerate(several(value, "cmd")))
    if not items:
        raise PlanError("cmd is empty: it needs at least the program")
    _program(items[0], "cmd[0]")
    return items


def _stdin(value: object) -> bytes | Pipe:
    if isinstance(value, str):
        raise PlanError("stdin must be bytes; write .encode() behind the string")
    if value is PIPE:
        return PIPE
    if not isinstance(value, bytes | bytearray | memoryview):
        raise PlanError(f"stdin must be bytes or evalbox.PIPE, not {shown(value)}")
    return bytes(value)


def _environment(value: object) -> FrozenMap[str]:
    result = {}
    for raw_name, raw_content in mapping(value, "env").items():
        name = text(raw_name, "name in env")
        if not name or "=" in name:
            raise PlanError(f"name in env must be non-empty and without '=': {shown(name)}")
        content = text(raw_content, f"env[{shown(name)}]")
        fits_execve(os.fsencode(f"{name}={content}"), f"env[{shown(name)}]")
        result[name] = content
    return FrozenMap(result)


def _content(value: object, what: str) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise PlanError(f"{what} is not valid Unicode; give bytes") from None
    if not isinstance(value, bytes | bytearray | memoryview):
        raise PlanError(f"{what} must be bytes, str or File, not {kind(value)}")
    return bytes(value)


def _files(value: object) -> FrozenMap[File]:
    result: dict[str, File] = {}
    for name, content in mapping(value, "files").items():
        path = relative_path(name, "path in files")
        if path == "." or os.fspath(name).endswith(("/", "/.")):
            raise PlanError(f"path in files names a directory: {shown(name)}")
        if path in result:
            raise PlanError(f"path in files is there twice: {shown(path)}")
        file = content if isinstance(content, File) else File(_content(content, f"files[{path!r}]"))
        result[path] = file
    return FrozenMap(result)


def _parents(path: str) -> list[str]:
    return [path[:at] for at, char in enumerate(path) if char == "/"]


def _check_tree(files: Mapping[str, File], cwd: str) -> None:
    """No path may be a file and a directory at once."""
    folders = {parent for path in (*files, cwd) for parent in _parents(path)} | {cwd}
    for path in files:
        if path in folders:
            raise PlanError(f"path is a file and a directory at once: {shown(path)}")


def _check_warm(plan: Plan) -> None:
    warm = plan.warm
    if warm is None:
        return
    if plan.executable is not None or len(plan.cmd) < 2:
        raise PlanError("with warm=, cmd is [PYTHON, SCRIPT, ...] and there is no executable")
    if os.fsencode(plan.cmd[1]).startswith((b"-", b"/")):
        raise PlanError(f"with warm=, cmd[1] is a file of the plan, not {shown(plan.cmd[1])}")
    if name := warm.refuses(plan.env):
        raise PlanError(
            f"{name} is read when the interpreter starts: put it into the template's env="
        )


def _check_total(plan: Plan) -> None:
    sizes = [len(os.fsencode(item)) for item in plan.cmd]
    sizes += [len(os.fsencode(name + content)) + 1 for name, content in plan.env.items()]
    total = sum(size + 1 + POINTER for size in sizes) + BASE_ENVIRONMENT
    stack = plan.limits.stack
    room = 6 * MiB if stack is None else max(128 * KiB, min(6 * MiB, stack // 4))
    if total > room:
        raise PlanError(
            f"cmd and env take {total} bytes and the kernel gives them {room}"
            " (a quarter of limits.stack); use stdin or files"
        )


# ---- JSON --------------------------------------------------------------------


def _stdin_from_json(value: object) -> bytes | Pipe:
    if isinstance(value, Mapping) and "pipe" in value:
        fields = json_fields(value, "stdin", ("pipe",))
        if fields["pipe"] is not True:
            raise PlanError('stdin must be {"base64": ...} or {"pipe": true}')
        return PIPE
    return bytes_from_json(value, "stdin")


def _warm_from_json(value: Any) -> Warm | None:
    return None if value is None else Warm.from_dict(value)


_FROM_JSON = {
    "cmd": lambda items: [text_from_json(item, "cmd") for item in several(items, "cmd")],
    "executable": lambda value: optional(text_from_json)(value, "executable"),
    "stdin": _stdin_from_json,
    "files": lambda files: {
        path: File.from_dict(file) for path, file in mapping(files, "files").items()
    },
    "limits": Limits.from_dict,
    "policy": Policy.from_dict,
    "warm": _warm_from_json,
}
