"""Run untrusted code from Python as easily as `subprocess.run`, and safely.

    out = evalbox.run(["python3", "-c", "print(6 * 7)"], timeout=5)
    print(out.text, out.status, out.enforcement["fs_read"].level)

One run or many at once (`Executor`), confined by Landlock, seccomp, resource
limits and, as root, a uid of its own; see docs/ for what that holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalbox.errors import (
    CommandNotFound,
    EvalboxError,
    InternalError,
    PlanError,
    ProgramFailed,
    SetupError,
    UnsupportedError,
)
from evalbox.events import Completed, Event, SandboxId, Started, Stderr, Stdout, TimedOut
from evalbox.executor import Executor, check_system, run
from evalbox.limits import GiB, KiB, Limits, MiB
from evalbox.output import Enforcement, Output, Status
from evalbox.plan import PIPE, File, Plan
from evalbox.policy import ALL, CORE, Network, Policy, Syscalls
from evalbox.template import Template
from evalbox.usage import Usage
from evalbox.warm import Warm

if TYPE_CHECKING:
    from evalbox._host import Host

__version__ = "0.1.0"

__all__ = [
    "ALL",
    "CORE",
    "PIPE",
    "CommandNotFound",
    "Completed",
    "Enforcement",
    "EvalboxError",
    "Event",
    "Executor",
    "File",
    "GiB",
    "InternalError",
    "KiB",
    "Limits",
    "MiB",
    "Network",
    "Output",
    "Plan",
    "PlanError",
    "Policy",
    "ProgramFailed",
    "SandboxId",
    "SetupError",
    "Started",
    "Status",
    "Stderr",
    "Stdout",
    "Syscalls",
    "Template",
    "TimedOut",
    "UnsupportedError",
    "Usage",
    "Warm",
    "host",
    "run",
]


def host() -> Host:
    """What this host can enforce and, for each thing missing, what would bring it."""
    check_system()
    # Here and not above, so that evalbox can be imported on any system.
    from evalbox._host import host as this_host

    return this_host()
