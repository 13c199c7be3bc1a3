"""An interpreter for seccomp programs, and what a program must be for the kernel to take it.

Written from kernel/seccomp.c and net/core/filter.c, independently of csrc/filter.c.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from evalbox.compile.seccomp import Clause, FilterSpec, Rule, Verdict

MAX_INSTRUCTIONS = 4096
X32_BIT = 0x40000000

LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP = 0x05  # BPF_JMP | BPF_JA
JEQ, JGE, JSET = 0x15, 0x35, 0x45
RETURN = 0x06  # BPF_RET | BPF_K
COMPARES = (JEQ, JGE, JSET)


class Insn(NamedTuple):
    """struct sock_filter."""

    code: int
    jt: int
    jf: int
    k: int


class Call(NamedTuple):
    """struct seccomp_data, without the instruction pointer."""

    arch: int
    nr: int
    args: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)

    def words(self) -> tuple[int, ...]:
        packed = struct.pack("<IIQ6Q", self.nr & 0xFFFFFFFF, self.arch, 0, *self.args)
        return struct.unpack("<16I", packed)


class Answer(NamedTuple):
    action: int
    steps: int
    compares: int


def disassemble(program: bytes) -> list[Insn]:
    return [Insn(*fields) for fields in struct.iter_unpack("<HBBI", program)]


def check(program: list[Insn]) -> None:
    """What bpf_check_classic() and seccomp_check_filter() ask for."""
    assert 0 < len(program) <= MAX_INSTRUCTIONS
    assert program[-1].code == RETURN
    for at, insn in enumerate(program):
        assert insn.code in (LOAD, AND, JUMP, RETURN, *COMPARES)
        if insn.code == LOAD:
            assert insn.k % 4 == 0
            assert insn.k < 64
        if insn.code in COMPARES:
            assert at + 1 + max(insn.jt, insn.jf) < len(program)
        if insn.code == JUMP:
            assert at + 1 + insn.k < len(program)


def run(program: list[Insn], call: Call) -> Answer:
    """The answer to `call`; steps counts instructions, compares the conditional jumps."""
    words = call.words()
    at = accumulator = compares = 0
    for steps in range(1, len(program) + 1):
        code, jt, jf, k = program[at]
        at += 1
        if code == RETURN:
            return Answer(k, steps, compares)
        if code == LOAD:
            accumulator = words[k // 4]
        elif code == AND:
            accumulator &= k
        elif code == JUMP:
            at += k
        else:
            taken = {JEQ: accumulator == k, JGE: accumulator >= k, JSET: accumulator & k != 0}
            at += jt if taken[code] else jf
            compares += 1
    raise AssertionError("the program does not end")


# ---- the meaning of a spec ---------------------------------------------------------


def holds(clause: Clause, call: Call) -> bool:
    return all(
        ((call.args[test.arg] & test.mask) == test.value) != test.negate for test in clause.tests
    )


def decide(verdict: Verdict, call: Call) -> int:
    for clause in verdict.clauses:
        if holds(clause, call):
            return clause.action
    return verdict.action


def is_x32(spec: FilterSpec, nr: int) -> bool:
    return spec.arch == 0xC000003E and X32_BIT <= nr < 2 * X32_BIT


class Model:
    """What a spec means, looked up in the plainest way."""

    def __init__(self, spec: FilterSpec) -> None:
        self.spec = spec
        self.verdicts: dict[int, Verdict] = {rule.nr: rule.verdict for rule in spec.rules}

    def answer(self, call: Call) -> int:
        if call.arch != self.spec.arch or is_x32(self.spec, call.nr):
            return self.spec.foreign_action
        if call.nr > self.spec.last_nr:
            return self.spec.unknown_action
        if call.nr not in self.verdicts:
            return self.spec.default_action
        return decide(self.verdicts[call.nr], call)


def strictest(newest: int, older: int) -> int:
    """What the kernel makes of the answers of two filters."""

    def rank(action: int) -> int:
        return struct.unpack("<i", struct.pack("<I", action & 0xFFFF0000))[0]

    return older if rank(older) < rank(newest) else newest


# ---- arguments worth trying ------------------------------------------------------------


def edges(rule: Rule) -> list[list[int]]:
    """For each argument: values at which the rule's tests change their minds."""
    values: list[set[int]] = [{0, 0xFFFFFFFFFFFFFFFF} for _ in range(6)]
    for clause in rule.verdict.clauses:
        for test in clause.tests:
            lowest = test.mask & -test.mask
            outside = 0xFFFFFFFFFFFFFFFF & ~test.mask
            values[test.arg] |= {
                test.value,
                test.value ^ lowest,
                test.value | outside,
                (test.value ^ test.mask) & 0xFFFFFFFFFFFFFFFF,
                test.value | 1 << 32,
            }
    return [sorted(choices) for choices in values]
