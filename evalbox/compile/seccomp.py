"""The values that a seccomp filter is described with; csrc/filter.c makes the program.

They mirror the structures of csrc/evalbox.h: a rule is what one system call
number gets, its clauses are tried in order, and a clause holds when all of its
tests do. Numbers are those of Linux (linux/seccomp.h, linux/audit.h,
asm-generic/errno.h), not of the system that Python runs on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

# Actions, the strictest first: of several filters the strictest answer counts,
# and between equals that of the filter installed last.
KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000
NOTIFY: Final = 0x7FC00000
ALLOW: Final = 0x7FFF0000

EPERM: Final = _ERRNO | 1
ENOTTY: Final = _ERRNO | 25
ENOSYS: Final = _ERRNO | 38
ENOTSUP: Final = _ERRNO | 95
# Success for a call that was not made.
IGNORED: Final = _ERRNO | 0

AUDIT_ARCH: Final[Mapping[str, int]] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

INT: Final = 0xFFFFFFFF
LONG: Final = 0xFFFFFFFFFFFFFFFF


class ArgTest(NamedTuple):
    """True when (argument & mask) == value, or != when `negate`; arguments have 64 bits."""

    arg: int
    value: int
    mask: int = INT
    negate: bool = False


class Clause(NamedTuple):
    """The action when all tests are true."""

    action: int
    tests: tuple[ArgTest, ...]


class Verdict(NamedTuple):
    """The first clause that holds, else `action`."""

    action: int
    clauses: tuple[Clause, ...] = ()

    @property
    def actions(self) -> frozenset[int]:
        return frozenset((self.action, *(clause.action for clause in self.clauses)))


class Rule(NamedTuple):
    """What one system call number gets."""

    nr: int
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSpec:
    """Everything that a filter program is made from.

    Attributes:
        arch: AUDIT_ARCH_* of the calls that the rules are about.
        foreign_action: for every other architecture, and for x32.
        default_action: for a number up to `last_nr` without a rule.
        unknown_action: for a number above `last_nr`.
        last_nr: the last number that the rules know.
        rules: sorted by number, each number once.
    """

    arch: int
    foreign_action: int
    default_action: int
    unknown_action: int
    last_nr: int
    rules: tuple[Rule, ...]


# ---- ways to write a verdict ---------------------------------------------------


def any_bit(arg: int, bits: int) -> ArgTest:
    """At least one of these bits is set."""
    return ArgTest(arg, 0, mask=bits, negate=True)


def none_of(arg: int, values: Iterable[int], mask: int = INT) -> tuple[ArgTest, ...]:
    """The argument is none of these values."""
    return tuple(ArgTest(arg, value, mask, negate=True) for value in values)


def only(arg: int, values: Iterable[int], otherwise: int) -> Verdict:
    """Allowed for these values of an int argument."""
    return Verdict(otherwise, tuple(Clause(ALLOW, (ArgTest(arg, value),)) for value in values))


def unless(*clauses: Clause) -> Verdict:
    """Allowed where none of the clauses holds."""
    return Verdict(ALLOW, clauses)


def simplified(verdict: Verdict) -> Verdict:
    """The same verdict without final clauses that change nothing."""
    clauses = verdict.clauses
    while clauses and clauses[-1].action == verdict.action:
        clauses = clauses[:-1]
    return Verdict(verdict.action, clauses)
