"""Attacks over sockets, each with a control that succeeds (N of the catalogue of attacks)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiers
from evalbox import Network, Policy, Syscalls
from probe import Attack, allowed, control, denied, inside, open_directory

pytestmark = pytest.mark.usefixtures("tier")


@pytest.fixture
def outside() -> Iterator[Path]:
    with open_directory() as folder:
        yield folder


CONNECTS = (
    Attack("N17 localhost", "socket.create_connection(('127.0.0.1', PORT))", "EPERM"),
    Attack("N1 bind", "socket.create_server(('127.0.0.1', 0))", "EPERM"),
    Attack("N6 listen unbound", "socket.socket().listen()", "EPERM"),
    Attack(
        "N2 UDP",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
        "EPERM",
    ),
    Attack("N1 IPv6", "socket.socket(socket.AF_INET6)", "EPERM"),
)
UNIX = (
    Attack("N11 path", "socket.socket(socket.AF_UNIX).connect(PATH)", "EPERM"),
    Attack("N12 abstract", "socket.socket(socket.AF_UNIX).connect('\\0' + ABSTRACT)", "EPERM"),
    Attack(
        "N13 datagram",
        "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', '\\0' + ABSTRACT + 'd')",
        "EPERM",
    ),
)


def test_no_socket_reaches_a_service(outside: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert inside(CONNECTS, outside, PORT=port) == denied(CONNECTS)
        assert control(CONNECTS, outside, tmp_path, PORT=port) == allowed(CONNECTS)
        granted = Policy(network=Network.host())
        assert inside(CONNECTS, outside, granted, PORT=port) == allowed(CONNECTS)


@pytest.fixture
def listeners(outside: Path) -> Iterator[dict[str, Any]]:
    path = outside / "listener"
    abstract = f"evalbox-test-{os.getpid()}"
    with (
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as unnamed,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
    ):
        named.bind(str(path))
        path.chmod(0o777)
        unnamed.bind(f"\0{abstract}")
        datagram.bind(f"\0{abstract}d")
        named.listen()
        unnamed.listen()
        yield {"PATH": str(path), "ABSTRACT": abstract}


def test_no_unix_socket_reaches_a_service(
    outside: Path, tmp_path: Path, listeners: dict[str, Any]
) -> None:
    assert inside(UNIX, outside, **listeners) == denied(UNIX)
    with_network = Policy(network=Network.host())
    assert inside(UNIX, outside, with_network, **listeners) == denied(UNIX)
    assert control(UNIX, outside, tmp_path, **listeners) == allowed(UNIX)


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_SEQPACKET"])
def test_a_pair_of_sockets_cannot_be_turned_to_a_service(kind: str, outside: Path) -> None:
    # connect is allowed with the network of the host; a pair stays connected for ever.
    pair = f"socket.socketpair(socket.AF_UNIX, socket.{kind})"
    path = str(outside / "listener")
    acts = [
        Attack("at once", f"{pair}[0].connect(PATH)", "EISCONN"),
        Attack("peer closed", f"(p := {pair})[1].close() or p[0].connect(PATH)", "EISCONN"),
        Attack("shut down", f"(p := {pair})[0].shutdown(2) or p[0].connect(PATH)", "EISCONN"),
        Attack("listening", f"(p := {pair})[0].bind('own') or p[0].listen()", "EINVAL"),
    ]
    with socket.socket(socket.AF_UNIX, getattr(socket, kind)) as listener:
        listener.bind(path)
        os.chmod(path, 0o777)
        listener.listen()
        # In namespaces the service is there only where it was granted.
        policy = Policy(network=Network.host(), write=[outside])
        assert inside(acts, outside, policy, PATH=path) == denied(acts)
        with socket.socket(socket.AF_UNIX, getattr(socket, kind)) as client:
            client.connect(path)


def test_an_abstract_socket_stays_closed_where_the_filter_grants_sockets(
    outside: Path, listeners: dict[str, Any]
) -> None:
    opened = Syscalls().allow("socket", "connect")
    seen = inside(UNIX, outside, Policy(syscalls=opened), **listeners)
    if tiers.current() == "process":
        assert seen == {"N11 path": "ok", "N12 abstract": "EPERM", "N13 datagram": "EPERM"}
        return
    # Abstract names are those of a network namespace.
    refused = "ECONNREFUSED"
    assert seen == {"N11 path": "ENOENT", "N12 abstract": refused, "N13 datagram": refused}
    with_network = Policy(syscalls=opened, network=Network.host(), write=[outside])
    seen = inside(UNIX, outside, with_network, **listeners)
    assert seen == {"N11 path": "ok", "N12 abstract": "EPERM", "N13 datagram": "EPERM"}
