"""Values with every field set, and an Output for every status."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

from evalbox.limits import Limits, MiB
from evalbox.output import Enforcement, Output, Status
from evalbox.plan import File, Plan
from evalbox.policy import PROPERTIES, Policy
from evalbox.usage import Usage

RICH_PLAN = Plan(
    ["./tool", b"\xff", "", Path("/x")],
    executable="/usr/bin/env",
    stdin=b"\0\xffdata",
    env={"A": "1", "EMPTY": "", "RAW": "\udcff"},
    cwd="sub/dir",
    files={"sub/dir/tool": File(b"#!/bin/sh\n", executable=True), Path("in.txt"): "é"},
    collect=["*.txt", "out/**"],
    limits=Limits(wall_time=1, memory=None),
    policy=Policy(read=["/srv"]),
    stream=True,
    hold=True,
)

USAGE = Usage(
    wall_time=1.5, user_time=0.25, system_time=0.25, cpu_time=0.5, peak_memory=9 * MiB, processes=3
)
HELD = {name: Enforcement("enforced", "landlock") for name in PROPERTIES}
NORMAL = Output(Status.EXITED, 0, None, b"out\xff", b"", False, USAGE, HELD, {})


def ended(status: Status, number: int | None = signal.SIGKILL, **changes: Any) -> Output:
    return dataclasses.replace(NORMAL, status=status, exit_code=None, signal=number, **changes)


EVERY = {
    Status.EXITED: dataclasses.replace(NORMAL, exit_code=3),
    Status.SIGNALED: ended(Status.SIGNALED, signal.SIGSEGV),
    **{status: ended(status) for status in Status if status not in ("exited", "signaled")},
    Status.DENIED: ended(Status.DENIED, denied="ptrace"),
}
