"""Attacks on the kernel itself: calls that no program needs, in every disguise.

Most are made in earnest: their control, by a caller that may, does what the act
says. What only a capability would let through anyway is told apart by
on_denied="kill", which ends a run for what the filter denies and nothing else.
"""

from __future__ import annotations

import errno
import platform
from typing import Any

from evalbox import Syscalls
from evalbox._syscall_table import NUMBERS
from security.aims import granting
from security.base import Context, Fields, nothing_lacks, program, since

_HERE = NUMBERS[platform.machine()]
_ANY_ERRNO = " ".join(set(errno.errorcode.values()))


def _program(name: str, title: str, blocked: str, act: str, **more: Any) -> None:
    program(name, title, property=None, blocked=blocked, act=act, **more)


# ---- K1, N15: io_uring -----------------------------------------------------------------------

_SET_UP = """
parameters = room(120)
ring = call("io_uring_setup", 1, parameters)
"""
# One request, whose result is that of the act; {} fills `entry`, a submission of 64 bytes.
_RING = (
    _SET_UP
    + """
head = struct.unpack_from("10I", parameters.raw, 40)  # struct io_sqring_offsets
done = struct.unpack_from("10I", parameters.raw, 80)  # struct io_cqring_offsets
queue = mmap.mmap(ring, 4096)
entries = mmap.mmap(ring, 4096, offset=0x10000000)
{}
entries[:64] = entry.ljust(64, bytes(1))
struct.pack_into("I", queue, head[6], 0)  # its number in the array
struct.pack_into("I", queue, head[1], 1)  # the tail
call("io_uring_enter", ring, 1, 1, 1, 0, 0)
result = struct.unpack_from("i", queue, done[5] + 8)[0]
if result < 0:
    raise OSError(-result, "io_uring")
"""
)
_SUBMISSIONS = {
    "socket": ("a socket", "tcp", 'entry = struct.pack("BBHiQQII", 45, 0, 0, 2, 1, 0, 0, 0)'),
    "open": (
        "a file outside",
        "fs_read",
        """
path = ctypes.create_string_buffer(f"{DIR}/secret".encode())
entry = struct.pack("BBHiQQII", 18, 0, 0, -100, 0, ctypes.addressof(path), 0, 0)
""",
    ),
}
_ALLOWED = "io_uring, which rules of a container may forbid"
for _name, (_title, _held, _entry) in _SUBMISSIONS.items():
    program(
        f"N15.{_name}",
        f"past every filter: {_title} through io_uring",
        property=_held,
        blocked="ENOSYS",
        privileged=_ALLOWED,
        act=_RING.format(_entry),
    )
program(
    "N15.open-granted",
    "a file outside through io_uring, where that is allowed",
    property="fs_read",
    # A ring takes memory that cannot be swapped, which a uid of its own has not.
    blocked="EACCES ENOENT ENOMEM",
    fields=granting("io_uring_setup", "io_uring_enter"),
    privileged=_ALLOWED,
    act=_RING.format(_SUBMISSIONS["open"][2]),
)
_program("K1", "a ring of io_uring", "ENOSYS", _SET_UP, privileged=_ALLOWED)

# ---- K2-K5: programs, faults, counters and keys in the kernel --------------------------------

_program(
    "K2",
    "make an eBPF map",
    "EPERM",
    'call("bpf", 0, struct.pack("4I112x", 2, 4, 4, 1), 128)',  # BPF_MAP_TYPE_ARRAY
    privileged="CAP_BPF",
)
_program(
    "K3",
    "stop the kernel in the middle of a copy (userfaultfd)",
    "EPERM",
    'call("userfaultfd", 0x80000 | 1)',  # of its own mode only
    privileged="userfaultfd",
)
_program(
    "K3.device",
    "the same through a device",
    "EACCES ENOENT",
    'os.open("/dev/userfaultfd", os.O_RDWR)',
    privileged="root",
)
_program(
    "K4",
    "count what the processor does",
    "EPERM",
    'call("perf_event_open", struct.pack("IIQ112x", 1, 128, 0), 0, -1, -1, 0)',
    privileged="perf_event_paranoid below 3",
)
_KEY = 'call("add_key", b"user", b"evalbox", b"x", 1, {})'
for _name, _title, _act in (
    ("add", "leave a key behind", _KEY.format(-2)),  # KEY_SPEC_PROCESS_KEYRING
    ("session", "join a ring of keys", 'call("keyctl", 1, 0, 0, 0, 0)'),
    ("persistent", "a ring of keys that outlives it", 'call("keyctl", 22, -1, -2, 0, 0)'),
):
    _program(
        f"K5.{_name}",
        _title,
        "EPERM",
        _act,
        privileged="keys, which rules of a container may forbid",
    )

# ---- K6, K7: mounts, and what user namespaces would open -------------------------------------

_PLACE = 'place = f"{DIR}/empty".encode()\n'
_MOUNTS = {
    "tmpfs": """
call("mount", b"none", place, b"tmpfs", 0, 0)
call("umount2", place, 2)
""",
    "bind": """
call("mount", b"/", place, 0, 4096, 0)
call("umount2", place, 2)
""",
    "fsopen": 'call("fsopen", b"tmpfs", 0)',
    "clone": 'call("open_tree", -100, b"/", 1)',
    "fspick": 'call("fspick", -100, b"/", 0)',
    "detach": 'call("umount2", b"/proc/no-mount", 2)',
}
for _name, _act in _MOUNTS.items():
    _program(
        f"K6.{_name}",
        f"change what is mounted: {_name}",
        "EPERM",
        _PLACE + _act,
        reached="OK ENOENT",  # nothing is mounted there
        privileged="CAP_SYS_ADMIN",
    )
_program(
    "K6.in-namespace",
    "mount as root of a user namespace of its own",
    "EPERM",
    f"""
call("unshare", 0x10000000 | 0x20000)
{_PLACE}{_MOUNTS["tmpfs"]}
""",
    privileged="user namespaces",
)
_program(
    "K6.look",
    "open a tree of files as such",
    "EPERM",
    'call("open_tree", -100, b".", 0)',
    privileged="CAP_SYS_ADMIN",
)
_program(
    "K7",
    "packet filters of a network namespace of its own",
    "EPERM",
    """
call("unshare", 0x10000000 | 0x40000000)
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
""",
    privileged="user namespaces",
)

# ---- K8, K9: what a process is ---------------------------------------------------------------

_PERSONALITIES = {
    "no-random": ("addresses that can be guessed", 0x0040000),
    "mmap-zero": ("a page at address zero", 0x0100000),
    "exec": ("executable data", 0x0400000),
    "uname": ("an older kernel", 0x0020000),
    "32-bit": ("32 bits", 0x0008),
    "upper-half": ("the same with bits that the kernel does not look at", 1 << 32 | 0x40000),
}
for _name, (_title, _value) in _PERSONALITIES.items():
    _program(
        f"K8.{_name}",
        f"ask for {_title}",
        "EPERM",
        f'call("personality", {_value})',
        privileged="a caller that is not filtered itself",
    )
if "modify_ldt" in _HERE:
    _program(
        "K9",
        "write segment descriptors",
        "EPERM",
        # One of 32 bits: useable, present, for data.
        'call("modify_ldt", 1, struct.pack("IIII", 0, 0, 0xfffff, 0x51), 16)',
    )

# ---- K14-K16, K18, K23: the rest of the table ------------------------------------------------

_PRCTLS = {
    "mm": ("what could be said of its memory", "35, 15, room(4), 0, 0", "OK"),
    "dispatch": ("its system calls to itself", "59, 0, 0, 0, 0", "OK"),
    "tsc": ("not to tell the time stamps", "26, 2, 0, 0, 0", "OK"),
    "merge": ("its pages to be shared with others", "67, 1, 0, 0, 0", "OK"),
    "counters": ("its counters off", "31, 0, 0, 0, 0", "OK"),
    "speculation": ("to speculate", "53, 0, 2, 0, 0", "OK ENXIO EINVAL"),
    "machine-check": ("to be killed late", "33, 1, 0, 0, 0", "OK"),
    "endian": ("the other order of bytes", "20, 0, 0, 0, 0", "OK EINVAL"),
    "upper-half": ("PR_SET_KEEPCAPS with a higher bit", f"{1 << 32 | 8}, 0, 0, 0, 0", "OK"),
}
for _name, (_title, _arguments, _met) in _PRCTLS.items():
    _program(
        f"K15.{_name}",
        f"ask by prctl for {_title}",
        "EPERM",
        f'call("prctl", {_arguments})',
        reached=_met,
        needs=since(6, 4) if _name == "merge" else nothing_lacks,
    )
_CALLS = {
    "K18.vmsplice": ("its pages into a pipe", 'call("vmsplice", os.pipe()[1], PART, 1, 0)'),
    "K18.move-pages": ("pages to another node", 'call("move_pages", 0, 0, 0, 0, 0, 0)'),
    "K18.mbind": ("memory of one node", 'call("mbind", 0, 0, 0, 0, 0, 0)'),
    "K18.mempolicy": ("memory of one node from now on", 'call("set_mempolicy", 0, 0, 0)'),
    "K18.pkey": ("keys for its pages", 'call("pkey_alloc", 0, 0)'),
    "K18.mseal": ("memory that stays as it is", 'call("mseal", 0, 0, 0)'),
    "K18.remap": ("its pages in another order", 'call("remap_file_pages", 0, 0, 0, 0, 0)'),
    "K18.aio": ("reads by the kernel's hand", 'call("io_setup", 1, room(8))'),
    "K18.futex-wait": ("many futexes", 'call("futex_waitv", 0, 0, 0, 0, 0)'),
    "K25.create": ("a ruleset", 'call("landlock_create_ruleset", struct.pack("Q", 1), 8, 0)'),
    "K25.restrict": (
        "sixteen layers of rules, which leave none for others",
        """
call("prctl", 38, 1, 0, 0, 0)
rules = call("landlock_create_ruleset", struct.pack("Q", 1), 8, 0)
for _ in range(17):
    try:
        call("landlock_restrict_self", rules, 0)
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
""",
    ),
    "K25.lsm": ("what modules say of it", 'call("lsm_list_modules", room(64), room(4), 0)'),
}
_PART = 'kept = room(64)\nPART = struct.pack("QQ", ctypes.addressof(kept), 8)\n'  # struct iovec
for _name, (_title, _act) in _CALLS.items():
    if "pkey" in _name and "pkey_alloc" not in _HERE:
        continue
    _program(
        _name,
        f"have {_title}",
        "EPERM ENOSYS",
        _PART + _act,
        reached="OK EINVAL ENOSPC EFAULT E2BIG EOPNOTSUPP",
        privileged="a kernel and a container that have it",
    )


def _killing(_: Context) -> Fields:
    return {"on_denied": "kill"}


def _killing_others(_: Context) -> Fields:
    return {"on_denied": "kill", "syscalls": Syscalls().allow(*_BARE)}


# Only refused by the filter or also by the kernel? Bare of arguments that would do harm.
_BARE = {
    name: entry
    for entry, names in {
        "K2": "bpf",
        "K3": "userfaultfd",
        "K4": "perf_event_open",
        "K5": "keyctl add_key request_key",
        "K6": "mount umount2 fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr",
        "K9": "modify_ldt",
        "K14": "seccomp",
        "K16": "kexec_load kexec_file_load init_module finit_module delete_module reboot iopl"
        " ioperm swapon swapoff acct settimeofday clock_settime adjtimex clock_adjtime"
        " sethostname setdomainname syslog vhangup",
        "K18": "quotactl quotactl_fd lookup_dcookie nfsservctl remap_file_pages",
        "K25": "landlock_create_ruleset landlock_add_rule landlock_restrict_self",
        "K26": "uselib ustat sysfs _sysctl create_module query_module get_kernel_syms afs_syscall"
        " tuxcall vserver security getpmsg putpmsg",
    }.items()
    for name in names.split()
    if name in _HERE
}
for _call, _entry in _BARE.items():
    _program(
        f"{_entry}.bare-{_call.strip('_').replace('_', '-')}",
        f"{_call}: refused by the filter, not only for want of a capability",
        "DENIED",
        f'call("{_call}", -1, -1, -1, -1, -1)',
        reached=f"OK {_ANY_ERRNO}",
        fields=_killing,
        control=_killing_others,
        # In a container Docker's rules answer before ours.
        callers="root user",
    )
