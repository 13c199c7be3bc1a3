"""What a sandboxed run costs, as ratios to the cheapest possible run.

Printed is the median of the rounds' ratios with quartiles. Absolute figures of
two machines or two days cannot be compared; ratios can, with care.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import contestants
import evalbox
import measure
import tables
from contestants import Contestant
from measure import Program, Results, Settings

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
PARTS = ("latency", "throughput", "cpu", "host")

QUICK = Settings(rounds=5, at_once=(8, 64), scale=0.25)
FULL = Settings(rounds=15, at_once=(8, 64, 256), scale=1.0)


@dataclass(slots=True)
class Report:
    """What the chosen parts found; a part that was not chosen stays empty."""

    latency: Results = field(default_factory=dict)
    throughput: Results = field(default_factory=dict)
    host: Results = field(default_factory=dict)
    cpu: dict[str, dict[str, float]] = field(default_factory=dict)

    def one_after_the_other(self) -> str:
        """The table that fits the README; the others are for who measures."""
        title = "One after the other: times the floor (quartiles), median"
        return tables.ratio_table(title, self.latency, "us")

    def text(self) -> str:
        blocks = [self.one_after_the_other()] if self.latency else []
        blocks += [
            tables.ratio_table(title, results, unit)
            for title, results, unit in (
                (
                    "Many at once: share of the floor's runs per second (quartiles)",
                    self.throughput,
                    "/s",
                ),
                (
                    "/bin/true from hosts of two sizes: times the floor (quartiles)",
                    self.host,
                    "us",
                ),
            )
            if results
        ]
        if self.cpu:
            blocks.append(tables.cpu_table("CPU of one run in us, 8 at once", self.cpu))
        return "\n".join(blocks)

    def as_json(self, settings: Settings) -> dict[str, object]:
        return {
            "schema_version": 1,
            "machine": tables.machine(),
            "evalbox": evalbox.__version__,
            "rounds": settings.rounds,
            "latency_us": tables.as_json(self.latency),
            "throughput_per_second": tables.as_json(self.throughput),
            "host_size_us": tables.as_json(self.host),
            "cpu_us_per_run": self.cpu,
        }


def programs(bare: Path) -> list[Program]:
    # The interpreter itself and not the virtual environment's link to it: every
    # contestant starts the same file.
    python = os.path.realpath(sys.executable)
    return [
        Program("/bin/true", ("/bin/true",), 40),
        Program("no-libc true", (str(bare),), 40),
        Program("python3 -c pass", (python, "-c", "pass"), 6),
    ]


def run_parts(parts: list[str], settings: Settings, folder: Path) -> Report:
    floor_path, bare = contestants.build(folder)
    floor = contestants.Floor(floor_path)
    every = programs(bare)
    bwrap = contestants.bubblewrap()
    report = Report()
    with evalbox.Executor() as executor:
        ours = contestants.evalboxes(executor)
        plain: Contestant = contestants.Subprocess()
        entered: list[Contestant] = [floor, plain, *ours, *([bwrap] if bwrap else [])]
        if "latency" in parts:
            report.latency = measure.latency(entered, every, settings)
        if "throughput" in parts:
            report.throughput = measure.throughput(entered, every, settings)
        if "cpu" in parts:
            for who in (plain, *ours):
                report.cpu[who.name] = measure.cpu_per_run(who, every[0], settings)
    if "host" in parts:
        report.host = measure.host_size(floor, every[0], settings)
    return report


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, not a result: few rounds")
    parser.add_argument("--rounds", type=int, help="rounds of interleaved measurements")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--readme", action="store_true", help="write the first table to README.md")
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    parts = asked.only.split(",")
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if asked.readme and "latency" not in parts:
        raise SystemExit("--readme writes the table of the part latency, which is not asked for")
    usual = QUICK if asked.quick else FULL
    settings = Settings(asked.rounds or usual.rounds, usual.at_once, usual.scale)
    with tempfile.TemporaryDirectory() as folder:
        # The sandboxed program runs under a uid of its own and must reach its file.
        Path(folder).chmod(0o755)
        report = run_parts(parts, settings, Path(folder))
    print(report.text())
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    RESULTS.mkdir(exist_ok=True)
    written = RESULTS / f"{'quick-' if asked.quick else ''}{today}.json"
    written.write_text(json.dumps(report.as_json(settings), indent=1) + "\n", encoding="utf-8")
    print(f"{settings.rounds} rounds; written to {written.relative_to(HERE.parent)}")
    if asked.readme:
        page = README.read_text(encoding="utf-8")
        fresh = tables.replace_between_marks(page, report.one_after_the_other())
        README.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
