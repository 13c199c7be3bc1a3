"""The one list of C sources and compiler flags.

Imported by setup.py and ffi_build.py, and run by the Makefile
(`python3 csrc/sources.py launcher`), so that every build of a file, of the
package, of the linters and of the sanitizers, takes the same text.
A listed file that does not exist is an error, never a smaller binary.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

# evalbox._core: what Python calls inside the host process.
CORE = ["filter.c", "landlock.c", "protocol.c", "start.c", "host.c", "tree.c"]

# evalbox/_launcher: the program that confines itself and starts the runs.
LAUNCHER = [
    "launcher.c",
    "confine.c",
    "namespaces.c",
    "mounts.c",
    "fixtures.c",
    "init.c",
    "run.c",
    "finish.c",
    "limits.c",
    "relay.c",
    "capture.c",
    "ready.c",
    "spawn.c",
    "template.c",
    "template_start.c",
    "child.c",
    "protocol.c",
    "watch.c",
    "disk.c",
    "cgroup.c",
    "cgroup_read.c",
    "cgroups.c",
    "clone.c",
    "workspace.c",
    "tree.c",
    "landlock.c",
]

# evalbox/_interpreter.so: what makes a Python a template; loaded into it.
INTERPRETER = ["interpreter.c", "script.c", "child.c", "protocol.c"]

# Linked into the child between clone and exec; its undefined symbols must all
# stand in child.symbols.
CHILD = "child.c"

STANDARD = ["-std=c17", "-D_GNU_SOURCE", "-fstack-protector-strong"]
WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Wmissing-prototypes",
    "-Wvla",
]
OPTIMISE = ["-O2", "-D_FORTIFY_SOURCE=2"]
# Fortified libc calls hide what the sanitizers want to see.
SANITIZE = [
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]
# The interpreter into which it is loaded has no sanitizer.
SHARED = ["-shared", "-fPIC", "-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack"]
HARDEN_LINK = ["-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack"]


def sanitizing() -> bool:
    return os.environ.get("EVALBOX_SANITIZE") == "1"


def compile_flags(sanitize: bool | None = None) -> list[str]:
    """Flags for our own C files; warnings are errors under EVALBOX_WERROR=1."""
    strict = ["-Werror"] if os.environ.get("EVALBOX_WERROR") == "1" else []
    chosen = sanitizing() if sanitize is None else sanitize
    return STANDARD + WARNINGS + strict + (SANITIZE if chosen else OPTIMISE)


def core_flags() -> list[str]:
    """Flags for evalbox._core, where the file that cffi writes is not warning-free."""
    # Python's own flags may already define _FORTIFY_SOURCE with another value.
    return STANDARD + (SANITIZE if sanitizing() else ["-O2"])


def link_flags() -> list[str]:
    return HARDEN_LINK + (["-fsanitize=address,undefined"] if sanitizing() else [])


def paths(names: list[str]) -> list[str]:
    """The sources relative to the project's root; FileNotFoundError names what is missing."""
    missing = [name for name in names if not (HERE / name).is_file()]
    if missing:
        raise FileNotFoundError(f"csrc/sources.py lists files that do not exist: {missing}")
    return [f"csrc/{name}" for name in names]


def everything() -> list[str]:
    return paths(sorted({*CORE, *LAUNCHER, *INTERPRETER}))


if __name__ == "__main__":
    ANSWERS = {
        "all": everything,
        "core": lambda: paths(CORE),
        "launcher": lambda: paths(LAUNCHER),
        "interpreter": lambda: paths(INTERPRETER),
        "child": lambda: paths([CHILD]) if CHILD in LAUNCHER else [],
        "cflags": compile_flags,
        "ldflags": link_flags,
    }
    print(" ".join(ANSWERS[sys.argv[1]]()))
