"""An executor that is looked at when it is closed: nothing may be left of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalbox import Executor
from evalbox._launch import Launcher
from proc import helpers, marked, open_descriptors


def launchers_of(executor: Executor) -> list[Launcher]:
    loop = executor._loop
    assert loop is not None
    return [*loop._fleet._launchers.values()]


def roots_of(executor: Executor) -> list[Path]:
    """Directories of its launchers; in namespaces there are none."""
    return [Path(one.root.path) for one in launchers_of(executor) if one.root is not None]


@contextmanager
def watched_executor(mark: str) -> Iterator[Executor]:
    """Afterwards no descriptor, no directory and no process is left.

    `mark` is on the command line of the processes that its runs leave behind.
    """
    before, others = open_descriptors(), set(helpers())
    with Executor() as executor:
        yield executor
        roots = roots_of(executor)
        assert [root for root in roots if not root.is_dir()] == []
        tiers = [launcher.filters.tier for launcher in launchers_of(executor)]
        assert len(roots) == tiers.count("process")
        assert tiers
        assert marked(mark) == []
    assert set(helpers()) <= others
    assert [root for root in roots if root.exists()] == []
    after = open_descriptors()
    assert {fd: what for fd, what in after.items() if before.get(fd) != what} == {}
