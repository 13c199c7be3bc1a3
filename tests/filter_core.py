"""csrc/filter.c called from the tests."""

from __future__ import annotations

import errno
import functools
import importlib.util
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import bpf
from evalbox.compile.seccomp import FilterSpec

ROOT = Path(__file__).resolve().parent.parent


class RefusedError(Exception):
    """-errno from eb_filter_compile."""


@functools.cache
def core() -> tuple[Any, Any]:
    """ffi and lib of the built package, or of filter.c alone where there is none."""
    if importlib.util.find_spec("evalbox._core"):
        module = importlib.import_module("evalbox._core")
        return module.ffi, module.lib
    import cffi

    header = (ROOT / "csrc/evalbox.h").read_text(encoding="utf-8")
    ffi = cffi.FFI()
    ffi.cdef(header.partition("/* cffi: begin */")[2].partition("/* cffi: end */")[0])
    source = ROOT / "csrc/filter.c"
    target = Path(tempfile.mkdtemp()) / "filter.so"
    subprocess.run(
        [
            *["cc", "-std=c17", "-O1", "-g", "-D_GNU_SOURCE", "-shared", "-fPIC", "-o"],
            target,
            source,
        ],
        check=True,
    )
    return ffi, ffi.dlopen(str(target))


def c_spec(spec: FilterSpec) -> tuple[Any, list[Any]]:
    """struct eb_filter_spec, and what has to live as long."""
    ffi, _ = core()
    rules, clauses, tests = [], [], []
    for nr, (action, rule_clauses) in spec.rules:
        rules.append((nr, action, len(clauses), len(rule_clauses)))
        for clause_action, clause_tests in rule_clauses:
            clauses.append((clause_action, len(tests), len(clause_tests)))
            tests += [(t.arg, t.negate, t.mask, t.value) for t in clause_tests]
    arrays = [
        ffi.new("struct eb_rule[]", rules),
        ffi.new("struct eb_clause[]", clauses),
        ffi.new("struct eb_test[]", tests),
    ]
    head = (
        spec.arch,
        spec.foreign_action,
        spec.default_action,
        spec.unknown_action,
        spec.last_nr,
    )
    sized = (item for array in arrays for item in (array, len(array)))
    return ffi.new("struct eb_filter_spec *", (*head, *sized)), arrays


def compile_raw(c_struct: Any, capacity: int = bpf.MAX_INSTRUCTIONS) -> bytes:
    ffi, lib = core()
    out = ffi.new("struct eb_insn[]", capacity)
    length = lib.eb_filter_compile(c_struct, out, capacity)
    if length < 0:
        raise RefusedError(errno.errorcode[-length])
    return bytes(ffi.buffer(out))[: 8 * length]


def compile_bytes(spec: FilterSpec, capacity: int = bpf.MAX_INSTRUCTIONS) -> bytes:
    c_struct, _alive = c_spec(spec)
    return compile_raw(c_struct, capacity)


def compile_spec(spec: FilterSpec, capacity: int = bpf.MAX_INSTRUCTIONS) -> list[bpf.Insn]:
    program = bpf.disassemble(compile_bytes(spec, capacity))
    bpf.check(program)
    return program
