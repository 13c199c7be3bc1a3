"""F27-F34 and F42: devices, terminals, and calls that change what files there are."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from security.attacks_files import CLOSED
from security.attacks_metadata import handle_of, no_handles
from security.base import PATIENCE, Context, answer_of_process, attack, program

# ---- F27: making devices ---------------------------------------------------------------------

MADE = "EACCES EPERM"
program(
    "F27.whiteout",
    "make the device that asks for no capability",
    property=None,
    blocked=MADE,
    act='os.mknod("device", stat.S_IFCHR | 0o600, 0)',
    privileged="a file system that is no overlay",
)
program(
    "F27.renamed",
    "leave such a device behind by renaming",
    property=None,
    blocked=MADE,
    act='open("file", "w").close(); call("renameat2", -100, b"file", -100, b"other", 4)',
    privileged="a file system that is no overlay",
)
for _kind, _bits, _number in (("char", "S_IFCHR", (1, 1)), ("block", "S_IFBLK", (7, 0))):
    program(
        f"F27.{_kind}",
        f"make a {_kind} device",
        property=None,
        blocked=MADE,
        act=f'os.mknod("device", stat.{_bits} | 0o600, os.makedev{_number})',
        privileged="CAP_MKNOD",
    )
program(
    "F27.granted",
    "make a device in a directory that may be written, with uid 0",
    property=None,
    blocked=MADE,
    callers="root container",
    fields=lambda ctx: {"write": [_private(ctx)]},
    given=lambda ctx: {"MINE": str(_private(ctx))},
    act='os.mknod(f"{MINE}/device", stat.S_IFCHR | 0o600, os.makedev(1, 3))',
    privileged="CAP_MKNOD",
)


def _private(ctx: Context) -> Path:
    """What only root reaches, so that a run of root keeps uid 0."""
    mine = ctx.dir / "mine"
    mine.mkdir(mode=0o700, exist_ok=True)
    return mine


# ---- F28-F30: the devices of the host --------------------------------------------------------

GRANTED = ("null", "zero", "full", "random", "urandom")
_OTHERS = ("/dev/pts", "/dev/shm", "/dev/mqueue")
# What opening alone changes: watchdogs count down, terminals may be waited for.
_NOT_TRIED = ("watchdog", "tty", "pt", "console", "vcs", "hpet", "rtc")


def _devices(is_kind: Callable[[int], bool]) -> list[str]:
    """Those of the host that the caller itself can open."""
    found = []
    for folder, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(folder, name)
            if name in GRANTED or name.startswith(_NOT_TRIED) or folder in _OTHERS:
                continue
            if is_kind(_mode(path)) and _opens(path):
                found.append(path)
    return found


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0  # gone by now


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _no_devices(is_kind: Callable[[int], bool]) -> Callable[[Context], str]:
    return lambda _: "" if _devices(is_kind) else "the caller can open none"


OPEN_ANY = """
opened = []
for path in DEVICES:
    try:
        opened.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        pass
opened or held("none")
"""
for _id, _title, _is_kind in (
    ("F28", "open a disk of the host", stat.S_ISBLK),
    ("F29", "open /dev/mem, kmsg, kvm, fuse or another device", stat.S_ISCHR),
):
    program(
        _id,
        _title,
        property="fs_read",
        blocked="none",
        given=lambda _, is_kind=_is_kind: {"DEVICES": _devices(is_kind)},
        act=OPEN_ANY,
        needs=_no_devices(_is_kind),
    )
program(
    "F28.list",
    "which devices there are",
    property="fs_read",
    blocked=f"{CLOSED} private",
    given=lambda _: {"HOST": os.listdir("/dev")},
    act='set(os.listdir("/dev")) >= set(HOST) or held("private")',
)


def _shared_memory(ctx: Context) -> dict[str, str]:
    path = Path("/dev/shm", ctx.world.base.name + "-object")
    if not path.exists():
        path.write_text("secret")
        path.chmod(0o666)
        ctx.world.callback(path.unlink, missing_ok=True)
    return {"NAME": path.name}


SHARED_MEMORY = {
    "F30.read": ("read shared memory of the host", 'open(f"/dev/shm/{NAME}").read()'),
    "F30.write": ("write shared memory of the host", 'open(f"/dev/shm/{NAME}", "r+").write("x")'),
    "F30.list": (
        "names of the host's shared memory",
        'NAME in os.listdir("/dev/shm") or held("private")',
    ),
}
for _id, (_title, _act) in SHARED_MEMORY.items():
    program(
        _id,
        _title,
        property="fs_write" if _id == "F30.write" else "fs_read",
        blocked=f"{CLOSED} private",
        given=_shared_memory,
        act=_act,
    )

# ---- F31-F33: terminals and ioctl ------------------------------------------------------------

program(
    "F31.pts",
    "open a terminal of the caller's by its path",
    property="fs_write",
    blocked=CLOSED,
    given=lambda ctx: {"PATH": ctx.world.terminal},
    act="os.write(os.open(PATH, os.O_RDWR | os.O_NOCTTY), b'x')",
)
program(
    "F31.ptmx",
    "make a terminal",
    property="fs_write",
    blocked=CLOSED,
    act='os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)',
)
program(
    "F31.console",
    "open the console",
    property="fs_write",
    blocked=CLOSED,
    act='os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)',
    privileged="root, and a console",
)
program(
    "F31.current",
    "open /dev/tty",
    property="fs_write",
    blocked=CLOSED,
    # ENXIO: the path is open, and there is no terminal behind it.
    reached="OK ENXIO",
    act='os.open("/dev/tty", os.O_RDWR)',
)
program(
    "F32",
    "ioctl on a device that may be opened",
    property=None,
    blocked="ENOTTY EACCES",
    # RNDGETENTCNT, which any user may ask.
    act='fcntl.ioctl(os.open("/dev/urandom", os.O_RDONLY), 0x80045200, bytes(4))',
)

for _id, _title, _request, _argument, _privileged in (
    ("F33.size", "change the size of a terminal that may be written", 0x5414, "bytes(8)", ""),
    ("F33.line", "set the line discipline of it", 0x5423, "bytes(4)", ""),
    ("F33.input", "type into it (TIOCSTI)", 0x5412, 'b"x"', "CAP_SYS_ADMIN"),
):
    program(
        _id,
        _title,
        property=None,
        blocked="ENOTTY EACCES",
        fields=lambda ctx: {"write": [ctx.world.terminal]},
        given=lambda ctx: {"PATH": ctx.world.terminal},
        act=f"""
fd = os.open(PATH, os.O_RDWR | os.O_NOCTTY)
fcntl.ioctl(fd, {_request}, {_argument})
""",
        privileged=_privileged,
    )

REACH_TERMINAL = """
if not any(map(os.isatty, range(3))):
    os.open("/dev/tty", os.O_RDWR)
"""
RUN_INSIDE = """
import json, sys, evalbox
command, fields = json.loads(sys.argv[1])
sys.stdout.buffer.write(evalbox.run(command, **fields).stdout)
"""


def _from_terminal(ctx: Context, command: list[str]) -> str:
    """What a command answers that is started from a terminal of its own."""
    master, slave = os.openpty()
    try:
        done = subprocess.run(
            ["setsid", "--ctty", "--wait", *command],
            stdin=slave,
            capture_output=True,
            cwd=ctx.scratch,
            timeout=PATIENCE,
        )
    finally:
        os.close(master)
        os.close(slave)
    return answer_of_process(done)


@attack(
    "F33.inherited",
    "reach the terminal that the host was started from",
    property=None,
    blocked=f"{CLOSED} ENXIO",
    control=lambda ctx: _from_terminal(ctx, ctx.command(REACH_TERMINAL, {})),
)
def reach_terminal(ctx: Context) -> str:
    asked = json.dumps([ctx.command(REACH_TERMINAL, {}), ctx.plan_fields({})])
    return _from_terminal(ctx, [sys.executable, "-c", RUN_INSIDE, asked])


# ---- F34: programs without a file ------------------------------------------------------------

program(
    "F34",
    "execute a program that is in no file system",
    property=None,
    blocked="ENOSYS EPERM",
    act="""
fd = call("memfd_create", b"x", 0)
os.write(fd, open("/usr/bin/true", "rb").read())
child = os.fork()
if child == 0:
    try:
        os.execve(f"/proc/self/fd/{fd}", ["true"], {})
    except OSError as error:
        os._exit(error.errno)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
code == 0 or held(errno.errorcode[code])
""",
)

# ---- F38, F39, F41, F42 ----------------------------------------------------------------------

# Whoever may do these does them in a mount namespace of his own, so nothing happens.
APART = """
for flags in (0x00020000, 0x10020000):
    try:
        call("unshare", flags)
        call("mount", b"none", b"/", 0, 0x44000, 0)
        break
    except OSError:
        pass
os.mkdir("m")
"""
# Its directories are on a file system that goes away with the mount namespace.
OVERLAY = """
try:
    call("mount", b"none", b"m", b"tmpfs", 0, 0)
except OSError:
    pass
for name in ("m/upper", "m/work", "m/over"):
    os.mkdir(name)
call("mount", b"none", b"m/over", b"overlay", 0, b"lowerdir=/usr,upperdir=m/upper,workdir=m/work")
"""
REMOUNT = """
call("mount", b"/usr", b"/usr", 0, 0x5000, 0)
call("mount", 0, b"/usr", 0, 0x1020, 0)
"""
MOUNTS = {
    "F38.tmpfs": ("mount a file system", 'call("mount", b"none", b"m", b"tmpfs", 0, 0)'),
    "F38.bind": ("mount a directory over another", 'call("mount", b"/", b"m", 0, 0x5000, 0)'),
    "F38.proc": ("mount /proc", 'call("mount", b"none", b"m", b"proc", 0, 0)'),
    "F38.overlay": ("mount an overlay", OVERLAY),
    "F38.remount": ("make what may only be read writable by mounting it again", REMOUNT),
    "F38.attributes": (
        "the same by mount_setattr",
        'call("mount_setattr", -100, b"/", 0, struct.pack("QQQQ", 0, 1, 0, 0), 32)',
    ),
    "F38.unmount": (
        "unmount what covers something",
        'call("mount", b"none", b"m", b"tmpfs", 0, 0); call("umount2", b"m", 2)',
    ),
    "F41.fsopen": ("open a file system", 'call("fsopen", b"tmpfs", 0)'),
    "F41.open-tree": ("clone a mount", 'call("open_tree", -100, b".", 1)'),
    "F41.move-mount": (
        "attach a mount",
        'call("move_mount", call("open_tree", -100, b".", 1), b"", -100, b"m", 4)',
    ),
    "F42.pivot-root": ("another root", 'call("pivot_root", b".", b".")'),
    "F42.chroot": ("another root for the process", 'call("chroot", b".")'),
}
for _id, (_title, _act) in MOUNTS.items():
    program(
        _id,
        _title,
        property=None,
        blocked="EPERM ENOSYS EACCES",
        reached="OK EINVAL EBUSY",
        act=APART + _act,
        privileged="CAP_SYS_ADMIN or a user namespace",
    )
program(
    "F38.user-namespace",
    "gain all capabilities in a user namespace",
    property=None,
    blocked="EPERM ENOSYS",
    act='call("unshare", 0x10000000)',
    privileged="user namespaces",
)
program(
    "F39",
    "open a file outside by a handle that somebody outside gave",
    property="fs_read",
    blocked=f"{CLOSED} EPERM ESTALE",
    given=lambda ctx: {"HANDLE": handle_of(ctx.dir / "secret").hex(), "ON": str(ctx.scratch)},
    act="""
try:
    on = os.open(ON, os.O_RDONLY)
except OSError:
    on = os.open(".", os.O_RDONLY)
os.read(call("open_by_handle_at", on, bytes.fromhex(HANDLE), 0), 6)
""",
    privileged="CAP_DAC_READ_SEARCH",
    needs=no_handles,
)
OPENAT2 = 'call("openat2", -100, b"f", struct.pack("QQQ", os.O_CREAT, 0o600, 0), 24)'
program(
    "F41.openat2",
    "openat2, whose mode no filter sees",
    property=None,
    blocked="ENOSYS EPERM",
    act=OPENAT2,
)
for _name, _act in (
    ("quotactl", 'call("quotactl", 0x800001 << 8, 0, 0, 0)'),
    ("acct", 'call("acct", b"/no/such/file")'),
    ("swapon", 'call("swapon", b"/no/such/file", 0)'),
    ("swapoff", 'call("swapoff", b"/no/such/file")'),
):
    program(
        f"F42.{_name}",
        f"{_name}, which is for administrators",
        property=None,
        blocked="EPERM ENOSYS",
        # There is no such file: who gets to that was let in.
        reached="OK ENOENT",
        act=_act,
        privileged="root",
    )
