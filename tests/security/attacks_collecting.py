"""F9 and F10: what a program leaves behind for its host to collect and to remove."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import evalbox
from evalbox import MiB
from security.base import Context, attack

# How often a race is tried; each try swaps many hundred times until its tree is dead.
_RACES = 8
_SECRET = b"secret"


def _collected(ctx: Context, script: str, *patterns: str, **fields: Any) -> evalbox.Output:
    return ctx.run(["sh", "-c", script], collect=patterns or ["**"], **fields)


def _found(output: evalbox.Output) -> str:
    return "OK" if any(_SECRET in content for content in output.files.values()) else "skipped"


def _finds_own(script: str) -> Callable[[Context], str]:
    """The control: what is really the program's is brought back by the same patterns."""
    return lambda ctx: _found(_collected(ctx, script))


# ---- F9: links -------------------------------------------------------------------------------


@attack(
    "F9.link",
    "an output that is a link to a file outside",
    property=None,
    blocked="skipped",
    control=_finds_own("echo secret > result"),
)
def link(ctx: Context) -> str:
    return _found(_collected(ctx, f"ln -s {ctx.dir}/secret result"))


@attack(
    "F9.folder",
    "outputs in a directory that is a link to one outside",
    property=None,
    blocked="skipped",
    control=_finds_own("mkdir d; echo secret > d/secret"),
)
def folder(ctx: Context) -> str:
    script = f"ln -s {ctx.dir} d; mkdir e; ln -s ../d/secret e/secret"
    return _found(_collected(ctx, script, "**", "d/*", "d/secret", "*/*"))


_SWAP = """
( while :; do ln -sfn TARGET x; mv -fT x result; echo own > y; mv -fT y result; done ) &
sleep 0.05
"""
_SWAP_FOLDER = """
mkdir real; echo own > real/secret; ln -s TARGET link
( while :; do mv real d; mv d real; mv link d; mv d link; done ) 2>/dev/null &
sleep 0.05
"""


def _raced(ctx: Context, script: str) -> str:
    """In a session of its own, where only the end of the run stops it."""
    daemon = f"exec setsid sh -c {shlex.quote(script)}"
    for _ in range(_RACES):
        if _found(_collected(ctx, daemon, "**", "d/secret")) == "OK":
            return "OK"
    return "skipped"


@attack(
    "F9.race",
    "swap an output for a link while the host collects it",
    property=None,
    blocked="skipped",
    control=_finds_own("echo secret > result"),
)
def race(ctx: Context) -> str:
    return _raced(ctx, _SWAP.replace("TARGET", f"{ctx.dir}/secret"))


@attack(
    "F9.race-folder",
    "swap the directory of an output for a link while the host collects it",
    property=None,
    blocked="skipped",
    control=_finds_own("mkdir d; echo secret > d/secret"),
)
def race_folder(ctx: Context) -> str:
    return _raced(ctx, _SWAP_FOLDER.replace("TARGET", str(ctx.dir)))


def _removed_naively(ctx: Context) -> str:
    (ctx.scratch / "d").symlink_to(ctx.dir)
    subprocess.run(["sh", "-c", "rm -rf d/*"], cwd=ctx.scratch, check=True)
    return _is_gone(ctx)


def _is_gone(ctx: Context) -> str:
    return "kept" if (ctx.dir / "secret").exists() else "OK"


@attack(
    "F9.cleanup",
    "let the removal of the workspace follow a link",
    property=None,
    blocked="kept",
    control=_removed_naively,
)
def cleanup(ctx: Context) -> str:
    ctx.run(["sh", "-c", f"ln -s {ctx.dir} d; ln -s {ctx.dir} $HOME/d; ln -s {ctx.dir} $TMPDIR/d"])
    _raced(ctx, _SWAP_FOLDER.replace("TARGET", str(ctx.dir)))
    return _is_gone(ctx)


# ---- F10: what hangs or fills the host -----------------------------------------------------------


def _fifo_opens(ctx: Context) -> str:
    """A reader that does not look what it opens gets a descriptor that never ends."""
    os.mkfifo(ctx.scratch / "result")
    os.close(os.open(ctx.scratch / "result", os.O_RDWR))
    return "OK"


@attack(
    "F10.fifo",
    "an output that is a FIFO, on which a reader waits for ever",
    property=None,
    blocked="skipped",
    control=_fifo_opens,
)
def fifo(ctx: Context) -> str:
    output = _collected(ctx, "mkfifo result; mkdir d; mkfifo d/result; echo own > own")
    return "skipped" if set(output.files) == {"own"} else "OK"


_LIMIT = 4 * MiB


def _total(output: evalbox.Output) -> str:
    total = sum(map(len, output.files.values()))
    return "OK" if total > _LIMIT else "capped"


def _collects_much(ctx: Context) -> str:
    output = _collected(ctx, "for i in 1 2 3; do head -c 2000000 /dev/zero > $i; done")
    return _total(output)


@attack(
    "F10.sparse",
    "outputs with holes, which are more than the disk holds and cost the host its memory",
    property=None,
    blocked="capped",
    control=_collects_much,
)
def sparse(ctx: Context) -> str:
    script = "for i in 1 2 3 4 5 6 7 8 9; do truncate -s 3M $i; done"
    return _total(_collected(ctx, script, disk=_LIMIT))


@attack(
    "F10.names",
    "outputs whose links count many times: one file under a thousand names",
    property=None,
    blocked="capped",
    control=_collects_much,
)
def names(ctx: Context) -> str:
    script = (
        "head -c 1000000 /dev/zero > f; i=0; while [ $i -lt 1000 ]; do ln f $i; i=$((i+1)); done"
    )
    return _total(_collected(ctx, script, disk=_LIMIT))


_LEVELS = 3000
_DEEP = f"""
import os
for _ in range({_LEVELS}):
    os.mkdir("d")
    os.chdir("d")
open("secret", "w").write("secret")
"""


def _removed_by_recursion(ctx: Context) -> str:
    subprocess.run(["python3", "-c", _DEEP], cwd=ctx.scratch, check=True)
    try:
        shutil.rmtree(ctx.scratch / "d")
    except RecursionError:
        return "OK"
    except OSError as error:
        # It takes a descriptor for each level: where few may be open, they end first.
        return "OK" if error.errno == errno.EMFILE else str(error)
    finally:
        subprocess.run(["rm", "-rf", ctx.scratch / "d"], check=True)
    return "removed"


@attack(
    "F10.deep",
    "a tree so deep that who walks it by paths or recursion fails",
    property=None,
    blocked="survived",
    control=_removed_by_recursion,
)
def deep(ctx: Context) -> str:
    output = ctx.python(_DEEP, collect=["**"], disk=None)
    # The next run of the same program and policy has the same place.
    look = "import os; print([name for name in os.listdir('.') if name != 'main.py'])"
    after = ctx.python(look, collect=["**"], disk=None)
    if output.ok and after.stdout == b"[]\n":
        return "survived"
    return f"{output.explain()} {after.explain()}"
