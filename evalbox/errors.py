"""What evalbox raises, and only for its own failures.

What the program did is a value (`Output`); what the sandbox could not do is one
of these:

    EvalboxError
    ├── PlanError(ValueError)     asked for something impossible; found before any process exists
    ├── UnsupportedError          this host cannot enforce what the policy promises
    ├── CommandNotFound(FileNotFoundError)
    ├── SetupError(OSError)       the sandbox could not start: .stage, .errno
    ├── ProgramFailed             only from Output.check()
    └── InternalError             our bug

All of them survive pickling, so that they can come back from a worker process.
"""

from __future__ import annotations

import errno as errnos
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # A type only: at run time nothing is imported upwards.
    from evalbox.output import Output

# What the kernel says where a limit of the caller is in the way.
_REMEDIES = {
    (number, os.strerror(number)): remedy
    for number, remedy in (
        (errnos.EMFILE, "a higher RLIMIT_NOFILE (ulimit -n)"),
        (errnos.EAGAIN, "a higher RLIMIT_NPROC (ulimit -u)"),
    )
}
_LAST_LINES = 10
_LAST_BYTES = 2000


class EvalboxError(Exception):
    """The base of everything that evalbox raises.

    Attributes:
        id: the run that it is about, when `Executor.poll` raised it; else None.
    """

    id: int | None = None


class PlanError(EvalboxError, ValueError):
    """The description of a run asks for something impossible.

    Raised when the value is made, or, for what depends on the host (a path that
    does not exist), by `run` and `spawn`; always before any process of it exists.
    `poll` and `run` raise it, too, when runs that are held would make them wait
    for ever.
    """


class UnsupportedError(EvalboxError):
    """This host cannot enforce a property that the policy requires.

    Attributes:
        property: the property, a member of `evalbox.ALL`, or the feature.
        reason: what was found instead of what is needed.
        remedy: the command, setting or field that would help.
    """

    def __init__(self, lacking: str, reason: str, remedy: str) -> None:
        super().__init__(lacking, reason, remedy)
        self.property = lacking
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot enforce {self.property}: {self.reason}; remedy: {self.remedy}"


class CommandNotFound(EvalboxError, FileNotFoundError):  # noqa: N818  # reads as what happened
    """There is no such program where the sandboxed program would look for it.

    Attributes:
        filename: the name that was looked up.
        reason: where it was looked for.
    """

    def __init__(self, filename: str | bytes, reason: str = "not found in the plan's PATH") -> None:
        super().__init__(errnos.ENOENT, reason, filename)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.filename, self.reason), self.__dict__

    def __str__(self) -> str:
        return f"{os.fsdecode(self.filename)}: {self.reason}"


class SetupError(EvalboxError, OSError):
    """The sandbox could not start; the program never ran.

    Attributes:
        stage: the step that failed.
        errno: the kernel's error number for it.
    """

    def __init__(self, stage: str, errno: int, message: str | None = None) -> None:
        super().__init__(errno, message or os.strerror(errno))
        self.stage = stage

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.stage, self.errno, self.strerror), self.__dict__

    def __str__(self) -> str:
        name = errnos.errorcode.get(self.errno or 0, str(self.errno))
        told = f"cannot start the sandbox at stage {self.stage}: {self.strerror} ({name})"
        remedy = _REMEDIES.get((self.errno or 0, self.strerror or ""))
        return f"{told}; remedy: {remedy}" if remedy else told


class ProgramFailed(EvalboxError):  # noqa: N818  # reads as what happened
    """The program did not exit with 0; raised only by `Output.check()`.

    Attributes:
        output: all that came of the run.
    """

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self.output = output

    def __str__(self) -> str:
        last = _last_lines(self.output.stderr)
        return f"{self.output.explain()}\n{last}" if last else self.output.explain()


class InternalError(EvalboxError):
    """evalbox itself is wrong; please report it with the traceback."""


def _last_lines(data: bytes) -> str:
    lines = data[-_LAST_BYTES:].decode("utf-8", "replace").splitlines()
    return "\n".join(map(_escaped, lines[-_LAST_LINES:]))


def _escaped(line: str) -> str:
    """Without codes for the terminal: a traceback ends up on one, or in a log."""
    return "".join(
        char if char.isprintable() or char == "\t" else ascii(char)[1:-1] for char in line
    )
