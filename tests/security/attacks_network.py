"""Attacks through sockets, with the network off and, where that differs, with the host's.

The host's network is TCP and UDP: nothing else may come of it. What a policy grants
has no property to break, so those attacks have none.
"""

from __future__ import annotations

import os
from typing import Any

from evalbox import Network, Syscalls
from security.base import Context, Fields, program

# What a kernel without the protocol says: that the call got so far.
_NO_SUCH = "EPROTONOSUPPORT EAFNOSUPPORT ESOCKTNOSUPPORT ENOTSUP"

# Docker's own rules come first.
_FILTERED = "a caller that is not filtered itself"


def host_network(_: Context) -> Fields:
    return {"network": Network.host()}


def _ports(ctx: Context) -> Fields:
    return {"TCP": ctx.world.tcp_port, "UDP": ctx.world.udp_port}


def _off(name: str, title: str, act: str, *, property: str, **more: Any) -> None:  # noqa: A002
    case = {"property": property, "blocked": "EPERM", "given": _ports, **more}
    program(name, title, act=act, **case)


# ---- N1, N2, N6, N16, N17: TCP and UDP with the network off ----------------------------------

_off(
    "N1.connect",
    "connect to a service of this machine",
    'socket.create_connection(("127.0.0.1", TCP))',
    property="tcp",
)
_off("N1.bind", "serve", 'socket.create_server(("127.0.0.1", 0))', property="tcp")
_off("N1.connect6", "an IPv6 socket", "socket.socket(socket.AF_INET6)", property="tcp")
_off(
    "N1.mapped",
    "connect to IPv4 through IPv6",
    'socket.socket(socket.AF_INET6).connect(("::ffff:127.0.0.1", TCP))',
    property="tcp",
)
_off(
    "N1.upper-half",
    "a TCP socket, with bits set that the kernel does not look at",
    "os.close(call('socket', 1 << 32 | 2, 1 << 32 | 1, 0))",
    property="tcp",
    privileged=_FILTERED,
)
_off(
    "N2.send",
    "send a datagram",
    'socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", UDP))',
    property="udp",
)
_off(
    "N2.bind",
    "receive datagrams",
    'socket.socket(type=socket.SOCK_DGRAM).bind(("127.0.0.1", 0))',
    property="udp",
)
_off(
    "N2.send6",
    "send a datagram through IPv6",
    'socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("::ffff:127.0.0.1", UDP))',
    property="udp",
)
_off(
    "N2.name",
    "tell a secret in a question to a name server",
    """
asked = socket.socket(type=socket.SOCK_DGRAM)
asked.connect(("127.0.0.1", UDP))
asked.send(b"\\x00\\x01\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x06secret\\x00\\x00\\x01\\x00\\x01")
""",
    property="udp",
)
_off("N6", "listen without an address of one's own", "socket.socket().listen()", property="tcp")
program(
    "N16",
    "the address at which clouds tell secrets",
    property="tcp",
    blocked="EPERM",
    given=lambda _: {"ADDRESS": ["169.254.169.254", 80]},
    # No network but this machine's own is there to be tried.
    control_given=lambda ctx: {"ADDRESS": ["127.0.0.1", ctx.world.tcp_port]},
    act="socket.create_connection(ADDRESS, timeout=10)",
)
_off(
    "N17",
    "what a service of this machine answers",
    """
peer = socket.create_connection(("127.0.0.1", TCP))
peer.getpeername() or held("nobody")
""",
    property="tcp",
)

# ---- N3: data that travels with the connection -----------------------------------------------

_FASTOPEN = 0x20000000
_ADDRESS = 'address = struct.pack("H2s4s8x", 2, TCP.to_bytes(2, "big"), bytes((127, 0, 0, 1)))\n'
_MESSAGE = f"""
{_ADDRESS}
where = ctypes.create_string_buffer(address)
what = ctypes.create_string_buffer(b"x")
part = ctypes.create_string_buffer(struct.pack("2Q", ctypes.addressof(what), 1))
header = struct.pack("QI4xQQQQI4x", ctypes.addressof(where), 16, ctypes.addressof(part), 1, 0, 0, 0)
fd = call("socket", 2, 1, 0)
"""
_FASTOPENS = {
    "sendto": f"""
{_ADDRESS}
call("sendto", call("socket", 2, 1, 0), b"x", 1, {_FASTOPEN}, address, 16)
""",
    "sendmsg": f'{_MESSAGE}call("sendmsg", fd, header, {_FASTOPEN})',
    "sendmmsg": f'{_MESSAGE}call("sendmmsg", fd, header + bytes(8), 1, {_FASTOPEN})',
    "option": "socket.socket().setsockopt(socket.IPPROTO_TCP, 30, 1)",  # TCP_FASTOPEN_CONNECT
    "listener": "socket.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)",
}
for _name, _act in _FASTOPENS.items():
    _title = f"connect without connect(), by {_name}"
    program(f"N3.{_name}", _title, property="tcp", blocked="EPERM", given=_ports, act=_act)
    program(
        f"N3.{_name}-host",
        f"{_title}, with the host's network",
        property=None,
        blocked="EPERM",
        given=_ports,
        fields=host_network,
        act=_act,
    )

# ---- N4, N5, N7-N10: other protocols and families --------------------------------------------

_STREAM, _DATAGRAM, _RAW, _SEQPACKET = 1, 2, 3, 5
_FLAGGED = _RAW | 0x80000 | 0x800  # SOCK_CLOEXEC, SOCK_NONBLOCK
_ROOT = "CAP_NET_RAW"
# id: title, family, type, protocol, property, who may have it
_SOCKETS: dict[str, tuple[str, int, int, int, str, str]] = {
    "N4": ("MPTCP", 2, _STREAM, 262, "tcp", ""),
    "N4.ipv6": ("MPTCP over IPv6", 10, _STREAM, 262, "tcp", ""),
    "N5.sctp": ("SCTP", 2, _STREAM, 132, "tcp", ""),
    "N5.dccp": ("DCCP", 2, 6, 33, "tcp", ""),
    "N5.smc": ("SMC", 43, _STREAM, 0, "tcp", ""),
    "N5.udplite": ("UDP-Lite", 2, _DATAGRAM, 136, "udp", ""),
    "N5.l2tp": ("L2TP", 2, _DATAGRAM, 115, "udp", ""),
    "N7.raw": ("raw packets", 2, _RAW, 1, "udp", _ROOT),
    "N7.flagged": ("raw packets, with flags in the type", 2, _FLAGGED, 255, "udp", _ROOT),
    "N7.raw6": ("raw packets over IPv6", 10, _RAW, 58, "udp", _ROOT),
    "N8": ("a ping", 2, _DATAGRAM, 1, "udp", ""),
    "N9.route": ("netlink: routes", 16, _RAW, 0, "udp", ""),
    "N9.diagnosis": ("netlink: sockets of others", 16, _RAW, 4, "udp", ""),
    "N9.audit": ("netlink: audit", 16, _RAW, 9, "udp", ""),
    "N9.netfilter": ("netlink: packet filters", 16, _RAW, 12, "udp", ""),
    "N9.events": ("netlink: events of devices", 16, _DATAGRAM, 15, "udp", ""),
    "N9.generic": ("netlink: everything else", 16, _RAW, 16, "udp", ""),
    "N10.packet": ("AF_PACKET", 17, _RAW, 0, "udp", _ROOT),
    "N10.key": ("AF_KEY", 15, _RAW, 2, "udp", "CAP_NET_ADMIN"),
    "N10.alg": ("AF_ALG", 38, _SEQPACKET, 0, "udp", _FILTERED),
    "N10.vsock": ("AF_VSOCK: the machine below this one", 40, _STREAM, 0, "tcp", _FILTERED),
    "N10.xdp": ("AF_XDP", 44, _RAW, 0, "udp", _ROOT),
    "N10.tipc": ("AF_TIPC", 30, _STREAM, 0, "tcp", ""),
    "N10.can": ("AF_CAN", 29, _RAW, 1, "udp", ""),
    "N10.bluetooth": ("AF_BLUETOOTH", 31, _RAW, 1, "udp", ""),
}
for _name, (_title, _family, _type, _protocol, _held, _who) in _SOCKETS.items():
    _case: dict[str, Any] = {
        "blocked": "EPERM",
        # Pings are for the groups of net.ipv4.ping_group_range: EACCES.
        "reached": f"OK EACCES {_NO_SUCH}",
        "privileged": _who,
        "act": f'call("socket", {_family}, {_type}, {_protocol})',
    }
    _joint = "-" if "." in _name else "."
    program(_name, _title, property=_held, **_case)
    program(
        f"{_name}{_joint}host",
        f"{_title}, with the host's network",
        property=None,
        fields=host_network,
        **_case,
    )
_EVERY = """
for family in set(range(1, 64)) - set(GRANTED):
    for kind in (1, 2, 3, 5):
        try:
            call("socket", family, kind, 0)
        except PermissionError:
            continue
        except OSError:
            pass
        held("OK")
held("EPERM")
"""
program(
    "N10.every",
    "any family that this kernel or a later one has",
    property="unix_path",
    blocked="EPERM",
    given=lambda _: {"GRANTED": ()},
    act=_EVERY,
)
program(
    "N10.every-host",
    "any family that this kernel or a later one has, with the host's network",
    property="unix_path",
    blocked="EPERM",
    given=lambda _: {"GRANTED": (2, 10)},
    fields=host_network,
    act=_EVERY,
)
for _name, _family, _type in (("datagram", 1, 2), ("inet", 2, 1), ("tipc", 30, 1)):
    program(
        f"N12.pair-{_name}",
        f"a pair of sockets that can be turned to others: {_name}",
        property="unix_path",
        blocked="EPERM",
        reached=f"OK {_NO_SUCH}",
        act=f'call("socketpair", {_family}, {_type}, 0, room(8))',
    )

# ---- N11-N14: sockets of this machine --------------------------------------------------------


def _unix(ctx: Context) -> Fields:
    world = ctx.world
    return {
        "PATH": world.unix_path,
        "ABSTRACT": world.abstract_name,
        "DATAGRAM": world.abstract_datagram,
    }


def _sockets_granted(_: Context) -> Fields:
    return {"syscalls": Syscalls().allow("socket", "connect", "socketpair", "sendmmsg")}


_UNIX: dict[str, tuple[str, str, str]] = {
    "N11": (
        "connect to a service by its path",
        "unix_path",
        "socket.socket(socket.AF_UNIX).connect(PATH)",
    ),
    "N12": (
        "connect to an abstract name",
        "unix_abstract",
        'socket.socket(socket.AF_UNIX).connect("\\0" + ABSTRACT)',
    ),
    "N13": (
        "send a datagram to an abstract name",
        "unix_abstract",
        'socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "\\0" + DATAGRAM)',
    ),
    "N13.pair": (
        "send a datagram to an abstract name, from one of a pair",
        "unix_abstract",
        """
pair = socket.socketpair(type=socket.SOCK_DGRAM)
pair[1].close()
pair[0].connect("\\0" + DATAGRAM)
pair[0].send(b"x")
""",
    ),
}
for _name, (_title, _held, _act) in _UNIX.items():
    _case = {"given": _unix, "act": _act}
    _joint = "-" if "." in _name else "."
    program(_name, _title, property=_held, blocked="EPERM", **_case)
    program(
        f"{_name}{_joint}host",
        f"{_title}, with the host's network",
        property=_held,
        blocked="EPERM",
        fields=host_network,
        **_case,
    )
    if _held == "unix_abstract":
        program(
            f"{_name}{_joint}granted",
            f"{_title}, where every socket is allowed",
            property=_held,
            # In a network namespace there is no such name.
            blocked="EPERM ECONNREFUSED",
            fields=_sockets_granted,
            **_case,
        )
program(
    "N11.pair",
    "turn one of a pair to a service, with the host's network",
    property="unix_path",
    blocked="EISCONN ENOENT",
    fields=host_network,
    # Datagrams go where they are told to.
    given=lambda ctx: {**_unix(ctx), "KIND": 1},
    control_given=lambda _: {"KIND": 2},
    act="""
if KIND == 2:
    PATH = "own"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(PATH)
pair = socket.socketpair(type=KIND)
pair[1].close()
pair[0].connect(PATH)
""",
)
program(
    "N19",
    "take an abstract name that a service of this machine will want",
    property="unix_abstract",
    blocked="EPERM",
    given=lambda _: {"NAME": f"evalbox-taken-{os.getpid()}"},
    act='socket.socketpair()[0].bind("\\0" + NAME)',
)
