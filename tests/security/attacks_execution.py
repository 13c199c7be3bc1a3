"""F35-F37 and F40: what is gained by executing something, and by crashing."""

from __future__ import annotations

import glob
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from security.base import Context, answer_of_process, attack, program

# ---- F35: programs of the workspace ----------------------------------------------------------

PRINTS_SECRET = 'done.stdout == b"secret" or held("refused")'
COPY = 'shutil.copy("/usr/bin/cat", "cat")\n'
LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
program(
    "F35.own",
    "read a file outside by a program of one's own",
    property="fs_read",
    blocked="refused",
    act=f"""{COPY}
done = subprocess.run(["./cat", f"{{DIR}}/secret"], capture_output=True)
{PRINTS_SECRET}
""",
)
program(
    "F35.loader",
    "execute a program outside by naming it to the loader",
    property="fs_read",
    blocked="refused",
    given=lambda ctx: {"LOADER": next(filter(os.path.exists, LOADERS)), "CAT": _cat(ctx)},
    act=f"""
done = subprocess.run([LOADER, CAT, f"{{DIR}}/secret"], capture_output=True)
{PRINTS_SECRET}
""",
    needs=lambda _: "" if any(map(os.path.exists, LOADERS)) else "no loader of glibc here",
)
program(
    "F35.library",
    "let the loader preload a library outside",
    property="fs_read",
    blocked="refused",
    given=lambda ctx: {"LIBRARY": _library(ctx)},
    act="""
done = subprocess.run(["/usr/bin/true"], env={"LD_PRELOAD": LIBRARY}, capture_output=True)
b"cannot be preloaded" not in done.stderr or held("refused")
""",
)
program(
    "F35.interpreter",
    "a #! line of one's own that names a program outside",
    property="fs_read",
    blocked="EACCES ENOENT",
    act="""
with open("script", "w") as file:
    file.write(f"#!{DIR}/program\\n")
os.chmod("script", 0o755)
subprocess.run(["./script"])
""",
)


def _cat(ctx: Context) -> str:
    return str(shutil.copy("/usr/bin/cat", ctx.dir / "cat"))


def _library(ctx: Context) -> str:
    found = glob.glob("/lib/*-linux-gnu/libm.so.6") or glob.glob("/usr/lib*/libm.so.6")
    return str(shutil.copy(found[0], ctx.dir / "library.so"))


# ---- F36: set-id programs and programs with capabilities -------------------------------------

_OTHER = 12345


def _with_set_id(ctx: Context) -> Path:
    """A directory with programs that root has given a uid and a capability."""
    place = next(place for place in (ctx.world.base, "/var/tmp", "/tmp") if not _is_nosuid(place))
    folder = Path(tempfile.mkdtemp(prefix="set-id-", dir=place))
    ctx.world.callback(shutil.rmtree, folder)
    folder.chmod(0o755)
    for name in ("user", "capable"):
        shutil.copy("/usr/bin/python3", folder / name)
    os.chown(folder / "user", _OTHER, _OTHER)
    (folder / "user").chmod(0o4755)
    (folder / "capable").chmod(0o755)
    # VFS_CAP_REVISION_2 | effective, CAP_NET_RAW permitted
    os.setxattr(
        folder / "capable", "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    )
    return folder


def _is_nosuid(place: str | Path) -> bool:
    return bool(os.statvfs(place).f_flag & os.ST_NOSUID)


def _no_place(ctx: Context) -> str:
    if ctx.caller == "user":
        return ""
    try:
        _made(ctx)
    except (OSError, StopIteration) as error:
        return f"no directory for set-id programs: {error!r}"
    return ""


def _made(ctx: Context) -> Path:
    if "set-id" not in ctx.world.kept:
        ctx.world.kept["set-id"] = _with_set_id(ctx)
    return Path(ctx.world.kept["set-id"])


# As another user, where the caller is root: who has all capabilities gains none.
AS_ANOTHER = """
child = os.fork()
if child == 0:
    try:
        os.setresgid(23456, 23456, 23456)
        os.setresuid(23456, 23456, 23456)
    except OSError:
        pass
    os.execve(f"{FOLDER}/PROGRAM", ["python3", "-S", "-c", LOOK], {"PYTHONHOME": "/usr"})
os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 or held("no-gain")
"""
LOOK_AT_USER = f"import os; os._exit(os.geteuid() != {_OTHER})"
LOOK_AT_CAPABILITIES = """
import ctypes, os
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
ctypes.CDLL(None).capget(header, sets)
os._exit(not sets[0] >> 13 & 1)
"""
for _id, _title, _program, _look in (
    ("F36.user", "gain a user by a set-id program", "user", LOOK_AT_USER),
    ("F36.capability", "gain a capability by a program", "capable", LOOK_AT_CAPABILITIES),
):
    program(
        _id,
        _title,
        property=None,
        # A capability that may not be gained at all is an error (EPERM) of execve.
        blocked="no-gain",
        callers="root container",
        fields=lambda ctx: {"read": [_made(ctx)]},
        given=lambda ctx, look=_look: {"FOLDER": str(_made(ctx)), "LOOK": look},
        act=AS_ANOTHER.replace("PROGRAM", _program),
        needs=_no_place,
    )


def _set_id_program() -> str:
    for name in ("passwd", "newgrp", "chfn", "su", "mount"):
        path = Path("/usr/bin", name)
        if path.exists() and path.stat().st_uid == 0 and path.stat().st_mode & stat.S_ISUID:
            return str(path)
    return ""


program(
    "F36.root",
    "become root by a set-id program of the system",
    property=None,
    blocked="no-gain",
    callers="user",
    given=lambda _: {"PROGRAM": _set_id_program()},
    # The loader says nothing where the kernel tells it that rights were gained.
    act="""
done = subprocess.run([PROGRAM, "--help"], env={"LD_DEBUG": "libs"}, capture_output=True)
b"find library" not in done.stderr or held("no-gain")
""",
    needs=lambda _: "" if _set_id_program() else "no set-id program of root here",
)
program(
    "F36.link",
    "keep a set-id program of the system under a name of one's own",
    property=None,
    blocked="EACCES EXDEV EPERM EROFS",
    callers="root container",
    fields=lambda ctx: {"read": [_made(ctx)]},
    given=lambda ctx: {"FOLDER": str(_made(ctx)), "TARGET": "kept"},
    # In that directory: the control's own may be on another file system.
    control_given=lambda ctx: {"TARGET": f"{_made(ctx)}/kept-{ctx.tier}"},
    act='os.link(f"{FOLDER}/user", TARGET)',
    needs=_no_place,
)

# ---- F37: binfmt_misc ------------------------------------------------------------------------

# In a user namespace, which since Linux 6.7 has formats of its own.
IN_NAMESPACE = """
import ctypes, json, os, subprocess, sys
given = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"none", os.fsencode(given["at"]), b"binfmt_misc", 0, None) < 0:
    sys.exit("mount: " + os.strerror(ctypes.get_errno()))
with open(given["at"] + "/register", "w") as file:
    file.write(":evalbox:M::evalbox-format::" + given["interpreter"] + ":" + given["flags"])
if given["fields"] is None:
    stdout = subprocess.run(given["command"], stdout=subprocess.PIPE, cwd=given["cwd"]).stdout
else:
    import evalbox
    stdout = evalbox.run(given["command"], **given["fields"]).stdout
sys.stdout.buffer.write(stdout)
"""
OF_FORMAT = """
# No chmod: with uid 0 a run may not.
fd = os.open("file", os.O_CREAT | os.O_WRONLY, 0o755)
os.write(fd, b"evalbox-format")
os.close(fd)
done = subprocess.run(["./file", f"{DIR}/secret"], stdin=subprocess.DEVNULL, capture_output=True)
b"secret" in done.stdout or held("refused")
"""


def _in_formats(ctx: Context, fields: dict[str, Any] | None, flags: str) -> str:
    """What a file of a format meets, whose interpreter lies outside and is kept open."""
    at = ctx.scratch / "formats"
    at.mkdir(exist_ok=True)
    given = {
        "at": str(at),
        "interpreter": _cat(ctx),
        "flags": flags,
        "command": ctx.command(OF_FORMAT, {}),
        "fields": fields,
        "cwd": str(ctx.scratch),
    }
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*unshare, sys.executable, "-c", IN_NAMESPACE, json.dumps(given)]
    return answer_of_process(subprocess.run(command, capture_output=True, cwd=ctx.scratch))


# With F the interpreter itself is started, for the kernel has it open already; it is as
# confined as who started it. With C it would have the rights of the file.
def _attack_by_format(flags: str) -> None:
    @attack(
        f"F37.{flags.lower()}",
        f"read a file outside by the interpreter of a format (binfmt_misc, flags {flags})",
        property=None,
        blocked="refused EACCES ENOENT",
        control=lambda ctx: _in_formats(ctx, None, flags),
        privileged="a user namespace and Linux 6.7",
    )
    def of_format(ctx: Context) -> str:
        return _in_formats(ctx, ctx.plan_fields({}), flags)


for _flags in ("F", "C", "FC"):
    _attack_by_format(_flags)


# ---- F40: dumps ------------------------------------------------------------------------------

CRASH = """
child = os.fork()
if child == 0:
    for limit in (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_CORE)[1]):
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
        except (OSError, ValueError):
            pass
    os.abort()
os.WCOREDUMP(os.waitpid(child, 0)[1]) or held("no-dump")
"""
program(
    "F40.crash",
    "leave a dump, or start the helper that gets it",
    property=None,
    blocked="no-dump",
    act=CRASH,
    privileged="a hard limit on dumps that is not 0",
)
program(
    "F40.dumpable",
    "the same after making oneself dumpable",
    property=None,
    blocked="no-dump",
    act='call("prctl", 4, 1, 0, 0, 0)\n' + CRASH,
    privileged="a hard limit on dumps that is not 0",
)
program(
    "F40.file",
    "a dump in a directory that may be written",
    property=None,
    blocked="unharmed",
    fields=lambda ctx: {"write": [ctx.dir]},
    act=f"os.chdir(DIR)\n{CRASH.replace('held', 'print')}",
    harm=lambda ctx: any(path.name.startswith("core") for path in ctx.dir.iterdir()),
    needs=lambda _: _pattern(),
    privileged="a hard limit on dumps that is not 0",
)


def _pattern() -> str:
    found = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    return "" if "/" not in found and found.startswith("core") else f"dumps go to {found}"
