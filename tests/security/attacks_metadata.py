"""F16-F26: what belongs to a file but is not its content, and where paths lead."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from pathlib import Path
from typing import Any

from security.attacks_files import CLOSED, SECRET
from security.base import Context, nothing_lacks, program, since

REFUSED = f"{CLOSED} EPERM EROFS"


def only_root_reaches(ctx: Context) -> dict[str, Any]:
    """A grant for which a run of root keeps uid 0, which owns what is attacked."""
    mine = ctx.dir / "mine"
    mine.mkdir(mode=0o700, exist_ok=True)
    return {"write": [mine]}


# ---- F16, F19, F20: mode, owner and times of files of the caller's ---------------------------


def _mode_changed(ctx: Context) -> bool:
    return stat.S_IMODE((ctx.dir / "secret").stat().st_mode) != 0o666


def _times_changed(ctx: Context) -> bool:
    return (ctx.dir / "secret").stat().st_mtime < 1000


OWN_FILES: dict[str, dict[str, Any]] = {
    "F16.chmod": {
        "title": "change the mode of a file outside",
        "act": f"os.chmod({SECRET}, 0o600)",
        "harm": _mode_changed,
    },
    "F16.fd": {
        "title": "change the mode of a file outside through an O_PATH descriptor",
        "act": f"""
fd = os.open({SECRET}, os.O_PATH)
try:
    call("fchmodat2", fd, b"", 0o600, 0x1000)
except OSError as error:
    if error.errno != errno.ENOSYS:
        raise
    os.chmod(f"/proc/self/fd/{{fd}}", 0o600)
""",
        "harm": _mode_changed,
    },
    "F19.chown": {
        "title": "change the owner of a file outside",
        "act": f"os.chown({SECRET}, UID, GID)",
        "given": lambda _: {"UID": os.getuid(), "GID": os.getgid()},
    },
    "F19.link": {
        "title": "change the owner of a file outside through a link",
        "act": f'os.symlink({SECRET}, "l"); os.chown("l", UID, GID)',
        "given": lambda _: {"UID": os.getuid(), "GID": os.getgid()},
    },
    "F20.past": {
        "title": "set the times of a file outside",
        "act": f"os.utime({SECRET}, (1, 1))",
        "harm": _times_changed,
    },
}
for _id, _attack in OWN_FILES.items():
    program(_id, property="fs_metadata", blocked=REFUSED, **_attack)
    program(
        f"{_id}-as-caller",
        property="fs_metadata",
        blocked=REFUSED,
        callers="root container",
        fields=only_root_reaches,
        **{**_attack, "title": f"{_attack['title']}, with uid 0"},
    )
program(
    "F20.now",
    "give a file outside that everybody may write the present time",
    property="fs_metadata",
    blocked=REFUSED,
    act=f"os.utime({SECRET})",
)

# ---- F17, F18: set-id bits -------------------------------------------------------------------

SET_ID = "EPERM ENOSYS"
FILE = 'open("f", "w")\n'
SET_ID_ACTS = {
    "F17.chmod": ("chmod", f'{FILE}os.chmod("f", 0o4755)'),
    "F17.fchmod": ("fchmod", 'f = open("f", "w"); os.fchmod(f.fileno(), 0o4755)'),
    "F17.group": ("set-gid by chmod", f'{FILE}os.chmod("f", 0o2755)'),
    "F17.open": ("open", 'os.open("f", os.O_CREAT | os.O_WRONLY, 0o4755)'),
    "F17.openat": ("openat", 'os.open("f", os.O_CREAT, 0o4755, dir_fd=os.open(".", os.O_PATH))'),
    "F17.unnamed": ("O_TMPFILE", 'os.open(".", os.O_TMPFILE | os.O_WRONLY, 0o4755)'),
    "F17.mkdir": ("mkdir", 'os.mkdir("d", 0o2755)'),
    "F17.mknod": ("mknod of a file", 'os.mknod("f", stat.S_IFREG | 0o4755)'),
    "F17.fifo": ("mkfifo", 'os.mkfifo("f", 0o4755)'),
    "F17.creat": ("creat", 'call("creat", b"f", 0o4755)'),
    "F17.fchmodat2": ("fchmodat2", f'{FILE}call("fchmodat2", -100, b"f", 0o4755, 0)'),
    "F17.openat2": (
        "openat2",
        'call("openat2", -100, b"f", struct.pack("QQQ", os.O_CREAT | os.O_WRONLY, 0o4755, 0), 24)',
    ),
}
SINCE = {"F17.fchmodat2": since(6, 6), "F17.openat2": since(5, 6)}


for _id, (_name, _act) in SET_ID_ACTS.items():
    program(
        _id,
        f"a set-id file in the workspace by {_name}",
        property=None,
        blocked=SET_ID,
        act=_act,
        needs=SINCE.get(_id, nothing_lacks),
    )
program(
    "F17.granted",
    "a set-id file in a directory that may be written",
    property=None,
    blocked=SET_ID,
    fields=lambda ctx: {"write": [ctx.dir]},
    act='open(f"{DIR}/f", "w"); os.chmod(f"{DIR}/f", 0o4755)',
)
program(
    "F17.copy",
    "a set-id file in a directory that may be written, by cp --preserve",
    property=None,
    blocked="unharmed",
    fields=lambda ctx: {"write": [ctx.dir], "read": ["/usr/bin"]},
    act='subprocess.run(["cp", "-p", "/usr/bin/passwd", f"{DIR}/f"])',
    harm=lambda ctx: bool((ctx.dir / "f").stat().st_mode & 0o6000),
    needs=lambda _: "" if _is_set_id("/usr/bin/passwd") else "/usr/bin/passwd is not set-id here",
    privileged="root, who may keep the bit",
)


def _is_set_id(path: str) -> bool:
    return Path(path).exists() and bool(Path(path).stat().st_mode & 0o4000)


program(
    "F18.program",
    "make a program outside set-id",
    property=None,
    blocked=f"{SET_ID} EACCES ENOENT EROFS",
    act='os.chmod(f"{DIR}/program", 0o4755)',
)
program(
    "F18.granted",
    "make a program that may be read set-id, with uid 0",
    property=None,
    blocked=f"{SET_ID} EROFS",
    callers="root container",
    fields=lambda ctx: {**only_root_reaches(ctx), "read": [ctx.dir]},
    act='os.chmod(f"{DIR}/program", 0o4755)',
)

# ---- F21, F23: extended attributes -----------------------------------------------------------

ATTRIBUTE = f'{SECRET}, "user.evalbox"'


def _no_attributes(ctx: Context) -> str:
    try:
        os.setxattr(ctx.scratch, "user.evalbox", b"1")
    except OSError as error:
        return f"no extended attributes where workspaces are: {error.strerror}"
    return ""


XATTRS = {
    "F21.set": ("set an extended attribute outside", f'os.setxattr({ATTRIBUTE}, b"1")', "OK"),
    "F21.remove": (
        "remove an extended attribute outside",
        f"os.removexattr({ATTRIBUTE})",
        "OK ENODATA",
    ),
    "F23.get": (
        "read an extended attribute outside",
        f"os.getxattr({ATTRIBUTE})",
        "OK ENODATA",
    ),
    "F23.list": ("list extended attributes outside", f"os.listxattr({SECRET})", "OK"),
}
for _id, (_title, _act, _reached) in XATTRS.items():
    program(
        _id,
        _title,
        property=None,
        blocked=f"{REFUSED} ENOTSUP",
        reached=_reached,
        act=_act,
        needs=_no_attributes,
    )
program(
    "F21.capability",
    "give a file in the workspace a capability",
    property=None,
    blocked="EPERM ENOTSUP",
    act="""
open("f", "w")
held_by_file = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
os.setxattr("f", "security.capability", held_by_file)
""",
    privileged="CAP_SETFCAP",
    needs=_no_attributes,
)
program(
    "F23.statfs",
    "what file system a path outside is on, and how full it is",
    property="fs_metadata",
    blocked=CLOSED,
    act="os.statvfs(DIR)",
)

# ---- F22, F24: what there is outside ---------------------------------------------------------

SIGHTS = {
    "F22.stat": ("whether a file outside exists, its size, owner and times", f"os.stat({SECRET})"),
    "F22.access": ("whether a file outside may be read", f"os.access({SECRET}, 4) or held('no')"),
    "F22.link": ("where a link outside leads", 'os.readlink(f"{DIR}/link")'),
    "F22.path": ("an O_PATH descriptor of a file outside", f"os.open({SECRET}, os.O_PATH)"),
    "F22.chdir": ("enter a directory outside", "os.chdir(DIR)"),
    "F22.handle": (
        "the handle of a file outside",
        f"""
handle, mount = bytearray(struct.pack("Ii", 128, 0) + bytes(128)), room(4)
buffer = (ctypes.c_char * len(handle)).from_buffer(handle)
call("name_to_handle_at", -100, os.fsencode({SECRET}), buffer, mount, 0)
""",
    ),
}


def handle_of(path: Path) -> bytes:
    """A struct file_handle."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 8 + 128)
    mount = ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), handle, ctypes.byref(mount), 0) < 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at", str(path))
    return handle.raw


def no_handles(ctx: Context) -> str:
    try:
        handle_of(ctx.dir / "secret")
    except OSError as error:
        return f"no handles where workspaces are: {error.strerror}"
    return ""


def _with_link(ctx: Context) -> dict[str, Any]:
    link = ctx.dir / "link"
    if not link.is_symlink():
        link.symlink_to("secret")
    return {}


for _id, (_title, _act) in SIGHTS.items():
    program(
        _id,
        _title,
        property="fs_metadata",
        blocked=f"{CLOSED} EPERM no",
        given=_with_link,
        act=_act,
        needs=no_handles if _id == "F22.handle" else nothing_lacks,
    )
program(
    "F24.inotify",
    "names in a hidden directory by inotify",
    property=None,
    blocked=f"{CLOSED} EPERM ENOSYS",
    act='call("inotify_add_watch", call("inotify_init1", 0), os.fsencode(DIR), 0x100)',
)
program(
    "F24.fanotify",
    "names in a hidden directory by fanotify",
    property=None,
    blocked=f"{CLOSED} EPERM ENOSYS",
    # FAN_REPORT_FID, for which Linux 5.13 asks no capability.
    act="""
group = call("fanotify_init", 0x200, 0)
call("fanotify_mark", group, 1, 0x100, -100, os.fsencode(DIR))
""",
    privileged="CAP_SYS_ADMIN, or Linux 5.13 and a file system with handles",
)
program(
    "F24.dnotify",
    "be told of changes in a directory that may be read",
    property=None,
    blocked="EPERM",
    fields=lambda ctx: {"read": [ctx.dir]},
    act="""
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open(DIR, os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_CREATE)
""",
)
program(
    "F24.lease",
    "hold up who opens a file of the caller's by a lease",
    property=None,
    blocked="EPERM EACCES EAGAIN",
    fields=lambda ctx: {"read": [ctx.dir]},
    act=f"""
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open({SECRET}, os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)
""",
)

# ---- F25, F26: from a path to its content ----------------------------------------------------

O_PATH_FILE = f"fd = os.open({SECRET}, os.O_PATH)\n"
PATHS = {
    "F25.empty": (
        "link a file outside into the workspace by its O_PATH descriptor",
        O_PATH_FILE + 'call("linkat", fd, b"", -100, b"stolen", 0x1000)',
        "CAP_DAC_READ_SEARCH",
    ),
    "F25.link": (
        "link a file outside into the workspace by /proc/self/fd",
        O_PATH_FILE
        + 'call("linkat", -100, f"/proc/self/fd/{fd}".encode(), -100, b"stolen", 0x400)',
        "",
    ),
    "F25.execute": (
        "execute a program outside by its O_PATH descriptor",
        """
fd = os.open(f"{DIR}/program", os.O_PATH)
os.set_inheritable(fd, True)
child = os.fork()
if child == 0:
    try:
        os.execve(f"/proc/self/fd/{fd}", ["program"], {})
    except OSError as error:
        os._exit(error.errno)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
code == 0 or held(errno.errorcode[code])
""",
        "",
    ),
    "F25.execveat": (
        "execute it by execveat",
        """
fd = os.open(f"{DIR}/program", os.O_PATH)
os.set_inheritable(fd, True)
child = os.fork()
if child == 0:
    try:
        call("execveat", fd, b"", 0, 0, 0x1000)
    except OSError as error:
        os._exit(error.errno)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
code == 0 or held(errno.errorcode[code])
""",
        "",
    ),
    "F26.chdir": (
        "read from a directory outside after chdir",
        'os.chdir(DIR); open("secret").read()',
        "",
    ),
    "F26.fchdir": (
        "read from it after fchdir",
        'os.fchdir(os.open(DIR, os.O_PATH)); open("secret").read()',
        "",
    ),
    "F26.relative": (
        "read a file outside by ..",
        f"open(os.path.relpath({SECRET})).read()",
        "",
    ),
}
for _id, (_title, _act, _privileged) in PATHS.items():
    program(
        _id,
        _title,
        property="fs_read",
        blocked=f"{REFUSED} EXDEV ENOSYS",
        act=_act,
        privileged=_privileged,
    )
