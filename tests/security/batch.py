"""Several acts in one interpreter, for a machine where starting one takes long.

That is an emulated one (tools/kernels). Each act is made in a child and in a directory
of its own, one after the other. What meets its expectation there need not be made alone.
Everything else is, so that no act fails, and none succeeds, by what another one left.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from evalbox._syscall_table import NUMBERS
from security.inside import ANSWER, PRELUDE

# How many; with one, all are made alone.
SIZE = int(os.environ.get("EVALBOX_ACTS_AT_ONCE", "1"))
# Among them are acts that stop or end whoever makes the others.
PATIENCE = 15.0
_NEXT = "@next "
_Item = TypeVar("_Item")
# What it is, and the names that it has.
Act = tuple[str, Mapping[str, Any]]

_PROGRAM = r"""
import os, signal, sys
_prelude, _calls = eval(sys.argv[1], {})
for _number, _item in enumerate(sys.argv[2:]):
    _place = f"act-{_number}"
    os.mkdir(_place)
    os.write(1, f"\n@next {_number}\n".encode())
    _child = os.fork()
    if _child == 0:
        os.chdir(_place)
        sys.argv[1:] = [repr({"calls": _calls, **eval(_item, {})})]
        exec(_prelude, {"__name__": "__main__"})
    _status = os.waitpid(_child, 0)[1]
    if os.WIFSIGNALED(_status):
        os.write(1, f"\n@answer {signal.Signals(os.WTERMSIG(_status)).name}\n".encode())
"""


def suits(act: str) -> bool:
    """Whether it is nothing to the act that init is not its parent, which many are aimed at."""
    return "getppid" not in act


def groups(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """All of them, SIZE at a time; nothing where each is to be made alone."""
    if SIZE > 1:
        yield from (items[start : start + SIZE] for start in range(0, len(items), SIZE))


def command(interpreter: str, acts: Sequence[Act]) -> list[str]:
    """The program that makes them."""
    shared = repr((PRELUDE, NUMBERS[platform.machine()]))
    items = [repr({"act": act, "names": dict(names)}) for act, names in acts]
    return [interpreter, "-I", "-S", "-c", _PROGRAM, shared, *items]


def answers(stdout: bytes) -> dict[int, str]:
    """What each act met; of one that is not there, nothing is known."""
    found: dict[int, str] = {}
    for part in stdout.decode("utf-8", "replace").split(f"\n{_NEXT}")[1:]:
        number, _, text = part.partition("\n")
        for line in text.splitlines():
            if line.startswith(ANSWER):
                found[int(number)] = line.removeprefix(ANSWER)
    return found
