"""F55-F57: more than was granted, where much is; and the program that made the sandbox."""

from __future__ import annotations

import stat
from typing import Any

from security.attacks_files import CLOSED, MOVES, SECRET
from security.attacks_metadata import only_root_reaches
from security.base import Context, program

# ---- F55: all may be read --------------------------------------------------------------------


def _everything(_: Context) -> dict[str, Any]:
    return {"read": ["/"]}


def _mode_changed(ctx: Context) -> bool:
    return stat.S_IMODE((ctx.dir / "secret").stat().st_mode) != 0o666


# Below / there are other mounts: what makes a mount read-only must reach them too.
program(
    "F55.write",
    "write to a file where everything may be read",
    property="fs_write",
    blocked=f"{CLOSED} EROFS",
    fields=_everything,
    act=f'open({SECRET}, "r+").write("x")',
)
program(
    "F55.create",
    "create a file where everything may be read",
    property="fs_write",
    blocked=f"{CLOSED} EROFS",
    fields=_everything,
    act='open(f"{DIR}/new", "x")',
)
program(
    "F55.mode",
    "change the mode of a file where everything may be read",
    property="fs_metadata",
    blocked=f"{CLOSED} EPERM EROFS",
    fields=_everything,
    act=f"os.chmod({SECRET}, 0o600)",
    harm=_mode_changed,
)
program(
    "F55.set-id",
    "make a program set-id where everything may be read",
    property=None,
    blocked=f"{CLOSED} EPERM EROFS",
    fields=_everything,
    act='os.chmod(f"{DIR}/program", 0o4755)',
)
program(
    "F55.environ",
    "the environment of a process outside where everything may be read",
    property="ptrace",
    blocked=f"{CLOSED} EPERM ESRCH",
    fields=_everything,
    given=lambda ctx: {"PID": ctx.world.witness()},
    act='open(f"/proc/{PID}/environ", "rb").read()',
)
program(
    "F55.root",
    "write through the root of a process outside where everything may be read",
    property="fs_write",
    blocked=f"{CLOSED} EPERM ESRCH EROFS",
    fields=_everything,
    given=lambda ctx: {"PID": ctx.world.witness()},
    act='open(f"/proc/{PID}/root{DIR}/secret", "r+").write("x")',
)
program(
    "F55.memory",
    "write to the memory of a process outside where everything may be read",
    property="ptrace",
    blocked=f"{CLOSED} EPERM ESRCH",
    fields=_everything,
    given=lambda ctx: {"PID": ctx.world.witness()},
    act='os.open(f"/proc/{PID}/mem", os.O_RDWR)',
)

# ---- F56: one grant inside another -----------------------------------------------------------


def _nested(ctx: Context) -> dict[str, Any]:
    return {"read": [ctx.dir], "write": [ctx.dir / "empty"]}


INNER = 'f"{DIR}/empty/x"'
for _id, _title, _act in (
    ("F56.link", "link", f'os.link({SECRET}, {INNER}); open({INNER}, "r+").write("x")'),
    ("F56.rename", "move", f'os.rename({SECRET}, {INNER}); open({INNER}, "r+").write("x")'),
    ("F56.symlink", "link by name", f'os.symlink("../secret", {INNER}); open({INNER}, "r+")'),
    ("F56.up", "climb", 'open(f"{DIR}/empty/../secret", "r+")'),
):
    program(
        _id,
        f"write to what may only be read: {_title} it into the writable directory inside",
        property="fs_write",
        blocked=f"{MOVES} EPERM",
        fields=_nested,
        act=_act,
    )

# ---- F57: the program that made the sandbox --------------------------------------------------

PARENT = 'path = f"/proc/{os.getppid()}/exe"\n'
program(
    "F57.write",
    "overwrite the program of the parent, which the next sandbox is made by",
    property="fs_write",
    blocked=f"{CLOSED} EPERM EROFS",
    # ETXTBSY: it may be written, but not while it runs.
    reached="OK ETXTBSY",
    act=PARENT + "os.open(path, os.O_WRONLY)",
    privileged="root",
)
program(
    "F57.execute",
    "execute the program of the parent",
    property="fs_read",
    blocked=f"{CLOSED} EPERM",
    act=PARENT + 'subprocess.run([path, "-c", ""], stdin=subprocess.DEVNULL)',
)
program(
    "F57.write-as-caller",
    "overwrite the program of the parent, with uid 0",
    property="fs_write",
    blocked=f"{CLOSED} EPERM EROFS",
    reached="OK ETXTBSY",
    callers="root container",
    fields=only_root_reaches,
    act=PARENT + "os.open(path, os.O_WRONLY)",
)
