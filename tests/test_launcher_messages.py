"""No message crashes launcher or init: it is served, refused or let drop, and a good one
after it is served as if nothing had been.

Host, launcher and init trust each other's intentions, not each other's bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import socket
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from evalbox import Limits, Plan, Policy, SetupError
from evalbox._host import host
from evalbox._launch import Kits, Launcher, Slot, UidLocks, root, send
from evalbox._native import Control, JobFds, Report, ReportType, ffi, lib
from mangle import (
    Change,
    Descriptors,
    MangledWire,
    changed,
    changes,
    descriptors,
    readable,
    receive_raw,
    send_raw,
)
from proc import children, until, zombies
from test_values_fuzz import LONG

PATIENCE = 60.0
FINE = b"fine\n"
TIERS = ["process", *(["namespace"] if not host().namespaces.why_not else [])]
Wanted = Sequence[int | str] | None

kinds = st.sampled_from(["plain", "fed", "stdin", "held", "large"])
# Not shrunk: what breaks a launcher may have come over several messages.
few = settings(LONG, max_examples=80, phases=[Phase.generate])
many = settings(few, max_examples=2000)


def parsed(struct: str, message: bytes) -> Any:
    """What C makes of a message; zero behind its end."""
    value = ffi.new(f"struct {struct} *")
    ffi.memmove(value, message, min(len(message), ffi.sizeof(value[0])))
    return value


def is_order(struct: str, message: bytes, fds: int, kind: int) -> bool:
    """Whether it is one that is answered, with an error maybe."""
    size = ffi.sizeof(f"struct {struct}")
    fits = len(message) == size if struct == "eb_control" else len(message) >= size
    return fits and fds <= lib.EB_PACKET_FDS and parsed(struct, message).type == kind


def is_end(message: bytes, fds: int) -> bool:
    """Whether it is what the end of the host looks like."""
    return message == b"" and fds <= lib.EB_PACKET_FDS


def until_idle(sock: int) -> None:
    """The init has done all that comes after a report: it takes an order for no run."""
    order = ffi.new("struct eb_job *", {"type": lib.EB_ORDER_KILL})
    send_raw(sock, bytes(ffi.buffer(order)), [])
    until(lambda: unread(sock) == 0, "the init takes an order")


def unread(sock: int) -> int:
    """What was sent and not received."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def open_descriptors(pid: int) -> int | None:
    """How many there are; None where the kernel does not tell a process's own user."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        return None


class Trial:
    """One launcher at a time, made as an executor makes it, on a wire that spoils messages."""

    def __init__(self, tier: str, folder: str) -> None:
        limits = Limits(wall_time=30.0, processes=None)
        policy = Policy(isolation=tier)  # type: ignore[arg-type]
        self.plan = Plan(["sh", "-c", "cat; echo fine"], limits=limits, policy=policy)
        self.wire = MangledWire(folder)
        self.kits = Kits()
        self.kit = self.kits.of(self.plan)
        own = self.kit.filters.identity == "own"
        self.uids = UidLocks(host().uids or range(0)) if own else None
        self.folder = folder
        self.ids = itertools.count(1)
        self.launcher: Launcher | None = None
        self.slot: Slot | None = None

    # ---- launcher and slots

    def start(self) -> Launcher:
        self.launcher = Launcher(self.kit.filters, next(self.ids), self.wire, self.uids)
        return self.launcher

    def end(self) -> None:
        """The launcher ends by itself, and well."""
        self.slot = None
        launcher, self.launcher = self.launcher, None
        if launcher is not None:
            with ended_launchers() as ends:
                launcher.end()
            assert ends == [(os.CLD_EXITED, 0)]

    @contextlib.contextmanager
    def at_stake(self) -> Iterator[None]:
        """When what is done with it fails, the launcher does not go on to the next test."""
        try:
            yield
        except BaseException:
            self.slot = None
            launcher, self.launcher = self.launcher, None
            if launcher is not None:
                launcher.end()
            raise

    def close(self) -> None:
        self.end()
        self.kits.close()
        self.wire.close()
        if self.uids is not None:
            self.uids.close()

    def serving(self) -> Launcher:
        return self.launcher or self.start()

    def a_slot(self) -> Slot:
        if self.slot is None:
            self.slot = self.serving().add_slot(next(self.ids), self.kit)
        return self.slot

    def until_gone(self, number: int) -> None:
        """The launcher says that the init with this number is gone."""
        launcher = self.serving()
        while True:
            assert readable(launcher.control, PATIENCE), "the launcher says nothing"
            said = launcher.hear()
            assert said is not None, "the launcher is gone"
            if said.type is Control.GONE and said.slot == number:
                return

    def bury(self, slot: Slot) -> None:
        launcher = self.serving()
        launcher.destroy(slot)
        self.until_gone(slot.number)
        launcher.forget_slot(slot)
        if slot is self.slot:
            self.slot = None

    # ---- runs

    def until_ended(self, slot: Slot, run_id: int) -> Report | None:
        """The last report of a run; None when its init is gone."""
        while readable(slot.sock, PATIENCE):
            report = self.wire.receive_report(slot.sock)
            if report is None or (report.type, report.run_id) == (ReportType.ENDED, run_id):
                return report
        raise AssertionError("the init says nothing")

    def run(self, slot: Slot) -> bytes | None:
        """What a good run in it wrote; None when it could not start."""
        run_id = next(self.ids)
        if self.kit.tier == "process":
            slot.ruleset = 0  # the init may have been given another one
        send(self.wire, self.plan, self.kit, slot, run_id, JobFds(), 0)
        report = self.until_ended(slot, run_id)
        return bytes(report.stdout) if report is not None and report.execed else None

    def job(self, slot: Slot, kind: str, others: Descriptors) -> tuple[bytes, list[int]]:
        """A job as it would be sent."""
        fds, plan = JobFds(), self.plan
        if kind == "fed":
            plan = Plan(plan.cmd, stdin=b"in\n" * 100, limits=plan.limits, policy=plan.policy)
        elif kind == "large":
            plan = Plan(plan.cmd, stdin=b"x" * 70_000, limits=plan.limits, policy=plan.policy)
        elif kind == "stdin":
            fds = JobFds(stdin=others.open("pipe"))
        elif kind == "held":
            fds = JobFds(gate=others.open("event"))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            real, slot.sock = slot.sock, ours.fileno()
            try:
                send(self.wire, plan, self.kit, slot, next(self.ids), fds, 0)
            finally:
                slot.sock = real
            return receive_raw(theirs)


@contextlib.contextmanager
def ended_launchers() -> Iterator[list[tuple[int, int]]]:
    """How each one ended that is waited for meanwhile: si_code and si_status."""
    ends: list[tuple[int, int]] = []
    real: Callable[..., Any] = os.waitid

    def waitid(*arguments: int) -> Any:
        found = real(*arguments)
        ends.append((found.si_code, found.si_status))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "waitid", waitid)
        yield ends


@pytest.fixture(scope="module", params=TIERS)
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    # Names in messages are names below this folder, whatever becomes of them.
    folder = tempfile.mkdtemp(prefix="launcher-messages-")
    Path(folder).chmod(0o711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(root, "_place", lambda: folder)
        found = Trial(request.param, folder)
        try:
            yield found
        finally:
            found.close()
            left = os.listdir(folder)
            shutil.rmtree(folder)
    assert left == []


# ---- the first message


def try_config(trial: Trial, wrong: Sequence[Change], wanted: Wanted) -> None:
    """It starts or says no, and ends by itself either way."""
    trial.end()
    trial.wire.spoil(wrong, wanted)
    with ended_launchers() as ends:
        try:
            launcher = trial.start()
        except (SetupError, OSError):
            assert [code for code, _ in ends] == [os.CLD_EXITED]
            return
        # It may be another launcher than was asked for: its runs may be refused.
        with contextlib.suppress(SetupError, OSError):
            trial.run(launcher.add_slot(next(trial.ids), trial.kit))
        trial.launcher = None
        launcher.end()
        assert ends == [(os.CLD_EXITED, 0)]


@pytest.mark.core
@few
@given(wrong=changes, wanted=descriptors)
def test_any_first_message_starts_a_launcher_or_ends_it(
    trial: Trial, wrong: Sequence[Change], wanted: Wanted
) -> None:
    try_config(trial, wrong, wanted)


# ---- orders to the launcher


def try_order(trial: Trial, wrong: Sequence[Change], wanted: Wanted) -> None:
    """Whatever the order was, an init ordered after it serves a run and leaves nothing."""
    launcher = trial.serving()
    if trial.slot is not None:
        trial.bury(trial.slot)
    trial.wire.spoil(wrong, wanted)
    slot = None
    with contextlib.suppress(SetupError, OSError):
        slot = launcher.add_slot(next(trial.ids), trial.kit)
    message, fds = trial.wire.sent
    if is_order("eb_control", message, fds, Control.SPAWN):
        number = parsed("eb_control", message).slot
        launcher.wire.send(launcher.control, kill_order(number))
        trial.until_gone(number)
    if slot is not None:
        launcher.forget_slot(slot)
    for number in list(launcher._failed):
        launcher.bury_failed(number)
    # It ends with its host, and without the cgroups that it had it serves no more.
    if is_end(message, fds) or is_order("eb_control", message, fds, Control.CGROUP):
        trial.end()
        return
    good = launcher.add_slot(next(trial.ids), trial.kit)
    assert trial.run(good) == FINE
    trial.bury(good)


def kill_order(number: int) -> bytes:
    order = ffi.new("struct eb_control *", {"type": Control.KILL, "slot": number})
    return bytes(ffi.buffer(order))


def check_launcher(trial: Trial, before: int | None) -> None:
    pid = trial.serving().pid
    until(lambda: open_descriptors(pid) == before, "the launcher has the descriptors it had")
    until(lambda: children(pid) == [], "no init is left")


def descriptors_at_rest(trial: Trial) -> int | None:
    """Of a launcher that has served and has no init."""
    trial.bury(trial.a_slot())
    return open_descriptors(trial.serving().pid)


@pytest.mark.core
@few
@given(wrong=changes, wanted=descriptors)
def test_any_order_leaves_a_launcher_that_serves(
    trial: Trial, wrong: Sequence[Change], wanted: Wanted
) -> None:
    with trial.at_stake():
        before = descriptors_at_rest(trial)
        try_order(trial, wrong, wanted)
        check_launcher(trial, before)


# ---- jobs to an init


def try_job(trial: Trial, kind: str, wrong: Sequence[Change], wanted: Wanted) -> None:
    """Whatever the job was, its init answers it if it must, and then serves a good one."""
    slot = trial.a_slot()
    with Descriptors(trial.folder) as others:
        message, given_fds = trial.job(slot, kind, others)
        try:
            fds = others.changed(given_fds, wanted)
            message = changed(message, wrong)
            send_raw(slot.sock, message, fds)
        finally:
            for fd in given_fds:
                os.close(fd)
        if is_end(message, len(fds)):
            trial.until_gone(slot.number)
            trial.serving().forget_slot(slot)
            trial.slot = None
            return
        job = parsed("eb_job", message)
        answered = is_order("eb_job", message, len(fds), lib.EB_ORDER_RUN)
        if answered:
            trial.wire.send_kill(slot.sock, job.run_id)
            assert trial.until_ended(slot, job.run_id) is not None, "the init is gone"
    if answered and fds and job.fds & lib.EB_JOB_FD_RULESET and trial.kit.tier == "namespace":
        trial.bury(slot)  # it had its ruleset from the start, and gets no other
        slot = trial.a_slot()
    assert trial.run(slot) == FINE


def init_of(trial: Trial) -> int:
    (pid,) = children(trial.serving().pid)
    return pid


def check_init(trial: Trial, before: int | None) -> None:
    pid = init_of(trial)
    until(lambda: open_descriptors(pid) == before, "the init has the descriptors it had")
    assert children(pid) == []
    assert zombies([trial.serving().pid]) == []


@pytest.mark.core
@few
@given(kind=kinds, wrong=changes, wanted=descriptors)
def test_any_job_leaves_an_init_that_serves(
    trial: Trial, kind: str, wrong: Sequence[Change], wanted: Wanted
) -> None:
    with trial.at_stake():
        assert trial.run(trial.a_slot()) == FINE
        until_idle(trial.a_slot().sock)
        before = open_descriptors(init_of(trial))
        try_job(trial, kind, wrong, wanted)
        assert trial.run(trial.a_slot()) == FINE
        check_init(trial, before)


# ---- the same, for longer


@pytest.mark.long
@many
@given(wrong=changes, wanted=descriptors)
def test_any_first_message_for_long(trial: Trial, wrong: Sequence[Change], wanted: Wanted) -> None:
    try_config(trial, wrong, wanted)


@pytest.mark.long
@many
@given(wrong=changes, wanted=descriptors)
def test_any_order_for_long(trial: Trial, wrong: Sequence[Change], wanted: Wanted) -> None:
    with trial.at_stake():
        before = descriptors_at_rest(trial)
        try_order(trial, wrong, wanted)
        check_launcher(trial, before)


@pytest.mark.long
@settings(many, max_examples=6000)
@given(kind=kinds, wrong=changes, wanted=descriptors)
def test_any_job_for_long(trial: Trial, kind: str, wrong: Sequence[Change], wanted: Wanted) -> None:
    with trial.at_stake():
        assert trial.run(trial.a_slot()) == FINE
        until_idle(trial.a_slot().sock)
        before = open_descriptors(init_of(trial))
        try_job(trial, kind, wrong, wanted)
        assert trial.run(trial.a_slot()) == FINE
        check_init(trial, before)
