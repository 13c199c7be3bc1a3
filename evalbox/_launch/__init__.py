"""From a plan to a run that init has: one straight line.

kit = kits.of(plan)          what is granted, as whom, with which filters
slot = ...                   an init that is free (the executor chooses)
send(plan, kit, slot, ...)   workspace filled, job sent
"""

from __future__ import annotations

import os
import time
from functools import lru_cache

from evalbox._launch.kit import Filters, Kit, Kits
from evalbox._launch.launcher import Launcher
from evalbox._launch.slot import Slot, close_all, encode_env
from evalbox._launch.uids import UidLocks
from evalbox._launch.warm import library, start_job, why_cold
from evalbox._native import (
    JOB_HOLD,
    JOB_KEEP,
    JOB_STREAM,
    KEEP_ID,
    UNLIMITED,
    Job,
    JobFds,
    Runner,
    Wire,
)
from evalbox.limits import GiB, Limits
from evalbox.plan import PIPE, Plan
from evalbox.warm import Warm
from evalbox.workspace import fill

__all__ = ["Filters", "Kit", "Kits", "Launcher", "Slot", "UidLocks", "send", "why_cold"]

# How many processes each other run may have while one of its user is limited, and
# how many others there may be by then.
_ELSEWHERE = 8
_OTHERS = 32
# /proc is listed again for the count of the user's processes after so many seconds.
_COUNTED = 1.0
_NS = 10**9


def send(
    wire: Wire, plan: Plan, kit: Kit, slot: Slot, run_id: int, fds: JobFds, others: int
) -> None:
    """Fills the workspace of a free slot and gives its init the job.

    Raises:
        OSError: the workspace cannot be filled, or the init does not take the job.
    """
    ruleset = -1
    try:
        if kit.tier == "process" and slot.ruleset != kit.serial:
            ruleset = _ruleset(kit, slot)
        if kit.warm is not None and not slot.warm:
            _start_template(wire, plan, kit, kit.warm, slot, ruleset)
        elif ruleset >= 0:
            fds = fds._replace(ruleset=ruleset)
        if plan.files or plan.cwd != ".":
            _fill(plan, slot)
        job = _job_of(plan, kit, others)
        wire.send_job(slot.sock, job, _runner(plan, slot, run_id), fds)
    finally:
        if ruleset >= 0:
            os.close(ruleset)
    slot.ruleset = kit.serial
    slot.run_id = run_id


def _start_template(wire: Wire, plan: Plan, kit: Kit, warm: Warm, slot: Slot, ruleset: int) -> None:
    job, runner = start_job(warm, plan, kit.program, slot, kit.serial)
    loaded = library()
    try:
        wire.send_job(slot.sock, job, runner, JobFds(ruleset=ruleset, library=loaded))
    finally:
        os.close(loaded)
    slot.warm = True


def _ruleset(kit: Kit, slot: Slot) -> int:
    places = slot.places()
    try:
        return kit.ruleset(places)
    finally:
        close_all(places)


def _fill(plan: Plan, slot: Slot) -> None:
    with slot.box() as box:
        fill(box, plan.files, plan.cwd, slot.uid)


def _job_of(plan: Plan, kit: Kit, others: int) -> Job:
    """The job of a plan; the last one is kept, for a plan that is run over and over."""
    if kit.shares_count:
        return _job(plan, kit, others)
    if kit.last_job is None or kit.last_job[0] is not plan:
        kit.last_job = plan, _job(plan, kit, others)
    return kit.last_job[1]


def _job(plan: Plan, kit: Kit, others: int) -> Job:
    items = (kit.program.executable, plan.cwd, *plan.cmd)
    return Job(
        ruleset_id=kit.serial,
        flags=(JOB_STREAM if plan.stream else 0)
        | (JOB_HOLD if plan.hold else 0)
        | (JOB_KEEP if plan.collect else 0),
        argc=len(plan.cmd),
        strings=b"".join(os.fsencode(item) + b"\0" for item in items),
        stdin=b"" if plan.stdin is PIPE else plan.stdin,
        limits=_limits(plan.limits, kit.shares_count, others),
    )


def _runner(plan: Plan, slot: Slot, run_id: int) -> Runner:
    uid = KEEP_ID if slot.uid is None else slot.uid
    more = plan.env if plan.warm is None else {**plan.warm.env, **plan.env}
    if not more:
        return Runner(run_id, uid, len(slot.env), slot.encoded_env)
    env = {**slot.env, **more}
    return Runner(run_id, uid, len(env), encode_env(env))


def _limits(limits: Limits, shared_uid: bool, others: int) -> tuple[int, ...]:
    """struct eb_limits, in its order."""
    processes = limits.processes
    if processes is not None and shared_uid:
        # The kernel counts all of the user's: what is there already is let alone.
        there = _processes_of_user(int(time.monotonic() / _COUNTED))
        processes += there + _ELSEWHERE * max(others, _OTHERS)
    return (
        _time(limits.wall_time),
        _time(limits.cpu_time),
        _size(limits.memory),
        _size(limits.output),
        _size(limits.disk),
        _size(processes),
        _size(limits.open_files),
        _size(limits.file_size),
        _size(limits.stack),
        # Only a backstop: java reserves far more address space than it uses.
        UNLIMITED if limits.memory is None else max(4 * limits.memory, GiB),
    )


def _time(seconds: float | None) -> int:
    return UNLIMITED if seconds is None else round(seconds * _NS)


def _size(count: int | None) -> int:
    return UNLIMITED if count is None else count


@lru_cache(maxsize=1)
def _processes_of_user(_period: int) -> int:
    """Processes and threads of the caller's uid, counted once in a period."""
    return sum(map(_threads, filter(str.isdigit, os.listdir("/proc"))))


def _threads(pid: str) -> int:
    """Threads of a process of the caller's real uid, else 0."""
    try:
        status = os.stat(f"/proc/{pid}/task")
        return max(1, status.st_nlink - 2) if status.st_uid == os.getuid() else 0
    except OSError:
        return 0
