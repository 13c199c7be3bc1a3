"""Attacks through sockets that are there already: handed over, inherited, or of a pair."""

from __future__ import annotations

import socket
import subprocess
import threading

from security.attacks_network import host_network
from security.base import PATIENCE, PYTHON, Context, attack, program

# ---- N14, N18: what is there without asking ---------------------------------------------------


def _handed_over(ctx: Context, inside: bool) -> str:
    """A process outside hands an open file to whoever connects."""
    act = """
peer = socket.socket(socket.AF_UNIX)
peer.connect(PATH)
fds = socket.recv_fds(peer, 1, 1)[1]
os.read(fds[0], 6) == b"secret" or held("empty")
"""
    path = ctx.scratch / "hands-over"
    with socket.socket(socket.AF_UNIX) as server, open(ctx.dir / "secret", "rb") as secret:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen()
        server.settimeout(PATIENCE)
        stopped = threading.Event()

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                if not stopped.is_set():
                    socket.send_fds(peer, [b"x"], [secret.fileno()])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            given = {"PATH": str(path)}
            return ctx.act_inside(act, given) if inside else ctx.act_outside(act, given)
        finally:
            stopped.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join()


@attack(
    "N14",
    "get an open file from a process outside",
    property="unix_path",
    blocked="EPERM",
    control=lambda ctx: _handed_over(ctx, inside=False),
)
def handed_over(ctx: Context) -> str:
    return _handed_over(ctx, inside=True)


_LOOK = """
import os, stat
def is_socket(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False
print("OK" if any(is_socket(fd) for fd in range(4096)) else "none")
"""


@attack(
    "N18",
    "a socket of the host that the program has without opening one",
    property=None,
    blocked="none",
    control=lambda ctx: _sockets_of(ctx, inside=False),
)
def inherited_socket(ctx: Context) -> str:
    return _sockets_of(ctx, inside=True)


def _sockets_of(ctx: Context, *, inside: bool) -> str:
    with socket.create_connection(("127.0.0.1", ctx.world.tcp_port)) as connected:
        connected.set_inheritable(True)
        if inside:
            return ctx.python(_LOOK).text.strip()
        command = [PYTHON, "-c", _LOOK]
        done = subprocess.run(command, close_fds=False, capture_output=True, timeout=PATIENCE)
        return done.stdout.decode().strip()


# ---- N20-N25: what a pair of sockets, or the host's network, still offers ----------------------

_PAIR = "pair = socket.socketpair()\n"
_REQUESTS = {
    "interfaces": ("the addresses of the host", 0x8912, "room(64)"),  # SIOCGIFCONF
    "hardware": ("the hardware address of the host", 0x8927, 'b"lo".ljust(40, bytes(1))'),
    "namespace": ("its network namespace, as a descriptor", 0x894C, "0"),  # SIOCGSKNS
    "file": ("the file that it is bound to", 0x89E0, "0"),  # SIOCUNIXFILE
    "owner": ("whom it signals", 0x8902, 'struct.pack("i", os.getpid())'),  # SIOCSPGRP
}
for _name, (_title, _number, _argument) in _REQUESTS.items():
    program(
        f"N20.{_name}",
        f"ask a socket of a pair for {_title}",
        property=None,
        blocked="ENOTTY",
        # A pair is bound to no file; who may see a namespace is another question.
        reached="OK ENOENT EPERM",
        act=f'{_PAIR}call("ioctl", pair[0].fileno(), {_number}, {_argument})',
    )
program(
    "N21",
    "say to be another process (SCM_CREDENTIALS)",
    property=None,
    blocked="EPERM",
    privileged="CAP_SYS_ADMIN",
    act=f"""
{_PAIR}
pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
who = struct.pack("3i", os.getppid(), os.getuid(), os.getgid())
pair[0].sendmsg([b"x"], [(socket.SOL_SOCKET, 2, who)])
""",
)
_PROGRAM = """
kept = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xffffffff))
program = struct.pack("H6xQ", 1, ctypes.addressof(kept))
"""
for _name, _option in (("filter", 26), ("reuseport", 51)):
    # Of unix sockets the kernel takes the second only to refuse it.
    program(
        f"N22.{_name}",
        f"a program of its own in the kernel, at a socket of a pair: {_name}",
        property=None,
        blocked="EPERM",
        reached="OK ENOTSUP EINVAL EBUSY",
        act=f"""
{_PROGRAM}{_PAIR}
pair[0].setsockopt(socket.SOL_SOCKET, {_option}, program)
""",
    )
for _name, _act in (
    ("send", 'pair[0].send(b"x", socket.MSG_OOB)'),
    ("sendmsg", 'pair[0].sendmsg([b"x"], [], socket.MSG_OOB)'),
    ("receive", "pair[1].recv(1, socket.MSG_OOB)"),
    ("recvmsg", "pair[1].recvmsg(1, 0, socket.MSG_OOB)"),
):
    program(
        f"N23.{_name}",
        f"urgent data in a pair of sockets, a part of the kernel that programs do not use: {_name}",
        property=None,
        blocked="EPERM",
        reached="OK EINVAL ENOTSUP",
        act=_PAIR + _act,
    )
program(
    "N24",
    "memory that stays with the kernel (MSG_ZEROCOPY), with the host's network",
    property="memory",
    blocked="ENOBUFS EPERM",
    given=lambda ctx: {"TCP": ctx.world.tcp_port},
    fields=host_network,
    act="""
peer = socket.create_connection(("127.0.0.1", TCP))
peer.setsockopt(socket.SOL_SOCKET, 60, 1)  # SO_ZEROCOPY
peer.send(bytes(65536), 0x4000000)
""",
)
for _name, _act in (
    ("listen", "pair[0].listen()"),
    ("accept", "pair[0].accept()"),
    ("bind", 'pair[0].bind("own")'),
):
    program(
        f"N25.{_name}",
        f"make a server of a pair of sockets: {_name}",
        property="unix_path",
        blocked="EPERM",
        reached="OK EINVAL ENOTSUP",
        act=_PAIR + _act,
    )
