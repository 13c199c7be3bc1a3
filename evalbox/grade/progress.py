"""How far grading is, on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[bool], None]
"""To be called once per graded sample, with whether it passed."""

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress(total: int) -> Iterator[Advance]:
    """A progress display that lasts as long as the block."""
    if sys.stderr.isatty() and _rich_is_there():
        with _bar(total) as advance:
            yield advance
    else:
        yield _lines(total)


def _rich_is_there() -> bool:
    try:
        import rich.progress  # noqa: F401  # tried here, used in _bar
    except ImportError:
        return False
    return True


@contextmanager
def _bar(total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("grading"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[passed]} passed"),
        Remaining(),
    )
    # rich honours NO_COLOR by itself.
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, passed=0)
        passed = 0

        def advance(has_passed: bool) -> None:
            nonlocal passed
            passed += has_passed
            bar.update(task, advance=1, passed=passed)

        yield advance


def _lines(total: int) -> Advance:
    """A line every tenth of the way, but none within a few seconds of the last."""
    step = max(1, total // 10)
    done = passed = 0
    last = time.monotonic()

    def advance(has_passed: bool) -> None:
        nonlocal done, passed, last
        done += 1
        passed += has_passed
        now = time.monotonic()
        if done == total or (done % step == 0 and now - last >= SECONDS_BETWEEN_LINES):
            last = now
            print(f"graded {done} of {total}, {passed} passed", file=sys.stderr, flush=True)

    return advance
