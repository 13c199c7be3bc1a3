"""Builds the native parts: evalbox._core (cffi, abi3), evalbox/_launcher, evalbox/_interpreter.so.

The metadata stands in pyproject.toml; the sources and flags in csrc/sources.py.
Switches in the environment: CC, EVALBOX_WERROR=1, EVALBOX_SANITIZE=1.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

# A PEP 517 front end runs this file without its folder on sys.path.
ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))

import sources  # noqa: E402  (needs the line above)

LAUNCHER = Path("evalbox", "_launcher")
INTERPRETER = Path("evalbox", "_interpreter.so")

# Best first. Static: the launcher confines itself before anything else runs,
# and a program that needs no loader has less to be confined around.
LINK_STYLES = (
    ("-fPIE", "-static-pie"),
    ("-fno-pie", "-static", "-no-pie"),
    ("-fPIE", "-pie"),
)


def compiler() -> list[str]:
    named = os.environ.get("CC")
    if named:
        return shlex.split(named)
    found = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if not found:
        raise SystemExit("evalbox needs a C compiler: apt-get install gcc libc6-dev")
    return [found]


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def link_style(cc: list[str]) -> list[str]:
    """The first style with which this compiler makes a program that runs."""
    # AddressSanitizer has no static runtime.
    styles = LINK_STYLES[-1:] if sources.sanitizing() else LINK_STYLES
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text("int main(void) { return 0; }\n", encoding="ascii")
        program = str(Path(folder, "probe"))
        for style in styles:
            command = [*cc, *style, *sources.link_flags(), str(source), "-o", program]
            if succeeds(command) and succeeds([program]):
                return list(style)
    raise SystemExit(f"{shlex.join(cc)} cannot link a program: apt-get install libc6-dev")


def build(target: Path, names: list[str], flags: list[str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Linked under another name and renamed: a launcher that is running now
    # keeps its own file, and the link does not fail with ETXTBSY.
    fresh = target.with_name(target.name + ".new")
    command = [*compiler(), *flags, "-Icsrc", *sources.paths(names), "-o", str(fresh)]
    subprocess.run(command, check=True)
    fresh.chmod(0o755)
    fresh.replace(target)


def build_launcher(target: Path) -> None:
    flags = [*sources.compile_flags(), *link_style(compiler()), *sources.link_flags()]
    build(target, sources.LAUNCHER, flags)


def build_interpreter(target: Path) -> None:
    build(target, sources.INTERPRETER, [*sources.compile_flags(False), *sources.SHARED])


BUILDERS = {LAUNCHER: build_launcher, INTERPRETER: build_interpreter}


class BuildNative(build_ext):
    def run(self) -> None:
        super().run()
        for name, builder in BUILDERS.items():
            built = Path(self.build_lib) / name
            builder(built)
            if self.inplace:
                fresh = name.with_name(name.name + ".new")
                shutil.copy2(built, fresh)
                fresh.replace(name)

    def get_outputs(self) -> list[str]:
        return [*super().get_outputs(), *(str(Path(self.build_lib) / name) for name in BUILDERS)]


setup(
    cffi_modules=["csrc/ffi_build.py:ffi"],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
