"""`evalbox doctor`: what this host enforces, and what would bring the rest."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from evalbox.cli.messages import NOT_RUN, has_colours, painted, say
from evalbox.errors import EvalboxError
from evalbox.policy import CORE
from evalbox.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from evalbox._host import Host

    Subparsers = argparse._SubParsersAction[Any]

_COLOUR: Final = {"enforced": "green", "partial": "yellow", "none": "red"}
_HEADER: Final = ("property", "level", "by", "why not more")


def add_parser(commands: Subparsers) -> None:
    """Adds `doctor` to the program's commands."""
    parser = commands.add_parser(
        "doctor",
        help="what this host can enforce, and what would bring more",
        description="Shows, property by property, what a default run has on this host, and for"
        " each thing that is missing what would bring it. Exit code: 0 when the default policy"
        " can be enforced in full, else 1.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    try:
        from evalbox._host import host

        found = host()
    except (EvalboxError, ImportError) as error:
        say(str(error))
        return NOT_RUN if args.json else 1
    if args.json:
        print(json.dumps({"schema_version": SCHEMA_VERSION, **found.to_dict()}))
    else:
        _show(found)
    return 0 if found.ok else 1


def _show(found: Host) -> None:
    for name, value in _facts(found):
        print(f"{name:<12}{value}")
    print()
    rows = [
        (f"{name} *" if name in CORE else name, item["level"], item["mechanism"], item["reason"])
        for name, item in found.to_dict()["enforcement"].items()
    ]
    if has_colours(sys.stdout):
        _rich_table(rows)
    else:
        _plain_table(rows)
    print("\n* required by the default policy")
    for item in found.missing:
        print(f"\n{painted(item.thing, 'bold', sys.stdout)}: {item.reason}")
        print(_remedy(item.remedy))
    verdict = "can" if found.ok else "cannot"
    colour = "green" if found.ok else "red"
    print(f"\n{painted(f'The default policy {verdict} be enforced in full.', colour, sys.stdout)}")


def _remedy(text: str) -> str:
    # A command or setting must stay whole, to be copied.
    lines = textwrap.wrap(f"to have it: {text}", 90, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent("\n".join(lines), "    ")


def _facts(found: Host) -> Iterator[tuple[str, str]]:
    landlock = f"ABI {found.landlock.abi}" if found.landlock.abi else "none"
    caller = found.caller
    who = "with a uid of its own for each run" if caller.own_uids else caller.why_not
    usable = [place.path for place in found.places if not place.why_not]
    yield "kernel", f"{found.kernel} ({found.machine})"
    yield "landlock", landlock
    yield "seccomp", "yes, with notification" if found.notification else str(found.seccomp).lower()
    yield "caller", f"uid {caller.uid}, {who}"
    yield "workspaces", ", ".join(usable) or "no directory can hold them"
    yield "namespaces", found.user_namespaces or "user namespaces are not forbidden"
    yield "cgroups", found.cgroups or "no cgroup v2"


def _plain_table(rows: list[tuple[str, str, str, str]]) -> None:
    widths = [max(len(row[i]) for row in [_HEADER, *rows]) for i in range(3)]
    for row in [_HEADER, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[3]]).rstrip())


def _rich_table(rows: list[tuple[str, str, str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*_HEADER, box=None, pad_edge=False)
    for name, level, mechanism, reason in rows:
        table.add_row(name, f"[{_COLOUR[level]}]{level}[/]", mechanism, reason)
    Console().print(table)
