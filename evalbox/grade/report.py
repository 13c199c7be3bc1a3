"""One page that tells how a grading went, in one file.

It asks for nothing from anywhere, has no script, and its own Content-Security-
Policy says so to the browser: the page shows what hostile programs wrote.
"""

from __future__ import annotations

import heapq
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from evalbox.grade.chart import Bar, bars, duration, histogram
from evalbox.grade.grader import Grading
from evalbox.grade.markup import Html, document, element, head, join
from evalbox.grade.verdict import Cause, Graded
from evalbox.grade.words import counted, printable

SLOWEST: Final = 12
ROWS_PER_CAUSE: Final = 200
_CSS: Final = Path(__file__).with_name("report.css")
_NO_REFERRER: Final = element("meta", name="referrer", content="no-referrer")


def check_writable(path: Path) -> None:
    """Tries what `write_report` will do, and changes nothing.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        tempfile.TemporaryFile(dir=path.parent).close()


def write_report(path: Path, grading: Grading, title: str, notes: Sequence[str] = ()) -> None:
    """Writes the page; `notes` are lines under its title.

    Raises:
        OSError: the file cannot be written.
    """
    page = render(grading, title, datetime.now(UTC), notes)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def render(grading: Grading, title: str, when: datetime, notes: Sequence[str] = ()) -> str:
    """The page as text; `title` says what was graded."""
    title = printable(title)
    told = [f"Partial: {grading.partial}.", *notes] if grading.partial else notes
    css = _CSS.read_text(encoding="utf-8")
    return document(
        head(f"{title}: grading report", css, _NO_REFERRER),
        element(
            "body",
            element(
                "header",
                element("h1", "Grading report"),
                element("p", f"{title}, {when:%Y-%m-%d %H:%M} UTC", class_="soft"),
                *(element("p", printable(note)) for note in told),
            ),
            element("main", _figures(grading), *_charts(grading), *_failures(grading)),
        ),
    )


def _figures(grading: Grading) -> Html:
    total, passed = len(grading.samples), grading.counts.get(Cause.PASSED, 0)
    solved = len({sample.task_id for sample in grading.samples if sample.passed})
    figures = [
        *((f"pass@{k}", f"{value:.1%}") for k, value in grading.estimate.values.items()),
        ("samples passed", f"{passed} of {total}"),
        ("tasks solved", f"{solved} of {grading.attempted}"),
        ("runs per second", f"{grading.runs_per_second:.1f}"),
        ("all together", duration(grading.elapsed)),
    ]
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in figures),
        class_="figures",
    )


# ---- charts -------------------------------------------------------------------


def _charts(grading: Grading) -> list[Html]:
    if not grading.samples:
        return [element("p", "No samples were graded.")]
    outcomes, times, slowest = _outcomes(grading), _times(grading), _slowest(grading)
    return [element("div", outcomes, times, class_="charts"), slowest]


def _section(heading: str, chart: Html, *caption: str) -> Html:
    figure = element("figure", chart, element("figcaption", *caption))
    return element("section", element("h2", heading), figure)


def _outcomes(grading: Grading) -> Html:
    total = len(grading.samples)
    rows = [
        Bar(
            f"{_name(cause)} ({cause.word})",
            count / total,
            f"{count} · {count / total:.1%}",
            cause.word,
        )
        for cause, count in grading.counts.items()
    ]
    shown = f"{counted(total, 'sample')} by cause; a whole bar would be all of them."
    return _section("Outcomes", bars("How the samples ended", rows), shown)


def _times(grading: Grading) -> Html:
    passed = [sample.wall_time for sample in grading.samples if sample.passed]
    failed = [sample.wall_time for sample in grading.samples if not sample.passed]
    ordered = sorted([*passed, *failed])
    told = (
        f"Wall time per sample, start of the interpreter included. Median"
        f" {duration(_quantile(ordered, 0.5))}, 95th percentile"
        f" {duration(_quantile(ordered, 0.95))}, longest {duration(ordered[-1])}."
    )
    keys = element(
        "p",
        element("span", "passed", class_="key AC"),
        element("span", "failed", class_="key WA"),
    )
    chart = histogram(f"How long the samples took. {told}", passed, failed)
    return _section("Time", chart, told, keys)


def _slowest(grading: Grading) -> Html:
    slowest = heapq.nlargest(SLOWEST, grading.samples, key=lambda sample: sample.wall_time)
    longest = slowest[0].wall_time or 1.0
    rows = [
        Bar(
            sample.label or _attempt(sample),
            sample.wall_time / longest,
            f"{duration(sample.wall_time)} · {sample.cause.word}",
            sample.cause.word,
        )
        for sample in slowest
    ]
    shown = f"The {len(rows)} slowest of {counted(len(grading.samples), 'sample')}."
    return _section("Slowest samples", bars("The slowest samples", rows), shown)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


# ---- failures -----------------------------------------------------------------


def _failures(grading: Grading) -> list[Html]:
    causes = [cause for cause in grading.counts if cause is not Cause.PASSED]
    if not causes:
        return []
    tables = [_table(cause, grading) for cause in causes]
    return [element("section", element("h2", "Failures"), *tables)]


def _table(cause: Cause, grading: Grading) -> Html:
    count = grading.counts[cause]
    of_cause = (sample for sample in grading.samples if sample.cause is cause)
    rows = [_row(sample) for sample in _first(ROWS_PER_CAUSE, of_cause)]
    head = [element("th", text, scope="col") for text in ("Sample", "First line")]
    head.append(element("th", "Time", scope="col", class_="number"))
    return join(
        element(
            "h3",
            element("span", cause.word, class_=f"badge {cause.word}"),
            f" {_name(cause)}: {count}",
        ),
        element("table", element("thead", element("tr", *head)), element("tbody", *rows)),
        _left_out(len(rows), count),
    )


def _row(sample: Graded) -> Html:
    return element(
        "tr",
        element("th", *_names(sample), scope="row"),
        element("td", element("code", sample.detail or "-", dir="auto"), class_="line"),
        element("td", duration(sample.wall_time), class_="number"),
    )


def _left_out(shown: int, count: int) -> Html:
    if shown == count:
        return join()
    told = f"The first {shown} of {count} are shown; the output of --json has all of them."
    return element("p", told, class_="soft")


def _first(count: int, samples: Iterable[Graded]) -> list[Graded]:
    return [sample for _, sample in zip(range(count), samples, strict=False)]


def _names(sample: Graded) -> list[Html]:
    if not sample.label:
        return [element("div", _attempt(sample))]
    return [element("div", sample.label), element("div", _attempt(sample), class_="soft")]


def _attempt(sample: Graded) -> str:
    return printable(f"{sample.task_id} #{sample.number}")


def _name(cause: Cause) -> str:
    return cause.value.replace("_", " ")
