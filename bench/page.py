"""One self-contained page of a benchmark: tables and charts, and what is needed to doubt them.

It asks for nothing from anywhere and has no script; its own Content-Security-Policy
says so to the browser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import charts
from evalbox.grade.chart import Bar, bars
from evalbox.grade.markup import Html, document, element, head, join
from results import PARTS, Part, Ratio, Results, short
from tables import names_of, without_small

_CSS = Path(__file__).with_name("page.css")
PREFIX = {"host": "host: ", "afterwards": "afterwards: "}
# Steps of less than this share of a run are summed up.
SMALL = 0.01
TITLE = "What a sandboxed run costs"
REPEAT = """\
make bench                     this page, and the JSON beside it with every round
make bench BENCH=--quick       the same in few rounds: a look, not a result
make bench-peers               installs what of the others is a Python package
make bench-compare             measures again and compares with the last JSON
make profile                   cost by step"""
HOW = (
    "Every round measures every contestant once, in another order, and a ratio is taken"
    " within its round: a machine that is slow for a while is slow for all of them. Shown is the"
    " median of the rounds' ratios, with their quartiles. The floor is a C loop of vfork, execve"
    " and wait4 that confines nothing and reads no output. Absolute times are those of this"
    " machine on this day; only ratios can be compared, with care."
)
CAPTIONS = {
    "latency": "Lower is better. A dot is the median, a line reaches from quartile to quartile;"
    " the scale is logarithmic.",
    "throughput": "Higher is better: of the runs per second that the floor reaches with the same"
    " number at once. evalbox with its default limits, so that it may let in fewer at once"
    " than it was given.",
    "scale": "Lower is better. Each program sleeps until all are there, so that they really live"
    " at the same time; the sleep is taken off. evalbox runs them without a limit of memory,"
    " which would let in fewer at once.",
    "crowd": "Lower is better, and 1 is best. Of the host process: for a line that goes to one of"
    " the live runs and comes back, and for a run while they sleep.",
    "host": "Lower is better. What starts from the host process itself may pay for its size; the"
    " launcher is another process, and small.",
    "warm": "Lower is better. The bare fork has the same modules loaded, confines nothing and"
    " captures nothing; the cold starts import them.",
    "warm_throughput": "Higher is better.",
}


def render(results: Results) -> str:
    css = _CSS.read_text(encoding="utf-8")
    parts = [_part(key, results) for key in PARTS if key in results.parts]
    return document(
        head(f"evalbox: {TITLE.lower()}", css),
        element(
            "body",
            element("header", element("h1", TITLE), *_header(results)),
            element(
                "main",
                *parts,
                *_cpu(results),
                *_steps(results),
                *_memory(results),
                *_peers(results),
                _machine(results),
                element("section", element("h2", "Repeat it"), element("pre", REPEAT)),
            ),
        ),
    )


def _header(results: Results) -> list[Html]:
    facts = results.facts
    made = f"evalbox {facts.get('evalbox')}, {facts.get('date')}, {facts.get('rounds')} rounds"
    told = [element("p", made, class_="soft"), element("p", HOW)]
    if facts.get("quick"):
        told.append(element("p", "A quick look with few rounds, not a result.", class_="warn"))
    told += [element("p", note, class_="warn") for note in results.notes]
    return told


def _section(heading: str, *content: Html) -> Html:
    return element("section", element("h2", heading), *content)


def _part(key: str, results: Results) -> Html:
    part, found = PARTS[key], results.ratios(key)
    heading, _, rest = part.title.partition(": ")
    caption = element("p", f"{rest[:1].upper()}{rest[1:]}. {CAPTIONS[key]}", class_="soft")
    if key in ("throughput", "scale"):
        drawn = [_lines(program, rows) for program, rows in _by_program(found).items()]
    else:
        drawn = [
            join(element("h3", row), element("figure", _ratios(row, ratios, part)))
            for row, ratios in found.items()
        ]
    return _section(heading, caption, *drawn, _numbers(found, part.unit))


def _ratios(row: str, found: Mapping[str, Ratio], part: Part) -> Html:
    return charts.ratios(row, found, part.unit, "×" if part.better == "lower" else "")


def _by_program(
    found: Mapping[str, Mapping[str, Ratio]],
) -> dict[str, dict[str, Mapping[str, Ratio]]]:
    """Rows such as "/bin/true, 8 at once" by what stands before the comma."""
    programs: dict[str, dict[str, Mapping[str, Ratio]]] = {}
    for row, ratios in found.items():
        program, _, count = row.rpartition(", ")
        programs.setdefault(program, {})[count] = ratios
    return programs


def _lines(program: str, rows: Mapping[str, Mapping[str, Ratio]]) -> Html:
    names = names_of(rows)
    columns = [column.removesuffix(" at once").removesuffix(" alive") for column in rows]
    drawn = {name: [row.get(name) for row in rows.values()] for name in names}
    chart = charts.lines(program or "alive at the same time", columns, drawn)
    heading = [element("h3", program)] if program else []
    return join(*heading, element("figure", chart, charts.keys(names)))


def _numbers(found: Mapping[str, Mapping[str, Ratio]], unit: str) -> Html:
    rows = [
        [row, name, short(ratio.median), f"{short(ratio.low)} to {short(ratio.high)}",
         charts.amount(ratio.absolute, unit)]
        for row, ratios in found.items()
        for name, ratio in ratios.items()
    ]  # fmt: skip
    table = _table(["", "", "ratio", "quartiles", "median"], rows, numbers_from=2)
    return element("details", element("summary", "The numbers"), table)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 99) -> Html:
    def cell(name: str, text: str, place: int) -> Html:
        return element(name, text, class_="number" if place >= numbers_from else "text")

    head = element("tr", *(cell("th", text, i) for i, text in enumerate(header)))
    body = (
        element("tr", *(cell("th" if i == 0 else "td", text, i) for i, text in enumerate(row)))
        for row in rows
    )
    return element(
        "div",
        element("table", element("thead", head), element("tbody", *body)),
        class_="scroll",
    )


def _cpu(results: Results) -> list[Html]:
    if not results.cpu:
        return []
    rows = [
        [name, f"{us['host']:.0f} us", f"{us['launcher']:.0f} us"]
        for name, us in results.cpu.items()
    ]
    told = element("p", "Of one run of /bin/true, 8 at once; the program's own is not in it.")
    table = _table(["", "host process", "launcher and inits"], rows, numbers_from=1)
    return [_section("Processor time", told, table)]


def _steps(results: Results) -> list[Html]:
    if not results.steps:
        return []
    drawn: list[Html] = []
    for tier, told in results.steps["tiers"].items():
        rows = [
            Bar(
                f"{PREFIX.get(row['side'], '')}{row['step']}",
                row["us"] / max(1e-9, told["total_us"]),
                f"{row['us']:.1f} us · {row['share_of_floor']:.2f} of the floor",
                "k2" if row["side"] == "host" else "k3",
            )
            for row in without_small(told["rows"], SMALL)
        ]
        chart = element("figure", bars(f"Cost by step, {tier}", rows))
        drawn += [element("h3", tier), chart, _all_steps(told)]
    return [_section("Cost by step", element("p", results.steps["told"], class_="soft"), *drawn)]


def _all_steps(told: Mapping[str, Any]) -> Html:
    rows = [
        [row["side"], row["step"], f"{row['us']:.2f}", f"{row['share_of_floor']:.3f}", row["says"]]
        for row in told["rows"]
    ]
    slower = told["total_us"] / told["unmarked_us"]
    marks = (
        f"{told['runs']} runs; a run takes {told['unmarked_us']:.1f} us, with marks"
        f" {slower:.2f} times that; the floor {told['floor_us']:.1f} us."
    )
    table = _table(["", "step", "us", "of the floor", ""], rows)
    return element("details", element("summary", "Every step"), element("p", marks), table)


def _memory(results: Results) -> list[Html]:
    if not results.memory:
        return []
    rows = [[name, f"{kib / 1024:.1f} MiB"] for name, kib in results.memory.items()]
    told = element("p", "Private pages of an interpreter that waits to be forked.", class_="soft")
    return [_section("Memory", told, _table(["", "private"], rows, numbers_from=1))]


def _peers(results: Results) -> list[Html]:
    if not results.peers:
        return []
    told = (
        "They do not do the same. Each is started for every run in the lightest way that its"
        " manual has for an untrusted command; what it then confines, and what not:"
    )
    cards = [
        join(
            element("h3", peer["name"]),
            element(
                "dl",
                *_term("here", peer["why_absent"] and f"not measured: {peer['why_absent']}"),
                *_term("confines", peer["confines"]),
                *_term("not", peer["leaves"]),
            ),
        )
        for peer in results.peers
    ]
    return [_section("The other sandboxes", element("p", told, class_="soft"), *cards)]


def _term(name: str, text: str) -> list[Html]:
    return [element("dt", name), element("dd", text)] if text else []


def _machine(results: Results) -> Html:
    facts = results.facts.get("machine", {})
    shown = [
        join(element("dt", key.replace("_", " ")), element("dd", str(value)))
        for key, value in facts.items()
    ]
    return _section("The machine", element("dl", *shown))
