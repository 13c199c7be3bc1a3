"""What a sandbox leaves within reach, measured by the same program in each.

    PYTHONPATH=.:tests python3 -m security.exposure [--write]

prints the table; with --write, puts it into docs/security-model.md.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import bpf
import evalbox
from evalbox import File, Syscalls
from evalbox._native import filter_program
from evalbox.compile.seccomp import ALLOW
from evalbox.compile.syscalls import effective_spec, filter_specs
from evalbox.policy import Policy

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs" / "security-model.md"
BEGIN, END = "<!-- exposure: begin -->\n", "<!-- exposure: end -->\n"
BWRAP = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all")

Figures = dict[str, str]


@cache
def probe() -> bytes:
    """exposure.c, compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc") or "clang"
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "probe")
        flags = ["-O1", "-static", "-w"]
        subprocess.run([compiler, *flags, HERE / "exposure.c", "-o", program], check=True)
        return program.read_bytes()


def _figures(text: str) -> Figures:
    pairs = (line.split(maxsplit=1) for line in text.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def with_command(*prefix: str) -> Figures:
    """Of a tool that starts a command, or of nothing at all."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        program = Path(folder, "probe")
        program.write_bytes(probe())
        program.chmod(0o755)
        command = [*prefix, str(program)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return _figures(done.stdout)


def with_evalbox(policy: Policy) -> Figures:
    output = evalbox.run(
        ["./probe"], files={"probe": File(probe(), executable=True)}, policy=policy, timeout=120
    )
    figures = _figures(output.check().text)
    return {**figures, **_status(policy), "path": str(longest_path(policy))}


def _status(policy: Policy) -> Figures:
    """What the kernel says of a program, where it may look."""
    shown = Policy(isolation=policy.isolation, read=["/proc"], require=())
    text = evalbox.run(["/bin/cat", "/proc/self/status"], policy=shown).check().text
    return _figures(text.replace(":", ""))


def longest_path(policy: Policy) -> int:
    """Instructions that the filters run at most for one call."""
    specs = filter_specs(policy, arch=platform.machine(), identity="ordinary")
    return sum(_longest(filter_program(spec)) for spec in specs if spec is not None)


def _longest(program: bytes) -> int:
    insns = bpf.disassemble(program)
    steps = [0] * len(insns)
    # Jumps only lead forward.
    for at in reversed(range(len(insns))):
        insn = insns[at]
        if insn.code == bpf.RETURN:
            after = []
        elif insn.code == bpf.JUMP:
            after = [at + 1 + insn.k]
        elif insn.code in bpf.COMPARES:
            after = [at + 1 + insn.jt, at + 1 + insn.jf]
        else:
            after = [at + 1]
        steps[at] = 1 + max((steps[to] for to in after), default=0)
    return steps[0]


def in_table(policy: Policy) -> int:
    """System calls that are let through with some arguments at least."""
    rules = effective_spec(policy, arch=platform.machine(), identity="ordinary").rules
    return sum(ALLOW in rule.verdict.actions for rule in rules)


def _policy(isolation: str, syscalls: Syscalls | None = None) -> Policy:
    chosen = syscalls or Syscalls()
    return Policy(isolation=isolation, syscalls=chosen, require=())  # type: ignore[arg-type]


# `compute` denies fork, which the program that measures needs: its table counts.
SANDBOXES: dict[str, Callable[[], Figures]] = {
    "none": with_command,
    "bubblewrap": lambda: with_command(*BWRAP),
    "evalbox, process": lambda: with_evalbox(_policy("process")),
    "evalbox, namespace": lambda: with_evalbox(_policy("namespace")),
}
MEASURES: dict[str, Callable[[Figures], str]] = {
    "system calls 0-600 that are answered without denial": lambda seen: seen["answered"],
    "instructions of the filter, longest path": lambda seen: seen.get("path", "no filter"),
    "open descriptors at the start": lambda seen: seen["descriptors"],
    "capabilities": lambda seen: str(int(seen["CapPrm"], 16).bit_count()),
    "capabilities that an execve could give": lambda seen: str(int(seen["CapBnd"], 16).bit_count()),
    "processes to be seen": lambda seen: seen["processes"],
    "entries of /etc": lambda seen: seen["etc"],
    "entries of /dev": lambda seen: seen["dev"],
}


def available() -> dict[str, Callable[[], Figures]]:
    missing = set()
    if not shutil.which("bwrap"):
        missing.add("bubblewrap")
    if evalbox.host().namespaces.why_not:
        missing.add("evalbox, namespace")
    return {name: seen for name, seen in SANDBOXES.items() if name not in missing}


def table() -> str:
    columns = {name: seen() for name, seen in available().items()}
    lines = [
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for title, value in MEASURES.items():
        lines.append(f"| {title} | {' | '.join(map(value, columns.values()))} |")
    default, compute = in_table(_policy("auto")), in_table(_policy("auto", Syscalls.compute()))
    lines += [
        "",
        f"With some arguments at least, evalbox lets {default} system calls through.",
        f"With `Syscalls.compute()` it is {compute}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite the table in the docs")
    asked = parser.parse_args()
    text = table()
    print(text)
    if asked.write:
        page = PAGE.read_text(encoding="utf-8")
        before, begin, rest = page.partition(BEGIN)
        _, end, after = rest.partition(END)
        assert end, f"{PAGE.name} has lost the marks of its table"
        PAGE.write_text(before + begin + text + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
