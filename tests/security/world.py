"""What attacks are aimed at: processes and sockets of the caller's, outside every sandbox.

Made when first asked for, shared by all attacks, gone at the end. A witness that
an attack may kill is asked for with `fresh_witness`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evalbox._host import host


class World:
    """Use it as a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        # What an attack makes once for all its attempts, by a name of its own.
        self.kept: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @cached_property
    def base(self) -> Path:
        """A directory that every uid may enter, where workspaces are.

        So neither permission bits nor another file system stand in for the sandbox.
        """
        place = next(found.path for found in host().places if not found.why_not)
        folder = Path(tempfile.mkdtemp(prefix="outside-", dir=place))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        return folder

    def callback(self, function: Callable[..., object], *args: Any, **named: Any) -> None:
        """For what an attack makes outside its own directories."""
        self._stack.callback(function, *args, **named)

    def fresh_witness(self) -> subprocess.Popen[bytes]:
        """A process of the caller's that only waits."""
        process = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL)
        self._stack.callback(_end, process)
        return process

    @cached_property
    def _witness(self) -> subprocess.Popen[bytes]:
        return self.fresh_witness()

    def witness(self) -> int:
        """The pid of one that no attack means to end."""
        assert self._witness.poll() is None, "the witness is dead"
        return self._witness.pid

    @cached_property
    def tcp_port(self) -> int:
        """Of a listener on the loopback address."""
        server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._stack.callback(server.close)
        return int(server.getsockname()[1])

    @cached_property
    def udp_port(self) -> int:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stack.callback(server.close)
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])

    @cached_property
    def unix_path(self) -> str:
        """Of a listening stream socket that everybody may connect to."""
        path = self.base / "listening"
        server = self._unix(str(path), socket.SOCK_STREAM)
        server.listen(128)
        path.chmod(0o777)
        return str(path)

    @cached_property
    def abstract_name(self) -> str:
        """Without its leading NUL, of a listening abstract stream socket."""
        name = f"evalbox-world-{secrets.token_hex(8)}"
        self._unix("\0" + name, socket.SOCK_STREAM).listen(128)
        return name

    @cached_property
    def abstract_datagram(self) -> str:
        name = f"evalbox-world-{secrets.token_hex(8)}"
        self._unix("\0" + name, socket.SOCK_DGRAM)
        return name

    @cached_property
    def terminal(self) -> str:
        """The path of a pseudo terminal; what is written to it is never read."""
        master, slave = os.openpty()
        self._stack.callback(os.close, master)
        self._stack.callback(os.close, slave)
        return os.ttyname(slave)

    def _unix(self, address: str, kind: int) -> socket.socket:
        server = socket.socket(socket.AF_UNIX, kind)
        self._stack.callback(server.close)
        server.bind(address)
        return server


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
