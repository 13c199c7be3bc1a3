"""An init as the host knows it, and the directories that its runs work in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from evalbox import _native
from evalbox.compile import tree
from evalbox.plan import Plan
from evalbox.resolve import base_environment
from evalbox.workspace import PLACES, collect
from evalbox.workspace.flags import DIRECTORY

if TYPE_CHECKING:
    from evalbox._launch.launcher import Launcher


class Slot:
    """An init as the host knows it.

    Attributes:
        number: by which the launcher knows it.
        name: of its directory; a run can neither list nor guess those of others.
        token: by which the event loop knows it; never used again.
        sock: to init.
        uid: that owns its workspace; None: the caller's.
        env: the variables that every run in it has.
        ruleset: serial of the kit whose ruleset init holds; in namespaces it never changes.
        workspace: in namespaces, descriptor of the directory with its places; else -1.
        run_id: of the run that it serves, 0 when idle.
        no_cgroup: why it has none although the host has some; else "".
        warm: whether its init has an interpreter, or the order to start one.
    """

    __slots__ = (
        "encoded_env",
        "env",
        "launcher",
        "name",
        "no_cgroup",
        "number",
        "ruleset",
        "run_id",
        "sock",
        "token",
        "uid",
        "warm",
        "workspace",
    )

    def __init__(
        self, launcher: Launcher, number: int, name: str, token: int, sock: int, uid: int | None
    ) -> None:
        self.launcher = launcher
        self.number = number
        self.name = name
        self.token = token
        self.sock = sock
        self.uid = uid
        self.ruleset = 0
        self.run_id = 0
        self.workspace = -1
        self.no_cgroup = ""
        self.warm = False
        self.env: dict[str, str] = {}
        self.encoded_env = b""

    @property
    def has_own_kit(self) -> bool:
        """Whether it serves runs of one kit only, as `Kit.has_own_slots` says."""
        return self.warm or self.launcher.filters.tier == "namespace"

    def has_places_at(self, home: str, tmp: str) -> None:
        """Where its runs see their own directories."""
        self.env = base_environment(home, tmp)
        self.encoded_env = encode_env(self.env)

    def places(self) -> tuple[int, ...]:
        """Descriptors of its directories, which the caller closes."""
        fds: list[int] = []
        try:
            for name in PLACES if self.workspace < 0 else tree.PLACES:
                fds.append(self._open(name))
        except BaseException:
            close_all(fds)
            raise
        return tuple(fds)

    @contextlib.contextmanager
    def box(self) -> Iterator[int]:
        """A descriptor of the directory in which the program starts."""
        fd = self._open(PLACES[0])
        try:
            yield fd
        finally:
            os.close(fd)

    def _open(self, place: str) -> int:
        root = self.launcher.root
        if root is None:
            return os.open(place, DIRECTORY, dir_fd=self.workspace)
        root.open_up()
        return os.open(f"{self.name}/{place}", DIRECTORY, dir_fd=root.fd)

    def collect(self, plan: Plan) -> dict[str, bytes]:
        """The files that a run left; its workspace is empty then."""
        with self.box() as box:
            files = collect(box, plan.collect, plan.limits.disk)
        self.clear()
        return files

    def clear(self) -> None:
        """Leaves the workspace as the next run must find it."""
        places = self.places()
        try:
            for fd in places:
                _native.tree_clear(fd)
                os.fchmod(fd, 0o700)
                os.utime(fd)
        finally:
            close_all(places)

    def close(self) -> None:
        close_all(fd for fd in (self.sock, self.workspace) if fd >= 0)
        self.sock = self.workspace = -1


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def encode_env(env: dict[str, str]) -> bytes:
    return b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items())
