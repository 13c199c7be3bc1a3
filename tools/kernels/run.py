"""Runs suites of the tests on Debian's kernels, emulated: run.py [--release 6.1] ...

Each kernel boots once as root and once as an ordinary user, and runs each suite of
SUITES inside. BUILD holds what tools/kernels/fetch and system.py made, and for each
machine (BUILD/6.1/root, ...) its disk, its console and the results as JUnit files.

Time inside is counted in instructions (-icount): a deadline there means the same
on a busy or slow machine as on a fast one. It needs no KVM and no root.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import needs

PROJECT = Path(__file__).resolve().parents[2]
BUILD = PROJECT / "build" / "kernels"
RELEASES = ("6.1", "6.12")
CALLERS = ("root", "user")
# What of the tests depends on the kernel. Each suite becomes one run of pytest.
SUITES = {
    "expected": ["tests/test_kernel_expectations.py"],
    # test_filter.py computes what filters answer, the same on every kernel.
    "core": ["-m", "core and not long", "--ignore=tests/test_filter.py", "tests"],
    "cgroups": ["tests/test_cgroups.py", "tests/test_cgroup_runs.py"],
    # The table in the docs is that of the newest ABI.
    "security": ["-k", "no_attack_succeeds", "tests/security/test_attacks.py"],
}
PYTEST = [
    # On the console stands which test is at work, and in the end what took the time.
    *("/venv/bin/python", "-m", "pytest", "-v", "--durations=12", "--color=no"),
    *("-p", "no:cacheprovider", "--timeout", "600"),
]
COMPILED = ("evalbox/_core.abi3.so", "evalbox/_launcher")
EMULATOR = "qemu-system-x86_64"
# QEMU before 9.1 makes the far returns of a program with the rights of the kernel, which
# SMAP answers with an oops: what a program does through other segments would prove nothing.
# The others are what takes the emulator longest: strings byte by byte, wide registers, and a
# fifth level of page tables.
CPU = "max,smap=off,erms=off,fsrm=off,avx=off,la57=off"
# One processor: with two and counted time, 6.1 does not come up.
QEMU = [
    *("-M", "pc,accel=tcg", "-cpu", CPU, "-smp", "1", "-m", "4G"),
    *("-icount", "shift=0", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"),
]
# Without randomised addresses the emulator need not translate the same code again for each
# process. Debian leaves out the vsyscall page, which is one more way to the kernel to attack.
BOOT = "console=ttyS0 root=/dev/nvme0n1 rw init=/init panic=-1 quiet norandmaps vsyscall=xonly"
# Of a machine on a host that has other work too.
PATIENCE = 3 * 3600.0


@dataclass(frozen=True, slots=True)
class Machine:
    """One kernel, one caller."""

    release: str
    caller: str

    @property
    def folder(self) -> Path:
        return BUILD / self.release / self.caller

    @property
    def disk(self) -> Path:
        return self.folder / "disk.ext4"


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of pytest came to; `broken` when it did not come to its end."""

    suite: str
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: int = 0
    seconds: float = 0.0
    broken: bool = False

    @property
    def ok(self) -> bool:
        return bool(self.passed) and not self.failed and not self.broken


# ---- before the boot -------------------------------------------------------------------


def pack_project(target: Path) -> None:
    """The working tree as git knows it, and the compiled parts."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    names = [name for name in listed.stdout.split("\0") if name and (PROJECT / name).exists()]
    with tarfile.open(target, "w") as archive:
        for name in (*names, *COMPILED):
            archive.add(PROJECT / name, name)


def job(suites: dict[str, list[str]]) -> str:
    """The shell script that runs the suites one after the other."""
    lines = ["export CI=true HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis"]
    # An interpreter takes a quarter of a second to start here, and there are thousands.
    lines += ["export EVALBOX_ACTS_AT_ONCE=20"]
    for name, arguments in suites.items():
        lines += [f"echo '==> {name}'"]
        lines += [shlex.join([*PYTEST, f"--junitxml=/results/{name}.xml", *arguments])]
    return "\n".join(lines) + "\n"


def debugfs(disk: Path, *commands: str, write: bool = False) -> None:
    """Changes or reads an ext4 image without mounting it, which would need root."""
    program = [needs.find("debugfs"), *(["-w"] if write else []), "-f", "-", disk]
    subprocess.run(program, input="\n".join(commands), check=True, capture_output=True, text=True)


def prepare(machine: Machine, suites: dict[str, list[str]]) -> None:
    folder = machine.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = ["cp", "--sparse=always", "--reflink=auto", BUILD / "root.ext4", machine.disk]
    subprocess.run(command, check=True)
    pack_project(folder / "project.tar")
    (folder / "job").write_text(job(suites), encoding="utf-8")
    names = [f"write {folder}/{name} {name}" for name in ("project.tar", "job")]
    debugfs(machine.disk, *names, write=True)


# ---- the boot, and what it left --------------------------------------------------------


def boot(machine: Machine) -> None:
    kernel = BUILD / machine.release / "vmlinuz"
    drive = f"if=none,id=disk,format=raw,cache=unsafe,file={machine.disk}"
    command = [needs.find(EMULATOR), *QEMU, "-kernel", kernel]
    command += ["-append", f"{BOOT} caller={machine.caller}"]
    command += ["-drive", drive, "-device", "nvme,serial=disk,drive=disk"]
    with (machine.folder / "console.txt").open("wb") as console:
        try:
            subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, timeout=PATIENCE
            )
        except subprocess.TimeoutExpired:
            console.write(b"\nthe machine did not end by itself\n")


def collect(machine: Machine, suites: dict[str, list[str]]) -> list[Result]:
    debugfs(machine.disk, f"rdump /results {machine.folder}")
    machine.disk.unlink()
    results = machine.folder / "results"
    release = results / "release"
    if not release.exists():
        return [Result(suite, broken=True) for suite in suites]
    found = release.read_text(encoding="ascii")
    if not found.startswith(machine.release + "."):
        raise SystemExit(f"{machine.release} was to be booted, and {found.strip()} was")
    return [read_junit(suite, results / f"{suite}.xml") for suite in suites]


def read_junit(suite: str, path: Path) -> Result:
    if not path.exists():
        return Result(suite, broken=True)
    (root,) = ElementTree.parse(path).getroot()  # noqa: S314  # pytest wrote it
    failed, skipped = [], 0
    cases = list(root.iter("testcase"))
    for case in cases:
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif case.find("skipped") is not None:
            skipped += 1
    passed = len(cases) - len(failed) - skipped
    return Result(suite, passed, tuple(failed), skipped, float(root.get("time", 0)))


# ---- the whole -------------------------------------------------------------------------


def run(machine: Machine, suites: dict[str, list[str]]) -> bool:
    started = time.monotonic()
    prepare(machine, suites)
    boot(machine)
    results = collect(machine, suites)
    for result in results:
        print(
            f"{machine.release:5} {machine.caller:5} {result.suite:10}"
            f" {result.passed:5} passed {len(result.failed):4} failed {result.skipped:3} skipped"
            f" {result.seconds:7.1f} s inside{' BROKEN' if result.broken else ''}"
        )
        for name in result.failed:
            print(f"    failed: {name}")
    print(f"{machine.release:5} {machine.caller:5} {time.monotonic() - started:.0f} s", flush=True)
    ok = all(result.ok for result in results)
    if not ok:
        print(f"see {machine.folder / 'console.txt'}", flush=True)
    return ok


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="run the tests on emulated kernels")
    parser.add_argument("--release", action="append", choices=RELEASES)
    parser.add_argument("--caller", action="append", choices=CALLERS)
    parser.add_argument("--suite", action="append", choices=tuple(SUITES))
    parser.add_argument("pytest", nargs="*", help="a suite of its own: arguments of pytest")
    return parser.parse_args()


def main() -> int:
    wanted = arguments()
    for program in (EMULATOR, "debugfs"):
        needs.find(program)
    suites = {name: SUITES[name] for name in wanted.suite or SUITES}
    if wanted.pytest:
        suites = {"given": wanted.pytest}
    machines = [
        Machine(release, caller)
        for release in wanted.release or RELEASES
        for caller in wanted.caller or CALLERS
    ]
    failed = [machine for machine in machines if not run(machine, suites)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
