"""Random system calls from inside do no harm to the host; `make fuzz-syscalls` makes more."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evalbox import Policy
from evalbox._host import host
from evalbox._syscall_table import NUMBERS
from host_health import Patient, unharmed
from syscall_fuzz import SHAPES, Result, attack_host

TIERS = ["process", *(["namespace"] if not host().namespaces.why_not else [])]


@pytest.fixture
def folder() -> Iterator[Path]:
    """One to which permissions let everybody through."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def attack(calls: int, isolation: str, folder: Path) -> Result:
    policy = Policy(isolation=isolation)  # type: ignore[arg-type]
    return attack_host(calls, policy, folder, len(os.sched_getaffinity(0)))


def check(result: Result, calls: int) -> None:
    assert result.tally.calls >= calls
    # It was not the same call over and over, nor were all of them denied.
    assert len(result.tally.made) > 400
    assert len(+result.tally.succeeded) > 100
    # One that attackers end, or a limit, is no harm either.
    assert result.tally.ends["EXITED"] > 0


@pytest.mark.parametrize("isolation", TIERS)
def test_a_few_system_calls_do_no_harm(isolation: str, folder: Path) -> None:
    check(attack(200_000, isolation, folder), 200_000)


@pytest.mark.long
@pytest.mark.parametrize("isolation", TIERS)
def test_many_system_calls_do_no_harm(isolation: str, folder: Path) -> None:
    check(attack(10_000_000, isolation, folder), 10_000_000)


def test_the_calls_have_the_names_that_linux_gives_them() -> None:
    assert {name for name in SHAPES if name not in NUMBERS["x86_64"]} == set()


# ---- the look at the host has eyes


def limit_it(patient: Patient) -> None:
    _, hard = resource.prlimit(patient.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(patient.process.pid, resource.RLIMIT_NOFILE, (100, hard))


def leave_an_object(patient: Patient) -> None:
    path = Path("/dev/shm", f"{patient.files[1].name}-left")
    path.touch()
    if os.getuid() == 0:
        os.chown(path, 12345, 12345)


def add_a_file(patient: Patient) -> None:
    (patient.files[0].parent / "added").touch()


HARM: dict[str, Callable[[Patient], object]] = {
    "killed": lambda patient: (patient.process.kill(), patient.process.wait()),
    "limited": limit_it,
    "made less nice": lambda patient: os.setpriority(os.PRIO_PROCESS, patient.process.pid, 19),
    "written to": lambda patient: patient.files[0].write_text("x"),
    "linked": lambda patient: os.link(patient.files[0], patient.files[0].with_name("link")),
    "something beside it": add_a_file,
    "something in /dev/shm": leave_an_object,
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_harm_is_seen(harm: Callable[[Patient], object], folder: Path) -> None:
    place = folder / "open to all"
    place.mkdir()
    with Patient.made_in(place) as patient:
        try:
            with pytest.raises(AssertionError), unharmed(patient, patience=0.0):
                harm(patient)
        finally:
            for left in Path("/dev/shm").glob(f"{patient.files[1].name}-*"):
                left.unlink()


def test_no_harm_is_seen_where_there_is_none(folder: Path) -> None:
    place = folder / "open to all"
    place.mkdir()
    with Patient.made_in(place) as patient, unharmed(patient):
        pass
