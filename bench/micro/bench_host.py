"""Time per operation of what each run costs in the host process, beside its values."""

from __future__ import annotations

import platform
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from evalbox import Executor
from evalbox import _launch as launch
from evalbox._core import ffi, lib
from evalbox._launch import Kit, Kits, Slot
from evalbox._launch.kit import Filters, _filters
from evalbox._lifecycle import Life
from evalbox._native import NO_FDS, Job, Report, ReportType, Runner, Wire
from evalbox.events import SandboxId
from evalbox.limits import Limits
from evalbox.plan import Plan
from evalbox.policy import Network, Syscalls
from evalbox.resolve import resolve

Benchmark = Callable[..., Any]

PLAN = Plan(["/bin/true"], limits=Limits(wall_time=1.0))
OTHER = Plan(["/bin/true"], limits=Limits(wall_time=1.0))


# ---- from a plan to a job -----------------------------------------------------


@pytest.fixture
def kits() -> Iterator[Kits]:
    kits = Kits()
    yield kits
    kits.close()


@pytest.fixture
def slot() -> Slot:
    nobody: Any = None
    slot = Slot(nobody, 1, "slot", 1, -1, None)
    slot.has_places_at("/home/program", "/tmp")
    return slot


def bench_resolve(benchmark: Benchmark) -> None:
    assert benchmark(resolve, PLAN).executable


def bench_kit_of_the_same_plan(benchmark: Benchmark, kits: Kits) -> None:
    assert benchmark(kits.of, PLAN) is kits.of(PLAN)


def bench_kit_of_an_equal_plan(benchmark: Benchmark, kits: Kits) -> None:
    plans = [PLAN, OTHER]

    def alternate() -> Kit:
        plans.reverse()
        return kits.of(plans[0])

    assert benchmark(alternate) is kits.of(PLAN)


def bench_kit_made_anew(benchmark: Benchmark) -> None:
    program = resolve(PLAN)

    def make() -> int:
        kit = Kit(PLAN.policy, program)
        kit.close()
        return kit.serial

    assert benchmark(make) > 0


def bench_compile_the_filters(benchmark: Benchmark) -> None:
    made: Callable[..., Filters] = _filters.__wrapped__
    arguments = Network.none(), Syscalls(), "errno", "own", "process"
    assert benchmark(made, *arguments).child


def bench_what_will_be_enforced(benchmark: Benchmark, kits: Kits) -> None:
    assert benchmark(kits.of(PLAN).enforcement, PLAN.limits)


def bench_encode_a_job(benchmark: Benchmark, kits: Kits, slot: Slot) -> None:
    kit = kits.of(PLAN)

    def encode() -> tuple[Job, Runner]:
        return launch._job(PLAN, kit, 0), launch._runner(PLAN, slot, 1)

    assert benchmark(encode)[0].head.argc == 1


# ---- messages -----------------------------------------------------------------


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def bench_send_a_job(benchmark: Benchmark, kits: Kits, slot: Slot, wire: Wire, pair: Pair) -> None:
    """With the receiving of its bytes, without which the socket would be full."""
    ours, theirs = pair
    job = launch._job(PLAN, kits.of(PLAN), 0)

    def there() -> bytes:
        wire.send_job(ours.fileno(), job, launch._runner(PLAN, slot, 1), NO_FDS)
        return theirs.recv(1 << 16)

    assert len(benchmark(there)) > len(job.strings)


def ended(output: bytes) -> bytes:
    """The message of an init whose run has ended well."""
    head = ffi.new("struct eb_report *")
    head.type, head.run_id, head.cause = ReportType.ENDED, 1, lib.EB_CAUSE_EXIT
    head.flags, head.denied_nr = lib.EB_REPORT_EXECED, -1
    head.stdout_size = len(output)
    return bytes(ffi.buffer(head)) + output


def bench_decode_a_report(benchmark: Benchmark, wire: Wire, pair: Pair) -> None:
    """With the sending of its bytes."""
    ours, theirs = pair
    message = ended(b"42\n")

    def back() -> Report | None:
        theirs.send(message)
        return wire.receive_report(ours.fileno())

    report = benchmark(back)
    assert (report.run_id, report.stdout) == (1, b"42\n")


def bench_wait_for_what_is_there(benchmark: Benchmark, wire: Wire, pair: Pair) -> None:
    ours, theirs = pair
    wire.add(ours.fileno(), 1, 7)
    theirs.send(b"x")
    assert benchmark(wire.wait, -1) == [7]


# ---- the life of a run --------------------------------------------------------


def bench_a_life_from_sent_to_output(
    benchmark: Benchmark, kits: Kits, wire: Wire, pair: Pair
) -> None:
    ours, theirs = pair
    theirs.send(ended(b"42\n"))
    report = wire.receive_report(ours.fileno())
    assert report is not None
    enforcement, machine = kits.of(PLAN).enforcement(PLAN.limits), platform.machine()

    def live() -> Life:
        life = Life(SandboxId(1), PLAN, machine, enforcement)
        life.sent()
        life.reported(report, {}, "none")
        return life

    assert benchmark(live).is_over


def bench_poll_of_an_idle_executor(benchmark: Benchmark) -> None:
    with Executor() as executor:
        assert benchmark(executor.poll, 0) == []


def bench_run(benchmark: Benchmark) -> None:
    """All of it together, with the program: what the others are a part of."""
    with Executor() as executor:
        assert benchmark(executor.run, PLAN).ok
