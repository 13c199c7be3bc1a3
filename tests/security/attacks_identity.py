"""Attacks on what a program is: its namespaces, its uid, its filters, limits and rank."""

from __future__ import annotations

from security.base import program

# ---- P21: other namespaces -------------------------------------------------------------------

_NAMESPACES = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
}
_ALL = sum(_NAMESPACES.values())
_MAKER = "CAP_SYS_ADMIN or user namespaces"
_CHILD = "\nif pid == 0:\n    os._exit(0)\nos.waitpid(pid, 0)"
for _name, _flag in _NAMESPACES.items():
    # With one of users, which every user may make.
    _flags = _flag | _NAMESPACES["user"]
    program(
        f"P21.unshare-{_name}",
        f"a new namespace by unshare: {_name}",
        property=None,
        blocked="EPERM",
        privileged=_MAKER,
        act=f'call("unshare", {_flags})',
    )
    program(
        f"P21.clone-{_name}",
        f"a new namespace by clone: {_name}",
        property=None,
        blocked="EPERM",
        privileged=_MAKER,
        act=f'pid = call("clone", {_flags | 17}, 0, 0, 0, 0){_CHILD}',
    )
program(
    "P21.clone-upper-half",
    "a new namespace by clone, with bits set that the kernel does not look at",
    property=None,
    blocked="EPERM",
    privileged=_MAKER,
    act=f'pid = call("clone", {0xFFFFFFFF_10000011}, 0, 0, 0, 0){_CHILD}',
)
program(
    "P21.clone3",
    "new namespaces by clone3",
    property=None,
    blocked="ENOSYS",
    privileged=_MAKER,
    act=f'pid = call("clone3", struct.pack("8Q", {_ALL}, 0, 0, 0, 17, 0, 0, 0), 64){_CHILD}',
)
program(
    "P21.unshare-all",
    "every namespace but one of users",
    property=None,
    blocked="EPERM",
    privileged="CAP_SYS_ADMIN",
    act=f'call("unshare", {_ALL & ~_NAMESPACES["user"]})',
)
program(
    "P21.clone3-plain",
    "a process by clone3, whose flags no filter can read",
    property=None,
    blocked="ENOSYS",
    privileged="a caller that is not filtered itself",
    act=f'pid = call("clone3", struct.pack("8Q", 0, 0, 0, 0, 17, 0, 0, 0), 64){_CHILD}',
)
program(
    "P21.clone-into-cgroup",
    "a process in another control group (CLONE_INTO_CGROUP)",
    property=None,
    blocked="ENOSYS",
    privileged="a caller that is not filtered itself",
    reached="OK EBADF",  # no directory of cgroup v2
    act=f'pid = call("clone3", struct.pack("11Q", 1 << 33, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)'
    f"{_CHILD}",
)
program(
    "P21.unshare-time",
    "a new namespace of clocks",
    property=None,
    blocked="EPERM",
    privileged=_MAKER,
    act=f'call("unshare", {0x80 | _NAMESPACES["user"]})',
)
program(
    "P21.setns-parent",
    "enter the namespaces of the program's parent, through a descriptor of /proc",
    property=None,
    blocked="EACCES ENOENT EPERM",
    privileged="CAP_SYS_ADMIN",
    act='call("setns", os.open(f"/proc/{os.getppid()}/ns/uts", os.O_RDONLY), 0)',
)
program(
    "P21.setns-pidfd",
    "enter the namespaces of a child, through the descriptor that clone returns",
    property=None,
    blocked="EPERM",
    privileged="CAP_SYS_ADMIN",
    act="""
fd = room(4)
pid = call("clone", 0x1000 | 17, 0, fd, 0, 0)
if pid == 0:
    signal.pause()
try:
    call("setns", struct.unpack("i", fd.raw)[0], 0x04000000)
finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
""",
)

# ---- P23: filters of its own -----------------------------------------------------------------

_FILTER = """
allow = struct.pack("HBBI", 6, 0, 0, 0x7fff0000)
kept = ctypes.create_string_buffer(allow)
program = struct.pack("H6xQ", 1, ctypes.addressof(kept))
call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
"""
_FILTERS = {
    "filter": ("another filter", f'{_FILTER}call("seccomp", 1, 0, program)'),
    "tsync": ("a filter for all threads", f'{_FILTER}call("seccomp", 1, 1, program)'),
    "listener": (
        "a filter that asks the program itself",
        f'{_FILTER}call("seccomp", 1, 8, program)',
    ),
    "spec-allow": ("a filter that speculates", f'{_FILTER}call("seccomp", 1, 4, program)'),
    "prctl": ("another filter by prctl", f'{_FILTER}call("prctl", 22, 2, program, 0, 0)'),
    "strict": (
        "strict mode",
        """
pid = os.fork()
if pid == 0:
    try:
        call("seccomp", 0, 0, 0)
    except OSError:
        os._exit(1)
    call("exit", 0)
os.waitpid(pid, 0)[1] == 256 and held("EPERM")  # else it may do hardly more than end
""",
    ),
    "strict-prctl": (
        "strict mode by prctl",
        """
pid = os.fork()
if pid == 0:
    try:
        call("prctl", 22, 1, 0, 0, 0)
    except OSError:
        os._exit(1)
    call("exit", 0)
os.waitpid(pid, 0)[1] == 256 and held("EPERM")  # else it may do hardly more than end
""",
    ),
    "actions": ("what filters could do", 'call("seccomp", 2, 0, struct.pack("I", 0x7fc00000))'),
    "sizes": ("the sizes of what a listener gets", 'call("seccomp", 3, 0, room(6))'),
}
for _name, (_title, _act) in _FILTERS.items():
    program(
        f"P23.{_name}",
        _title,
        property=None,
        blocked="EPERM",
        # No strict mode after a filter.
        privileged="a caller that is not filtered itself" if "strict" in _name else "",
        act=_act,
    )

# ---- P31: higher limits ----------------------------------------------------------------------

for _name in ("NPROC", "DATA", "FSIZE", "NOFILE", "STACK", "CORE", "MEMLOCK"):
    program(
        f"P31.{_name.lower()}",
        f"raise the own RLIMIT_{_name}",
        property=None,
        blocked="EPERM pretended",
        given=lambda _: {"MORE": 1},
        # To what it is; even root need not have CAP_SYS_RESOURCE.
        control_given=lambda _: {"MORE": 0},
        act=f"""
hard = resource.getrlimit(resource.RLIMIT_{_name})[1] & 2**64 - 1
hard == 2**64 - 1 and MORE and held("unlimited")
call("prlimit64", 0, resource.RLIMIT_{_name}, struct.pack("2Q", hard + MORE, hard + MORE), 0)
resource.getrlimit(resource.RLIMIT_{_name})[1] & 2**64 - 1 == hard + MORE or held("pretended")
""",
    )

# ---- P32: another identity -------------------------------------------------------------------

_CAPS = 'header = struct.pack("Ii", 0x20080522, 0)\n'
_IDENTITIES = {
    "uid": ("another uid", "CAP_SETUID", 'call("setresuid", 12345, 12345, 12345)'),
    "root": ("uid 0", "CAP_SETUID", 'os.getuid() and call("setresuid", 0, 0, 0)'),
    "gid": ("another gid", "CAP_SETGID", 'call("setresgid", 12345, 12345, 12345)'),
    "groups": ("a group", "CAP_SETGID", 'call("setgroups", 1, struct.pack("I", 12345))'),
    "no-groups": ("no group", "CAP_SETGID", 'call("setgroups", 0, 0)'),
    "ambient": (
        "a capability by prctl",
        "CAP_SETPCAP",
        f"""
{_CAPS}
held_ones = room(24)
call("capget", header, held_ones)
e, p, i, *rest = struct.unpack("6I", held_ones.raw)
call("capset", header, struct.pack("6I", e, p, p | 1, *rest))
call("prctl", 47, 2, 0, 0, 0)  # PR_CAP_AMBIENT_RAISE, CAP_CHOWN
""",
    ),
    "bounding": ("fewer capabilities", "CAP_SETPCAP", 'call("prctl", 24, 0, 0, 0, 0)'),
    "securebits": ("other secure bits", "CAP_SETPCAP", 'call("prctl", 28, 1, 0, 0, 0)'),
    "keepcaps": ("to keep capabilities", "", 'call("prctl", 8, 1, 0, 0, 0)'),
}
for _name, (_title, _capability, _act) in _IDENTITIES.items():
    program(
        f"P32.{_name}",
        f"take {_title}",
        property=None,
        blocked="EPERM EINVAL",  # a uid that its user namespace does not know
        privileged=_capability,
        act=_act,
    )
program(
    "P32.capset",
    "take all capabilities",
    property=None,
    blocked="EPERM",
    privileged="CAP_SYS_ADMIN",
    act=f"""
{_CAPS}
call("capset", header, struct.pack("6I", 1 << 21, 1 << 21, 0, 0, 0, 0))  # CAP_SYS_ADMIN
""",
)

# ---- P33: before all others ------------------------------------------------------------------

_RANKS = {
    "fifo": ("real time", "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"),
    "round-robin": ("real time, in turns", "os.sched_setscheduler(0, 2, os.sched_param(99))"),
    "deadline": (
        "with a deadline",
        'call("sched_setattr", 0, struct.pack("IIQiI3Q", 48, 6, 0, 0, 0, 10**6, 10**7, 10**7), 0)',
    ),
    "nice": ("nicer to itself", "os.setpriority(0, 0, os.getpriority(0, 0) - 1)"),
    "io": ("in real time at the disk", 'call("ioprio_set", 1, 0, 1 << 13)'),
}
for _name, (_title, _act) in _RANKS.items():
    program(
        f"P33.{_name}",
        f"run {_title}",
        property=None,
        blocked="EPERM EACCES",
        privileged="CAP_SYS_NICE",
        act=_act,
    )

# ---- P34: what /proc would let it change -------------------------------------------------------

_CLOSED = "EACCES ENOENT EPERM EROFS"
program(
    "P34.oom",
    "keep the OOM killer away, so that it ends the launcher",
    property="fs_write",
    blocked=_CLOSED,
    act='os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"0")',
)
_FILES = {
    "uid-map": ("who it is outside", "", "/proc/self/uid_map"),
    "setgroups": ("whether groups can be left", "CAP_SYS_ADMIN", "/proc/self/setgroups"),
    "clear-refs": ("what is known of its memory", "", "/proc/self/clear_refs"),
    "hostname": ("the name of the host", "root", "/proc/sys/kernel/hostname"),
    "last-pid": ("the next pid", "root", "/proc/sys/kernel/ns_last_pid"),
    "forward": ("whether the host routes", "root", "/proc/sys/net/ipv4/ip_forward"),
}
for _name, (_title, _owner, _path) in _FILES.items():
    program(
        f"P34.{_name}",
        f"open for writing: {_title}",
        property="fs_write",
        blocked=_CLOSED,
        privileged=_owner,
        act=f'os.open("{_path}", os.O_WRONLY)',
    )
program(
    "P34.helpers",
    "open for writing whatever makes the kernel start a program, or obey",
    property="fs_write",
    blocked=_CLOSED,
    privileged="root",
    act="""
for path in (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sysrq-trigger",
    "/proc/sys/fs/binfmt_misc/register",
    "/sys/kernel/uevent_helper",
    "/sys/fs/cgroup/release_agent",
    "/sys/fs/cgroup/memory/release_agent",
    "/dev/mem",
    "/dev/kmsg",
):
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError as error:
        met = error
    else:
        break
else:
    raise met
""",
)
program(
    "P34.init-root",
    "the root directory of the program's parent",
    property="fs_read",
    blocked="EACCES ENOENT EPERM",
    act='os.listdir(f"/proc/{os.getppid()}/root/")',
)
program(
    "P34.init-fd",
    "what the descriptors of the program's parent are",
    property="ptrace",
    blocked="EACCES ENOENT EPERM",
    act='os.readlink(f"/proc/{os.getppid()}/fd/0")',
)
program(
    "P34.tracer",
    "allow every process to trace it",
    property=None,
    blocked="EPERM",
    # Known only where Yama is.
    reached="OK EINVAL",
    act='call("prctl", 0x59616D61, -1, 0, 0, 0)',
)
