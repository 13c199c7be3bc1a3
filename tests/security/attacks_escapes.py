"""F43-F47 and F52: what the catalogue forgot of grants, slots and other runs."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evalbox
from evalbox import PIPE, Completed, Executor, PlanError, SetupError, Stdout, TimedOut
from security.attacks_files import MOVES, SECRET
from security.base import Context, answer_of, attack, program

# ---- F43: files without a name ---------------------------------------------------------------

program(
    "F43",
    "give a file without a name one outside",
    property="fs_write",
    blocked=f"{MOVES} EPERM",
    act="""
fd = os.open(".", os.O_TMPFILE | os.O_RDWR)
call("linkat", -100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(f"{DIR}/new"), 0x400)
""",
)

# ---- F44: a directory that somebody outside moves away ---------------------------------------

# The program holds a descriptor below its grant; where that lies afterwards, `..`
# leads out of the grant and, in a mount namespace, out of the mount.
MOVED = """
fd = os.open(f"{DIR}/empty/inner", os.O_RDONLY)
os.write(1, b"ready\\n")
sys.stdin.read()
for up in ("..", "../..", "../../.."):
    for name in ("secret", "dir/secret"):
        try:
            os.open(f"{up}/{name}", os.O_RDONLY, dir_fd=fd)
            held("OK")
        except OSError:
            pass
held("closed")
"""


def _moved(ctx: Context, **fields: Any) -> str:
    granted = ctx.dir / "empty"
    (granted / "inner").mkdir(exist_ok=True)
    command = ctx.command(MOVED, {})
    with Executor() as executor:
        run = executor.spawn(ctx.plan(command, stdin=PIPE, stream=True, **fields))

        def go_on() -> None:
            (granted / "inner").rename(ctx.dir / "inner")
            executor.close_stdin(run)

        output = driven(executor, go_on)
    ctx.enforcement = output.enforcement
    return answer_of(output)


def driven(executor: Executor, when_ready: Callable[[], None]) -> evalbox.Output:
    """The end of the only run, which says once that it is ready."""
    while True:
        for event in executor.poll():
            if isinstance(event, Stdout) and b"ready" in event.data:
                when_ready()
            elif isinstance(event, Completed | TimedOut):
                return event.output


@attack(
    "F44.read",
    "climb out by the .. of a directory that is moved out of the grant",
    property="fs_read",
    blocked="closed",
    control=lambda ctx: _moved(ctx, read=[ctx.dir]),
)
def moved_away(ctx: Context) -> str:
    return _moved(ctx, read=[ctx.dir / "empty"])


@attack(
    "F44.write",
    "the same where the grant may be written",
    property="fs_read",
    blocked="closed",
    control=lambda ctx: _moved(ctx, write=[ctx.dir]),
)
def moved_away_writable(ctx: Context) -> str:
    return _moved(ctx, write=[ctx.dir / "empty"])


# ---- F45: bending what is granted ------------------------------------------------------------

GRANTED = {
    "F45.link": (
        "read through a link in a directory that may be written",
        "fs_read",
        f'os.symlink({SECRET}, f"{{DIR}}/empty/l"); open(f"{{DIR}}/empty/l").read()',
    ),
    "F45.rename": (
        "move a granted directory away",
        "fs_write",
        'os.rename(f"{DIR}/empty", f"{DIR}/elsewhere")',
    ),
    "F45.steal": (
        "move a granted directory into the workspace",
        "fs_write",
        'os.rename(f"{DIR}/empty", "stolen")',
    ),
    "F45.remove": ("remove a granted directory", "fs_write", 'os.rmdir(f"{DIR}/empty")'),
    "F45.replace": (
        "put a link in the place of a granted directory",
        "fs_write",
        'os.rmdir(f"{DIR}/empty"); os.symlink("/etc", f"{DIR}/empty")',
    ),
    "F45.link-out": (
        "hard link from a granted directory into another place",
        "fs_write",
        'open(f"{DIR}/empty/f", "w"); os.link(f"{DIR}/empty/f", f"{DIR}/f")',
    ),
    "F45.parent": (
        "read beside a granted directory",
        "fs_read",
        'open(f"{DIR}/empty/../secret").read()',
    ),
}
for _id, (_title, _property, _act) in GRANTED.items():
    program(
        _id,
        _title,
        property=_property,
        # EBUSY: it is a mount point.
        blocked=f"{MOVES} EBUSY EPERM",
        fields=lambda ctx: {"write": [ctx.dir / "empty"]},
        act=_act,
    )


def _link_then_grant(ctx: Context, target: Path) -> str:
    """A run makes a link; the next run of the policy is granted what it names."""
    granted = ctx.dir / "empty"
    ctx.run(["ln", "-sfn", target, granted / "l"], write=[granted])
    try:
        output = ctx.run(["cat", granted / "l"], write=[granted], read=[granted / "l"])
    except PlanError:
        return "refused"
    return "OK" if output.stdout == b"secret" else "refused"


def _granted_by_its_author(ctx: Context) -> str:
    (ctx.dir / "empty" / "own").write_text("secret")
    return _link_then_grant(ctx, ctx.dir / "empty" / "own")


@attack(
    "F46.link",
    "bend by a link what the next run may read",
    property=None,
    blocked="refused",
    control=_granted_by_its_author,
)
def bent(ctx: Context) -> str:
    return _link_then_grant(ctx, ctx.dir / "secret")


# The link and a directory change places all the time, so each look may see the other.
SWAP = """
os.chdir(f"{DIR}/empty")
os.mkdir("x")
with open("x/secret", "w") as file:
    file.write("own")
os.symlink(f"{DIR}/hidden", "y")
os.write(1, b"ready\\n")
while True:
    call("renameat2", -100, b"x", -100, b"y", 2)
"""
_TRIES = 40


def _hide(ctx: Context, name: str) -> None:
    (ctx.dir / name).mkdir()
    (ctx.dir / name / "secret").write_text("secret")


def _while_swapped(ctx: Context, path: Path) -> str:
    """What runs read below a granted path while another run of the policy swaps there."""
    _hide(ctx, "hidden")
    granted = ctx.dir / "empty"
    with Executor() as executor:
        run = executor.spawn(ctx.plan(ctx.command(SWAP, {}), stream=True, write=[granted]))
        while not any(isinstance(event, Stdout) for event in executor.poll()):
            pass
        for number in range(_TRIES):
            # Another policy each time, so that nothing is remembered.
            (ctx.dir / f"n{number}").mkdir()
            read = [path, ctx.dir / f"n{number}"]
            plan = ctx.plan(["cat", path / "secret"], write=[granted], read=read)
            try:
                output = executor.run(plan)
            except (PlanError, SetupError):
                continue
            ctx.enforcement = output.enforcement
            if output.stdout == b"secret":
                return "OK"
        executor.kill(run)
    return "refused"


@attack(
    "F46.race",
    "bend what a run may read while it starts",
    property=None,
    blocked="refused",
    control=lambda ctx: _while_swapped(ctx, ctx.dir / "hidden"),
)
def bent_in_time(ctx: Context) -> str:
    return _while_swapped(ctx, ctx.dir / "empty" / "x")


# ---- F47: what a slot keeps ------------------------------------------------------------------

PLACES = """
import os
mark = os.environ["MARK"]
folders = [".", os.environ["HOME"], os.environ["TMPDIR"], "/tmp", "/dev/shm", "/var/tmp", "/box"]
folders += ["/home", "/", "/etc", "/dev", "/run", os.environ.get("ALSO", ".")]
"""
LEAVE = (
    PLACES
    + """
def attempt(act, *args):
    try:
        act(*args)
    except OSError:
        pass

for folder in folders:
    attempt(open, f"{folder}/{mark}-file", "w")
    attempt(os.mkdir, f"{folder}/{mark}-folder")
    attempt(os.symlink, "/", f"{folder}/{mark}-link")
for folder in folders[:3]:
    attempt(os.chmod, folder, 0)
print("left")
"""
)
FIND = (
    PLACES
    + """
found = []
for folder in folders:
    try:
        found += [name for name in os.listdir(folder) if name.startswith(mark)]
    except OSError:
        pass
print("found" if found else "clean")
"""
)
_RUNS = 6


def _leftovers(ctx: Context, **fields: Any) -> str:
    """Of each run in the next ones, of which one has the same slot."""
    mark = f"mark-{secrets.token_hex(4)}"
    env = {"MARK": mark, "ALSO": str(ctx.dir)}
    # A slot serves runs of one program and one policy, whatever their arguments.
    with Executor() as executor:
        told = []
        for number in range(_RUNS):
            script = FIND if number % 2 else LEAVE
            command = ["/usr/bin/python3", "-c", script]
            output = executor.run(ctx.plan(command, env=env, **fields))
            told.append(output.stdout.strip())
    ctx.enforcement = output.enforcement
    if set(told) <= {b"left", b"clean"} and b"clean" in told:
        return "clean"
    return "OK" if b"found" in told else f"told {told}"


@attack(
    "F47",
    "find what an earlier run left in the same slot",
    property="fs_read",
    blocked="clean",
    control=lambda ctx: _leftovers(ctx, write=[ctx.dir]),
)
def leftovers(ctx: Context) -> str:
    return _leftovers(ctx)


# ---- F52: another run ------------------------------------------------------------------------

SIBLING = """
with open("secret", "w") as file:
    file.write("secret")
os.chmod(".", 0o777)
os.write(1, f"ready {os.getcwd()} {os.getpid()}\\n".encode())
sys.stdin.read()
"""
READ_SIBLING = """
for path in (f"{CWD}/secret", f"/proc/{SIBLING}/cwd/secret", f"/proc/{SIBLING}/root{CWD}/secret"):
    try:
        open(path).read()
        break
    except OSError:
        pass
else:
    held("closed")
"""


def _beside_a_sibling(ctx: Context, attempt: Callable[[dict[str, Any]], str]) -> str:
    """What an attempt answers while another run has a secret in its workspace."""
    answers = []
    with Executor() as executor:
        plan = ctx.plan(ctx.command(SIBLING, {}), stdin=PIPE, stream=True)
        run = executor.spawn(plan)
        for event in iter(lambda: next(iter(executor.poll())), None):
            if isinstance(event, Stdout) and event.data.strip().startswith(b"ready"):
                _, cwd, pid = event.data.decode().split()
                answers.append(attempt({"CWD": cwd, "SIBLING": int(pid)}))
                executor.close_stdin(run)
                break
        while executor.active_count:
            executor.poll()
    return answers[0]


def _with_plain_sibling(ctx: Context) -> str:
    (ctx.scratch / "secret").write_text("secret")
    return ctx.act_outside(READ_SIBLING, {"CWD": str(ctx.scratch), "SIBLING": os.getpid()})


@attack(
    "F52",
    "a file in the workspace of another run, by the path and the pid that it tells",
    property="fs_read",
    blocked="closed",
    control=_with_plain_sibling,
)
def sibling(ctx: Context) -> str:
    return _beside_a_sibling(ctx, lambda given: ctx.act_inside(READ_SIBLING, given))
