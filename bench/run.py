"""What a sandboxed run costs, as ratios to the cheapest possible run.

Prints tables and writes bench/results/DATE.html with all of them and with charts,
and DATE.json beside it with every round.  Absolute figures of two machines or two
days cannot be compared; ratios can, with care.

    python bench/run.py [--quick] [--only latency,host] [--readme]
    python bench/run.py --show bench/results/DATE.json [--readme]
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path

import contestants
import crowd
import evalbox
import figure
import host
import machine
import page
import peers
import results
import steps
import tables
import warm
from contestants import Contestant, tiers
from measure import Program, Rounds, Settings
from results import Results

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
FIGURE = HERE.parent / "docs" / "bench.svg"
# What the README's figures are made from.
KEPT = HERE.parent / "docs" / "bench.json"
DESCRIPTORS = 8192
PARTS = ("latency", "throughput", "scale", "crowd", "cpu", "host", "warm", "steps")

QUICK = Settings(rounds=5, at_once=(1, 8, 64), scale=0.25, alive=(10, 100))
FULL = Settings(rounds=15, at_once=(1, 8, 64, 256, 1000), scale=1.0, alive=(1, 10, 100, 1000))


def programs(bare: Path) -> list[Program]:
    # The interpreter itself and not the virtual environment's link to it: every
    # contestant starts the same file.
    python = os.path.realpath(sys.executable)
    return [
        Program("/bin/true", ("/bin/true",), 40, 1000),
        Program("no-libc true", (str(bare),), 40, 64),
        Program("python3 -c pass", (python, "-c", "pass"), 6, 64),
    ]


def run_parts(parts: list[str], how: Settings, asked: argparse.Namespace, folder: Path) -> Results:
    floor_path, bare = contestants.build(folder)
    floor = contestants.Floor(floor_path)
    every = programs(bare)
    found = Results()
    rounds = Rounds(found.notes)
    if why_not := evalbox.host().namespaces.why_not:
        rounds.note(f"there are no namespaces here: {why_not}")
    against_others(found, rounds, parts, how, asked.peers, floor, every)
    if "crowd" in parts:
        counts = sorted({1, *how.alive})
        found.parts["crowd"] = crowd.measure(rounds, tiers(), counts, how.rounds)
    if "host" in parts:
        found.parts["host"] = host.host_size(rounds, floor, every[0], how, asked.host_gb)
    if "steps" in parts:
        found.steps = steps.profile(how.rounds)
    if "warm" in parts:
        if warm.exists():
            warm.measure(found, rounds, how)
        else:
            rounds.note("this evalbox has no Template: nothing of warm interpreters is measured")
    return found


def against_others(
    found: Results,
    rounds: Rounds,
    parts: list[str],
    how: Settings,
    wanted: frozenset[str] | None,
    floor: Contestant,
    every: list[Program],
) -> None:
    """The parts in which one executor of ours runs against everything else."""
    others, absent = peers.find(wanted)
    found.peers = peer_facts(absent)
    with evalbox.Executor() as executor:
        own: list[Contestant] = [floor, contestants.Subprocess(), *contestants.evalboxes(executor)]
        field = [*own, *others]
        if "latency" in parts:
            found.parts["latency"] = rounds.latency(field, every, how)
        if "throughput" in parts:
            found.parts["throughput"] = rounds.throughput(field, every, how)
        if "scale" in parts:
            # With a limit of memory it is that which says how many may start at once.
            free = contestants.evalboxes(executor, evalbox.Limits(memory=None))
            found.parts["scale"] = rounds.alive_together([*own[:2], *free], how)
        if "cpu" in parts:
            for who in own[1:]:
                found.cpu[who.name] = host.cpu_per_run(who, every[0], how)


def peer_facts(absent: dict[str, str]) -> list[dict[str, str]]:
    return [
        {
            "name": peer.name,
            "confines": peer.confines,
            "leaves": peer.leaves,
            "why_absent": absent.get(peer.name, ""),
        }
        for peer in peers.PEERS
    ]


def arguments(line: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a look, not a result: few rounds")
    add("--rounds", type=int, help="rounds of interleaved measurements")
    add("--only", default=",".join(PARTS), help="parts, separated by commas")
    add("--peers", type=_names, help="other sandboxes, separated by commas; usually all there are")
    add("--host-gb", type=float, default=host.usual_size(), help="size of the large host")
    add(
        "--readme",
        action="store_true",
        help="write the README's table, docs/bench.svg and docs/bench.json",
    )
    add("--show", type=Path, metavar="JSON", help="measure nothing; show what was stored")
    return parser.parse_args(line)


def _names(text: str) -> frozenset[str]:
    return frozenset(filter(None, text.split(",")))


def measured(asked: argparse.Namespace, parts: list[str]) -> Results:
    allow_descriptors()
    usual = QUICK if asked.quick else FULL
    how = Settings(asked.rounds or usual.rounds, usual.at_once, usual.scale, usual.alive)
    facts = {
        "date": f"{results.now():%Y-%m-%d %H:%M} UTC",
        "evalbox": evalbox.__version__,
        "rounds": how.rounds,
        "quick": asked.quick,
        "host_gb": asked.host_gb,
        "machine": machine.describe(),
    }
    with tempfile.TemporaryDirectory() as folder:
        # The sandboxed program runs under a uid of its own and must reach its file.
        Path(folder).chmod(0o755)
        found = run_parts(parts, how, asked, Path(folder))
    found.facts = facts
    found.facts["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    return found


def for_readme(found: Results, text: str) -> tuple[str, str]:
    """The README with table and chart of these results, and the chart."""
    shown = f"{tables.readme_table(found)}\n![{figure.TITLE}](docs/bench.svg)"
    return tables.replace_between_marks(text, shown), figure.readme_figure(found)


def write_readme(found: Results) -> None:
    readme, drawn = for_readme(found, README.read_text(encoding="utf-8"))
    README.write_text(readme, encoding="utf-8")
    FIGURE.write_text(drawn, encoding="utf-8")
    results.store(found, KEPT)


def allow_descriptors() -> None:
    """Enough for a thousand at once, of evalbox and of subprocess."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))


def _near(path: Path) -> str:
    """As it is called from here."""
    return os.path.relpath(path)


def main() -> None:
    asked = arguments()
    parts = asked.only.split(",")
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise SystemExit(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if asked.show:
        found, written = results.load(asked.show), asked.show
    else:
        found = measured(asked, parts)
        name = f"{'quick-' if asked.quick else ''}{results.now():%Y-%m-%d-%H%M}.json"
        written = RESULTS / name
        results.store(found, written)
    if asked.readme and "latency" not in found.parts:
        raise SystemExit("--readme writes what the part latency found, which is not there")
    shown = RESULTS / f"{written.stem}.html"
    RESULTS.mkdir(exist_ok=True)
    shown.write_text(page.render(found), encoding="utf-8")
    print(tables.report(found))
    print(f"{found.facts['rounds']} rounds; see {_near(shown)}, made from {_near(written)}")
    if asked.readme:
        write_readme(found)


if __name__ == "__main__":
    main()
