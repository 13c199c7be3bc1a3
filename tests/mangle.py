"""Messages and descriptors made wrong, for tests of who receives them."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from hypothesis import strategies as st

from evalbox._native import Wire, lib, ruleset

_NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 63, 64, 255, 4095, 4096, 65535, 65536, 65537)
_LARGE = tuple(1 << bits for bits in (31, 32, 47, 62, 63))
INTERESTING = sorted({*_NUMBERS, *_LARGE, *(number - 1 for number in _LARGE), 2**64 - 1})
# In one message: more than a receiver takes.
_MOST_FDS: int = lib.EB_PACKET_FDS + 2


class Change(NamedTuple):
    """One change to a message, at a place that is counted from its start, modulo its size."""

    kind: str
    at: int
    value: int
    filling: bytes


changes = st.lists(
    st.builds(
        Change,
        st.sampled_from(["bit", "byte", "word", "word", "long", "long", "cut", "add", "all"]),
        st.integers(0, 31) | st.integers(0, 400),
        st.sampled_from(INTERESTING) | st.integers(0, 2**64 - 1),
        st.binary(max_size=300),
    ),
    min_size=1,
    max_size=4,
)


def changed(message: bytes, wrong: Iterable[Change]) -> bytes:
    """The message with all of the changes."""
    data = bytearray(message)
    for change in wrong:
        size = {"word": 4, "long": 8}.get(change.kind, 1)
        # Fields lie at multiples of their size.
        at = change.at % max(1, len(data)) // size * size
        if change.kind == "all":
            data[:] = change.filling
        elif change.kind == "add":
            data += change.filling
        elif change.kind == "cut":
            del data[at:]
        elif change.kind == "bit" and data:
            data[at] ^= 1 << change.value % 8
        elif data:
            data[at : at + size] = (change.value % 256**size).to_bytes(size, "little")
    return bytes(data)


KINDS = (
    *("null", "zero", "full", "directory", "path", "pipe", "socket", "datagram"),
    *("empty", "memory", "sparse", "event", "epoll", "self", "ruleset"),
)


def _new_epoll() -> int:
    with select.epoll() as poller:
        return os.dup(poller.fileno())


_OPENED: dict[str, Callable[[], int]] = {
    **{name: partial(os.open, f"/dev/{name}", os.O_RDWR) for name in ("null", "zero", "full")},
    "event": partial(os.eventfd, 0),
    "epoll": _new_epoll,
    "self": lambda: os.pidfd_open(os.getpid()),
    "ruleset": lambda: ruleset([], 1, 0, 0),
}


class Descriptors:
    """Owner of descriptors of many kinds, most of them not what anybody waits for."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def _owned(self, *fds: int) -> int:
        for fd in fds:
            self._stack.callback(os.close, fd)
        return fds[0]

    def _memory(self, size: int, data: bytes = b"") -> int:
        fd = self._owned(os.memfd_create("wrong"))
        os.ftruncate(fd, size)
        os.write(fd, data)
        return fd

    def open(self, kind: str) -> int:
        match kind:
            case "directory" | "path":
                flags = os.O_PATH if kind == "path" else os.O_RDONLY
                return self._owned(os.open(self._folder, flags | os.O_DIRECTORY))
            case "pipe":
                return self._owned(*os.pipe())
            case "socket" | "datagram":
                type_ = socket.SOCK_SEQPACKET if kind == "socket" else socket.SOCK_DGRAM
                pair = socket.socketpair(socket.AF_UNIX, type_)
                return self._owned(*(end.detach() for end in pair))
            case "memory":
                return self._memory(0, b"/bin/true\0.\0true\0" * 20)
            case "empty" | "sparse":
                return self._memory(0 if kind == "empty" else 1 << 40)
            case _:
                return self._owned(_OPENED[kind]())

    def changed(self, given: Sequence[int], wanted: Sequence[int | str] | None) -> list[int]:
        """Those that were given, by their place, and others, by their kind."""
        if wanted is None:
            return list(given)
        return [
            self.open(item) if isinstance(item, str) else given[item % len(given)]
            for item in wanted
            if given or isinstance(item, str)
        ]


# None: those that belong to the message.
descriptors = st.none() | st.lists(st.integers(0, 3) | st.sampled_from(KINDS), max_size=_MOST_FDS)


class MangledWire(Wire):
    """Sends one message after `spoil` with these changes, the others as they are."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder
        self._wrong: tuple[Sequence[Change], Sequence[int | str] | None] | None = None
        self.sent = (b"", 0)

    def spoil(self, wrong: Sequence[Change], fds: Sequence[int | str] | None) -> None:
        self._wrong = wrong, fds

    def send(self, sock: int, message: bytes, fds: Sequence[int] = ()) -> None:
        if self._wrong is None:
            super().send(sock, message, fds)
            return
        (wrong, wanted), self._wrong = self._wrong, None
        with Descriptors(self._folder) as others:
            message, fds = changed(message, wrong), others.changed(fds, wanted)
            # What was really sent, and with how many descriptors.
            self.sent = message, len(fds)
            send_raw(sock, message, fds)


def send_raw(sock: int, message: bytes, fds: Sequence[int]) -> None:
    """Past the checks of evalbox._native."""
    with socket.socket(fileno=os.dup(sock)) as copy:
        socket.send_fds(copy, [message], fds)


def receive_raw(sock: socket.socket) -> tuple[bytes, list[int]]:
    message, fds, _flags, _address = socket.recv_fds(sock, 1 << 18, 16)
    return message, fds


def readable(fd: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    end = time.monotonic() + seconds
    while not poller.poll(1000 * max(0.0, end - time.monotonic())):
        if time.monotonic() >= end:
            return False
    return True
