"""Attacks on files outside, through every way that a path or a descriptor offers."""

from __future__ import annotations

from security.base import Context, attack, program

# EACCES where the path can be seen, ENOENT where only what is granted exists.
_CLOSED = "EACCES ENOENT"

program(
    "F1.read",
    "read a file outside",
    property="fs_read",
    blocked=_CLOSED,
    act='open(f"{DIR}/secret").read()',
)
program(
    "F5",
    "hard link to a file outside",
    property="fs_write",
    blocked="EACCES EXDEV ENOENT",
    act='os.link(f"{DIR}/secret", "stolen")',
)
program(
    "F22.stat",
    "whether a file outside exists, its size, owner and times",
    property="fs_metadata",
    blocked=_CLOSED,
    act='os.stat(f"{DIR}/secret")',
)


def _collected(ctx: Context, script: str) -> str:
    output = ctx.run(["sh", "-c", script], collect=["*"])
    return "OK" if b"secret" in output.files.get("result", b"") else "skipped"


@attack(
    "F9.link",
    "an output that is a link to a file outside, for the parent to follow",
    property=None,
    blocked="skipped",
    control=lambda ctx: _collected(ctx, "echo secret > result"),
)
def output_is_a_link(ctx: Context) -> str:
    return _collected(ctx, f"ln -s {ctx.dir}/secret result")
