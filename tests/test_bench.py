"""Arithmetic, tables, charts and comparison of the benchmark; they measure nothing."""

from __future__ import annotations

import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"


class Bench:
    """The modules of bench/, which is no package."""

    def __init__(self) -> None:
        self.before = set(sys.modules)

    def __getattr__(self, name: str):
        return __import__(name)

    def forget(self) -> None:
        own = {path.stem for path in BENCH.glob("*.py")}
        for name in own & (set(sys.modules) - self.before):
            del sys.modules[name]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(BENCH)
    modules = Bench()
    yield modules
    modules.forget()


def made(bench, **parts):
    """Results with these parts, of two rounds."""
    facts = {"date": "today", "rounds": 2, "quick": False, "machine": {"cpu": "a <fast> one"}}
    peer = {"name": "other", "confines": "all", "leaves": "none", "why_absent": "not <here>"}
    return bench.results.Results(facts=facts, parts=parts, peers=[peer], notes=["odd & even"])


def latency(ours: list[float]):
    rows = ("/bin/true", "no-libc true", "python3 -c pass")
    return {
        row: {"floor": [100.0, 200.0], "evalbox, process": ours, "bubblewrap": [400.0, 900.0]}
        for row in rows
    }


# ---- ratios -------------------------------------------------------------------


def test_a_ratio_is_taken_within_its_round(bench) -> None:
    # The machine is twice as slow in the second round; the ratio is not.
    ratio = bench.results.Ratio.of([3.0, 6.0, 3.0], [2.0, 4.0, 2.0])
    assert (ratio.low, ratio.median, ratio.high) == (1.5, 1.5, 1.5)
    assert ratio.absolute == 3


def test_one_round_has_no_spread(bench) -> None:
    assert bench.results.quartiles([2.0]) == (2.0, 2.0, 2.0)


def test_results_are_the_same_after_they_were_stored(bench, tmp_path: Path) -> None:
    found = made(bench, latency=latency([150.0, 300.0]))
    bench.results.store(found, tmp_path / "stored.json")
    assert bench.results.load(tmp_path / "stored.json") == found


def test_results_of_another_schema_are_refused(bench, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(ValueError, match="schema 1"):
        bench.results.load(tmp_path / "old.json")


# ---- tables -------------------------------------------------------------------


def test_the_table_has_a_row_for_each_program_and_a_gap_for_a_missing_contestant(bench) -> None:
    ratio = bench.results.Ratio(1.25, 1.0, 1.5, 900)
    text = bench.tables.ratio_table(
        "title", {"a": {"floor": ratio, "bwrap": ratio}, "b": {"floor": ratio}}, "us"
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    assert "1.25 (1.00-1.50), 900 us" in rows[1]
    assert rows[2].rstrip(" |").endswith("-")


def test_only_what_stands_between_the_marks_is_replaced(bench) -> None:
    tables = bench.tables
    page = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    fresh = tables.replace_between_marks(page, "new")
    assert fresh == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"
    assert tables.replace_between_marks(fresh, "new") == fresh


def test_a_page_without_marks_is_an_error(bench) -> None:
    with pytest.raises(ValueError, match="bench: begin"):
        bench.tables.replace_between_marks("no marks", "new")


def test_the_readme_gets_the_first_table_and_a_chart_only(bench) -> None:
    rows = latency([150.0, 300.0])
    found = made(bench, latency=rows, throughput=rows)
    assert "Many at once" in bench.tables.report(found)
    text, drawn = bench.run.for_readme(found, f"{bench.tables.BEGIN}{bench.tables.END}")
    assert "1.50 (1.50-1.50), 225 us" in text
    assert "(docs/bench.svg)" in text
    assert "Many at once" not in text
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


def test_what_the_readme_shows_is_what_was_measured(bench) -> None:
    """As soon as results are kept for it."""
    for kept in ROOT.glob("docs/bench.json"):
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        text, drawn = bench.run.for_readme(bench.results.load(kept), readme)
        assert text == readme
        assert drawn == (ROOT / "docs" / "bench.svg").read_text(encoding="utf-8")


def test_a_sandbox_that_is_not_here_is_named_with_the_reason(bench) -> None:
    assert "not <here>" in bench.tables.report(made(bench))
    assert "not &lt;here&gt;" in bench.page.render(made(bench))


# ---- page and charts ----------------------------------------------------------


class Links(HTMLParser):
    """Everything in a page that a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs) -> None:
        if tag in ("script", "link", "img", "iframe", "object"):
            self.found.append(tag)
        self.found += [f"{tag} {key}" for key, _ in attrs if key in ("src", "href", "style")]


def fetched(page: str) -> list[str]:
    links = Links()
    links.feed(page)
    return links.found


def test_the_page_fetches_nothing_and_shows_every_part(bench) -> None:
    many = {"/bin/true, 1 at once": {"floor": [2.0], "gVisor": [1.0]}}
    alive = {"10 alive": {"floor": [2.0], "evalbox, process": [1.0]}}
    found = made(bench, latency=latency([150.0, 300.0]), throughput=many, scale=alive)
    page = bench.page.render(found)
    assert fetched(page) == []
    assert "url(" not in page
    for part in ("latency", "throughput", "scale"):
        assert bench.results.PARTS[part].title.partition(":")[0] in page
    assert page.count("<svg") == 5
    assert "a &lt;fast&gt; one" in page
    assert "prefers-color-scheme: dark" in page


def test_what_a_page_would_fetch_is_seen() -> None:
    assert fetched('<img src="x"><a href="y" style="z">') == [
        "img", "img src", "a href", "a style",
    ]  # fmt: skip


def test_a_chart_places_the_median_between_its_quartiles(bench) -> None:
    ratio = bench.results.Ratio
    scale = bench.charts.LogScale.over([ratio(1, 1, 1, 1), ratio(40, 30, 50, 1)])
    assert 0 < scale.place(1) < scale.place(30) < scale.place(40) < scale.place(50) < 100
    assert math.isclose(
        scale.place(20) - scale.place(10), scale.place(40) - scale.place(20), abs_tol=1e-9
    )
    assert 1 in scale.ticks()


def test_a_chart_of_one_value_still_has_an_axis(bench) -> None:
    one = bench.results.Ratio(1, 1, 1, 1)
    scale = bench.charts.LogScale.over([one])
    assert 0 < scale.place(1) < 100
    assert len(scale.ticks()) >= 2


def test_a_line_ends_where_its_contestant_was_not_measured(bench) -> None:
    one = bench.results.Ratio(1, 1, 1, 1)
    drawn = bench.charts.lines("t", ["1", "8", "64"], {"floor": [one] * 3, "gVisor": [one, one]})
    floor, gvisor = bench.charts.tone("floor"), bench.charts.tone("gVisor")
    assert len(re.findall(f'class="run {floor}"', drawn)) == 2
    assert len(re.findall(f'class="run {gvisor}"', drawn)) == 1


# ---- comparison ---------------------------------------------------------------


def verdicts(bench, then: list[float], now: list[float], part: str = "latency") -> set[str]:
    before, after = (
        made(bench, **{part: {"a": {"floor": [100.0] * 5, "evalbox, process": values}}})
        for values in (then, now)
    )
    return {one.verdict for one in bench.compare.changes(before, after, 1.05)}


STEADY = [150.0, 151.0, 150.0, 149.0, 150.0]


def test_more_than_the_spread_is_a_regression_and_less_an_improvement(bench) -> None:
    slower = [value * 1.2 for value in STEADY]
    assert verdicts(bench, STEADY, slower) == {"worse"}
    assert verdicts(bench, slower, STEADY) == {"better"}
    assert verdicts(bench, STEADY, STEADY) == {"same"}


def test_a_throughput_is_worse_when_it_is_less(bench) -> None:
    assert verdicts(bench, STEADY, [75.0] * 5, "throughput") == {"worse"}
    assert verdicts(bench, [75.0] * 5, STEADY, "throughput") == {"better"}


def test_what_the_quartiles_explain_is_no_regression(bench) -> None:
    # A fifth more in the median, as far as the quartiles of a noisy machine reach.
    noisy = [120.0, 150.0, 180.0, 180.0, 240.0]
    assert verdicts(bench, [100.0, 130.0, 150.0, 160.0, 200.0], noisy) == {"same"}


def test_a_change_below_the_threshold_is_none_however_steady(bench) -> None:
    assert verdicts(bench, [150.0] * 5, [155.0] * 5) == {"same"}


def test_a_machine_that_is_slower_as_a_whole_is_no_regression(bench) -> None:
    before = made(bench, latency={"a": {"floor": [100.0] * 2, "evalbox, process": [150.0] * 2}})
    after = made(bench, latency={"a": {"floor": [200.0] * 2, "evalbox, process": [300.0] * 2}})
    assert [one.verdict for one in bench.compare.changes(before, after, 1.05)] == ["same"]


def test_only_our_own_ratios_are_compared(bench) -> None:
    before = made(bench, latency=latency([150.0, 300.0]))
    after = made(bench, latency={**latency([150.0, 300.0])})
    for row in after.parts["latency"].values():
        row["bubblewrap"] = [9000.0, 9000.0]
    assert {one.name for one in bench.compare.changes(before, after, 1.05)} == {"evalbox, process"}


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.5, 1)])
def test_the_command_exits_with_1_on_a_regression(
    bench, factor: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    for name, times in (("old", 1.0), ("new", factor)):
        found = made(bench, latency=latency([150.0 * times, 300.0 * times]))
        bench.results.store(found, tmp_path / f"{name}.json")
    line = ["compare.py", "--old", f"{tmp_path}/old.json", "--new", f"{tmp_path}/new.json"]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as ended:
        bench.compare.main()
    assert ended.value.code == code
    assert f"{3 if code else 0} of 3 ratios are worse" in capsys.readouterr().out


# ---- steps --------------------------------------------------------------------


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
        {"side": "host", "step": name, "us": us, "share_of_floor": us / 50}
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


# ---- contestants --------------------------------------------------------------


class Fake:
    """A contestant whose runs take what it is told, and fail from one round on."""

    most_at_once = 8
    share = 1.0

    def __init__(self, name: str, error: Exception | None = None, rounds: int = 0) -> None:
        self.name, self.error, self.left = name, error, rounds

    def latencies(self, command, runs: int) -> list[float]:
        assert command
        if self.error and self.left == 0:
            raise self.error
        self.left -= 1
        return [0.001] * runs


def test_who_fails_is_left_out_and_named_and_the_others_stay(bench, capsys) -> None:
    notes: list[str] = []
    program = bench.measure.Program("p", ("x",), 3, 8)
    how = bench.measure.Settings(3, (), 1.0, ())
    breaks = Fake("b", bench.contestants.PeerError("it broke"), rounds=2)
    rows = bench.measure.Rounds(notes).latency([Fake("floor"), breaks], [program], how)
    assert rows == {"p": {"floor": [1000.0] * 3}}
    assert notes == ["b failed with p: it broke"]
    assert "it broke" in capsys.readouterr().err


def test_every_contestant_is_once_the_first_of_a_round(bench) -> None:
    field = ["a", "b", "c"]
    assert [bench.measure.rotated(field, n)[0] for n in range(-1, 3)] == ["c", "a", "b", "c"]


def test_a_sandbox_that_does_not_run_here_is_absent_with_what_it_said(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, script in (("bwrap", "echo no namespaces >&2; exit 1"), ("nsjail", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    there, absent = bench.peers.find(frozenset({"bubblewrap", "nsjail", "isolate"}))
    assert [one.name for one in there] == ["nsjail"]
    assert "no namespaces" in absent["bubblewrap"]
    assert "not installed" in absent["isolate"]
    assert absent["gVisor"] == "not asked for"


def test_every_known_sandbox_says_what_it_confines_and_what_not(bench) -> None:
    assert all(peer.confines and peer.leaves and peer.install for peer in bench.peers.PEERS)
