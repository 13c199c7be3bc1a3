"""csrc/filter.c called from the tests."""

from __future__ import annotations

import errno
from typing import Any

import bpf
from evalbox._native import ffi, filter_spec, lib
from evalbox.compile.seccomp import FilterSpec


class RefusedError(Exception):
    """-errno from eb_filter_compile."""


def compile_raw(c_struct: Any, capacity: int = bpf.MAX_INSTRUCTIONS) -> bytes:
    out = ffi.new("struct eb_insn[]", capacity)
    length = lib.eb_filter_compile(c_struct, out, capacity)
    if length < 0:
        raise RefusedError(errno.errorcode[-length])
    return bytes(ffi.buffer(out))[: 8 * length]


def compile_bytes(spec: FilterSpec, capacity: int = bpf.MAX_INSTRUCTIONS) -> bytes:
    c_struct, _alive = filter_spec(spec)
    return compile_raw(c_struct, capacity)


def compile_spec(spec: FilterSpec, capacity: int = bpf.MAX_INSTRUCTIONS) -> list[bpf.Insn]:
    program = bpf.disassemble(compile_bytes(spec, capacity))
    bpf.check(program)
    return program
