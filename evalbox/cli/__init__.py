"""The program `evalbox`: run, doctor, grade. `python -m evalbox` is the same.

Results go to stdout and messages to stderr. What the program that is run did is
told by the exit code (`run.CODES`); 125 means that evalbox itself failed. A signal
that ends this program is an exception, so that the tree is killed first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import evalbox
from evalbox.cli import doctor, run
from evalbox.cli.messages import INTERRUPTED, NOT_RUN, OUTPUT_CLOSED, say
from evalbox.cli.stops import Terminated, raise_on_signals
from evalbox.cli.streams import OutputClosedError, discard_stdout, open_standard_descriptors
from evalbox.grade import command as grade

__all__ = ["main"]


class Parser(argparse.ArgumentParser):
    """An argument parser whose usage errors exit with 125, as 2 could be the program's own.

    Options are not abbreviated: a new one would change what old scripts mean.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **fields})

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        say(f"{message}; see {self.prog} --help")
        sys.exit(NOT_RUN)


def parser() -> Parser:
    result = Parser(
        prog="evalbox",
        description="Runs programs that you do not trust, confined and watched.",
    )
    result.add_argument("--version", action="version", version=f"evalbox {evalbox.__version__}")
    commands = result.add_subparsers(metavar="COMMAND", required=True)
    run.add_parser(commands)
    doctor.add_parser(commands)
    grade.add_parser(commands)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says; its exit code."""
    try:
        open_standard_descriptors()
        raise_on_signals()
        return _main(arguments)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except Terminated as stop:
        return 128 + stop.number
    except (OutputClosedError, BrokenPipeError):
        discard_stdout()
        return OUTPUT_CLOSED
    except OSError as error:
        say(error.strerror or str(error))
        discard_stdout()
        return NOT_RUN


def _main(arguments: Sequence[str] | None) -> int:
    try:
        args, unknown = parser().parse_known_args(arguments)
        if unknown:
            # By the command's own parser: its --help is the one that lists the options.
            args.usage_error(f"unrecognized arguments: {' '.join(unknown)}")
        code: int = args.main(args)
    except SystemExit as leaving:  # argparse, after --help and usage errors
        code = int(leaving.code or 0)
    # Here, and not at the interpreter's end, where a failure is only complained about.
    sys.stdout.flush()
    return code
