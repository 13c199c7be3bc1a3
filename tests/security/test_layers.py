"""No layer is there for show: without each of them an attack succeeds that it stops.

The launcher is compiled once for each layer of csrc/layers.h with that layer left
out, and one attack of the catalogue is made with it; the same attack with the
launcher as it is must be blocked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import evalbox
from security.base import Result, Verdict
from security.callers import TESTS, told_by

SOURCES = TESTS.parent / "csrc"
IS_ROOT = os.geteuid() == 0


@dataclass(frozen=True)
class Proof:
    """Without a layer, this attack succeeds in this tier.

    Attributes:
        only: for one kind of caller.
        cgroups: whether the runs have them, where there are some.
    """

    tier: str
    attack: str
    only: str = ""
    cgroups: bool = True

    @property
    def caller(self) -> str:
        return self.only or ("root" if IS_ROOT else "user")


PROOFS = {
    "LANDLOCK": Proof("process", "F1.read"),
    "CALLS": Proof("namespace", "P21.clone-user"),
    "CHILD_CALLS": Proof("process", "K25.create"),
    "IDENTITY": Proof("process", "F16.chmod", only="root"),
    "CAPABILITIES": Proof("process", "R49", only="root"),
    "RLIMITS": Proof("process", "R12.written"),
    "OPEN_FILES": Proof("process", "R21"),
    "FIXED_LIMITS": Proof("process", "F40.crash"),
    "CLOSE_RANGE": Proof("process", "F14"),
    "USER_NAMESPACE": Proof("namespace", "X15", only="user"),
    "PID_NAMESPACE": Proof("namespace", "F13.stat"),
    "NETWORK_NAMESPACE": Proof("namespace", "I8.off"),
    "IPC_NAMESPACE": Proof("namespace", "I15"),
    "UTS_NAMESPACE": Proof("namespace", "I6.name"),
    "CGROUP_NAMESPACE": Proof("namespace", "I13"),
    "READ_ONLY": Proof("namespace", "F54.mode", only="user"),
    "HIDDEN_PROC": Proof("namespace", "I6.command-line"),
    "OLD_ROOT": Proof("namespace", "F49.host", only="user"),
    "DISK": Proof("namespace", "R10.one"),
    "MEMORY_CGROUP": Proof("process", "R4"),
    "PROCESS_CGROUP": Proof("process", "P11.uid0", only="root"),
    "MEMORY_WATCH": Proof("process", "R1", cgroups=False),
    "CPU_WATCH": Proof("process", "R19.alone"),
    "TREE_KILL": Proof("process", "P9.daemon"),
    "CLEARING": Proof("process", "F47"),
}


def layers() -> list[str]:
    """As csrc/layers.h lists them."""
    return re.findall(r"^ {4}X\((\w+)\)", (SOURCES / "layers.h").read_text(encoding="utf-8"), re.M)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where every caller finds the launchers."""
    made = Path(tempfile.mkdtemp(prefix="evalbox-layers-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def launcher_without(layer: str, folder: Path) -> Path:
    target = folder / layer
    listed = [sys.executable, SOURCES / "sources.py", "launcher"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    compiler = shutil.which("gcc") or shutil.which("cc") or "clang"
    off = f"-DEB_LAYERS_OFF=(1UL<<{layers().index(layer)})"
    flags = ["-std=c17", "-D_GNU_SOURCE", "-O1", "-w", off, "-Icsrc"]
    command = [compiler, *flags, *names, "-o", target]
    subprocess.run(command, cwd=TESTS.parent, check=True)
    return target


def result_of(proof: Proof, launcher: Path | None = None) -> Result:
    told = told_by(proof.caller, [proof.attack], [proof.tier], launcher, proof.cgroups)
    assert told.missing == {}
    (result,) = told.results
    return result


def test_every_layer_has_a_proof() -> None:
    assert list(PROOFS) == layers()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(name, marks=pytest.mark.root if proof.only == "root" else ())
        for name, proof in PROOFS.items()
    ],
)
def test_an_attack_succeeds_without_the_layer(layer: str, folder: Path) -> None:
    proof = PROOFS[layer]
    if proof.tier == "namespace" and evalbox.host().namespaces.why_not:
        pytest.skip(f"no namespace tier here: {evalbox.host().namespaces.why_not}")
    if layer.endswith("_CGROUP") and not evalbox.host().cgroups.controllers >= {"memory", "pids"}:
        pytest.skip(f"no cgroups here: {evalbox.host().cgroups.why_not}")
    without = result_of(proof, launcher_without(layer, folder))
    assert without.verdict is Verdict.ALLOWED, without
    assert result_of(proof).verdict is Verdict.BLOCKED
