"""What is measured: each part is a function from contestants to their rounds.

Every round measures every contestant once, so that a ratio can be taken within
the round: a machine that slows down for a while slows down all of them.  The
order is another in every round, as what runs after something heavy finds caches
cold.
"""

from __future__ import annotations

import functools
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from contestants import Command, Contestant, PeerError
from results import Rows, Series

MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Program:
    """Attributes:
    runs: per contestant and round, one after the other.
    at_once: how many are measured at once at most.
    """

    name: str
    command: Command
    runs: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Attributes:
    scale: how many of the usual runs per round.
    """

    rounds: int
    at_once: tuple[int, ...]
    scale: float
    alive: tuple[int, ...]

    def runs(self, program: Program, who: Contestant | None = None) -> int:
        share = 1.0 if who is None else who.share
        return max(3, round(program.runs * self.scale * share))


class Named(Protocol):
    """Whatever rounds can be made of."""

    @property
    def name(self) -> str: ...


Some = TypeVar("Some", bound=Named)


def shuffled(items: Sequence[Some], number: int) -> list[Some]:
    """The order of a round; the same in every benchmark."""
    return random.Random(number).sample(items, len(items))


class Rounds:
    """Measures a field again and again; who fails is out, and `notes` says so."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def of(
        self,
        label: str,
        field: Sequence[Some],
        rounds: int,
        measure: Callable[[Some], float],
    ) -> Series:
        """Each contestant once per round; the first of `field` is the base."""
        values: dict[str, list[float]] = {contestant.name: [] for contestant in field}
        left = list(field)
        # The first round only makes them warm.
        for number in range(-1, rounds):
            for contestant in shuffled(field, number):
                if contestant not in left:
                    continue
                try:
                    took = measure(contestant)
                except PeerError as failure:
                    left.remove(contestant)
                    del values[contestant.name]
                    self.note(f"{contestant.name} failed with {label}: {failure}")
                    continue
                if number >= 0:
                    values[contestant.name].append(float(f"{took:.5g}"))
        return values

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)
        self.notes.append(text)

    def latency(
        self, field: Sequence[Contestant], programs: Sequence[Program], how: Settings
    ) -> Rows:
        def median(program: Program, who: Contestant) -> float:
            taken = who.latencies(program.command, how.runs(program, who))
            return statistics.median(taken) * MICROSECONDS

        return {
            program.name: self.of(
                program.name, field, how.rounds, functools.partial(median, program)
            )
            for program in programs
        }

    def throughput(
        self, field: Sequence[Contestant], programs: Sequence[Program], how: Settings
    ) -> Rows:
        rows: Rows = {}
        for program in programs:
            for at_once in how.at_once:
                if at_once <= program.at_once:
                    label = f"{program.name}, {at_once} at once"
                    rows[label] = self._so_many(label, field, program, at_once, how)
        return rows

    def _so_many(
        self, label: str, field: Sequence[Contestant], program: Program, at_once: int, how: Settings
    ) -> Series:
        able = [who for who in field if who.most_at_once >= at_once]

        def per_second(who: Contestant) -> float:
            runs = max(at_once, how.runs(program, who) * 4)
            return who.throughput(program.command, runs, at_once)

        return self.of(label, able, how.rounds, per_second)

    def alive_together(self, field: Sequence[Contestant], how: Settings) -> Rows:
        """Programs that sleep until all are there: what starting and ending each took."""
        return {
            f"{count} alive": self._alive(field, count, min(how.rounds, 5)) for count in how.alive
        }

    def _alive(self, field: Sequence[Contestant], count: int, rounds: int) -> Series:
        # Longer than it takes to start all of them, on a machine of two cores as well.
        nap = round(0.3 + count * 0.003, 2)
        command = ("/bin/sleep", f"{nap}")

        def beyond(who: Contestant) -> float:
            elapsed = count / who.throughput(command, count, count)
            return (elapsed - nap) / count * MICROSECONDS

        return self.of(f"{count} alive", field, rounds, beyond)
