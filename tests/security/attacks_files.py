"""F1-F15: reading and changing files outside, through every name and descriptor."""

from __future__ import annotations

import fnmatch
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import evalbox
from evalbox.compile.paths import path_rules
from evalbox.policy import Policy
from evalbox.resolve import Program
from security.base import Context, answer_of, answer_of_process, attack, exists, program

# EACCES where the path can be seen, ENOENT where only what is granted exists.
CLOSED = "EACCES ENOENT"
SECRET = 'f"{DIR}/secret"'

# ---- F1: reading -----------------------------------------------------------------------------

READS = {
    "F1.read": ("read a file outside", f"open({SECRET}).read()"),
    "F1.list": ("list a directory outside", "os.listdir(DIR)"),
    "F1.execute": ("execute a file outside", 'subprocess.run([f"{DIR}/program"])'),
    "F1.map": (
        "map a file outside for execution",
        f"mmap.mmap(os.open({SECRET}, os.O_RDONLY), 6, mmap.MAP_PRIVATE, mmap.PROT_EXEC)",
    ),
}
for _id, (_title, _act) in READS.items():
    program(_id, _title, property="fs_read", blocked=CLOSED, act=_act)

# ---- F2: /etc --------------------------------------------------------------------------------

program(
    "F2.shadow",
    "read /etc/shadow",
    property="fs_read",
    blocked=CLOSED,
    act='open("/etc/shadow").read()',
    privileged="root",
    needs=exists("/etc/shadow"),
)
program(
    "F2.passwd",
    "read the users of the host",
    property="fs_read",
    blocked=f"{CLOSED} synthetic",
    act='open("/etc/passwd").read() == HOST or held("synthetic")',
    given=lambda _: {"HOST": Path("/etc/passwd").read_text()},
)
program(
    "F2.list",
    "what there is in /etc",
    property="fs_read",
    blocked=f"{CLOSED} private",
    act='set(os.listdir("/etc")) >= set(HOST) or held("private")',
    given=lambda _: {"HOST": os.listdir("/etc")},
)


def _not_granted(ctx: Context) -> dict[str, list[str]]:
    """Files of /etc that the caller itself can read and that no rule names."""
    rules = path_rules(Policy(), Program("/", in_workspace=True, grants=()))
    # Where there is a mount namespace, this directory of links is there as well.
    granted = [*(rule.path for rule in rules), "/etc/alternatives"]
    return {"FILES": [path for path in _files_of_etc() if not _is_below(path, granted)]}


def _files_of_etc() -> Iterator[str]:
    for folder, _, names in os.walk("/etc"):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.access(path, os.R_OK):
                yield path


def _is_below(path: str, granted: list[str]) -> bool:
    real = os.path.realpath(path)
    return any(real == one or fnmatch.fnmatchcase(real, f"{one.rstrip('/')}/*") for one in granted)


program(
    "F2.every",
    "read any file of /etc that no rule grants",
    property="fs_read",
    blocked="none",
    given=_not_granted,
    act="""
read = []
for path in FILES:
    try:
        found = open(path, "rb").read()
    except OSError:
        continue
    if path not in ("/etc/passwd", "/etc/group", "/etc/hostname", "/etc/hosts"):
        read.append(path)
len(FILES) > 20 or held("the host has hardly anything")
read or held("none")
""",
)

# ---- F3, F4: changing ------------------------------------------------------------------------

NEW = 'f"{DIR}/new"'
CHANGES = {
    "F3.write": ("write to a file outside", f'open({SECRET}, "r+").write("x")'),
    "F3.append": ("append to a file outside", f'open({SECRET}, "a").write("x")'),
    "F3.create": ("create a file outside", f'open({NEW}, "x")'),
    "F3.unnamed": ("a file without a name outside", "os.open(DIR, os.O_WRONLY | os.O_TMPFILE)"),
    "F3.unlink": ("remove a file outside", f"os.unlink({SECRET})"),
    "F3.mkdir": ("make a directory outside", f"os.mkdir({NEW})"),
    "F3.rmdir": ("remove a directory outside", 'os.rmdir(f"{DIR}/empty")'),
    "F3.symlink": ("make a link outside", f'os.symlink("x", {NEW})'),
    "F3.fifo": ("make a FIFO outside", f"os.mkfifo({NEW})"),
    "F4.truncate": ("empty a file outside by truncate", f"os.truncate({SECRET}, 0)"),
    "F4.open": ("empty it by O_TRUNC", f"os.open({SECRET}, os.O_WRONLY | os.O_TRUNC)"),
    "F4.read-only": ("empty it by O_RDONLY and O_TRUNC", f"os.open({SECRET}, os.O_TRUNC)"),
}
for _id, (_title, _act) in CHANGES.items():
    program(_id, _title, property="fs_write", blocked=CLOSED, act=_act)


def _shared_folders(ctx: Context) -> list[str]:
    """Where every user of the host may write."""
    candidates = ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/dev/mqueue")
    found = [folder for folder in candidates if os.path.isdir(folder) and os.access(folder, 7)]
    return [f"{folder}/{ctx.world.base.name}-{ctx.tier}-shared" for folder in found]


def _is_on_host(ctx: Context) -> bool:
    there = [path for path in _shared_folders(ctx) if os.path.exists(path)]
    for path in there:
        os.unlink(path)
    return bool(there)


program(
    "F3.shared",
    "leave a file in /tmp, /var/tmp, /dev/shm or /run/lock of the host",
    property="fs_write",
    blocked=f"{CLOSED} unharmed",
    given=lambda ctx: {"PATHS": _shared_folders(ctx)},
    act="""
failed = None
for path in PATHS:
    try:
        open(path, "x")
    except OSError as error:
        failed = error
if failed:
    raise failed
""",
    harm=_is_on_host,
)

# ---- F5-F8: moving and linking ---------------------------------------------------------------

MOVES = f"{CLOSED} EXDEV EROFS"
EXCHANGE = 'call("renameat2", -100, os.fsencode({}), -100, b"own", 2)'
program(
    "F5",
    "hard link to a file outside",
    property="fs_write",
    blocked=MOVES,
    act=f'os.link({SECRET}, "stolen")',
)
program(
    "F6.in",
    "rename a file from outside into the workspace",
    property="fs_write",
    blocked=MOVES,
    act=f'os.rename({SECRET}, "stolen")',
)
program(
    "F6.out",
    "rename a file of the workspace to outside",
    property="fs_write",
    blocked=MOVES,
    act=f'open("own", "w"); os.rename("own", {NEW})',
)
program(
    "F6.exchange",
    "exchange a file of the workspace with one outside",
    property="fs_write",
    blocked=MOVES,
    act=f'open("own", "w"); {EXCHANGE.format(SECRET)}',
)
program(
    "F7",
    "gain rights by moving what may only be read into the workspace",
    property="fs_write",
    blocked=MOVES,
    fields=lambda ctx: {"read": [ctx.dir]},
    act=f'os.rename({SECRET}, "mine"); open("mine", "a").write("x")',
)
program(
    "F8.link",
    "read through a link in the workspace",
    property="fs_read",
    blocked=CLOSED,
    act=f'os.symlink({SECRET}, "link"); open("link").read()',
)
program(
    "F8.folder",
    "read through a linked directory and a second link",
    property="fs_read",
    blocked=CLOSED,
    act='os.symlink(DIR, "d"); os.symlink("d/secret", "link"); open("link").read()',
)
program(
    "F8.write",
    "write through a link in the workspace",
    property="fs_write",
    blocked=CLOSED,
    act=f'os.symlink({NEW}, "link"); open("link", "w").write("x")',
)

# ---- F11-F13: /proc --------------------------------------------------------------------------

HIDDEN = f"{CLOSED} EPERM ESRCH"
ENTRIES = {
    "environ": 'open(f"/proc/{PID}/environ", "rb").read()',
    "maps": 'open(f"/proc/{PID}/maps").read()',
    "mem": 'os.open(f"/proc/{PID}/mem", os.O_RDWR)',
    "fd": 'names = os.listdir(f"/proc/{PID}/fd"); os.readlink(f"/proc/{PID}/fd/{names[0]}")',
    "cwd": 'os.listdir(f"/proc/{PID}/cwd/.")',
    "root": 'os.listdir(f"/proc/{PID}/root/.")',
    "exe": 'open(f"/proc/{PID}/exe", "rb").read(4)',
}
OF_PARENT = "PID = os.getppid()\n"
for _name, _act in ENTRIES.items():
    program(
        f"F11.{_name}",
        f"/proc/PID/{_name} of a process outside",
        property="ptrace",
        blocked=HIDDEN,
        given=lambda ctx: {"PID": ctx.world.witness()},
        act=_act,
    )
    program(
        f"F11.parent-{_name}",
        f"/proc/PID/{_name} of the program's parent",
        property="ptrace",
        blocked=HIDDEN,
        act=OF_PARENT + _act,
    )
program(
    "F12.root",
    "a file outside through /proc/self/root",
    property="fs_read",
    blocked=CLOSED,
    act='open(f"/proc/self/root{DIR}/secret").read()',
)
program(
    "F12.cwd",
    "a file outside through /proc/self/cwd/..",
    property="fs_read",
    blocked=CLOSED,
    act="""
up = "/.." * os.getcwd().count("/")
open(f"/proc/self/cwd{up}{DIR}/secret").read()
""",
)
program(
    "F12.fd",
    "a file outside through /proc/self/fd of an O_PATH descriptor",
    property="fs_read",
    blocked=CLOSED,
    act=f'fd = os.open({SECRET}, os.O_PATH); open(f"/proc/self/fd/{{fd}}").read()',
)
program(
    "F12.write",
    "write to what may only be read, by opening its descriptor again",
    property="fs_write",
    blocked=f"{CLOSED} EROFS",
    fields=lambda ctx: {"read": [ctx.dir]},
    act=f'fd = os.open({SECRET}, os.O_RDONLY); open(f"/proc/self/fd/{{fd}}", "r+").write("x")',
)
program(
    "F12.task",
    "a file outside through /proc/thread-self/root",
    property="fs_read",
    blocked=CLOSED,
    act='open(f"/proc/thread-self/root{DIR}/secret").read()',
)
for _name in ("cmdline", "stat", "status", "comm", "wchan", "io"):
    program(
        f"F13.{_name}",
        f"/proc/PID/{_name} of a process outside",
        property="proc_view",
        blocked=HIDDEN,
        given=lambda ctx: {"PID": ctx.world.witness()},
        act=f'open(f"/proc/{{PID}}/{_name}").read()',
    )
program(
    "F13.parent",
    "the command line of the program's parent, and paths of the host in it",
    property="proc_view",
    # In a PID namespace the parent is the init of the run, which has nothing to tell.
    blocked=f"{HIDDEN} nameless",
    act=OF_PARENT + '"/" in open(f"/proc/{PID}/cmdline").read() or held("nameless")',
)

# ---- F14, F15: descriptors -------------------------------------------------------------------

LOOK = """
found = [fd for fd in range(3, 1024) if here(f"/dev/fd/{fd}") or _is_open(fd)]
found or held("none")
"""
IS_OPEN = """
def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
"""


def _while_inherited(ctx: Context, path: Path, act: str) -> tuple[str, str]:
    """What an act meets inside and outside while this process has an inheritable descriptor."""
    fd = os.open(path, os.O_RDONLY)
    os.set_inheritable(fd, True)
    command = ctx.command(IS_OPEN + act, {})
    try:
        # The launcher of a new executor is started now.
        with evalbox.Executor() as executor:
            plan = ctx.plan(command)
            output = executor.run(plan)
        done = subprocess.run(command, close_fds=False, capture_output=True, cwd=ctx.scratch)
    finally:
        os.close(fd)
    ctx.enforcement = output.enforcement
    return answer_of(output), answer_of_process(done)


READ_BELOW = """
for fd in filter(_is_open, range(3, 1024)):
    try:
        os.open("secret", os.O_RDONLY, dir_fd=fd)
        break
    except OSError as error:
        pass
else:
    held("none")
"""


@attack(
    "F14",
    "use a descriptor that the host left inheritable",
    property="fs_read",
    blocked="none",
    control=lambda ctx: _while_inherited(ctx, ctx.dir / "secret", LOOK)[1],
)
def inherited_file(ctx: Context) -> str:
    return _while_inherited(ctx, ctx.dir / "secret", LOOK)[0]


@attack(
    "F15.inherited",
    "open below a directory that the host left inheritable",
    property="fs_read",
    blocked="none",
    control=lambda ctx: _while_inherited(ctx, ctx.dir, READ_BELOW)[1],
)
def inherited_directory(ctx: Context) -> str:
    return _while_inherited(ctx, ctx.dir, READ_BELOW)[0]


program(
    "F15.below",
    "open below an O_PATH descriptor of a directory outside",
    property="fs_read",
    blocked=CLOSED,
    act='os.open("secret", os.O_RDONLY, dir_fd=os.open(DIR, os.O_PATH))',
)
program(
    "F15.up",
    "climb out of the workspace by .. of its descriptor",
    property="fs_read",
    blocked=CLOSED,
    act="""
fd = os.open(".", os.O_PATH | os.O_DIRECTORY)
for _ in range(os.getcwd().count("/") + 3):
    fd = os.open("..", os.O_PATH | os.O_DIRECTORY, dir_fd=fd)
os.open(f".{DIR}/secret", os.O_RDONLY, dir_fd=fd)
""",
)
