"""`evalbox run`: one program, with its input and output passed through as they come."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from evalbox.cli.messages import INTERRUPTED, NOT_RUN, say
from evalbox.cli.relay import OutputClosedError, Relay
from evalbox.errors import CommandNotFound, EvalboxError, PlanError, SetupError
from evalbox.executor import Executor
from evalbox.grade.command import size
from evalbox.limits import Limits
from evalbox.output import Output, Status
from evalbox.plan import PIPE, File, Plan
from evalbox.policy import ISOLATIONS, Policy

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[Any]

SCHEMA_VERSION: Final = 1
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
TERMINATED: Final = 128 + signal.SIGTERM
CLOSED: Final = 128 + signal.SIGPIPE

# How each end is told; an exit and a signal are the program's own.
CODES: Final = {
    Status.WALL_TIME: 124,
    Status.CPU_TIME: 124,
    Status.MEMORY_LIMIT: 137,
    Status.KILLED: 137,
    Status.OUTPUT_LIMIT: 153,
    Status.DISK_LIMIT: 153,
    Status.DENIED: 159,
}

_EPILOG: Final = """\
exit codes:
  the program's own; 128 + n when it died of signal n
  124 wall or CPU time limit     137 memory limit, killed
  153 output or disk limit       159 denied system call
  125 it could not be started    126 not executable    127 not found
  130 Ctrl-C (its whole tree is killed first)
"""


class Terminated(BaseException):
    """SIGTERM came; like KeyboardInterrupt no part of what can be handled."""


def add_parser(commands: Subparsers) -> None:
    """Adds `run` to the program's commands."""
    parser = commands.add_parser(
        "run",
        usage="evalbox run [options] -- CMD ARG...",
        help="run one program in a sandbox",
        description="Runs a program in a sandbox. Its stdin is this program's, passed on as it"
        " arrives; its output is passed through as it comes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(main=main, usage_error=parser.error)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    usual = Limits()
    many: dict[str, Any] = {"action": "append", "default": []}
    add("--timeout", type=float, metavar="S", help=f"wall time (default: {usual.wall_time:g} s)")
    add("--cpu", type=float, metavar="S", help="processor time of all its processes")
    add("--memory", type=size, metavar="N", help="bytes, or 512M (default: 256M)")
    add("--processes", type=int, metavar="N", help=f"at once (default: {usual.processes})")
    add("--output", type=size, metavar="N", help="bytes of stdout and stderr (default: 16M)")
    add("--disk", type=size, metavar="N", help="bytes of files (default: 64M)")
    add("--read", metavar="PATH", help="let it read this, with all below it", **many)
    add("--write", metavar="PATH", help="let it change this, with all below it", **many)
    add("--env", metavar="K=V", help="a variable of its environment", **many)
    add("--file", metavar="LOCAL[:NAME]", help="put a file into its directory", **many)
    add("--isolation", choices=ISOLATIONS, default="auto", help="(default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object, and nothing else on stdout")
    add("--explain", action="store_true", help="say on stderr why it ended and what to change")
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def main(args: argparse.Namespace) -> int:
    """Runs it; the exit code that tells how it ended."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        args.usage_error("no command; write it behind --")
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        output = _run(args, command)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except OutputClosedError:
        return CLOSED
    except EvalboxError as error:
        return _not_started(error, args.json)
    except OSError as error:
        return _not_started(SetupError("input", error.errno or errno.EIO, str(error)), args.json)
    return _tell(output, args)


def _run(args: argparse.Namespace, command: list[str]) -> Output:
    plan = plan_of(args, command)
    # Leaving the block, in whatever way, kills the whole tree before anything else.
    with Executor() as executor:
        return Relay(executor, plan).run()


def _on_sigterm(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


# ---- arguments ----------------------------------------------------------------


def plan_of(args: argparse.Namespace, command: list[str]) -> Plan:
    """The plan that the arguments describe."""
    asked = {
        "wall_time": args.timeout,
        "cpu_time": args.cpu,
        **{name: getattr(args, name) for name in ("memory", "processes", "output", "disk")},
    }
    usual = {field.name: getattr(Limits(), field.name) for field in fields(Limits)}
    limits = Limits(**usual | {name: value for name, value in asked.items() if value is not None})
    return Plan(
        command,
        stdin=PIPE,
        env=dict(_variable(item) for item in args.env),
        files=dict(_file(item) for item in args.file),
        limits=limits,
        policy=Policy(
            read=[Path(path).absolute() for path in args.read],
            write=[Path(path).absolute() for path in args.write],
            isolation=args.isolation,
        ),
        stream=not args.json,
    )


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise PlanError(f"--env needs NAME=VALUE, not {text!r}")
    return name, value


def _file(text: str) -> tuple[str, File]:
    """LOCAL or LOCAL:NAME; a name that holds a colon is given as LOCAL:NAME."""
    local, colon, name = text.rpartition(":")
    path = Path(local if colon else name)
    try:
        content = path.read_bytes()
        executable = os.access(path, os.X_OK)
    except OSError as error:
        raise PlanError(f"--file {path}: {error.strerror}") from None
    return name if colon else path.name, File(content, executable)


# ---- the end ------------------------------------------------------------------


def exit_code(output: Output) -> int:
    """What the command exits with for this output."""
    if output.exit_code is not None:
        return output.exit_code
    if output.status is Status.SIGNALED:
        return 128 + (output.signal or 0)
    return CODES[output.status]


def _tell(output: Output, args: argparse.Namespace) -> int:
    # What we ended must not look like the program's own doing.
    if args.explain or output.status in CODES:
        say(output.explain(), "yellow")
    if args.json:
        told = {"schema_version": SCHEMA_VERSION, **output.to_dict()}
        print(json.dumps({**told, "explanation": output.explain()}))
    return exit_code(output)


def _not_started(error: EvalboxError, as_json: bool) -> int:
    say(str(error))
    if as_json:
        told = {"type": type(error).__name__, "message": str(error)}
        print(json.dumps({"schema_version": SCHEMA_VERSION, "error": told}))
    sys.stdout.flush()
    if isinstance(error, CommandNotFound):
        return NOT_FOUND
    if isinstance(error, SetupError) and error.stage == "execve":
        return NOT_EXECUTABLE
    return NOT_RUN
