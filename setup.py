"""Builds the two native parts: evalbox._core (cffi, abi3) and evalbox/_launcher.

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


def build_launcher(target: Path) -> None:
    cc = compiler()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Linked under another name and renamed: a launcher that is running now
    # keeps its own file, and the link does not fail with ETXTBSY.
    fresh = target.with_name(target.name + ".new")
    flags = [*sources.compile_flags(), *link_style(cc), *sources.link_flags()]
    names = sources.paths(sources.LAUNCHER)
    subprocess.run([*cc, *flags, "-Icsrc", *names, "-o", str(fresh)], check=True)
    fresh.chmod(0o755)
    fresh.replace(target)


class BuildNative(build_ext):
    def run(self) -> None:
        super().run()
        if not sources.LAUNCHER:
            return
        build_launcher(Path(self.build_lib) / LAUNCHER)
        if self.inplace:
            built = Path(self.build_lib) / LAUNCHER
            fresh = LAUNCHER.with_name("_launcher.new")
            shutil.copy2(built, fresh)
            fresh.replace(LAUNCHER)

    def get_outputs(self) -> list[str]:
        launcher = [str(Path(self.build_lib) / LAUNCHER)] if sources.LAUNCHER else []
        return [*super().get_outputs(), *launcher]


setup(
    cffi_modules=["csrc/ffi_build.py:ffi"],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
