"""F48-F51 and F53: mounts, the old root, files of the kernel and flags of files."""

from __future__ import annotations

import glob
import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from evalbox import PIPE, Executor
from security.attacks_escapes import driven
from security.attacks_files import CLOSED
from security.attacks_metadata import only_root_reaches
from security.base import Context, attack, program

# ---- F48: mounts -----------------------------------------------------------------------------


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _mounts_during_a_run(ctx: Context) -> str:
    before = set(_mounts())
    with Executor() as executor:
        run = executor.spawn(ctx.plan(["sh", "-c", "echo ready; cat"], stdin=PIPE, stream=True))
        seen: list[str] = []

        def look() -> None:
            seen.extend(_mounts())
            executor.close_stdin(run)

        driven(executor, look)
    return "OK" if set(seen) - before else "private"


_MOUNT_AND_LOOK = """
before=$(wc -l < /proc/self/mountinfo)
mount -t tmpfs none . && [ "$(wc -l < /proc/self/mountinfo)" -gt "$before" ]
"""


def _sees_a_mount(ctx: Context) -> str:
    """That a mount is seen by those who share its namespace."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    done = subprocess.run([*unshare, "sh", "-c", _MOUNT_AND_LOOK], cwd=ctx.scratch)
    return "OK" if done.returncode == 0 else f"exit {done.returncode}"


@attack(
    "F48.spread",
    "mounts of a run that reach the host",
    property=None,
    blocked="private",
    control=_sees_a_mount,
    privileged="a user namespace",
)
def spread(ctx: Context) -> str:
    return _mounts_during_a_run(ctx)


def _outside_mounts(_: Context) -> dict[str, list[str]]:
    points = [line.split()[4] for line in _mounts()]
    own = ("/", "/proc", "/dev", "/dev/shm", "/usr", "/tmp", "/home", "/box", "/etc")
    return {"HOST": [point for point in points if point not in own]}


program(
    "F48.list",
    "which file systems the host has mounted where",
    property="fs_metadata",
    blocked=f"{CLOSED} private",
    given=_outside_mounts,
    act="""
points = {line.split()[4] for line in open("/proc/self/mountinfo")}
points & set(HOST) or held("private")
""",
    needs=lambda ctx: "" if _outside_mounts(ctx)["HOST"] else "the host has none of its own",
)
program(
    "F48.statmount",
    "the same by listmount and statmount",
    property=None,
    blocked="EPERM ENOSYS",
    act='call("listmount", struct.pack("IIQQQ", 32, 0, 2**64 - 1, 0, 0), room(8 * 256), 256, 0)',
    privileged="Linux 6.8",
)

# ---- F49: the root ---------------------------------------------------------------------------

program(
    "F49.list",
    "what there is in the root directory of the host",
    property="fs_read",
    blocked=f"{CLOSED} private",
    given=lambda _: {"HOST": os.listdir("/")},
    act='set(os.listdir("/")) >= set(HOST) or held("private")',
)
program(
    "F49.up",
    "a file outside by more .. than there are directories",
    property="fs_read",
    blocked=CLOSED,
    act='open("/.." * 40 + f"{DIR}/secret").read()',
)
program(
    "F49.old",
    "the old root under the names that tools give it",
    property="fs_read",
    blocked="none",
    act="""
names = ("/.old", "/old", "/oldroot", "/old_root", "/.oldroot", "/put_old", "/.pivot", "/newroot",
         "/mnt", "/..", "//", "/proc/self/root", "/proc/1/root", "/proc/thread-self/root")
for name in names:
    try:
        open(f"{name}{DIR}/secret").read()
        break
    except OSError:
        pass
else:
    held("none")
""",
)

# ---- F50: files of the kernel ----------------------------------------------------------------

# Opened for writing, and nothing is written.
OPEN_ANY = """
opened = []
for path in PATHS:
    try:
        fd = os.open(path, os.O_WRONLY)
    except OSError:
        continue
    # What is hidden is /dev/null.
    if not stat.S_ISCHR(os.fstat(fd).st_mode):
        opened.append(path)
opened or held("none")
"""
_OF_PROC = ("/proc/sysrq-trigger", "/proc/mtrr", "/proc/self/loginuid")
_OF_SYS = ("power/state", "kernel/uevent_helper", "devices/system/cpu/cpu0/uevent")


def _of_proc() -> Iterator[str]:
    yield from _OF_PROC
    for folder, _, names in os.walk("/proc/sys"):
        yield from (os.path.join(folder, name) for name in names)


def _of_sys() -> Iterator[str]:
    yield from (f"/sys/{name}" for name in _OF_SYS)


def _of_cgroups() -> Iterator[str]:
    for name in ("cgroup.procs", "tasks", "release_agent", "notify_on_release"):
        yield from glob.glob(f"/sys/fs/cgroup/{name}")
        yield from glob.glob(f"/sys/fs/cgroup/*/{name}")


def _writable(paths: Iterable[str]) -> list[str]:
    """Those that the caller itself may open."""
    found = []
    for path in paths:
        try:
            os.close(os.open(path, os.O_WRONLY))
        except OSError:
            continue
        found.append(path)
    return found


for _id, _title, _paths in (
    ("F50.settings", "write to a setting of the kernel below /proc", _of_proc),
    ("F50.devices", "write to what /sys has of devices and power", _of_sys),
    ("F50.cgroups", "leave its cgroup by writing to another", _of_cgroups),
):
    program(
        _id,
        _title,
        property="fs_write",
        blocked="none",
        given=lambda _, paths=_paths: {"PATHS": _writable(paths())},
        act=OPEN_ANY,
        needs=lambda _, paths=_paths: "" if _writable(paths()) else "the caller may write to none",
    )
    program(
        f"{_id}-as-caller",
        f"{_title}, with uid 0",
        property="fs_write",
        blocked="none",
        callers="root container",
        fields=only_root_reaches,
        given=lambda _, paths=_paths: {"PATHS": _writable(paths())},
        act=OPEN_ANY,
        needs=lambda _, paths=_paths: "" if _writable(paths()) else "the caller may write to none",
    )
program(
    "F51.oom",
    "write to the oom_score_adj of the parent",
    property=None,
    blocked=f"{CLOSED} EPERM EROFS",
    act='os.open(f"/proc/{os.getppid()}/oom_score_adj", os.O_WRONLY)',
)
program(
    "F51.timerslack",
    "delay the parent by its timerslack_ns",
    property=None,
    blocked=f"{CLOSED} EPERM EROFS",
    act='os.write(os.open(f"/proc/{os.getppid()}/timerslack_ns", os.O_WRONLY), b"50000")',
    privileged="CAP_SYS_NICE",
)
program(
    "F51.comm",
    "rename the parent by its comm",
    property=None,
    blocked=f"{CLOSED} EPERM EROFS EINVAL",
    act='os.open(f"/proc/{os.getppid()}/comm", os.O_WRONLY)',
)

# ---- F53: flags of files ---------------------------------------------------------------------

FLAGS = {
    "nodump": (0x40, ""),
    # Nobody removes such a file, a host that tidies up included.
    "immutable": (0x10, "CAP_LINUX_IMMUTABLE"),
    "append-only": (0x20, "CAP_LINUX_IMMUTABLE"),
}
for _name, (_flag, _privileged) in FLAGS.items():
    program(
        f"F53.{_name}",
        f"give a file of one's own the flag {_name}",
        property=None,
        blocked="ENOTTY EPERM",
        act=f"""
file = open("own", "w")
try:
    fcntl.ioctl(file, 0x40086602, struct.pack("l", {_flag}))
finally:
    try:
        fcntl.ioctl(file, 0x40086602, struct.pack("l", 0))
    except OSError:
        pass
""",
        privileged=_privileged or "a file system with flags",
    )
