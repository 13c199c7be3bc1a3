"""The program `evalbox`: run, doctor, grade. `python -m evalbox` is the same.

Results go to stdout and messages to stderr. What the program that is run did is
told by the exit code (`run.CODES`); 125 means that nothing was run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

import evalbox
from evalbox.cli import doctor, run
from evalbox.cli.messages import NOT_RUN, say
from evalbox.grade import command as grade

__all__ = ["main"]


class Parser(argparse.ArgumentParser):
    """An argument parser whose usage errors exit with 125, as 2 could be the program's own."""

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
    args = parser().parse_args(arguments)
    code: int = args.main(args)
    return code
