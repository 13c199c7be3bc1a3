"""Programs that hold more than they may: how long they get away with it, and what is left.

A hoard is a generator in a sandbox that takes a little more with each step and
yields how much that is by now. It tells this on stdout, so what it held is known
also when it was killed. It has got through when it still holds everything after
a second, which is many looks of a watch; or, where the run reports the limit as
enforced, when it ever told more than a tenth above it.

After each run the host has its memory back, or the answer says that it has not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import evalbox
from evalbox import KiB, MiB
from security.base import Context, answer_of, attack, nothing_lacks

_HOLD = 1.0
_STEP = MiB // 4
_TOLERANCE = 0.02
_PATIENCE = 10.0

# What an act has besides the names in inside.py: AMOUNT, HOLD, and
#   KEPT            a list for what is to be kept
#   tell(total)     says what is held by now
#   shares(n, take) the sum of what n children take; `take` yields each step. They
#                   keep it until the run ends; what they meet is an OSError here.
_PROGRAM = """
KEPT = []

def tell(total):
    os.write(1, b"held %d\\n" % total)

def _take_share(write, take):
    try:
        for size in take():
            os.write(write, b"%d\\n" % size)
    except OSError as error:
        os.write(write, b"!%d\\n" % error.errno)
    os.write(write, b".\\n")
    while True:
        signal.pause()

def shares(count, take):
    read, write = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            _take_share(write, take)
    total = 0
    for line in os.fdopen(read, "rb", 0):
        if line.startswith(b"!"):
            raise OSError(int(line[1:]), "")
        if line != b".\\n":
            total += int(line)
            yield total
            continue
        count -= 1
        if count == 0:
            return

{act}

_told = _total = 0
for _total in grow():
    if _total - _told >= STEP or _total >= AMOUNT:
        tell(_total)
        _told = _total
    if _total >= AMOUNT:
        break
else:
    held(f"no more than {{_total}}")
time.sleep(HOLD)
"""


@dataclass(frozen=True, kw_only=True)
class Hoard:
    """What is tried, and against which limit.

    Attributes:
        act: defines `grow()`.
        limit: its name; the property of that name says how it is held.
        size: of the limit.
        amount: what the program is content with.
        tries: how often; one that gets through is enough.
        brief: having held it for an instant is enough.
        fields: of the run, beside the limit.
    """

    act: str
    limit: str
    size: int
    amount: int
    tries: int = 1
    brief: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def program(self) -> str:
        return _PROGRAM.format(act=self.act)

    def _given(self, limit: int | None) -> dict[str, Any]:
        hold = 0 if self.brief or limit is None else _HOLD
        return {"AMOUNT": self.amount, "STEP": _STEP, "HOLD": hold}

    def without_sandbox(self, ctx: Context) -> str:
        return ctx.act_outside(self.program, self._given(None))

    def attempt(self, ctx: Context, limit: int | None) -> str:
        command = ctx.command(self.program, self._given(limit))
        answer = ""
        for _ in range(self.tries):
            before = available()
            output = ctx.run(command, **{**self.fields, self.limit: limit})
            answer = self._judge(output, limit)
            if not is_back(before):
                return f"{answer}, and the host misses memory"
            if answer == "OK":
                break
        return answer

    def _judge(self, output: evalbox.Output, limit: int | None) -> str:
        most = held_by(output)
        enforced = output.enforcement[self.limit].level == "enforced"
        if limit is not None and (enforced or self.brief) and most > 1.1 * limit:
            return "OK"
        return answer_of(output)


def held_by(output: evalbox.Output) -> int:
    """The most that a hoard told."""
    told = re.findall(rb"^held (\d+)$", output.stdout, re.MULTILINE)
    return max(map(int, told), default=0)


def available() -> int:
    """What the host could still give away, in bytes."""
    return _meminfo("MemAvailable")


def _meminfo(name: str) -> int:
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    return int(text.partition(f"{name}:")[2].split()[0]) * KiB


def is_back(before: int) -> bool:
    """Whether the host has its memory again, but for 2 % of all.

    Others use the machine too, and the kernel gives some of it back late.
    """
    least = before - _TOLERANCE * _meminfo("MemTotal")
    end = time.monotonic() + _PATIENCE
    while available() < least:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def hoard(
    id: str,  # noqa: A002  # what the catalogue calls it
    title: str,
    act: str,
    *,
    blocked: str,
    limit: str = "memory",
    size: int = 64 * MiB,
    amount: int = 128 * MiB,
    outside: bool = False,
    needs: Callable[[Context], str] = nothing_lacks,
    **more: Any,
) -> None:
    """Registers one; its control is the same without the limit, or `outside` a sandbox."""
    made = Hoard(act=act, limit=limit, size=size, amount=amount, **more)
    register = attack(
        id,
        title,
        property=limit,
        blocked=blocked,
        control=made.without_sandbox if outside else partial(made.attempt, limit=None),
        needs=needs,
    )
    register(partial(made.attempt, limit=size))
