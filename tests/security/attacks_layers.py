"""Attacks that one layer alone stops: without them it could be missing unnoticed."""

from __future__ import annotations

import ctypes

from security.base import Context, Fields, program

_IPC_CREAT, _IPC_RMID = 0o1000, 0
_libc = ctypes.CDLL(None, use_errno=True)


def _readable(context: Context) -> Fields:
    return {"read": [str(context.dir)]}


def _shared_memory(context: Context) -> Fields:
    """The number of an object of System V that the caller has made."""
    if "sysv" not in context.world.kept:
        made = _libc.shmget(0, 4096, _IPC_CREAT | 0o600)
        assert made >= 0
        context.world.kept["sysv"] = made
        context.world.callback(_libc.shmctl, made, _IPC_RMID, None)
    return {"MADE": context.world.kept["sysv"]}


program(
    "F54.mode",
    "change the mode of a file that may only be read, as its owner",
    property="fs_metadata",
    blocked="EROFS EPERM",
    act='os.chmod(f"{DIR}/secret", 0o600)',
    fields=_readable,
)

program(
    "F54.times",
    "change the times of a file that may only be read, as its owner",
    property="fs_metadata",
    blocked="EROFS EPERM EACCES",
    act='os.utime(f"{DIR}/secret", (1, 1))',
    fields=_readable,
)

program(
    "I15",
    "objects of System V of the host, from /proc/sysvipc",
    property="proc_view",
    blocked="EACCES none",
    act="""
lines = open("/proc/sysvipc/shm").read().splitlines()[1:]
MADE in [int(line.split()[1]) for line in lines] or held("none")
""",
    given=_shared_memory,
)

program(
    "R49",
    "a higher priority, with uid 0",
    property=None,
    blocked="EPERM EACCES",
    act="os.setpriority(os.PRIO_PROCESS, 0, -5)",
    fields=lambda context: {"read": [str(_only_for_root(context))]},
    privileged="CAP_SYS_NICE",
    callers="root container",
)


def _only_for_root(context: Context) -> str:
    """What a uid of its own could not read: the run keeps uid 0."""
    private = context.dir / "private"
    private.write_text("private")
    private.chmod(0o600)
    return str(private)


program(
    "F49.host",
    "the tree of the host under the name that it has while mounts are made",
    property="fs_metadata",
    blocked="ENOENT",
    act="os.stat(HOST)",
    given=lambda _: {"HOST": "/.host/etc"},
    control_given=lambda _: {"HOST": "/etc"},
)
