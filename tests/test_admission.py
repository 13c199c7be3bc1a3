"""Who may start, decided from what a test says of host and clock; and what is read of a host."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalbox import GiB, MiB
from evalbox._host import interference, memory
from evalbox._host.interference import Sample
from evalbox._host.memory import Room
from evalbox.executor.admission import YOUNG, Admission, Refusal


class World:
    """A host and a clock."""

    def __init__(self, available: int = 8 * GiB, capacity: int = 16 * GiB) -> None:
        self.room = Room(available, capacity, 1.0)
        self.now = 1000.0
        self.looks = 0

    def look(self) -> Room:
        self.looks += 1
        return self.room

    def clock(self) -> float:
        return self.now

    def admission(self, most: int | None = None) -> Admission:
        admission = Admission(most, self.look, self.clock)
        # Of a machine with many processors.
        admission._most_starting = 1000
        return admission

    def has(self, available: int, share: float = 1.0) -> None:
        self.room = self.room._replace(available=available, share=share)
        self.now += 0.02


def begin(admission: Admission, count: int, memory: int | None = GiB, first: int = 1) -> int:
    """Lets runs in until one is refused; how many went."""
    for number in range(count):
        if admission.refusal(memory) is not None:
            return number
        admission.begin(first + number, memory, is_held=False)
    return count


def test_max_running_counts_all_that_are_alive() -> None:
    admission = World().admission(most=3)
    admission.begin(1, None, is_held=True)
    assert begin(admission, 5, None, first=2) == 2
    assert admission.refusal(None) is Refusal.COUNT
    admission.end(1, is_held=True)
    assert admission.refusal(None) is None


def test_only_some_start_at_once() -> None:
    admission = World().admission()
    admission._most_starting = 3
    admission.begin(1, None, is_held=True)
    assert begin(admission, 9, None, first=2) == 3
    assert admission.refusal(None) is Refusal.STARTING
    admission.started(3)
    assert begin(admission, 9, None, first=5) == 1
    admission.end(2, is_held=False)
    assert begin(admission, 9, None, first=6) == 1
    # Nobody starts twice.
    admission.started(3)
    assert admission.refusal(None) is Refusal.STARTING
    assert admission.running == 5


def test_what_cannot_start_keeps_nobody_waiting() -> None:
    world = World()
    admission = world.admission()
    admission._most_starting = 3
    assert begin(admission, 9, None) == 3
    world.now += 0.2
    assert begin(admission, 9, None, first=4) == 0
    world.now += 0.1
    assert begin(admission, 9, None, first=4) == 3
    admission.end(1, is_held=False)
    assert begin(admission, 9, None, first=7) == 0


def test_young_runs_count_in_full() -> None:
    world = World(available=8 * GiB)
    admission = world.admission()
    assert begin(admission, 20) == 8
    assert admission.refusal(GiB) is Refusal.MEMORY
    admission.end(3, is_held=False)
    assert admission.refusal(GiB) is None


def test_grown_up_runs_count_with_what_they_use() -> None:
    world = World(available=8 * GiB)
    admission = world.admission()
    begin(admission, 8)
    world.now += YOUNG
    # They are small.
    world.has(7 * GiB)
    assert begin(admission, 20, first=9) == 7
    world.now += YOUNG
    # They have filled it.
    world.has(GiB // 2)
    assert begin(admission, 20, first=16) == 0


@pytest.mark.parametrize(("share", "went"), [(1.0, 8), (0.1, 0)], ids=["free", "busy"])
def test_on_busy_processors_runs_stay_young_for_longer(share: float, went: int) -> None:
    world = World(available=8 * GiB)
    admission = world.admission()
    begin(admission, 8)
    world.has(8 * GiB, share)
    world.now += YOUNG
    assert begin(admission, 20, first=9) == went


def test_a_long_quiet_time_makes_nobody_younger() -> None:
    world = World(available=2 * GiB)
    admission = world.admission()
    begin(admission, 1)
    world.now += 10**6
    world.has(2 * GiB, 0.01)
    begin(admission, 1, first=2)
    world.now += YOUNG * 100
    world.has(2 * GiB, 0.01)
    assert begin(admission, 5, first=3) == 2


def test_one_goes_whatever_there_is() -> None:
    admission = World(available=0).admission()
    assert begin(admission, 5) == 1
    admission.end(1, is_held=False)
    assert begin(admission, 5, first=2) == 1


def test_held_runs_take_nothing_before_their_release() -> None:
    world = World(available=2 * GiB)
    admission = world.admission()
    for run in range(1, 9):
        admission.begin(run, GiB, is_held=True)
    assert begin(admission, 5, first=9) == 2
    admission.end(9, is_held=False)
    admission.release(1, GiB)
    assert admission.refusal(GiB) is Refusal.MEMORY
    admission.end(1, is_held=False)
    assert admission.refusal(GiB) is None


def test_a_limit_above_half_of_the_memory_counts_as_half() -> None:
    admission = World(available=15 * GiB, capacity=16 * GiB).admission()
    admission.begin(1, 1024 * GiB, is_held=False)
    # The first one came when nothing had been looked at.
    admission.end(1, is_held=False)
    assert begin(admission, 5, 6 * GiB, first=2) == 2
    assert admission.refusal(1024 * GiB) is Refusal.MEMORY
    admission.end(2, is_held=False)
    assert admission.refusal(1024 * GiB) is None


def test_without_a_limit_and_on_an_unknown_host_memory_keeps_nobody_out() -> None:
    assert begin(World(available=0).admission(), 50, None) == 50
    assert begin(World(available=0, capacity=0).admission(), 50) == 50


def test_a_thousand_short_runs_are_hardly_looked_at() -> None:
    world = World(available=2 * GiB)
    admission = world.admission()
    admission.begin(1, MiB, is_held=False)
    for run in range(2, 1002):
        assert admission.refusal(256 * MiB) is None
        admission.begin(run, 256 * MiB, is_held=False)
        admission.end(run, is_held=False)
        world.now += 0.001
    assert 1 <= world.looks <= 11


@given(st.lists(st.tuples(st.sampled_from("bhre"), st.integers(0, 4), st.floats(0, 1))))
def test_nothing_waits_for_ever_and_nothing_is_left(
    acts: list[tuple[str, int, float]],
) -> None:
    world, alive = World(available=GiB), dict[int, bool]()
    admission = world.admission()
    for number, (act, size, passed) in enumerate(acts):
        world.now += passed
        limit = size * 256 * MiB
        if act in "bh" and admission.refusal(limit) is None:
            alive[number] = act == "h"
            admission.begin(number, limit, is_held=act == "h")
        elif alive and act == "r":
            run = next(iter(alive))
            if alive[run]:
                alive[run] = False
                admission.release(run, limit)
        elif alive and act == "e":
            run, is_held = alive.popitem()
            admission.end(run, is_held=is_held)
        assert (admission.running, admission.held) == (len(alive), sum(alive.values()))
        if all(alive.values()):
            assert admission.refusal(64 * GiB) is None
    for run, is_held in alive.items():
        admission.end(run, is_held=is_held)
    assert (admission.running, admission.held, admission._reserved) == (0, 0, 0)


# ---- what is read of a host


def test_this_host_has_memory() -> None:
    room = memory.room()
    assert 0 < room.available <= room.capacity
    assert 0 < room.share <= 1


@pytest.mark.parametrize(
    ("kind", "files", "left"),
    [
        (
            "cgroup2",
            {"memory.max": "1000", "memory.current": "900", "memory.stat": "inactive_file 300\n"},
            (1000, 400),
        ),
        ("cgroup2", {"memory.max": "max", "memory.current": "900"}, (1 << 60, (1 << 60) - 900)),
        (
            "cgroup",
            {
                "memory.limit_in_bytes": "1000",
                "memory.usage_in_bytes": "900",
                "memory.stat": "inactive_file 1\ntotal_inactive_file 300\n",
            },
            (1000, 400),
        ),
    ],
    ids=["v2", "v2 without a limit", "v1"],
)
def test_what_a_cgroup_leaves(
    tmp_path: Path, kind: str, files: dict[str, str], left: tuple[int, int]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    mount = memory.Mount("/", "/sys/fs/cgroup", kind, frozenset())
    assert memory._files(mount, str(tmp_path)).left() == left


def test_the_least_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = memory.Files("limit", "usage", "stat", "inactive_file")
    said = {"limit": "1000\n", "usage": "400\n", "stat": "", "/proc/loadavg": "1 1 1 80/90 5\n"}
    said["/proc/meminfo"] = "MemTotal:  16 kB\nMemAvailable:  8 kB\n"
    monkeypatch.setattr(memory, "_text", lambda path: said.get(path, ""))
    monkeypatch.setattr(memory, "_processors", lambda: 8)
    monkeypatch.setattr(memory, "_limits", lambda _: ())
    assert memory.room() == Room(8192, 16384, 0.1)
    monkeypatch.setattr(memory, "_limits", lambda _: (files,))
    assert memory.room() == Room(600, 1000, 0.1)
    said["usage"] = "2000\n"
    assert memory.room() == Room(0, 1000, 0.1)
    said.clear()
    monkeypatch.setattr(memory, "_limits", lambda _: ())
    assert memory.room() == Room(0, 0, 1.0)


# ---- interference


def test_steal_and_wanted_time_come_from_the_first_line() -> None:
    tick = interference._tick()
    text = "cpu  100 20 30 4000 500 6 7 50 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert interference.of_stat(text) == (213 / tick, 50 / tick)
    assert interference.of_stat("") == (0.0, 0.0)
    assert interference.of_stat("cpu 1 2 3\n") == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("usage_usec 5\nnr_throttled 2\nthrottled_usec 1500000\n", 1.5),
        ("nr_periods 9\nnr_throttled 2\nthrottled_time 2500000000\n", 2.5),
        ("usage_usec 5\n", 0.0),
        ("", 0.0),
    ],
    ids=["v2", "v1", "no quota", "none"],
)
def test_throttled_time_comes_from_either_version(text: str, seconds: float) -> None:
    assert interference.of_cpu_stat(text) == seconds


BEFORE = Sample(10.0, wanted=100.0, stolen=5.0, throttled=1.0)


@pytest.mark.parametrize(
    ("later", "kept"),
    [
        (BEFORE, None),
        # Two processors, all of the time, a quarter of which was stolen.
        (Sample(12.0, 104.0, 6.0, 1.0), (0.25, 0.0)),
        # Hardly any was wanted: a tick that was stolen is not half of it.
        (Sample(12.0, 100.02, 5.01, 1.0), (pytest.approx(0.005), 0.0)),
        (Sample(12.0, 104.0, 5.0, 3.5), (0.0, 2.5)),
        # Counters that fall, as they may when a virtual machine is moved.
        (Sample(12.0, 90.0, 4.0, 0.5), (0.0, 0.0)),
        (Sample(12.0, 104.0, 99.0, 1.0), (1.0, 0.0)),
    ],
    ids=["at once", "stolen", "idle", "throttled", "falls", "too much"],
)
def test_what_was_kept_from_a_run(later: Sample, kept: tuple[float, float] | None) -> None:
    assert BEFORE.until(later) == kept


def test_a_sample_serves_for_a_tenth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(interference.time, "monotonic", lambda: now)
    looks = interference.Interference()
    first = looks.sample()
    now = 50.09
    assert looks.sample() is first
    now = 50.2
    assert looks.sample() is not first
