"""Attacks on processes outside: the caller's, the init that is the program's parent.

How runs end, and what tries to outlive them, is in attacks_survivors.py; what a
program may become is in attacks_identity.py.
"""

from __future__ import annotations

from typing import Any

from security.aims import (
    UNREACHED,
    deaf_witness,
    fresh_witness,
    granting,
    on_init,
    parent,
    was_signalled,
    witness,
)
from security.base import Context, Fields, program


def _both(name: str, title: str, *, given: Any = witness, **more: Any) -> None:
    """Against a process of the caller's, and against init."""
    program(name, title, given=given, **more)
    aimed = {**more, "given": parent, "control_given": given}
    program(f"{name}-init", f"{title}: of the program's parent", **aimed)


# ---- P1, P2: looking into others and tracing them --------------------------------------------

_SEIZE = 'call("ptrace", 0x4206, TARGET or os.getppid(), 0, 0)'
_both("P1.ptrace", "trace another process", property="ptrace", blocked=UNREACHED, act=_SEIZE)
_both(
    "P1.ptrace-granted",
    "trace another process, where ptrace is allowed",
    property="ptrace",
    blocked=UNREACHED,
    fields=granting("ptrace"),
    act=_SEIZE,
)

_PART = """
buffer = room(64)
part = struct.pack("QQ", ctypes.addressof(buffer), 8)
"""
# Docker's own rules come first.
_FILTERED = "a caller that is not filtered itself"
_MEMORY = {
    "vm-readv": f'{_PART}call("process_vm_readv", TARGET or os.getppid(), part, 1, part, 1, 0)',
    "vm-writev": f'{_PART}call("process_vm_writev", TARGET or os.getppid(), part, 1, part, 1, 0)',
    "kcmp": 'call("kcmp", TARGET or os.getppid(), TARGET or os.getppid(), 0, 0, 0)',
}
_GRANTED = granting(
    "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_open", "pidfd_getfd", "get_robust_list"
)
for _name, _act in _MEMORY.items():
    # Its memory may be at another address, which is found out behind the check.
    _case = {
        "property": "ptrace",
        "blocked": UNREACHED,
        "reached": "OK EFAULT",
        "privileged": _FILTERED,
        "act": _act,
    }
    _both(f"P2.{_name}", f"{_name} of another process", **_case)
    program(
        f"P2.{_name}-granted",
        f"{_name} of another process, where it is allowed",
        given=witness,
        fields=_GRANTED,
        **_case,
    )

_GETFD = 'call("pidfd_getfd", call("pidfd_open", TARGET or os.getppid(), 0), 0, 0)'
_both(
    "P2.pidfd-getfd",
    "take a descriptor from another process",
    property="ptrace",
    blocked="ENOSYS ESRCH",
    privileged=_FILTERED,
    act=_GETFD,
)
_both(
    "P2.pidfd-getfd-granted",
    "take a descriptor from another process, where pidfds are allowed",
    property="ptrace",
    blocked=UNREACHED,
    fields=_GRANTED,
    privileged=_FILTERED,
    act=_GETFD,
)
program(
    "P2.process-madvise",
    "throw memory of another process out",
    property="ptrace",
    blocked=UNREACHED,
    reached="OK ENOMEM EFAULT",
    privileged="CAP_SYS_NICE",
    given=witness,
    fields=granting("pidfd_open"),
    act="""
page = mmap.mmap(-1, 4096)
part = struct.pack("QQ", ctypes.addressof(ctypes.c_char.from_buffer(page)), 4096)
call("process_madvise", call("pidfd_open", TARGET, 0), part, 1, 20, 0)  # MADV_COLD
""",
)
program(
    "P2.process-mrelease",
    "take the memory of a process that ends",
    property="ptrace",
    blocked=UNREACHED,
    reached="OK EINVAL",  # it does not end
    given=witness,
    fields=granting("pidfd_open"),
    act='call("process_mrelease", call("pidfd_open", TARGET, 0), 0)',
)
_both(
    "P2.mem",
    "write to the memory of another process through /proc",
    property="ptrace",
    blocked="EACCES ENOENT EPERM",
    act='os.open(f"/proc/{TARGET or os.getppid()}/mem", os.O_RDWR)',
)
program(
    "P2.robust-list",
    "where another process keeps its locks",
    property="ptrace",
    blocked=UNREACHED,
    given=witness,
    act='call("get_robust_list", TARGET, room(8), room(8))',
)
program(
    "P2.robust-list-granted",
    "where another process keeps its locks, where the call is allowed",
    property="ptrace",
    blocked=UNREACHED,
    given=witness,
    fields=_GRANTED,
    act='call("get_robust_list", TARGET, room(8), room(8))',
)

# ---- P3, P5: signals -------------------------------------------------------------------------

_INFO = 'info = struct.pack("iii116x", NUMBER, 0, -1)\n'
_SIGNALS = {
    "kill": "os.kill(TARGET or os.getppid(), NUMBER)",
    "tkill": 'call("tkill", TARGET or os.getppid(), NUMBER)',
    "tgkill": 'call("tgkill", TARGET or os.getppid(), TARGET or os.getppid(), NUMBER)',
    "sigqueue": f'{_INFO}call("rt_sigqueueinfo", TARGET or os.getppid(), NUMBER, info)',
    "tgsigqueue": f"{_INFO}pid = TARGET or os.getppid()\n"
    'call("rt_tgsigqueueinfo", pid, pid, NUMBER, info)',
}
_PIDFD = 'call("pidfd_send_signal", call("pidfd_open", TARGET or os.getppid(), 0), NUMBER, 0, 0)'


def _deaf(ctx: Context) -> Fields:
    return {**deaf_witness(ctx), "NUMBER": 15}


def _signal_attack(name: str, act: str, **more: Any) -> None:
    title = f"signal a process outside with {name}"
    case = {"property": "signals", "blocked": UNREACHED, "act": act, **more}
    program(f"P3.{name}", title, given=_deaf, harm=was_signalled, **case)
    program(
        f"P3.{name}-init",
        f"{title}: the program's parent",
        given=lambda _: {"TARGET": 0, "NUMBER": 15},
        control_given=lambda ctx: {**fresh_witness(ctx), "NUMBER": 15},
        **on_init(case),
    )


for _name, _act in _SIGNALS.items():
    _signal_attack(_name, _act)
_signal_attack("pidfd", _PIDFD, blocked="ENOSYS ESRCH")
_signal_attack("pidfd-granted", _PIDFD, fields=granting("pidfd_open", "pidfd_send_signal"))
for _name, _title in (
    ("stop", "stop the program's parent, that nobody sees the deadline"),
    ("end", "kill the program's parent"),
):
    program(
        f"P3.{_name}-init",
        _title,
        given=lambda _, number=19 if _name == "stop" else 9: {"TARGET": 0, "NUMBER": number},
        control_given=fresh_witness,
        **on_init(
            {
                "property": "signals",
                "blocked": UNREACHED,
                "act": "os.kill(TARGET or os.getppid(), NUMBER)",
            }
        ),
    )

_SIGIO = """
reader, writer = os.pipe()
fcntl.fcntl(reader, fcntl.F_SETOWN, TARGET)
fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
os.write(writer, b"x")
"""
program(
    "P5.sigio",
    "a signal by the kernel's hand: a pipe that belongs to another process",
    property="signals",
    blocked="EPERM",
    given=deaf_witness,
    harm=was_signalled,
    act=_SIGIO,
)
program(
    "P5.sigio-granted",
    "the same, where every fcntl is allowed",
    property="signals",
    # In a PID namespace there is no such process.
    blocked="unharmed ESRCH",
    given=deaf_witness,
    harm=was_signalled,
    fields=granting("fcntl"),
    act=_SIGIO,
)
program(
    "P5.setown-ex",
    "the same through F_SETOWN_EX",
    property="signals",
    blocked="EPERM",
    given=witness,
    act="""
reader, writer = os.pipe()
fcntl.fcntl(reader, 15, struct.pack("ii", 1, TARGET))  # F_OWNER_PID
""",
)
program(
    "P5.fiosetown",
    "the same through ioctl",
    property="signals",
    blocked="ENOTTY",
    given=witness,
    act="""
pair = socket.socketpair()
fcntl.ioctl(pair[0], 0x8901, struct.pack("i", TARGET))  # FIOSETOWN
""",
)
program(
    "P5.timer",
    "a timer that signals a thread of another process",
    property="signals",
    blocked="EINVAL ENOSYS",
    given=witness,
    control_given=parent,  # 0: its own thread
    act="""
event = struct.pack("Qiii44x", 0, signal.SIGTERM, 4, TARGET or os.getpid())  # SIGEV_THREAD_ID
call("timer_create", 0, event, room(8))
""",
)
program(
    "P5.mq-notify",
    "a message queue that signals",
    property="signals",
    blocked="ENOSYS",
    act="""
queue = call("mq_open", b"evalbox-attack", os.O_RDWR | os.O_CREAT, 0o600, 0)
call("mq_unlink", b"evalbox-attack")
call("mq_notify", queue, struct.pack("Qii48x", 0, signal.SIGUSR1, 0))
""",
)
program(
    "P5.dnotify",
    "a signal for what happens in a directory",
    property="signals",
    blocked="EPERM",
    act='fcntl.fcntl(os.open(".", os.O_RDONLY), fcntl.F_NOTIFY, 1)',
)

# ---- P6-P8: limits and scheduling of others --------------------------------------------------

_LIMITS = {
    "P6.get": ("read a limit", 'call("prlimit64", TARGET or os.getppid(), 7, 0, room(16))'),
    "P6.set": (
        "allow no descriptor",
        'call("prlimit64", TARGET or os.getppid(), 7, struct.pack("QQ", 1, 1), 0)',
    ),
    "P6.cpu": (
        "allow a second of CPU time",
        'call("prlimit64", TARGET or os.getppid(), 0, struct.pack("QQ", 1, 1), 0)',
    ),
    "P7.affinity": ("the processors", "os.sched_setaffinity(TARGET or os.getppid(), {0})"),
    "P7.scheduler": (
        "the scheduler",
        "os.sched_setscheduler(TARGET or os.getppid(), os.SCHED_IDLE, os.sched_param(0))",
    ),
    "P7.param": (
        "the parameters of the scheduler",
        "os.sched_setparam(TARGET or os.getppid(), os.sched_param(0))",
    ),
    "P7.attr": (
        "the attributes of the scheduler",
        'call("sched_setattr", TARGET or os.getppid(), struct.pack("IIQi28x", 48, 0, 0, 19), 0)',
    ),
    "P8.priority": ("the priority", "os.setpriority(0, TARGET or os.getppid(), 19)"),
    "P8.io-priority": (
        "the priority for disks",
        'call("ioprio_set", 1, TARGET or os.getppid(), 3 << 13)',
    ),
}
for _name, (_title, _act) in _LIMITS.items():
    _both(
        _name,
        f"{_title} of another process",
        given=fresh_witness,
        property="prlimit",
        blocked=UNREACHED,
        act=_act,
    )

program(
    "P8.priority-group",
    "the priority of a process group",
    property="prlimit",
    blocked="EPERM",
    act="""
pid = os.fork()
if pid == 0:
    signal.pause()
os.setpgid(pid, pid)
try:
    os.setpriority(os.PRIO_PGRP, pid, 19)
finally:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
""",
)
program(
    "P8.priority-user",
    "the priority of all processes of a uid",
    property="prlimit",
    blocked="EPERM",
    reached="OK ESRCH",
    act="os.setpriority(os.PRIO_USER, 4000000, 19)",
)
program(
    "P8.io-priority-user",
    "the priority for disks of all processes of a uid",
    property="prlimit",
    blocked="EPERM",
    reached="OK ESRCH",
    act='call("ioprio_set", 3, 4000000, 3 << 13)',
)
program(
    "P8.sched-core",
    "share a processor's secrets with another process",
    property="prlimit",
    blocked="EPERM",
    # This kernel may be built without it.
    reached="OK EINVAL ENODEV ESRCH",
    given=witness,
    act='call("prctl", 62, 2, TARGET, 0, 0)',  # PR_SCHED_CORE_SHARE_TO
)

# ---- P25: which processes there are ----------------------------------------------------------

_SEEN = {
    "list": 'str(TARGET) in os.listdir("/proc") or held("hidden")',
    "cmdline": 'b"sleep" in open(f"/proc/{TARGET}/cmdline", "rb").read() or held("hidden")',
    "stat": 'os.stat(f"/proc/{TARGET}")',
    "kill": """
try:
    os.kill(TARGET, 0)
except PermissionError:
    pass
""",
    "getpgid": "os.getpgid(TARGET)",
    "getsid": "os.getsid(TARGET)",
    "affinity": "os.sched_getaffinity(TARGET)",
    "scheduler": "os.sched_getscheduler(TARGET)",
    "attr": 'call("sched_getattr", TARGET, room(56), 56, 0)',
    "interval": 'call("sched_rr_get_interval", TARGET, room(16))',
    "priority": "os.getpriority(os.PRIO_PROCESS, TARGET)",
    "io-priority": 'call("ioprio_get", 1, TARGET)',
}
for _name, _act in _SEEN.items():
    program(
        f"P25.{_name}",
        f"whether a process exists: {_name}",
        property="proc_view",
        blocked="EACCES ENOENT EPERM ESRCH hidden",
        given=witness,
        act=_act,
    )
