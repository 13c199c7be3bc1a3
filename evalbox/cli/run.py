"""`evalbox run`: one program, with its input and output passed through as they come."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evalbox.cli import hints
from evalbox.cli.messages import NOT_RUN, say
from evalbox.cli.relay import Relay
from evalbox.cli.stops import Terminated, ignore_signals
from evalbox.errors import CommandNotFound, EvalboxError, PlanError, SetupError
from evalbox.executor import Executor
from evalbox.grade.arguments import seconds, size, whole
from evalbox.limits import Limits, MiB
from evalbox.output import Output, Status
from evalbox.plan import PIPE, File, Plan
from evalbox.policy import ISOLATIONS, Policy
from evalbox.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[Any]

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127

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

_DESCRIPTION: Final = """\
Runs a program in a sandbox: without network, without your files and environment,
in a directory of its own that is removed afterwards. Its stdin is this program's,
passed on as it arrives; its output is passed through as it comes. Options end at
the command or at --. A size N is a number of bytes, or 64K, 256M, 1G.
"""
_EPILOG: Final = """\
exit codes:
  the program's own; 128 + n when it died of signal n
  124 wall or CPU time limit     137 memory limit, killed
  153 output or disk limit       159 denied system call
  125 it could not be started    126 not executable    127 not found
  130 Ctrl-C, 143 SIGTERM (its whole tree is killed first)
  141 nobody reads its output any more

examples:
  evalbox run --timeout 5 --memory 64M -- python3 -c 'print(6 * 7)'
  evalbox run --file solution.py -- python3 solution.py < input.txt
  evalbox run --read data --json -- wc -l "$PWD/data/words.txt"
"""


def add_parser(commands: Subparsers) -> None:
    """Adds `run` to the program's commands."""
    parser = commands.add_parser(
        "run",
        usage="evalbox run [options] -- CMD ARG...",
        help="run one program in a sandbox",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(main=main, usage_error=parser.error)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    usual = Limits()
    many: dict[str, Any] = {"action": "append", "default": []}
    add("--timeout", type=seconds, metavar="S", help=f"wall time (default: {usual.wall_time:g} s)")
    add("--cpu", type=seconds, metavar="S", help="processor time of all its processes, in seconds")
    memory, output, disk = map(_shown, (usual.memory, usual.output, usual.disk))
    add("--memory", type=size, metavar="N", help=f"memory of all its processes (default: {memory})")
    add("--processes", type=whole, metavar="N", help=f"at once (default: {usual.processes})")
    add("--output", type=size, metavar="N", help=f"stdout and stderr together (default: {output})")
    held = f"what it writes to its directories (default: {disk})"
    add("--disk", type=size, metavar="N", help=held)
    add("--read", metavar="PATH", help="let it read this, with all below it; repeatable", **many)
    add("--write", metavar="PATH", help="let it change this, with all below it; repeatable", **many)
    add("--env", metavar="K=V", help="a variable of its environment; repeatable", **many)
    add(
        "--file",
        metavar="LOCAL[:NAME]",
        help="put a copy of a file into its directory, under its own name or NAME; the last colon"
        " counts; repeatable",
        **many,
    )
    add(
        "--isolation",
        choices=ISOLATIONS,
        default="auto",
        help="the kind of sandbox; auto is the strongest that this host can do (the default)",
    )
    add("--json", action="store_true", help="print one JSON object, and nothing else on stdout")
    add("--explain", action="store_true", help="say on stderr why it ended and what to change")
    add("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _shown(limit: int | None) -> str:
    """A default as one would write it."""
    return "none" if limit is None else f"{limit // MiB}M"


def main(args: argparse.Namespace) -> int:
    """Runs it; the exit code that tells how it ended."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        args.usage_error("no command; write it behind --")
    try:
        output = _run(args, command)
    except EvalboxError as error:
        return _not_started(error, command, args.json)
    return _tell(output, command, args)


def _run(args: argparse.Namespace, command: list[str]) -> Output:
    plan = plan_of(args, command)
    # Leaving the block, in whatever way, kills the whole tree before anything else.
    with Executor() as executor:
        try:
            return Relay(executor, plan).run()
        except (KeyboardInterrupt, Terminated):
            # A second Ctrl-C must not come between the tree and its end.
            ignore_signals()
            raise


# ---- arguments ----------------------------------------------------------------


def plan_of(args: argparse.Namespace, command: list[str]) -> Plan:
    """The plan that the arguments describe."""
    asked = {
        "wall_time": args.timeout,
        "cpu_time": args.cpu,
        **{name: getattr(args, name) for name in ("memory", "processes", "output", "disk")},
    }
    limits = Limits(**{name: value for name, value in asked.items() if value is not None})
    return Plan(
        command,
        stdin=PIPE,
        env=dict(_variable(item) for item in args.env),
        files=_files(args.file),
        limits=limits,
        policy=Policy(
            read=[_granted(path) for path in args.read],
            write=[_granted(path) for path in args.write],
            isolation=args.isolation,
        ),
        stream=not args.json,
    )


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise PlanError(f"--env needs NAME=VALUE, not {text!r}")
    return name, value


def _granted(text: str) -> Path:
    # Path("") is the working directory: an unset variable would grant all of it.
    if not text:
        raise PlanError("--read and --write need a path, and this one is empty")
    try:
        return Path(text).absolute()
    except OSError as error:
        raise PlanError(f"{text} is relative to no directory: {error.strerror}") from None


def _files(texts: list[str]) -> dict[str, File]:
    found: dict[str, File] = {}
    for name, file in map(_file, texts):
        if name in found:
            raise PlanError(f"--file gives {name} twice; write LOCAL:NAME for one of them")
        found[name] = file
    return found


def _file(text: str) -> tuple[str, File]:
    path, name = _local_and_name(text)
    try:
        content = path.read_bytes()
        executable = os.access(path, os.X_OK)
    except OSError as error:
        raise PlanError(f"--file {path}: {error.strerror}") from None
    return name, File(content, executable)


def _local_and_name(text: str) -> tuple[Path, str]:
    """LOCAL or LOCAL:NAME; a name that holds a colon is given as LOCAL:NAME."""
    local, colon, name = text.rpartition(":")
    path = Path(local if colon else name)
    return path, name if colon else path.name


# ---- the end ------------------------------------------------------------------


def exit_code(output: Output) -> int:
    """What the command exits with for this output."""
    if output.exit_code is not None:
        return output.exit_code
    if output.status is Status.SIGNALED:
        return 128 + (output.signal or 0)
    return CODES[output.status]


def _tell(output: Output, command: list[str], args: argparse.Namespace) -> int:
    # What we ended must not look like the program's own doing.
    if args.explain or output.status in CODES:
        say(output.explain(), "yellow")
    if args.explain and not output.ok:
        given = [_local_and_name(text)[1] for text in args.file]
        for hint in hints.for_arguments(command[1:], given):
            say(hint, "yellow")
    if args.json:
        told = {"schema_version": SCHEMA_VERSION, **output.to_dict()}
        print(json.dumps({**told, "explanation": output.explain()}))
    return exit_code(output)


def _not_started(error: EvalboxError, command: list[str], as_json: bool) -> int:
    say(f"{error}{hints.for_command(error, command[0])}")
    if as_json:
        told = {"type": type(error).__name__, "message": str(error)}
        print(json.dumps({"schema_version": SCHEMA_VERSION, "error": told}))
    if isinstance(error, CommandNotFound):
        return NOT_FOUND
    if isinstance(error, SetupError) and error.stage == "execve":
        return NOT_EXECUTABLE
    return NOT_RUN
