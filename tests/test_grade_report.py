"""The report: one file that asks for nothing and shows hostile text as text."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalbox.grade import Cause, Graded, Grading, summarize
from evalbox.grade.chart import Bar, bars, duration, histogram
from evalbox.grade.markup import element, style
from evalbox.grade.report import ROWS_PER_CAUSE, SLOWEST, render, write_report
from evalbox.grade.words import printable
from grade_fakes import graded

WHEN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'><img src=//evil.example/x onerror=alert(1)>&amp;"
NEVER = {"script", "iframe", "img", "link", "object", "embed", "base", "form", "image", "use", "a"}
VOID = {"meta", "rect", "line"}


class Page(HTMLParser):
    """Reads a page and keeps what the tests ask about; unbalanced tags are an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text_of(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]


def grading(*samples: Graded) -> Grading:
    return summarize(samples, problems=164, ks=(1,), elapsed=4.0, jobs=2)


MIXED = grading(
    graded(),
    graded(Cause.WRONG_ANSWER, task_id=HOSTILE, detail=HOSTILE, wall_time=0.5),
    graded(Cause.WALL_TIME, detail="no verdict within 5 s", wall_time=5.01),
)


def page_of(what: Grading = MIXED, title: str = "samples.jsonl") -> Page:
    return Page(render(what, title, WHEN))


def test_hostile_text_is_shown_as_text() -> None:
    page = page_of(title=HOSTILE)
    assert HOSTILE in page.text_of("code")
    assert not NEVER & set(page.tags)
    assert not [item for item in page.attributes if item[1].startswith("on")]


def test_it_asks_for_nothing_from_anywhere() -> None:
    page = page_of()
    text = render(MIXED, "samples.jsonl", WHEN)
    names = {name for _, name, _ in page.attributes}
    assert not names & {"src", "href", "xlink:href", "style", "action", "data", "srcset"}
    sheet = "".join(page.text_of("style"))
    assert "url(" not in sheet
    assert "@import" not in sheet
    shown = html.escape(HOSTILE)
    assert "//" not in text.replace(shown, "").replace(html.escape(HOSTILE[:37]), "")


def test_its_policy_forbids_all_but_its_own_sheet() -> None:
    page = page_of()
    sheet = "".join(page.text_of("style"))
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policies = [value for _, name, value in page.attributes if name == "content" and "src" in value]
    assert policies == [
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]


def test_it_is_made_for_phones_and_the_dark_and_paper() -> None:
    page = page_of()
    sheet = "".join(page.text_of("style"))
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes
    assert "@media (prefers-color-scheme: dark)" in sheet
    assert "@media print" in sheet
    assert "overflow-wrap: anywhere" in sheet


def test_every_chart_has_a_name_and_every_table_its_headers() -> None:
    page = page_of()
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == page.tags["svg"] == 3
    assert all(labels)
    scopes = [value for tag, name, value in page.attributes if (tag, name) == ("th", "scope")]
    assert len(scopes) == page.tags["th"]
    assert ("html", "lang", "en") in page.attributes


def test_it_tells_the_figures_and_the_failures() -> None:
    page = page_of()
    assert page.text_of("dd") == ["25.0%", "1 of 3", "1 of 2", "0.8", "4 s"]
    assert "no verdict within 5 s" in page.text_of("code")
    assert "passed (AC)" in page.text_of("text")
    assert "5.01 s · TLE" in page.text_of("text")


def test_a_label_stands_beside_the_task_and_is_text() -> None:
    named = grading(graded(Cause.WRONG_ANSWER, label=HOSTILE))
    page = page_of(named)
    assert HOSTILE in page.text_of("div")
    assert "Small/0 #0" in page.text_of("div")
    assert not NEVER & set(page.tags)


def test_a_label_is_in_the_json_only_when_there_is_one() -> None:
    assert "label" not in graded().to_dict()
    assert graded(label="loops").to_dict()["label"] == "loops"


def test_notes_stand_under_the_title_and_are_text() -> None:
    page = Page(render(MIXED, "samples.jsonl", WHEN, ["43 on purpose", HOSTILE]))
    assert {"43 on purpose", HOSTILE} <= set(page.text_of("p"))
    assert not NEVER & set(page.tags)


def test_a_partial_grading_says_so_and_another_does_not() -> None:
    told = "Partial: interrupted after 3 of 10 samples."
    assert told in page_of(replace(MIXED, left=7)).text_of("p")
    assert told not in page_of().text_of("p")


def test_all_passed_shows_no_failures() -> None:
    assert "Failures" not in page_of(grading(graded())).text_of("h2")


def test_nothing_graded_is_still_a_page() -> None:
    assert "No samples were graded." in page_of(grading()).text_of("p")


def test_twenty_thousand_samples_make_a_small_page_that_says_what_it_leaves_out() -> None:
    causes = [Cause.PASSED, Cause.WRONG_ANSWER, Cause.RUNTIME_ERROR]
    many = [graded(causes[n % 3], number=n, detail="x" * 300 * (n % 3)) for n in range(20_000)]
    text = render(grading(*many), "samples.jsonl", WHEN)
    page = Page(text)
    assert len(text) < 500_000
    assert page.tags["tr"] == 2 * (ROWS_PER_CAUSE + 1)
    left_out = (
        f"The first {ROWS_PER_CAUSE} of 6667 are shown; the output of --json has all of them."
    )
    assert left_out in page.text_of("p")
    assert f"The {SLOWEST} slowest of 20000 samples." in page.text_of("figcaption")


@given(detail=st.text(st.characters(exclude_categories=())), task=st.text())
def test_no_text_breaks_the_page(detail: str, task: str) -> None:
    one = graded(Cause.RUNTIME_ERROR, task_id=task, detail=printable(detail))
    page = page_of(grading(one), title=task)
    assert page.tags["tr"] == 2
    assert not NEVER & set(page.tags)


def test_it_is_written_as_utf8(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, grading(graded(Cause.WRONG_ANSWER, detail="é ü")), "s.jsonl")
    assert "é ü" in path.read_text(encoding="utf-8")


# ---- charts -------------------------------------------------------------------


def widths(chart: str) -> list[float]:
    return [float(width) for width in re.findall(r'width="([\d.]+)%"[^>]*class="bar', chart)]


@given(st.lists(st.floats(1e-5, 1e4), max_size=50), st.lists(st.floats(1e-5, 1e4), max_size=50))
def test_a_histogram_counts_every_value_inside_the_page(
    passed: list[float], failed: list[float]
) -> None:
    chart = histogram("times", passed, failed)
    told = {html.unescape(text) for text in re.findall(r"<title>([^<]* to [^<]*)</title>", chart)}
    counts = [re.search(r": (\d+) passed, (\d+) failed", text) for text in told]
    assert sum(int(match[1]) for match in counts if match) == len(passed)
    assert sum(int(match[2]) for match in counts if match) == len(failed)
    places = [float(place) for place in re.findall(r'\bx="([\d.-]+)%"', chart)]
    assert all(0 <= place <= 100 for place in places)
    assert all(0 < width <= 20 for width in widths(chart))


def test_a_bar_is_as_wide_as_its_share_and_a_short_one_is_seen() -> None:
    shares = {"AC": 1.0, "WA": 0.25, "RE": 0.0001, "IE": 0.0}
    chart = bars("b", [Bar("a", share, "", tone) for tone, share in shares.items()])
    assert widths(chart) == [100.0, 25.0, 0.6, 0.0]


def test_the_bar_of_an_outcome_is_as_wide_as_its_percentage() -> None:
    causes = [Cause.PASSED] * 5 + [Cause.WRONG_ANSWER] * 2 + [Cause.WALL_TIME]
    text = render(grading(*map(graded, causes)), "samples.jsonl", WHEN)
    outcomes = text[: text.index("</svg>")]
    assert widths(outcomes) == [62.5, 25.0, 12.5]
    for told in ("5 · 62.5%", "2 · 25.0%", "1 · 12.5%"):
        assert told in outcomes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.0431, "43.1 ms"), (0.9999, "1 s"), (1.234, "1.23 s"), (1234.5, "1234 s")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ---- markup -------------------------------------------------------------------


def test_only_markup_made_here_is_not_escaped() -> None:
    inner = element("b", "<i>")
    assert (
        element("p", inner, "<i>", title='"') == '<p title="&quot;"><b>&lt;i&gt;</b>&lt;i&gt;</p>'
    )


def test_a_sheet_that_could_end_its_element_is_refused() -> None:
    with pytest.raises(ValueError, match="could end"):
        style("</style>")
