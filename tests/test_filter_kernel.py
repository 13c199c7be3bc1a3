"""A sample of the default rules on the running kernel; each with what happens without them.

A snippet runs in an interpreter that has installed the filter; it prints what
it saw. Without the filter the same snippet is the control: it must see
something else, or the rule was not what stopped it.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from evalbox.compile.syscalls import Identity, effective_spec, filter_specs
from evalbox.policy import Network, Policy, Syscalls
from filter_core import compile_bytes

ARCH = platform.machine()

INSTALL = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)

class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("insns", ctypes.c_char_p)]

def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(a & 2**64 - 1) for a in args))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "ok"

assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
for text in sys.argv[1:]:
    code = bytes.fromhex(text)
    program = Program(len(code) // 8, code)
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, os.strerror(ctypes.get_errno())
"""
NUMBERS = """
from evalbox._syscall_table import NUMBERS
import platform
N = NUMBERS[platform.machine()]
"""
PATH = str(Path(__file__).resolve().parent.parent)


def run(filters: list[bytes], snippet: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", NUMBERS + INSTALL + snippet, *(code.hex() for code in filters)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": PATH},
        stdin=subprocess.DEVNULL,
    )


def filters(policy: Policy, identity: Identity = "ordinary") -> list[bytes]:
    return [compile_bytes(effective_spec(policy, arch=ARCH, identity=identity))]


def both(snippet: str, cwd: Path, policy: Policy) -> tuple[str, str]:
    """What the snippet prints with the filter, and without."""
    confined, free = run(filters(policy), snippet, cwd), run([], snippet, cwd)
    assert confined.returncode == free.returncode == 0, confined.stderr + free.stderr
    return confined.stdout.strip(), free.stdout.strip()


# name of the test, what is printed, with the filter, without ("*": anything else)
DENIALS = [
    ("unshare", "call(N['unshare'], 0)", "EPERM", "ok"),
    ("clone", "call(N['clone'], 0x10000000 | 0x200)", "EPERM", "EINVAL"),
    ("clone3", "call(N['clone3'], 0, 0)", "ENOSYS", "EINVAL"),
    ("openat2", "call(N['openat2'], 0, 0, 0, 0)", "ENOSYS", "EINVAL"),
    ("memfd_create", "call(N['memfd_create'], 0, 0)", "ENOSYS", "EFAULT"),
    ("pidfd_open", "call(N['pidfd_open'], os.getpid(), 0)", "ENOSYS", "ok"),
    ("getxattr", "call(N['getxattr'], 0, 0, 0, 0)", "ENOTSUP", "EFAULT"),
    ("setxattr", "call(N['setxattr'], 0, 0, 0, 1, 0)", "EPERM", "EFAULT"),
    ("setxattr of an ACL", "call(N['fsetxattr'], 0, 0, 0, 28, 0)", "ENOTSUP", "EFAULT"),
    ("chown", "call(N['fchownat'], -100, 0, -1, -1, 0)", "EPERM", "EFAULT"),
    ("prlimit64 of another", "call(N['prlimit64'], os.getppid(), 7, 0, 0)", "EPERM", "*"),
    ("RLIMIT_CORE", "call(N['prlimit64'], 0, 4, 1, 0)", "ok", "EFAULT"),
    ("RLIMIT_CORE, and the old one", "call(N['prlimit64'], 0, 4, 1, 1)", "EPERM", "EFAULT"),
    ("sched_setaffinity", "call(N['sched_setaffinity'], os.getppid(), 0, 0)", "EPERM", "*"),
    ("setpriority of a group", "os.setpgid(0, 0) or call(N['setpriority'], 1, 0, 0)", "EPERM", "*"),
    ("ioctl FIOASYNC", "call(N['ioctl'], os.pipe()[0], 0x5452, 0)", "ENOTTY", "EFAULT"),
    ("PR_SET_KEEPCAPS", "call(N['prctl'], 8, 0)", "EPERM", "ok"),
    ("PR_SET_SECCOMP", "call(N['prctl'], 22, 1 << 20)", "EPERM", "EINVAL"),
    ("F_SETPIPE_SZ", "call(N['fcntl'], os.pipe()[0], 1031, 4096)", "EPERM", "ok"),
    ("F_SETOWN", "call(N['fcntl'], os.pipe()[0], 8, os.getpid())", "EPERM", "ok"),
    ("personality", "call(N['personality'], 0x40000)", "EPERM", "ok"),
    ("vmsplice", "call(N['vmsplice'], os.pipe()[1], 0, 0, 0)", "EPERM", "ok"),
    ("inotify", "call(N['inotify_init1'], 0)", "EPERM", "ok"),
    ("mq_open", "call(N['mq_open'], 0, 0)", "ENOSYS", "EFAULT"),
    ("shmget", "call(N['shmget'], 0, 0, 0)", "ENOSYS", "EINVAL"),
    ("socket", "call(N['socket'], 2, 1, 0)", "EPERM", "ok"),
    ("socket nonblocking", "call(N['socket'], 2, 2 | 0o2004000, 0)", "EPERM", "ok"),
    ("unix socket", "call(N['socket'], 1, 1, 0)", "EPERM", "ok"),
    ("netlink socket", "call(N['socket'], 16, 3, 0)", "EPERM", "ok"),
    ("socketpair of datagrams", "call(N['socketpair'], 1, 2, 0, 0)", "EPERM", "EFAULT"),
    ("chmod u+s", "call(N['fchmod'], os.open('f', os.O_CREAT), 0o4755)", "EPERM", "ok"),
    ("create u+s", "call(N['openat'], -100, PATH, os.O_CREAT, 0o4755)", "EPERM", "ok"),
    ("mkdir g+s", "call(N['mkdirat'], -100, PATH, 0o2755)", "EPERM", "ok"),
]
ADDRESS = "name = ctypes.create_string_buffer(b'made')\nPATH = ctypes.addressof(name)\n"


@pytest.mark.parametrize(
    ("expression", "confined", "free"),
    [pytest.param(*row[1:], id=row[0]) for row in DENIALS],
)
def test_a_denied_call_fails_and_only_with_the_filter(
    expression: str, confined: str, free: str, tmp_path: Path
) -> None:
    for installed, expected in ((filters(Policy()), confined), ([], free)):
        for made in tmp_path.iterdir():
            made.rmdir() if made.is_dir() else made.unlink()
        done = run(installed, f"{ADDRESS}print({expression})", tmp_path)
        assert done.returncode == 0, done.stderr
        seen = done.stdout.strip()
        assert seen == expected if expected != "*" else seen != confined


ALLOWED = """
import resource, select, shutil, signal, socket, sqlite3, subprocess, tempfile, threading
call_is_ok = lambda name, *args: call(N[name], *args) == "ok" or print(name)
call_is_ok("fchmod", os.open("f", os.O_CREAT), 0o755)
call_is_ok("prlimit64", 0, 7, 0, 0)
call_is_ok("sched_getaffinity", 0, 8, ctypes.addressof(ctypes.create_string_buffer(8)))
call_is_ok("personality", 0xFFFFFFFF)
call_is_ok("prctl", 3)
call_is_ok("fcntl", 1, 1)
assert subprocess.run(["echo", "hi"], capture_output=True).stdout == b"hi\\n"
subprocess.run(["true"], start_new_session=True, check=True)
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
    one, two = socket.socketpair(socket.AF_UNIX, kind)
    one.sendall(b"x"); assert two.recv(1) == b"x"
with open("a", "w") as file: file.write("x")
shutil.copy2("a", "b"); os.rename("b", "c"); os.utime("c"); os.mkfifo("d"); os.nice(1)
sqlite3.connect("db").execute("create table t (a)")
signal.setitimer(signal.ITIMER_REAL, 10); signal.alarm(0); select.epoll().close()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
print("done")
"""


def test_what_programs_do_is_allowed(tmp_path: Path) -> None:
    for number, network in enumerate((Network.none(), Network.host())):
        place = tmp_path / str(number)
        place.mkdir()
        done = run(filters(Policy(network=network)), ALLOWED, place)
        assert (done.stdout, done.returncode) == ("done\n", 0), done.stdout + done.stderr


def test_the_two_filters_do_what_the_one_does(tmp_path: Path) -> None:
    # Without prctl the second one could not be installed here.
    policy = Policy(syscalls=Syscalls().allow("prctl"))
    launcher, child = filter_specs(policy, arch=ARCH, identity="ordinary")
    assert launcher is not None
    rows = [row for row in DENIALS if "prctl" not in row[1]]
    snippet = ADDRESS + "".join(f"print({row[1]})\n" for row in rows)
    done = run([compile_bytes(launcher), compile_bytes(child)], snippet, tmp_path)
    assert done.stdout.split() == [row[2] for row in rows], done.stderr


def test_socket_buffers_cannot_grow_and_asking_does_no_harm(tmp_path: Path) -> None:
    snippet = """
import socket
one, two = socket.socketpair()
before = one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, before // 4)
print(one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before)
"""
    assert both(snippet, tmp_path, Policy()) == ("True", "False")


SEND = """
import socket
kind = getattr(socket, KIND)
try:
    one, two = socket.socketpair(socket.AF_UNIX, kind)
    one.sendto(b"x", "listener")
    print("sent")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@pytest.mark.parametrize(
    ("kind", "confined", "free", "arrives"),
    [("SOCK_DGRAM", "EPERM", "sent", True), ("SOCK_STREAM", "EISCONN", "EISCONN", False)],
)
def test_no_pair_of_sockets_reaches_a_path(
    kind: str, confined: str, free: str, arrives: bool, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "listener"))
        listener.setblocking(False)
        seen = both(f"KIND = {kind!r}\n{SEND}", tmp_path, Policy())
        assert seen == (confined, free)
        if arrives:
            assert listener.recv(2) == b"x"
        with pytest.raises(BlockingIOError):
            listener.recv(2)


def test_a_packet_socket_ignores_an_address(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "listener"))
        listener.setblocking(False)
        assert both(f"KIND = 'SOCK_SEQPACKET'\n{SEND}", tmp_path, Policy()) == ("sent", "sent")
        with pytest.raises(BlockingIOError):
            listener.recv(2)


FOREIGN = {
    "x32": "print(call(0x40000000 | 39))",
    "int 0x80": """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov $20 (getpid), %eax; int $0x80; ret
start = ctypes.addressof(ctypes.c_char.from_buffer(page))
print(ctypes.CFUNCTYPE(ctypes.c_int)(start)() == os.getpid())
""",
}


@pytest.mark.parametrize("way", FOREIGN)
def test_another_call_table_kills(way: str, tmp_path: Path) -> None:
    if ARCH != "x86_64":
        return
    assert run(filters(Policy()), FOREIGN[way], tmp_path).returncode == -signal.SIGSYS
    # A kernel without the 32-bit table answers with a fault.
    assert run([], FOREIGN[way], tmp_path).returncode in (0, -signal.SIGSEGV)


def test_unknown_numbers_do_not_exist(tmp_path: Path) -> None:
    snippet = "print(call(2000), call(0x3fffffff), call(-1))"
    assert both(snippet, tmp_path, Policy())[0] == "ENOSYS ENOSYS ENOSYS"


def test_with_the_network_of_the_host_tcp_works_and_fast_open_does_not(tmp_path: Path) -> None:
    snippet = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
peer, _ = server.accept()
peer.sendall(b"x")
print(client.recv(1), socket.getaddrinfo("127.0.0.1", 80)[0][4])
for arguments in ((16, 3, 0), (1, 1, 0), (2, 1, 262), (2, 2, 136)):
    print(call(N["socket"], *arguments))
print(call(N["sendto"], client.fileno(), 0, 0, 0x20000000, 0, 0))
"""
    confined, free = both(snippet, tmp_path, Policy(network=Network.host()))
    assert confined.split("\n") == ["b'x' ('127.0.0.1', 80)", *["EPERM"] * 5]
    assert free.split("\n")[:3] == ["b'x' ('127.0.0.1', 80)", "ok", "ok"]
    assert "EPERM" not in free
