"""Attacks on the host's memory, through all that the kernel keeps for a program.

Each holds 128 MiB or less where half of that is allowed; hoard.py says how it is
judged.
"""

from __future__ import annotations

from evalbox import MiB, Syscalls
from evalbox._host import host
from security.base import Context, program
from security.hoard import hoard

# The answers of a kernel that counts it, and ours.
_BLOCKED = "MEMORY_LIMIT ENOMEM"


# ---- pages that processes map ----------------------------------------------------------------

_PRIVATE = """
def grow():
    for _ in range(AMOUNT >> 20):
        KEPT.append(b"x" * (1 << 20))
        yield len(KEPT) << 20
"""
hoard("R1", "private memory", _PRIVATE, blocked=_BLOCKED)
hoard(
    "R2",
    "shared anonymous memory, which RLIMIT_DATA does not count",
    """
def grow():
    for at in range(0, AMOUNT, 1 << 20):
        KEPT.append(mmap.mmap(-1, 1 << 20))
        KEPT[-1].write(b"x" * (1 << 20))
        yield at + (1 << 20)
""",
    blocked=_BLOCKED,
)
program(
    "R3",
    "memory in a file that is nowhere",
    property="memory",
    blocked="ENOSYS",
    act='call("memfd_create", b"x", 0)',
)
hoard(
    "R26",
    "what a process gets by writing to what it shares with its parent",
    """
shared = bytearray(8 << 20)
def take():
    for at in range(0, len(shared), 1 << 20):
        shared[at:at + (1 << 20)] = b"y" * (1 << 20)
        yield 1 << 20
def grow():
    return shares(16, take)
""",
    blocked=_BLOCKED,
)
hoard(
    "R27",
    "private memory of a process that cannot be dumped",
    'call("prctl", 4, 0, 0, 0, 0)' + _PRIVATE,
    blocked=_BLOCKED,
)
hoard(
    "R28",
    "private memory behind a first thread that has ended",
    """
def eat():
    time.sleep(0.1)
    for _ in range(AMOUNT >> 20):
        KEPT.append(b"x" * (1 << 20))
        tell(len(KEPT) << 20)
    time.sleep(HOLD)
    _tell("OK")
    os._exit(0)
def grow():
    threading.Thread(target=eat).start()
    call("exit", 0)
""",
    blocked=_BLOCKED,
)
hoard(
    "R29",
    "private memory at the end of a chain of forty processes",
    _PRIVATE
    + """
for _ in range(40):
    if pid := os.fork():
        os.waitpid(pid, 0)
        os._exit(0)
_pid = os.getpid()
""",
    blocked=_BLOCKED,
)
hoard(
    "R30",
    "private memory handed on from process to process, each of them alive for an instant",
    """
def hand_on(write):
    room = mmap.mmap(-1, AMOUNT, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    room.madvise(14)  # MADV_HUGEPAGE: little to copy
    at, end = 0, time.monotonic() + HOLD
    while at < AMOUNT or time.monotonic() < end:
        if os.fork():
            os._exit(0)
        for _ in range(min(8, (AMOUNT - at) >> 20)):
            room[at:at + (1 << 20)] = b"x" * (1 << 20)
            at += 1 << 20
    os.write(write, b"%d" % at)
    os._exit(0)
def grow():
    read, write = os.pipe()
    if os.fork() == 0:
        hand_on(write)
    os.close(write)
    yield int(read_all(read))
""",
    blocked=_BLOCKED,
)


hoard(
    "R40",
    "what children get by writing, while all processors are busy and looks are late",
    """
for _ in range(30):
    if os.fork() == 0:
        while True:
            pass
shared = bytearray(8 << 20)
def take():
    for at in range(0, len(shared), 1 << 20):
        shared[at:at + (1 << 20)] = b"y" * (1 << 20)
        yield 1 << 20
def grow():
    return shares(16, take)
""",
    blocked=_BLOCKED,
)
hoard(
    "R41",
    "private memory of children, behind one that runs in its parent's memory until execve",
    """
libc = ctypes.CDLL(None)
stack = ctypes.create_string_buffer(65536)
def wait_for_execve():
    # CLONE_VM | CLONE_VFORK | SIGCHLD: this thread waits for ever.
    libc.clone(libc.pause, ctypes.c_void_p(ctypes.addressof(stack) + 65536 - 256), 0x4111, 0)
shared = bytearray(24 << 20)
def take():
    for at in range(0, len(shared), 1 << 20):
        shared[at:at + (1 << 20)] = b"y" * (1 << 20)
        yield 1 << 20
def grow():
    threading.Thread(target=wait_for_execve, daemon=True).start()
    return shares(4, take)
""",
    amount=96 * MiB,
    blocked=_BLOCKED,
)


def _workspace_in_memory(ctx: Context) -> str:
    in_memory = ctx.tier == "namespace" or host().places[0].tmpfs
    return "" if in_memory else "the workspaces of this host are on a disk"


hoard(
    "R31",
    "a file without a name, in memory, that a process maps",
    """
def grow():
    for at in range(0, AMOUNT, 8 << 20):
        file = os.open("f", os.O_CREAT | os.O_RDWR)
        os.unlink("f")
        os.truncate(file, 8 << 20)
        KEPT.append(mmap.mmap(file, 8 << 20))
        os.close(file)
        for part in range(0, 8 << 20, 1 << 20):
            KEPT[-1][part:part + (1 << 20)] = b"x" * (1 << 20)
            yield at + part + (1 << 20)
""",
    fields={"disk": None},
    blocked=_BLOCKED,
    needs=_workspace_in_memory,
)
hoard(
    "R32",
    "twice the limit for an instant, while the machine is busy",
    """
def grow():
    # A watch that looks less often where there is much to do does so now.
    for _ in range(50):
        if os.fork() == 0:
            os.nice(19)
            while True:
                pass
    time.sleep(0.2)
    call("mmap", 0, AMOUNT, 3, 0x8022, -1, 0)  # private, anonymous, MAP_POPULATE
    yield AMOUNT
""",
    tries=12,
    brief=True,
    blocked=_BLOCKED,
)


# ---- what no process maps --------------------------------------------------------------------

hoard(
    "R4",
    "data in pipes",
    """
def take():
    while True:
        try:
            read, write = os.pipe()
        except OSError:
            return
        os.set_blocking(write, False)
        try:
            while True:
                yield os.write(write, bytes(65536))
        except BlockingIOError:
            pass
def grow():
    return shares(8, take)
""",
    # The kernel gives a user 64 MiB of them.
    size=48 * MiB,
    amount=56 * MiB,
    blocked=_BLOCKED,
)
program(
    "R4.size",
    "a pipe that holds more",
    property="memory",
    blocked="EPERM",
    act="fcntl.fcntl(os.pipe()[0], 1031, 1 << 20)",  # F_SETPIPE_SZ
)
hoard(
    "R5",
    "data in sockets",
    """
def take():
    while True:
        try:
            KEPT.append(socket.socketpair())
        except OSError:
            return
        for end in KEPT[-1]:
            end.setblocking(False)
            try:
                while True:
                    yield end.send(bytes(32768))
            except BlockingIOError:
                pass
def grow():
    return shares(8, take)
""",
    blocked=_BLOCKED,
)
program(
    "R5.size",
    "a socket that holds more",
    property="memory",
    blocked="ignored EPERM",
    act="""
end, _ = socket.socketpair()
before = end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, before // 4)
if end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before:
    held("ignored")
""",
)
program(
    "R6",
    "more descriptors than allowed, on their way through sockets",
    property=None,
    blocked="ETOOMANYREFS",
    act="""
ends = socket.socketpair()
many = struct.pack("250i", *[0] * 250)
for _ in range(8):
    ends[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])
""",
    control=lambda _: {"open_files": 4096},
)
hoard(
    "R33",
    "page tables: a gigabyte of addresses for each 2 MiB of them",
    """
def grow():
    size = AMOUNT // 4096 << 21
    # Only read, so that nothing lies behind it but the kernel's page of zeroes.
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | 0x4000, prot=mmap.PROT_READ)
    KEPT.append(room)
    room.madvise(15)  # MADV_NOHUGEPAGE
    for number, at in enumerate(range(0, size, 1 << 21)):
        room[at]
        yield (number + 1) * 4096
""",
    blocked=_BLOCKED,
)
hoard(
    "R34",
    "mappings, 60 000 in each process",
    """
def grow():
    count = 60000
    at = call("mmap", 0, count * 4096, 0, 0x4022, -1, 0)
    for page in range(0, count, 2):
        call("mprotect", at + page * 4096, 4096, 1)
    while True:
        if os.fork() == 0:
            signal.pause()
        KEPT.append(0)
        yield len(KEPT) * count * 160  # struct vm_area_struct has more
""",
    blocked=_BLOCKED,
)
program(
    "R35",
    "a lock on a record of a file, which counts to nobody's memory",
    property="memory",
    blocked="not-kept ENOLCK",
    act="""
fd = os.open("kept", os.O_CREAT | os.O_RDWR)
fcntl.lockf(fd, fcntl.LOCK_EX)
if os.fork() == 0:
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
    found = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, asked))[0]
    os._exit(found == fcntl.F_UNLCK)
os.wait()[1] == 0 or held("not-kept")
""",
)
hoard(
    "R36",
    "pages of a file that is cut to nothing, kept by the pipes they were spliced into",
    """
def take():
    file = os.open(f"{os.getpid()}", os.O_CREAT | os.O_RDWR)
    while True:
        try:
            read, write = os.pipe()
        except OSError:
            return
        os.pwrite(file, b"x" * 65536, 0)
        yield os.splice(file, write, 65536, offset_src=0)
        os.truncate(file, 0)
def grow():
    return shares(8, take)
""",
    size=48 * MiB,
    amount=56 * MiB,
    fields={"syscalls": Syscalls().allow("splice")},
    blocked=_BLOCKED,
)
