"""Attacks by a program that keeps uid 0, without capabilities.

That is what a run gets when the policy grants something that only root reaches.
The files of the host are then its own, and so is every process of root.
"""

from __future__ import annotations

from security.aims import UNREACHED, deaf_witness, fresh_witness, on_init, was_signalled, witness
from security.base import Context, Fields, program

_CLOSED = "EACCES ENOENT EPERM EROFS"


def only_for_root(ctx: Context) -> Fields:
    private = ctx.scratch / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    return {"write": [private]}


_IS_ROOT = "os.getuid() and held('another_uid')\n"
_TO_PROCESSES = {
    "ptrace": ("trace a process of root", "ptrace", 'call("ptrace", 0x4206, TARGET, 0, 0)'),
    "limits": (
        "limit a process of root",
        "prlimit",
        'call("prlimit64", TARGET, 7, struct.pack("QQ", 1, 1), 0)',
    ),
    "priority": ("slow a process of root down", "prlimit", "os.setpriority(0, TARGET, 19)"),
    "environ": (
        "read the environment of a process of root",
        "ptrace",
        'open(f"/proc/{TARGET}/environ").read()',
    ),
}
for _name, (_title, _property, _act) in _TO_PROCESSES.items():
    program(
        f"P35.{_name}",
        f"as uid 0: {_title}",
        property=_property,
        blocked=f"{UNREACHED} EACCES ENOENT",
        callers="root container",
        given=fresh_witness if _property == "prlimit" else witness,
        fields=only_for_root,
        act=_IS_ROOT + _act,
    )
program(
    "P35.kill",
    "as uid 0: signal a process of root",
    property="signals",
    blocked=UNREACHED,
    callers="root container",
    given=deaf_witness,
    harm=was_signalled,
    fields=only_for_root,
    act=f"{_IS_ROOT}os.kill(TARGET, signal.SIGTERM)",
)
program(
    "P35.init",
    "as uid 0: end init",
    callers="root container",
    given=lambda _: {"TARGET": 0},
    control_given=fresh_witness,
    fields=only_for_root,
    **on_init(
        {
            "property": "signals",
            "blocked": "EPERM",
            "act": f"{_IS_ROOT}os.kill(TARGET or os.getppid(), signal.SIGTERM)",
        }
    ),
)
_TO_FILES = {
    "core-pattern": ("what runs after a crash", "/proc/sys/kernel/core_pattern"),
    "panic": ("when the machine stops", "/proc/sys/kernel/panic"),
    "randomize": ("where programs lie", "/proc/sys/kernel/randomize_va_space"),
    "overcommit": ("how much memory is promised", "/proc/sys/vm/overcommit_memory"),
    "forward": ("whether the host routes", "/proc/sys/net/ipv4/ip_forward"),
    "oom": ("whom the OOM killer takes", "/proc/self/oom_score_adj"),
    "login": ("who logged in", "/proc/self/loginuid"),
}
for _name, (_title, _path) in _TO_FILES.items():
    program(
        f"P35.{_name}",
        f"as uid 0: open for writing {_title}",
        property="fs_write",
        blocked=_CLOSED,
        callers="root container",
        # Docker mounts what is of the whole machine read-only.
        privileged="/proc/sys, which containers have read-only",
        fields=only_for_root,
        act=f'{_IS_ROOT}os.open("{_path}", os.O_WRONLY)',
    )
_TO_THE_KERNEL = {
    "capabilities": (
        "take its capabilities again",
        'call("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("6I", 1, 1, 0, 0, 0, 0))',
    ),
    "setuid": ("become another user", 'call("setresuid", 12345, 12345, 12345)'),
    "chown": ("give a file away", 'os.close(os.open("f", 66)) or os.chown("f", 12345, 12345)'),
    "setuid-file": (
        "leave a program of root",
        'os.close(os.open("f", 66)) or os.chmod("f", 0o4755)',
    ),
    "times": ("change the times of a file", 'os.close(os.open("f", 66)) or os.utime("f", (1, 1))'),
    "chroot": ("another root directory", 'os.chroot(".")'),
    "syslog": ("read the log of the kernel", 'call("syslog", 3, room(64), 64)'),
}
for _name, (_title, _act) in _TO_THE_KERNEL.items():
    program(
        f"P35.{_name}",
        f"as uid 0: {_title}",
        property=None,
        blocked="EPERM EINVAL",  # no such uid in its user namespace
        callers="root container",
        privileged="capabilities",
        fields=only_for_root,
        act=_IS_ROOT + _act,
    )
