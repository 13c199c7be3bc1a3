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
from evalbox.limits import Limits
from evalbox.policy import ALL, CORE, Policy
from evalbox.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from evalbox._host import Host
    from evalbox._host.properties import Held
    from evalbox._values import FrozenMap

    Subparsers = argparse._SubParsersAction[Any]

_COLOUR: Final = {"enforced": "green", "partial": "yellow", "none": "red"}
_HEADER: Final = ("property", "level", "by")
_WIDTH: Final = 90
_SEE_ISOLATION: Final = "namespaces (see isolation)"
# What a property is without its limit says nothing about the host.
_EVERY_LIMIT: Final = Limits(cpu_time=1.0)

Row = tuple[str, str, str]


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
    parser.set_defaults(main=main, usage_error=parser.error)


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
    report = _held(found)
    without = found.enforcement(Policy(), Limits(), found.default_identity)
    unlimited = {name for name in ALL if without[name] != report[name].enforcement}
    rows: list[Row] = [
        (_marked(name, unlimited), item.enforcement.level, item.enforcement.mechanism)
        for name, item in report.items()
    ]
    if has_colours(sys.stdout):
        _rich_table(rows)
    else:
        _plain_table(rows)
    print("\n* required by the default policy")
    if unlimited:
        print("+ with a limit; by default there is none")
    _show_missing(found, report)
    verdict = "can" if found.ok else "cannot"
    colour = "green" if found.ok else "red"
    print(f"\n{painted(f'The default policy {verdict} be enforced in full.', colour, sys.stdout)}")


def _held(found: Host) -> FrozenMap[Held]:
    return found.held(Policy(), _EVERY_LIMIT, found.default_identity)


def _marked(name: str, unlimited: set[str]) -> str:
    marks = ("*" if name in CORE else "") + ("+" if name in unlimited else "")
    return f"{name} {marks}".rstrip()


def _show_missing(found: Host, report: FrozenMap[Held]) -> None:
    from evalbox._host.properties import NOT_POSSIBLE

    lacking = [
        (name, item.enforcement.reason, item.remedy)
        for name, item in report.items()
        if item.enforcement.level != "enforced"
    ]
    lacking += [
        (item.thing, item.reason, item.remedy) for item in found.missing if item.thing not in ALL
    ]
    for thing, reason, remedy in lacking:
        head = _wrapped(f"{thing}: {reason}", "").removeprefix(thing)
        print(f"\n{painted(thing, 'bold', sys.stdout)}{head}")
        more = "more is not possible on this host"
        # What brings namespaces is long, and the same for each.
        long = found.namespaces.remedy if thing in ALL else ""
        told = remedy.replace(long, _SEE_ISOLATION) if long else remedy
        print(_wrapped(more if remedy == NOT_POSSIBLE else f"to have it: {told}", "    "))


def _wrapped(text: str, indent: str) -> str:
    # A command or setting must stay whole, to be copied.
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent("\n".join(lines), indent)


def _facts(found: Host) -> Iterator[tuple[str, str]]:
    landlock = f"ABI {found.landlock.abi}" if found.landlock.abi else "none"
    caller = found.caller
    who = "with a uid of its own for each run" if caller.own_uids else caller.why_not
    yield "kernel", f"{found.kernel} ({found.machine})"
    yield "landlock", landlock
    yield "seccomp", "yes, with notification" if found.notification else str(found.seccomp).lower()
    yield "caller", f"uid {caller.uid}, {who}"
    yield "workspaces", ", ".join(found.workspaces) or "no directory can hold them"
    yield "namespaces", found.namespaces.why_not or "each run gets its own"
    yield "cgroups", str(found.cgroups)
    yield "templates", found.why_cold or "runs of Python can be forked from them"


def _plain_table(rows: list[Row]) -> None:
    widths = [max(len(row[i]) for row in [_HEADER, *rows]) for i in range(len(_HEADER))]
    for row in [_HEADER, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def _rich_table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*_HEADER, box=None, pad_edge=False)
    for name, level, mechanism in rows:
        table.add_row(name, f"[{_COLOUR[level]}]{level}[/]", mechanism)
    Console().print(table)
