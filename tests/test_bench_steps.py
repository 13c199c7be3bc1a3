"""Cost by step: how the points of a run become steps, and that a real run has them."""

from __future__ import annotations

import re

import pytest

from bench_modules import ROOT, bench

__all__ = ["bench"]


def points(bench, *told: tuple[int, str]):
    """Points from "+name" for a begin and "-name" for an end."""
    return [bench.timeline.Point(at, name[1:], name[0] == "-") for at, name in told]


def one_run(bench, start: int = 0):
    """A run of 100 ns: host until 10, launcher from 15 to 80, host from 90."""
    host = [(0, "+run"), (2, "+kit"), (7, "-kit"), (10, "+send"), (20, "-send"), (22, "+wait")]
    host += [(90, "-wait"), (92, "+output"), (99, "-output"), (100, "-run")]
    launcher = [(15, "-ppoll"), (18, "+pipe2"), (20, "-pipe2"), (21, "+clone"), (30, "+dup2")]
    launcher += [(32, "-dup2"), (35, "+execve"), (45, "-clone"), (46, "+ppoll"), (70, "-ppoll")]
    launcher += [(71, "+wait4"), (75, "-wait4"), (80, "+sendmsg"), (95, "-sendmsg")]
    launcher += [(97, "+futimens"), (98, "-futimens"), (99, "+ppoll")]
    return tuple(
        points(bench, *((start + at, name) for at, name in side)) for side in (host, launcher)
    )


def test_the_steps_of_a_run_add_up_to_the_whole(bench) -> None:
    found = bench.timeline.summed(bench.timeline.stretches(*one_run(bench)))
    path = {key: ns for key, (ns, _) in found.items() if key[0] != "afterwards"}
    assert sum(path.values()) == 100
    assert path["host", "run"] == 2 + 3 + 2 + 1
    assert path["host", "kit"] == 5
    assert path["between", "the job is sent, and init wakes"] == 5
    assert path["between", "the report is sent, and the host wakes"] == 10


def test_what_the_child_does_is_its_own_and_not_the_clone(bench) -> None:
    found = bench.timeline.summed(bench.timeline.stretches(*one_run(bench)))
    assert found["launcher", "start: clone"] == (9, 1)
    assert found["launcher", "child: dup2"] == (2, 1)
    # execve() never returns: it is over when clone() returns to init.
    assert found["launcher", "child: execve"] == (10, 1)
    assert found["launcher", "watch: ppoll"] == (24, 1)
    assert found["launcher", "end: wait4"] == (4, 1)


def test_what_follows_the_report_is_not_on_the_path(bench) -> None:
    found = bench.timeline.summed(bench.timeline.stretches(*one_run(bench)))
    late = {name: ns for (side, name), (ns, _) in found.items() if side == "afterwards"}
    assert late == {"sendmsg": 15, "(own code)": 3, "futimens": 1}


def test_a_run_close_upon_another_gets_its_own_points(bench) -> None:
    timeline = bench.timeline
    first, second = one_run(bench), one_run(bench, 100)
    runs = timeline.split([*first[0], *second[0]], "run")
    assert [len(run) for run in runs] == [10, 10]
    found = [
        timeline.summed(timeline.stretches(host, launcher))
        for host, launcher in timeline.matched(runs, [*first[1], *second[1]])
    ]
    assert found[0] == found[1]


def test_a_run_without_its_report_is_refused(bench) -> None:
    host, launcher = one_run(bench)
    silent = [point for point in launcher if point.name != "sendmsg"]
    with pytest.raises(bench.timeline.BrokenError, match="sendmsg"):
        bench.timeline.stretches(host, silent)


def test_small_steps_are_summed_up_and_none_is_lost(bench) -> None:
    rows = [
        {"side": "host", "step": name, "says": "", "us": us, "share_of_floor": us / 50}
        for name, us in (("a", 90.0), ("b", 0.5), ("c", 0.4), ("d", 9.1))
    ]
    shown = bench.tables.without_small(rows, 0.01)
    assert [row["step"] for row in shown] == ["a", "d", "2 smaller steps"]
    assert sum(row["us"] for row in shown) == pytest.approx(100)


def test_everything_that_is_marked_exists(bench) -> None:
    steps = bench.steps
    for place, attribute, _ in steps.HOST:
        assert callable(getattr(steps.owner_of(place), attribute)), (place, attribute)
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "csrc").glob("*.c"))
    unused = {name for name in steps.CALLS if not re.search(rf"\b{name}\(", source)}
    assert unused == set()


def test_a_real_run_has_the_steps_that_every_run_has(bench) -> None:
    """With a launcher built for it; how long they took is not looked at."""
    for told in bench.steps.profile(1)["tiers"].values():
        assert told["runs"] + told["left_out"] == bench.steps.RUNS
        assert told["runs"] > 0
        found = {re.split(r" ×| \(", row["step"])[0] for row in told["rows"]}
        assert {"start: clone", "child: dup2", "child: setrlimit", "child: seccomp"} <= found
        assert {"child: landlock_restrict_self", "child: execve", "watch: ppoll"} <= found
        assert {"encode the job", "make the Output"} <= found
