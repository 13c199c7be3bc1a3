#!/usr/bin/env python3
"""Writes evalbox/_syscall_table.py from the kernel's own headers.

    tools/syscall_table.py > evalbox/_syscall_table.py     (needs gcc and linux-libc-dev)

x86_64 comes from asm/unistd_64.h, aarch64 from asm-generic/unistd.h with the
choices of arch/arm64/include/uapi/asm/unistd.h. What the kernel got after the
release of the installed headers stands in LATER; headers that disagree with
it are an error, so a slip there does not survive the next release.
"""

from __future__ import annotations

import re
import subprocess
import sys

# Since Linux 5.1 a new system call has one number on all architectures:
# scripts/syscall.tbl and arch/x86/entry/syscalls/syscall_64.tbl, Linux 7.0.
LATER = {
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
    "listns": 470,
    "rseq_slice_yield": 471,
}
LATER_X86_64 = {"uretprobe": 335, "uprobe": 336}

HEADERS = {
    "x86_64": ("asm/unistd_64.h", ()),
    "aarch64": (
        "asm-generic/unistd.h",
        (
            "__ARCH_WANT_RENAMEAT",
            "__ARCH_WANT_NEW_STAT",
            "__ARCH_WANT_SET_GET_RLIMIT",
            "__ARCH_WANT_TIME32_SYSCALLS",
            "__ARCH_WANT_SYS_CLONE3",
            "__ARCH_WANT_MEMFD_SECRET",
        ),
    ),
}
# Bounds, not system calls.
NO_CALLS = {"syscalls", "arch_specific_syscall"}

TEMPLATE = '''"""The numbers of the system calls, by architecture and name.

Written by tools/syscall_table.py from the kernel's headers; not to be edited.
A line holds consecutive numbers, from the one that it begins with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_X86_64 = """
{x86_64}
"""

_AARCH64 = """
{aarch64}
"""


def _numbers(lines: str) -> dict[str, int]:
    numbers: dict[str, int] = {{}}
    for line in lines.split("\\n"):
        first, *names = line.split() or ["0"]
        numbers.update((name, int(first) + offset) for offset, name in enumerate(names))
    return numbers


NUMBERS: Final[Mapping[str, Mapping[str, int]]] = {{
    "x86_64": _numbers(_X86_64),
    "aarch64": _numbers(_AARCH64),
}}
# Above it nothing is known: the kernel may be newer than this table.
LAST_NR: Final[Mapping[str, int]] = {{arch: max(table.values()) for arch, table in NUMBERS.items()}}
'''


def macros(header: str, defines: tuple[str, ...]) -> dict[str, str]:
    """Every macro that the preprocessor knows after `header`."""
    command = ["gcc", "-E", "-dM", *(f"-D{name}" for name in defines), "-"]
    text = subprocess.run(
        command, input=f"#include <{header}>\n", capture_output=True, text=True, check=True
    ).stdout
    return dict(re.findall(r"^#define (\w+) (\S+)$", text, re.MULTILINE))


def from_headers(arch: str) -> dict[str, int]:
    """name -> number, as the installed headers have it."""
    known = macros(*HEADERS[arch])
    numbers = {}
    for macro in known:
        name = macro.removeprefix("__NR_")
        if name == macro or name in NO_CALLS:
            continue
        value = macro
        while value in known:
            value = known[value]
        numbers[name] = int(value)
    return numbers


def table(arch: str) -> dict[str, int]:
    """The headers' table with LATER; ValueError when they contradict each other."""
    numbers = from_headers(arch)
    later = LATER | (LATER_X86_64 if arch == "x86_64" else {})
    for name, number in later.items():
        if numbers.setdefault(name, number) != number:
            raise ValueError(f"{arch}: {name} is {numbers[name]} in the headers, {number} here")
    if len(set(numbers.values())) != len(numbers):
        raise ValueError(f"{arch}: one number has two names")
    return numbers


def lines(numbers: dict[str, int]) -> str:
    """The table as lines of consecutive numbers."""
    names = {number: name for name, number in numbers.items()}
    written: list[str] = []
    for number in sorted(names):
        word = names[number]
        continues = number - 1 in names and len(written[-1]) + 1 + len(word) <= 96
        if continues:
            written[-1] += f" {word}"
        else:
            written.append(f"{number} {word}")
    return "\n".join(written)


def main() -> None:
    text = TEMPLATE.format(**{arch: lines(table(arch)) for arch in HEADERS})
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
