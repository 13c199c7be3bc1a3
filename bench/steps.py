"""What a run costs by step, in microseconds and as a share of the floor: `make profile`.

A launcher is built whose calls note their times (marks.c), and the methods of the
host that cost something per run are wrapped to do the same; `timeline` makes steps
of both.  The sources are those of the package, and so is the state in which each
step runs.  The notes cost time too: the same runs with the ordinary launcher and
host are measured in turn, and the table says by how much the marked ones are slower.
A program that exits at once (nolibc_true.c) leaves what is ours.

    python bench/steps.py [--rounds 15] [--program /bin/true]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import mmap
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import contestants
import evalbox
import tables
import timeline
from contestants import expect_ok, tiers
from evalbox._syscall_table import NUMBERS
from timeline import BrokenError, Point, Side

ROOT = Path(__file__).resolve().parent.parent
# What the launcher's files call; --wrap of one that they no longer call does nothing.
CALLS = tuple(
    "syscall calloc chdir chmod clone close closedir dup2 dup3 eb_cgroup_clone execve faccessat"
    " fchdir fchmod fchmodat fchown fcntl fdopendir fork free fstat fstatat fstatfs ftruncate"
    " futimens getdents64 getppid getrlimit ioctl kill lseek lstat memfd_create mkdirat mmap munmap"
    " open openat pipe2 poll ppoll prctl pread pwrite read recvmsg renameat2 rmdir sendmsg setpgid"
    " setrlimit setsid sigprocmask umask unlinkat wait4 waitpid write".split()
)
RAW = 1000
MOST = 65536
RUNS = 40  # per round and kind
RUN = "(own code)"
HEAD = struct.Struct("=Q")
MARK = struct.Struct("=QII")
# What of the host costs something per run; the module or class, its attribute, the step.
HOST = (
    ("evalbox._launch.kit:Kits", "of", "find the kit: program and policy"),
    ("evalbox._launch.kit:Kit", "enforcement", "what will be enforced"),
    ("evalbox._lifecycle:Life", "__init__", "state of the run"),
    ("evalbox.executor.fleet:Fleet", "take", "take a free init"),
    ("evalbox._launch", "_job_of", "encode the job"),
    ("evalbox._native.wire:Wire", "send_job", timeline.SEND),
    ("evalbox._native.wire:Wire", "wait", timeline.WAIT),
    ("evalbox._native.wire:Wire", "receive_report", "receive and decode the report"),
    ("evalbox._lifecycle:Life", "reported", "make the Output"),
    ("evalbox.executor.fleet:Fleet", "give_back", "give the init back"),
)
# What the calls of a step are for, where their names do not say it.
SAYS = {
    "start: open": "/dev/null, as stdin",
    "start: pipe2": "output of the program",
    "start: clone": "until the child makes its first call",
    "child: open": "oom_score_adj",
    "child: write": "enter cgroups, be preferred by the OOM killer",
    "child: dup2": "stdio",
    "child: execve": "until the program has its own memory",
    "watch: ppoll": "the program starts, runs and ends",
    "end: wait4": "its tree is gone",
    "end: getdents64": "whether it left files",
    "end: pread": "what its cgroups counted",
    "end: fchmod": "the workspace is ours again",
}
TOLD = (
    "One run of a program that exits at once, from the call of run() to its return. On the path:"
    " host, launcher with init and child, host."
    " Measured by marks in the ordinary code. What init does after its report"
    " delays only the next run."
)


def owner_of(place: str) -> Any:
    module, _, name = place.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def build_marked(folder: Path) -> tuple[Path, Path]:
    """A launcher with marks, and the file that they are written to."""
    sys.path.insert(0, str(ROOT / "csrc"))
    sources = importlib.import_module("sources")
    marks, program = folder / "marks", folder / "launcher"
    marks.write_bytes(bytes(HEAD.size + MOST * MARK.size))
    # Each init maps it, whatever its uid is by then.
    marks.chmod(0o666)
    names = [*sources.paths(sources.LAUNCHER), "bench/marks.c"]
    defined = f"-DMARKED(X)={' '.join(f'X({name})' for name in CALLS)}"
    flags = [*sources.STANDARD, "-O2", "-w", "-Icsrc", f'-DMARKS_FILE="{marks}"', defined]
    wraps = [f"-Wl,--wrap={name}" for name in CALLS]
    line = [contestants.compiler(), *flags, "-static", *names, *wraps, "-o", str(program)]
    subprocess.run(line, cwd=ROOT, check=True)
    return program, marks


class Marks:
    """The points that launcher, init and child have noted."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._names = {number: name for name, number in NUMBERS[platform.machine()].items()}

    def reset(self) -> None:
        HEAD.pack_into(self._map, 0, 0)

    def read(self) -> list[Point]:
        (count,) = HEAD.unpack_from(self._map, 0)
        marks = (MARK.unpack_from(self._map, HEAD.size + n * MARK.size) for n in range(count))
        return [Point(at, self._name(call), bool(is_end)) for at, call, is_end in marks]

    def _name(self, call: int) -> str:
        if call >= RAW:
            return self._names.get(call - RAW, f"system call {call - RAW}")
        return CALLS[call]


def marked_call(call: Callable[..., Any], name: str, points: list[Point]) -> Callable[..., Any]:
    now = time.monotonic_ns

    def marked(*args: Any, **fields: Any) -> Any:
        points.append(Point(now(), name, False))
        try:
            return call(*args, **fields)
        finally:
            points.append(Point(now(), name, True))

    return marked


@contextlib.contextmanager
def host_marks(points: list[Point]) -> Iterator[None]:
    """The methods of HOST note their times in `points`."""
    with contextlib.ExitStack() as undo:
        for place, attribute, name in HOST:
            owner = owner_of(place)
            real = getattr(owner, attribute)
            undo.callback(setattr, owner, attribute, real)
            setattr(owner, attribute, marked_call(real, name, points))
        yield


@contextlib.contextmanager
def another_launcher(program: Path) -> Iterator[None]:
    launchers: Any = importlib.import_module("evalbox._launch.launcher")
    before, launchers.PROGRAM = launchers.PROGRAM, program
    try:
        yield
    finally:
        launchers.PROGRAM = before


class Profile:
    """Runs of one plan, marked, unmarked and of the floor, in turn.

    Attributes:
        seen: of each run on its way: ns and calls by side and step.
        took: seconds of the runs by "floor", "plain" and "marked".
    """

    def __init__(self, floor: contestants.Floor, plan: evalbox.Plan, marks: Marks) -> None:
        self.floor, self.plan, self.marks = floor, plan, marks
        self.seen: list[dict[tuple[Side, str], tuple[int, int]]] = []
        self.took: dict[str, list[float]] = {"floor": [], "plain": [], "marked": []}
        self.broken = 0

    def measure(self, plain: evalbox.Executor, marked: evalbox.Executor, rounds: int) -> None:
        command = tuple(os.fsdecode(word) for word in self.plan.cmd)
        for number in range(-1, rounds):
            floor = self.floor.latencies(command, RUNS)
            once = [self._plain(plain) for _ in range(RUNS)]
            each = self._marked(marked)
            if number < 0:
                self.seen.clear()
                continue
            for name, times in (("floor", floor), ("plain", once), ("marked", each)):
                self.took[name].append(statistics.median(times))

    def _plain(self, executor: evalbox.Executor) -> float:
        return contestants.timed(lambda: expect_ok(executor.run(self.plan)))

    def _marked(self, executor: evalbox.Executor) -> list[float]:
        """Runs one close upon the other, as the others are; sorted out afterwards."""
        points: list[Point] = []
        self.marks.reset()
        with host_marks(points):
            run = marked_call(executor.run, RUN, points)
            for _ in range(RUNS):
                expect_ok(run(self.plan))
        # Init still has the end of the last one to do.
        time.sleep(0.005)
        runs = timeline.split(points, RUN)
        for host, launcher in timeline.matched(runs, self.marks.read()):
            try:
                self.seen.append(timeline.summed(timeline.stretches(host, launcher)))
            except BrokenError:
                self.broken += 1
        return [(run[-1].at - run[0].at) / 1e9 for run in runs]

    def told(self) -> dict[str, Any]:
        medians = {name: statistics.median(times) * 1e6 for name, times in self.took.items()}
        floor, plain, marked = medians["floor"], medians["plain"], medians["marked"]
        return {
            "rows": rows_of(self.seen, floor),
            "floor_us": round(floor, 2),
            "total_us": round(marked, 2),
            "unmarked_us": round(plain, 2),
            "runs": len(self.seen),
            "left_out": self.broken,
        }


def place(side: Side, name: str) -> int:
    """Where a step stands in the table: as in time, but all of the host together."""
    order = ("host", timeline.SENT, "launcher", timeline.REPORTED, "afterwards")
    return order.index(name if side == "between" else side)


def rows_of(
    seen: Sequence[dict[tuple[Side, str], tuple[int, int]]], floor_us: float
) -> list[dict[str, Any]]:
    """Means of the middle half of the runs, so that the steps add up to the whole."""
    whole = sorted(seen, key=lambda run: sum(ns for ns, _ in run.values()))
    middle = whole[len(whole) // 4 : max(1, len(whole) - len(whole) // 4)]
    if not middle:
        return []
    keys = dict.fromkeys(key for run in middle for key in run)
    means = {
        key: (
            statistics.fmean(run.get(key, (0, 0))[0] for run in middle) / 1000,
            statistics.median(run.get(key, (0, 0))[1] for run in middle),
        )
        for key in keys
    }
    rows = []
    for (side, name), (us, calls) in sorted(means.items(), key=lambda row: place(*row[0])):
        counted = f"{name} ×{calls:.0f}" if calls > 1 else name
        row = {"side": side, "step": counted, "says": SAYS.get(name, "")}
        rows.append({**row, "us": round(us, 2), "share_of_floor": round(us / floor_us, 4)})
    return rows


def profile(rounds: int, program: Path | None = None) -> dict[str, Any]:
    """What `results.Results.steps` holds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        floor, bare = contestants.build(folder)
        marked, marks = build_marked(folder)
        found = {}
        for tier in tiers():
            plan = evalbox.Plan([program or bare], policy=evalbox.Policy(isolation=tier))
            one = Profile(contestants.Floor(floor), plan, Marks(marks))
            with evalbox.Executor() as plain, evalbox.Executor() as other:
                plain.run(plan)
                with another_launcher(marked):
                    other.run(plan)
                one.measure(plain, other, rounds)
            found[tier] = one.told()
    return {"told": TOLD, "tiers": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench/steps.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--program", type=Path, help="another program that exits with 0")
    asked = parser.parse_args()
    found = profile(asked.rounds, asked.program)
    print(tables.step_tables(found, 0.001))


if __name__ == "__main__":
    main()
