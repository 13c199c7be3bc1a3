"""The compiled program means what its spec says, for every call, and the kernel would take it.

bpf.Model looks a call up in the plainest way; bpf.run interprets the program.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpf
from evalbox._native import ffi, filter_spec
from evalbox.compile.seccomp import (
    ALLOW,
    AUDIT_ARCH,
    ENOSYS,
    EPERM,
    KILL_PROCESS,
    ArgTest,
    Clause,
    FilterSpec,
    Rule,
    Verdict,
)
from evalbox.compile.syscalls import child_spec, effective_spec, launcher_spec
from evalbox.policy import Network, Policy
from filter_core import RefusedError, compile_raw, compile_spec

pytestmark = pytest.mark.core

X86_64 = AUDIT_ARCH["x86_64"]
I386 = 0x40000003
AARCH64 = AUDIT_ARCH["aarch64"]
ALL_ONES = 0xFFFFFFFFFFFFFFFF
X32 = 0x40000000
OUTER_NUMBERS = (X32 - 1, X32, X32 + 1, X32 + 59, 2 * X32 - 1, 2 * X32, 0xFFFFFFFE, 0xFFFFFFFF)
NETWORKS = {"none": Network.none(), "host": Network.host()}


def spec_of(rules: list[Rule], *, last_nr: int = 500, arch: int = X86_64) -> FilterSpec:
    return FilterSpec(
        arch=arch,
        foreign_action=KILL_PROCESS,
        default_action=EPERM,
        unknown_action=ENOSYS,
        last_nr=last_nr,
        rules=tuple(rules),
    )


def assert_same(program: list[bpf.Insn], model: bpf.Model, call: bpf.Call) -> None:
    assert bpf.run(program, call).action == model.answer(call), call


# ---- the default rules, call by call -----------------------------------------------------


def every_default_spec() -> Iterator[Any]:
    combinations = itertools.product(
        NETWORKS, ("errno", "kill"), ("ordinary", "caller_root"), AUDIT_ARCH
    )
    for network, on_denied, identity, arch in combinations:
        policy = Policy(network=NETWORKS[network], on_denied=on_denied)
        spec = effective_spec(policy, arch=arch, identity=identity)
        yield pytest.param(spec, id=f"{network}-{on_denied}-{identity}-{arch}")
        if on_denied == "errno":
            child = child_spec(policy, arch=arch, identity=identity)
            yield pytest.param(child, id=f"child-{network}-{identity}-{arch}")
    for network, arch in itertools.product(NETWORKS, AUDIT_ARCH):
        policy = Policy(network=NETWORKS[network])
        yield pytest.param(launcher_spec(policy, arch=arch), id=f"launcher-{network}-{arch}")


DEFAULT_SPECS = list(every_default_spec())


@pytest.mark.parametrize("spec", DEFAULT_SPECS)
def test_every_number_of_every_architecture_gets_its_verdict(spec: FilterSpec) -> None:
    program, model = compile_spec(spec), bpf.Model(spec)
    for arch in (X86_64, AARCH64, I386, 0):
        for nr in (*range(601), *OUTER_NUMBERS):
            for args in ((0,) * 6, (ALL_ONES,) * 6):
                assert_same(program, model, bpf.Call(arch, nr, args))


@pytest.mark.parametrize("spec", DEFAULT_SPECS)
def test_boundary_arguments_get_their_verdict(spec: FilterSpec) -> None:
    program, model = compile_spec(spec), bpf.Model(spec)
    chooser = random.Random(1)
    for rule in spec.rules:
        choices = bpf.edges(rule)
        if not rule.verdict.clauses:
            continue
        for _ in range(150):
            args = tuple(chooser.choice(values) for values in choices)
            assert_same(program, model, bpf.Call(spec.arch, rule.nr, args))


@pytest.mark.parametrize("spec", DEFAULT_SPECS)
def test_a_number_takes_at_most_twelve_compares(spec: FilterSpec) -> None:
    program = compile_spec(spec)
    ruled = {rule.nr for rule in spec.rules if rule.verdict.clauses}
    plain = (nr for nr in (*range(601), *OUTER_NUMBERS) if nr not in ruled)
    assert max(bpf.run(program, bpf.Call(spec.arch, nr)).compares for nr in plain) <= 12


# ---- any rules ------------------------------------------------------------------------------

ACTIONS = st.sampled_from([ALLOW, EPERM, ENOSYS, KILL_PROCESS, *(0x50000 | e for e in range(40))])
MASKS = st.one_of(
    st.sampled_from([0xFFFFFFFF, ALL_ONES, 0xFFFFFFFF00000000, 1, 1 << 31, 1 << 32, 1 << 63]),
    st.integers(1, ALL_ONES),
)


@st.composite
def arg_tests(draw: st.DrawFn) -> ArgTest:
    mask = draw(MASKS)
    value = draw(st.one_of(st.just(0), st.just(mask), st.integers(0, ALL_ONES))) & mask
    return ArgTest(draw(st.integers(0, 5)), value, mask, draw(st.booleans()))


def some(elements: st.SearchStrategy[Any], max_size: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(elements, max_size=max_size).map(tuple)


CLAUSES = st.tuples(ACTIONS, some(arg_tests(), 4)).map(lambda fields: Clause(*fields))
VERDICTS = st.one_of(
    ACTIONS.map(Verdict),
    st.tuples(ACTIONS, some(CLAUSES, 6)).map(lambda fields: Verdict(*fields)),
)


@st.composite
def specs(draw: st.DrawFn) -> FilterSpec:
    last_nr = draw(st.sampled_from([0, 1, 7, 40, 460, 5000, X32 - 1]))
    numbers = draw(st.lists(st.integers(0, min(last_nr, 6000)), unique=True, max_size=60))
    return FilterSpec(
        arch=draw(st.sampled_from([X86_64, AARCH64])),
        foreign_action=draw(ACTIONS),
        default_action=draw(ACTIONS),
        unknown_action=draw(ACTIONS),
        last_nr=last_nr,
        rules=tuple(Rule(nr, draw(VERDICTS)) for nr in sorted(numbers)),
    )


def numbers_to_try(spec: FilterSpec) -> set[int]:
    near = {nr + d for nr in (0, spec.last_nr, *(r.nr for r in spec.rules)) for d in (-1, 0, 1)}
    return {nr for nr in near if nr >= 0} | set(OUTER_NUMBERS)


@settings(max_examples=200, deadline=None)
@given(spec=specs(), chooser=st.randoms(use_true_random=False))
def test_any_rules_compile_to_what_they_say(spec: FilterSpec, chooser: random.Random) -> None:
    program, model = compile_spec(spec), bpf.Model(spec)
    choices = {rule.nr: bpf.edges(rule) for rule in spec.rules}
    for nr in numbers_to_try(spec):
        for _ in range(8 if nr in choices else 1):
            args = tuple(chooser.choice(values) for values in choices.get(nr, [[0]] * 6))
            for arch in (X86_64, AARCH64, I386):
                assert_same(program, model, bpf.Call(arch, nr, args))


def scattered(count: int, verdict: Callable[[int], Verdict]) -> FilterSpec:
    return spec_of([Rule(3 * i, verdict(i)) for i in range(count)], last_nr=3 * count)


def plain(index: int) -> Verdict:
    return Verdict(0x50000 | index % 30)


def argued(index: int) -> Verdict:
    return Verdict(EPERM, (Clause(ALLOW, (ArgTest(index % 6, index, ALL_ONES),)),))


@pytest.mark.parametrize("count", [236, 301, 400])
@pytest.mark.parametrize("verdict", [plain, argued])
def test_more_rules_than_a_jump_reaches_work(count: int, verdict: Callable[[int], Verdict]) -> None:
    spec = scattered(count, verdict)
    program, model = compile_spec(spec), bpf.Model(spec)
    worst = 0
    for nr in range(3 * count + 2):
        for value in (0, nr // 3, nr // 3 | 1 << 32):
            call = bpf.Call(X86_64, nr, (value,) * 6)
            assert_same(program, model, call)
            worst = max(worst, bpf.run(program, call).compares)
    assert len(program) > 256
    assert worst <= 1 + math.ceil(math.log2(2 * count + 4)) + 2


def test_one_rule_with_a_thousand_clauses_works() -> None:
    clauses = tuple(Clause(ALLOW, (ArgTest(1, 3 * i),)) for i in range(1000))
    spec = spec_of([Rule(16, Verdict(EPERM, clauses))])
    program, model = compile_spec(spec), bpf.Model(spec)
    for value in (*range(0, 3002, 7), 2997, 2998, 3000):
        assert_same(program, model, bpf.Call(X86_64, 16, (0, value, 0, 0, 0, 0)))


# ---- the size of a program ---------------------------------------------------------------------


def test_equal_verdicts_share_one_range() -> None:
    rules = [Rule(nr, Verdict(ALLOW)) for nr in range(400)]
    assert len(compile_spec(spec_of(rules))) < 16


def test_a_word_is_loaded_once_for_a_list_of_values() -> None:
    clauses = tuple(Clause(ALLOW, (ArgTest(1, i),)) for i in range(20))
    program = compile_spec(spec_of([Rule(16, Verdict(EPERM, clauses))]))
    assert sum(insn.code == bpf.LOAD for insn in program) == 3  # arch, nr, the argument


def test_only_the_half_that_matters_is_compared() -> None:
    low = spec_of([Rule(1, Verdict(EPERM, (Clause(ALLOW, (ArgTest(2, 5),)),)))])
    both = spec_of([Rule(1, Verdict(EPERM, (Clause(ALLOW, (ArgTest(2, 5, ALL_ONES),)),)))])
    loads = [insn.k for insn in compile_spec(low) if insn.code == bpf.LOAD]
    assert loads == [4, 0, 32]
    assert len(compile_spec(both)) == len(compile_spec(low)) + 2


def test_too_many_rules_are_e2big() -> None:
    with pytest.raises(RefusedError, match="E2BIG"):
        compile_spec(scattered(3000, plain))
    assert len(compile_spec(scattered(1200, plain))) <= bpf.MAX_INSTRUCTIONS


def test_too_many_clauses_are_e2big() -> None:
    clauses = tuple(Clause(ALLOW, (ArgTest(1, i, ALL_ONES),)) for i in range(2000))
    with pytest.raises(RefusedError, match="E2BIG"):
        compile_spec(spec_of([Rule(16, Verdict(EPERM, clauses))]))


def test_what_does_not_fit_the_buffer_is_e2big_for_every_size() -> None:
    spec = scattered(100, argued)
    length = len(compile_spec(spec))
    for capacity in range(length):
        with pytest.raises(RefusedError, match="E2BIG"):
            compile_spec(spec, capacity)
    assert compile_spec(spec, length) == compile_spec(spec)


# ---- specs that contradict themselves ---------------------------------------------------------


def test_numbers_out_of_order_are_einval() -> None:
    ordered = [Rule(1, Verdict(ALLOW)), Rule(2, Verdict(ALLOW))]
    compile_spec(spec_of(ordered))
    for rules in (ordered[::-1], [ordered[0]] * 2):
        with pytest.raises(RefusedError, match="EINVAL"):
            compile_spec(spec_of(rules))


def test_numbers_above_the_last_are_einval() -> None:
    compile_spec(spec_of([Rule(500, Verdict(ALLOW))]))
    with pytest.raises(RefusedError, match="EINVAL"):
        compile_spec(spec_of([Rule(501, Verdict(ALLOW))]))
    with pytest.raises(RefusedError, match="EINVAL"):
        compile_spec(spec_of([], last_nr=X32))


@pytest.mark.parametrize(
    "test",
    [ArgTest(6, 0), ArgTest(0, 1 << 32), ArgTest(0, 0, mask=0), ArgTest(0, 2, mask=1)],
    ids=["argument 6", "value beyond an int", "empty mask", "value outside the mask"],
)
def test_tests_that_mean_nothing_are_einval(test: ArgTest) -> None:
    with pytest.raises(RefusedError, match="EINVAL"):
        compile_spec(spec_of([Rule(1, Verdict(EPERM, (Clause(ALLOW, (test,)),)))]))


@pytest.mark.parametrize("field", ["first_clause", "n_clauses"])
@pytest.mark.parametrize("value", [3, 0xFFFFFFFF])
def test_clauses_outside_the_array_are_einval(field: str, value: int) -> None:
    c_struct, alive = filter_spec(spec_of([Rule(1, Verdict(EPERM, (Clause(ALLOW, ()),) * 2))]))
    compile_raw(c_struct)
    setattr(alive[0][0], field, value)
    with pytest.raises(RefusedError, match="EINVAL"):
        compile_raw(c_struct)


@pytest.mark.parametrize("field", ["first_test", "n_tests"])
@pytest.mark.parametrize("value", [2, 0xFFFFFFFF])
def test_tests_outside_the_array_are_einval(field: str, value: int) -> None:
    clause = Clause(ALLOW, (ArgTest(0, 1),))
    c_struct, alive = filter_spec(spec_of([Rule(1, Verdict(EPERM, (clause,)))]))
    compile_raw(c_struct)
    setattr(alive[1][0], field, value)
    with pytest.raises(RefusedError, match="EINVAL"):
        compile_raw(c_struct)


def test_the_spec_is_only_read() -> None:
    c_struct, alive = filter_spec(scattered(50, argued))
    before = [bytes(ffi.buffer(array)) for array in alive]
    assert compile_raw(c_struct) == compile_raw(c_struct)
    assert [bytes(ffi.buffer(array)) for array in alive] == before
