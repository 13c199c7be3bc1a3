"""Attacks past the filter: other ways into the kernel, and numbers that lie."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from evalbox import Syscalls
from evalbox._syscall_table import LAST_NR, NUMBERS
from security.base import Context, program

_IS_X86 = platform.machine() == "x86_64"
_HERE = NUMBERS[platform.machine()]


def _program(name: str, title: str, blocked: str, act: str, **more: Any) -> None:
    program(name, title, property=None, blocked=blocked, act=act, **more)


def _vsyscall_page(_: Context) -> str:
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return "" if "[vsyscall]" in maps else "this kernel has no vsyscall page"


# ---- K11, K12, K21, K22: other tables --------------------------------------------------------

# Runs machine code in a child, which exits with 42 through the other table.
_CODE = """
page = mmap.mmap(-1, 4096, prot=7, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)
base = ctypes.addressof(ctypes.c_char.from_buffer(page))
{}
page[:len(code)] = code
pid = os.fork()
if pid == 0:
    ctypes.CFUNCTYPE(ctypes.c_long)(base)()
    os._exit(1)
status = os.waitpid(pid, 0)[1]
if os.WIFSIGNALED(status):
    held(signal.Signals(os.WTERMSIG(status)).name)
os.WEXITSTATUS(status) == 42 or held(f"exit_{{os.WEXITSTATUS(status)}}")
"""
_EXIT_32 = "bb2a000000 b801000000"  # mov ebx, 42; mov eax, 1 (exit of the 32-bit table)
# To a segment of 32 bits by a far return, on a stack below 4 GiB, and then into the kernel.
_FAR = """
start, end = base + 64, base + 4000
code = b"\\xbc" + struct.pack("I", end)  # mov esp, end
code += b"\\x6a\\x23\\x68" + struct.pack("I", start) + b"\\x48\\xcb"  # push 0x23; push start; retfq
code = code.ljust(64, b"\\x90") + bytes.fromhex("{}")
"""
if _IS_X86:
    _TABLES = {
        "K12": ("int 0x80", f'code = bytes.fromhex("{_EXIT_32} cd80")'),
        "K21": ("int 0x80 from a segment of 32 bits", _FAR.format(f"{_EXIT_32} cd80")),
    }
    for _name, (_title, _code) in _TABLES.items():
        _program(
            _name,
            f"the 32-bit table of system calls, by {_title}",
            "SIGSYS",
            _CODE.format(_code),
        )
    _program(
        "K12.program",
        "a whole program of 32 bits",
        "SIGSYS",
        f"""
code = bytes.fromhex("{_EXIT_32} cd80")
start = 0x08048000
head = struct.pack("16sHHIIIIIHHHHHH", b"\\x7fELF\\x01\\x01\\x01", 2, 3, 1, start + 84, 52, 0, 0,
                   52, 32, 1, 0, 0, 0)
load = struct.pack("8I", 1, 0, start, start, 84 + len(code), 84 + len(code), 5, 4096)
with open("program32", "wb") as file:
    file.write(head + load + code)
os.chmod("program32", 0o755)
status = subprocess.run(["./program32"]).returncode
status < 0 and held(signal.Signals(-status).name)
status == 42 or held(f"exit_{{status}}")
""",
    )
    _program(
        "K11",
        "the x32 table of system calls",
        "SIGSYS",
        "call(0x40000000 | 39)",
        reached="OK ENOSYS",  # a kernel without it
    )
    _program(
        "K11.exec",
        "a program through the x32 table",
        "SIGSYS",
        'call(0x40000000 | 520, b"/bin/true", 0, 0)',
        reached="OK ENOSYS exit",
    )
    for _name, _offset, _call in (
        ("gettimeofday", 0x000, "gettimeofday"),
        ("time", 0x400, "time"),
        ("getcpu", 0x800, "getcpu"),
    ):
        _program(
            f"K22.{_name}",
            f"a denied call through the vsyscall page: {_call}",
            "EPERM ENOSYS SIGSEGV",
            f"""
entry = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
buffer = room(64)
result = entry(0xffffffffff600000 + {_offset})(ctypes.addressof(buffer), 0, 0)
if -4096 < result < 0:
    raise OSError(-result, "vsyscall")
""",
            fields=lambda _, call=_call: {"syscalls": Syscalls().deny(call)},
            needs=_vsyscall_page,
        )

# ---- K17: numbers that are not there yet -----------------------------------------------------

_LAST = LAST_NR[platform.machine()]
for _name, _number in (
    ("next", _LAST + 1),
    ("far", 2000),
    ("farther", 0x3FFFFFFF),
    ("negative", -1),
    ("least", -(1 << 31)),
    ("gap", 400),
):
    _program(
        f"K17.{_name}",
        f"a call that some later kernel may have: {_name}",
        "ENOSYS",
        "call(NUMBER)",
        given=lambda _, number=_number: {"NUMBER": number},
        # A number that every kernel has.
        control_given=lambda _: {"NUMBER": _HERE["getpid"]},
    )
_program(
    "K17.sweep",
    "any call between the last that is known and 1024",
    "ENOSYS",
    """
for number in range(FIRST, 1024):
    try:
        call(number, -1, -1, -1, -1, -1, -1)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            continue
    held("OK")
held("ENOSYS")
""",
    given=lambda _: {"FIRST": _LAST + 1},
    # Of the last ones that are known an ordinary process has some.
    control_given=lambda _: {"FIRST": _HERE["openat2"]},
)

# ---- K28: words whose upper half the kernel does not read ------------------------------------

_HIGH = 1 << 32
_LIES = {
    "number": ("the number", 'call(N["inotify_init1"] | HIGH, 0)'),
    # FIOASYNC
    "ioctl": ("a request", 'call("ioctl", os.pipe()[0], HIGH | 0x5452, struct.pack("i", 0))'),
    "fcntl": ("a command", 'call("fcntl", 1, HIGH | 8, os.getpid())'),
    "prctl": ("an option", 'call("prctl", HIGH | 26, 1, 0, 0, 0)'),
    "socketpair": ("a family", 'call("socketpair", HIGH | 1, HIGH | 2, 0, room(8))'),
    "prlimit": ("a pid", 'call("prlimit64", HIGH | os.getppid(), 7, 0, room(16))'),
    "scheduler": ("a pid to schedule", 'call("sched_setaffinity", HIGH | os.getppid(), 0, 0)'),
    "priority": ("whose priority", 'call("setpriority", HIGH | 2, 4000000, 0)'),
    "mode": ("a mode", 'call("mkdirat", -100, b"made", HIGH | 0o4700)'),
}
for _name, (_title, _act) in _LIES.items():
    _program(
        f"K28.{_name}",
        f"bits above the thirty-second: {_title}",
        "EPERM ENOTTY" if _name == "ioctl" else "EPERM",
        _act,
        given=lambda _: {"HIGH": _HIGH},
        reached="OK EINVAL ESRCH ENOSYS",
    )
