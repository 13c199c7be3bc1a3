"""Attacks for what tells one host from another, or its parts and its other runs."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import evalbox
from evalbox import PIPE, Executor, Network, Stdout
from proc import mark, marked
from security.base import PYTHON, Context, Fields, attack, exists, nothing_lacks, program
from security.runs import ends, plan

_CLOSED = "EACCES ENOENT"


# ---- I5: descriptors of the host and of other runs -------------------------------------------

_OPEN = """
import os
found = []
for fd in range(65536):
    try:
        os.fstat(fd)
    except OSError:
        continue
    found.append(fd)
print(found)
"""


def _many_at_once(run: Callable[[], str]) -> str:
    """Eight threads that start programs while descriptors come and go."""
    kept = [os.dup(0) for _ in range(20)]
    for fd in kept:
        os.set_inheritable(fd, True)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: run(), range(40)))
    finally:
        for fd in kept:
            os.close(fd)
    return "closed" if set(found) == {"[0, 1, 2]\n"} else "OK"


def _with_inherited(_: Context) -> str:
    command = [PYTHON, "-c", _OPEN]
    options = {"close_fds": False, "capture_output": True, "text": True}
    return _many_at_once(lambda: subprocess.run(command, **options).stdout)  # type: ignore[call-overload]


@attack(
    "I5",
    "descriptors of the host, of its helpers and of other runs, while many start",
    property=None,
    blocked="closed",
    control=_with_inherited,
)
def inherited_descriptors(ctx: Context) -> str:
    return _many_at_once(lambda: ctx.python(_OPEN).text)


# ---- I6: the machine -------------------------------------------------------------------------

program(
    "I6.name",
    "the name of the host",
    property="proc_view",
    blocked="hidden",
    act="os.uname().nodename == NAME or held('hidden')",
    given=lambda _: {"NAME": platform.node()},
    needs=lambda _: "" if platform.node() != "evalbox" else "this host is called as runs are",
)
_MACHINE = {
    "machine-id": ("the number of its installation", "/etc/machine-id"),
    "boot-id": ("the number of its start", "/proc/sys/kernel/random/boot_id"),
    "command-line": ("the command line of the kernel", "/proc/cmdline"),
    "disks": ("its disks", "/proc/partitions"),
    "disk-use": ("its disks and their use", "/proc/diskstats"),
    "swap": ("its swap files", "/proc/swaps"),
    "memory-map": ("its memory map", "/proc/iomem"),
    "interrupts": ("its devices, from interrupts", "/proc/interrupts"),
    "keys": ("keys of the kernel", "/proc/keys"),
    "timers": ("timers of the kernel", "/proc/timer_list"),
    "sysfs": ("its devices", "/sys/class/net/lo/address"),
}
for _name, (_title, _path) in _MACHINE.items():
    program(
        f"I6.{_name}",
        f"of the machine, {_title}",
        property="proc_view",
        blocked=f"empty {_CLOSED}",
        act=f'open("{_path}", "rb").read(1) or held("empty")',
        privileged="CAP_SYS_ADMIN",
        needs=exists(_path),
    )
program(
    "I6.cgroups",
    "of the machine, its control groups",
    property="proc_view",
    blocked=_CLOSED,
    act='os.listdir("/sys/fs/cgroup")',
)
program(
    "I6.symbols",
    "addresses of the kernel",
    property="proc_view",
    blocked=f"zeroes {_CLOSED}",
    act="""
any(line.split()[0].strip("0") for line in open("/proc/kallsyms")) or held("zeroes")
""",
    privileged="CAP_SYSLOG",
    needs=exists("/proc/kallsyms"),
)
program(
    "I6.log",
    "the log of the kernel",
    property="proc_view",
    blocked="EPERM",
    act='call("syslog", 3, room(4096), 4096)',
    privileged="CAP_SYSLOG",
)
program(
    "I6.hardware",
    "hardware addresses, from a socket of the host's network",
    property="proc_view",
    blocked="ENOTTY",
    act="""
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8927, struct.pack("40s", b"lo"))
""",
    fields=lambda _: {"network": Network.host()},
)
program(
    "I7",
    "what the processor does for another process, from its counters; of timing itself"
    " SECURITY.md says that it is out of scope",
    property="ptrace",
    blocked="EPERM",
    # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK
    act='call("perf_event_open", struct.pack("IIQ104x", 1, 120, 1), PID, -1, -1, 0)',
    given=lambda ctx: {"PID": ctx.world.witness()},
    privileged="CAP_PERFMON",
)


# ---- I8: the network -------------------------------------------------------------------------


def _sockets(ctx: Context, name: str, act_of: Callable[..., str]) -> str:
    """Whether a listener of the host is in a list of sockets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = f"{server.getsockname()[1]:04X}"
        act = f'PORT in open("/proc/{name}").read() or held("hidden")'
        return act_of(act, {"PORT": f":{port} "})


for _variant, _name, _network in (
    ("off", "net/tcp", Network.none()),
    ("host", "net/tcp", Network.host()),
    ("self", "self/net/tcp", Network.host()),
    ("thread", "thread-self/net/tcp", Network.host()),
):
    attack(
        f"I8.{_variant}",
        f"sockets of the host from /proc/{_name}"
        + (", with its network" if _network.mode == "host" else ""),
        property="proc_view",
        blocked=f"hidden {_CLOSED}",
        control=lambda ctx, name=_name: _sockets(ctx, name, ctx.act_outside),  # type: ignore[misc]
    )(
        lambda ctx, name=_name, network=_network: _sockets(  # type: ignore[misc]
            ctx, name, partial(ctx.act_inside, network=network)
        )
    )

# ---- I9: other runs --------------------------------------------------------------------------

program(
    "I9.list",
    "the names of other runs' directories, beside its own",
    property="fs_read",
    blocked=f"hidden {_CLOSED}",
    act="""
place, names = os.getcwd(), []
while place != "/":
    place = os.path.dirname(place)
    if place != "/":
        names += os.listdir(place)
names or held("hidden")
""",
)


def _beside(ctx: Context, act: str, act_of: Callable[..., str]) -> str:
    """What an act meets while another run waits, with a secret in its workspace."""
    number = mark()
    fields = {"stdin": PIPE, "files": {"secret": "secret"}, "stream": True}
    with Executor() as executor:
        run = executor.spawn(plan(ctx, ["sh", "-c", f"pwd; cat && : {number}"], **fields))
        while not (said := [e.data for e in executor.poll() if isinstance(e, Stdout)]):
            assert executor.active_count
        (pid, *_) = marked(number)
        answer = act_of(act, {"PID": pid, "CWD": said[0].decode().strip()})
        executor.kill(run)
        ends(ctx, executor)
    return answer


def _has_a_path(ctx: Context) -> str:
    return "" if ctx.tier == "process" else "no path of the host leads to a workspace in memory"


_OTHER_RUN = {
    "I9.path": ("by its path", 'open(f"{CWD}/secret").read()'),
    "I9.proc": ("through /proc", 'open(f"/proc/{PID}/cwd/secret").read()'),
    "I9.root": ("through its root", 'open(f"/proc/{PID}/root{CWD}/secret").read()'),
}
for _id, (_title, _act) in _OTHER_RUN.items():
    attack(
        _id,
        f"a file in the workspace of another run, {_title}",
        property="fs_read",
        blocked=_CLOSED,
        control=lambda ctx, act=_act: _beside(ctx, act, ctx.act_outside),  # type: ignore[misc]
        privileged="" if _id == "I9.path" else "CAP_SYS_PTRACE",
        needs=_has_a_path if _id == "I9.path" else nothing_lacks,
    )(lambda ctx, act=_act: _beside(ctx, act, ctx.act_inside))  # type: ignore[misc]


# ---- I10: names ------------------------------------------------------------------------------


def _of_host(path: str) -> Callable[[Context], Fields]:
    return lambda _: {"TEXT": Path(path).read_text(encoding="utf-8", errors="replace")}


for _name in ("passwd", "group", "hosts", "resolv.conf", "hostname", "fstab", "services"):
    program(
        f"I10.{_name.replace('.', '-')}",
        f"/etc/{_name}",
        property="fs_read",
        blocked=f"synthetic {_CLOSED}",
        act=f'open("/etc/{_name}", errors="replace").read() == TEXT or held("synthetic")',
        given=_of_host(f"/etc/{_name}"),
        needs=exists(f"/etc/{_name}"),
    )


# ---- mounts and control groups ---------------------------------------------------------------


def _mount_points() -> list[str]:
    """Those of the host that say something about it."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    common = ("/", "/proc", "/sys", "/dev", "/tmp", "/usr", "/home", "/etc", "/lib", "/bin")
    points = {line.split()[4] for line in lines}
    return sorted(p for p in points if p not in common and not p.startswith("/dev/"))


for _leaf in ("mountinfo", "mounts", "mountstats"):
    program(
        f"I12.{_leaf}",
        f"mount points of the host from /proc/self/{_leaf}",
        property="fs_read",
        blocked=f"hidden {_CLOSED}",
        act=f"""
text = open("/proc/self/{_leaf}").read()
any(f" {{point}} " in text for point in POINTS) or held("hidden")
""",
        given=lambda _: {"POINTS": _mount_points()},
        needs=lambda _: "" if _mount_points() else "this host has but common mount points",
    )


def _own_groups() -> list[str]:
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    return [path for path in (line.split(":", 2)[2] for line in lines) if path != "/"]


program(
    "I13",
    "the control groups of the host from /proc/self/cgroup",
    property="fs_read",
    blocked=f"hidden {_CLOSED}",
    act="""
text = open("/proc/self/cgroup").read()
any(path in text for path in PATHS) or held("hidden")
""",
    given=lambda _: {"PATHS": _own_groups()},
    needs=lambda _: "" if _own_groups() else "this process is in no control group but the root",
)


# ---- our own installation --------------------------------------------------------------------

_PACKAGE = str(Path(evalbox.__file__).parent)
_SHOWN_BY = """
def shown(leaf):
    try:
        return os.readlink(leaf) if leaf.endswith("exe") else open(leaf).read()
    except OSError:
        return ""
pid = PID or os.getppid()
leaves = ("cmdline", "exe", "environ", "maps", "mountinfo", "status")
any(PACKAGE in shown(f"/proc/{pid}/{leaf}") for leaf in leaves) or held("hidden")
"""


def _started_by_its_path(ctx: Context) -> str:
    command = [f"{_PACKAGE}/helper", "1000"]
    with subprocess.Popen(command, executable="/bin/sleep") as process:
        try:
            return ctx.act_outside(_SHOWN_BY, {"PACKAGE": _PACKAGE, "PID": process.pid})
        finally:
            process.kill()


@attack(
    "I14",
    "where on the host evalbox is installed, from its parent",
    property="fs_metadata",
    blocked="hidden",
    control=_started_by_its_path,
)
def path_of_the_package(ctx: Context) -> str:
    return ctx.act_inside(_SHOWN_BY, {"PACKAGE": _PACKAGE, "PID": 0})
