"""Arithmetic, tables, charts and comparison of the benchmark; they measure nothing."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench_modules import ROOT, bench

__all__ = ["bench"]


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


def test_the_readme_has_a_line_for_each_contestant_and_a_gap_where_one_is_missing(bench) -> None:
    found = made(bench, latency={"a": {"floor": [2.0], "bwrap": [5.0]}, "b": {"floor": [900.0]}})
    lines = bench.tables.readme_table(found).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == ["", "floor", "bwrap"]
    assert "2.50 (2.50-2.50), 5 us" in rows[2]
    assert rows[2].rstrip(" |").endswith("-")


@pytest.mark.parametrize(
    ("value", "text"), [(0.054, "0.05"), (1.444, "1.44"), (53.44, "53.4"), (1067.1, "1067")]
)
def test_a_ratio_has_three_digits(bench, value: float, text: str) -> None:
    assert bench.results.short(value) == text


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


def test_every_round_has_all_contestants_and_not_always_in_the_same_order(bench) -> None:
    field = ["a", "b", "c"]
    orders = [bench.measure.shuffled(field, number) for number in range(20)]
    assert all(sorted(order) == field for order in orders)
    assert {order[0] for order in orders} == set(field)
    assert orders[3] == bench.measure.shuffled(field, 3)


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


ISOLATE = """#!/bin/sh
echo "$@" >> {log}
[ "$1" = --init ] && exit 0
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


def test_isolate_makes_its_box_once_and_grants_the_directory_of_the_program(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    (tmp_path / "isolate").write_text(ISOLATE.format(log=log))
    (tmp_path / "isolate").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    isolate = bench.peers.Isolate()
    assert len(isolate.latencies(("/bin/true",), 2)) == 2
    with pytest.raises(bench.contestants.PeerError, match="exit code 1"):
        isolate.latencies(("/bin/false",), 1)
    calls = log.read_text().splitlines()
    assert calls[0] == "--init"
    assert calls[1] == "--silent --processes=64 --dir=/bin --run -- /bin/true"
    assert len(calls) == 4


def test_every_known_sandbox_says_what_it_confines_and_what_not(bench) -> None:
    assert all(peer.confines and peer.leaves and peer.install for peer in bench.peers.PEERS)


def test_every_micro_benchmark_still_runs() -> None:
    """Once each, and nothing is timed."""
    names = ["-o", "python_files=bench_*.py", "-o", "python_functions=bench_*"]
    line = [sys.executable, "-m", "pytest", "bench/micro", "--benchmark-disable", *names]
    ended = subprocess.run([*line, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True)
    assert ended.returncode == 0, ended.stdout.decode()
