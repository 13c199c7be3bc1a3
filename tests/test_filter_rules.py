"""What the default rules say, and how a policy changes them."""

from __future__ import annotations

import functools
import itertools
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bpf
from evalbox._syscall_table import LAST_NR, NUMBERS
from evalbox.compile import rules as tables
from evalbox.compile.seccomp import (
    ALLOW,
    AUDIT_ARCH,
    ENOSYS,
    ENOTSUP,
    ENOTTY,
    EPERM,
    IGNORED,
    KILL_PROCESS,
    NOTIFY,
    FilterSpec,
    Verdict,
)
from evalbox.compile.syscalls import (
    Identity,
    child_spec,
    effective_spec,
    filter_specs,
    launcher_spec,
    unfiltered,
)
from evalbox.errors import PlanError
from evalbox.policy import Network, Policy, Syscalls
from filter_core import compile_spec

NUMBER = NUMBERS["x86_64"]
NONE, HOST = Policy(), Policy(network=Network.host())
ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def program_of(policy: Policy, identity: Identity) -> list[bpf.Insn]:
    return compile_spec(effective_spec(policy, arch="x86_64", identity=identity))


def answer(policy: Policy, name: str, *args: int, identity: Identity = "ordinary") -> int:
    """What the program gets, as the compiled filter says it."""
    padded: Any = (*args, *(0,) * (6 - len(args)))
    call = bpf.Call(AUDIT_ARCH["x86_64"], NUMBER[name], padded)
    return bpf.run(program_of(policy, identity), call).action


def words(text: str) -> list[str]:
    return text.split()


# ---- the tables --------------------------------------------------------------------------------


def test_every_name_stands_in_one_row_and_is_a_system_call() -> None:
    names = [name for _, row in tables._ROWS for name in row.split()]
    assert len(names) == len(set(names))
    known = set(NUMBERS["x86_64"]) | set(NUMBERS["aarch64"])
    listed = {*names, *tables.LAUNCHER_CALLS, *tables.NOT_FOR_UID_0}
    assert listed.union(*tables.NETWORK.values()) <= known


def test_numbers_agree_with_the_installed_headers() -> None:
    assert shutil.which("gcc"), "gcc is needed to read the headers"
    script = ROOT / "tools/syscall_table.py"
    made = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    written = (ROOT / "evalbox/_syscall_table.py").read_text(encoding="utf-8")
    # Newer headers may only add: what is written must not have moved.
    for arch, table in _tables_in(made.stdout).items():
        assert NUMBERS[arch].items() <= table.items()
    assert _tables_in(written) == {arch: dict(table) for arch, table in NUMBERS.items()}


def _tables_in(source: str) -> dict[str, dict[str, int]]:
    module: dict[str, Any] = {}
    exec(source, module)
    return {arch: dict(table) for arch, table in module["NUMBERS"].items()}


def test_the_last_number_is_that_of_the_table() -> None:
    assert {arch: max(table.values()) for arch, table in NUMBERS.items()} == dict(LAST_NR)


# ---- rows ---------------------------------------------------------------------------------------

SET_ID_MODES = (0o4755, 0o2755, 0o6777, 0o104755)
CREAT, TMPFILE = 0o100, 0o20200000


def test_set_id_bits_are_denied_wherever_a_mode_is_given() -> None:
    second = ("chmod", "fchmod", "creat", "mkdir")
    third = ("fchmodat", "mkdirat", "mknodat")
    for names, leading in ((second, (0,)), (third, (0, 0))):
        for name, mode in itertools.product(names, SET_ID_MODES):
            assert answer(NONE, name, *leading, mode) == EPERM, name
            assert answer(NONE, name, *leading, mode & 0o1777) == ALLOW, name


def test_mknod_makes_files_and_pipes_and_no_device() -> None:
    regular, pipe, socket, char, block = 0o100000, 0o010000, 0o140000, 0o020000, 0o060000
    for kind in (0, regular, pipe, socket):
        assert answer(NONE, "mknodat", 0, 0, kind | 0o600) == ALLOW
    for kind in (char, block):
        assert answer(NONE, "mknodat", 0, 0, kind | 0o600) == EPERM


def test_no_rename_leaves_a_device_behind() -> None:
    noreplace, exchange, whiteout = 1, 2, 4
    for flags in (0, noreplace, exchange):
        assert answer(NONE, "renameat2", 0, 0, 0, 0, flags) == ALLOW
    for flags in (whiteout, whiteout | noreplace):
        assert answer(NONE, "renameat2", 0, 0, 0, 0, flags) == EPERM


def test_the_mode_of_open_counts_only_when_a_file_is_made() -> None:
    for name, leading in (("open", (0,)), ("openat", (0, 0))):
        for mode, flags in itertools.product(SET_ID_MODES, (CREAT, TMPFILE, CREAT | 0o2)):
            assert answer(NONE, name, *leading, flags, mode) == EPERM
            assert answer(NONE, name, *leading, flags, mode & 0o777) == ALLOW
            assert answer(NONE, name, *leading, 0o2, mode) == ALLOW


def test_clone_makes_processes_and_no_namespaces() -> None:
    threads, fork = 0x3D0F00, 0x1200011
    for flags in (threads, fork, 0x4111):  # the last one is vfork
        assert answer(NONE, "clone", flags) == ALLOW
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(NONE, "clone", fork | bit) == EPERM


def test_limits_are_set_only_of_the_caller_and_never_for_core_files() -> None:
    core, files, pointer = 4, 7, 0x7FFF00000000
    assert answer(NONE, "prlimit64", 0, files, pointer) == ALLOW
    assert answer(NONE, "prlimit64", 0, core, 0, pointer) == ALLOW
    assert answer(NONE, "prlimit64", 0, core, pointer) == IGNORED
    assert answer(NONE, "prlimit64", 0, core, pointer, pointer) == EPERM
    assert answer(NONE, "prlimit64", 1234, core, pointer) == EPERM
    assert answer(NONE, "prlimit64", 1234, files, 0, pointer) == EPERM
    assert answer(NONE, "setrlimit", files, pointer) == ENOSYS


def test_only_the_caller_is_scheduled() -> None:
    assert answer(NONE, "sched_setaffinity", 0) == ALLOW
    assert answer(NONE, "sched_setaffinity", 1 << 32) == ALLOW  # an int: the kernel sees 0
    assert answer(NONE, "sched_setaffinity", 77) == EPERM
    for name in ("sched_setparam", "sched_setscheduler", "sched_setattr", "ioprio_set"):
        assert answer(NONE, name, 0) == EPERM
    assert answer(NONE, "setpriority", 0, 0) == ALLOW
    for which, who in ((0, 77), (1, 0), (2, 0), (2, 77)):
        assert answer(NONE, "setpriority", which, who) == EPERM


def test_a_program_may_ask_for_few_calls() -> None:
    for policy, most in ((Policy(), 150), (Policy(syscalls=Syscalls.compute()), 100)):
        rules = effective_spec(policy, arch="x86_64", identity="ordinary").rules
        assert sum(ALLOW in rule.verdict.actions for rule in rules) <= most


def test_ioctl_answers_as_for_a_file_that_has_none() -> None:
    for request in tables.IOCTLS.values():
        assert answer(NONE, "ioctl", 0, request) == ALLOW
        assert answer(NONE, "ioctl", 0, request | 0xFFFFFFFF00000000) == ALLOW
    tiocsti, tioclinux, tiocsetd, fioasync = 0x5412, 0x541C, 0x5423, 0x5452
    for request in (tiocsti, tioclinux, tiocsetd, fioasync, tiocsti | 1 << 32):
        assert answer(NONE, "ioctl", 0, request) == ENOTTY


def test_prctl_fcntl_and_personality_take_listed_values() -> None:
    for option in tables.PRCTLS.values():
        assert answer(NONE, "prctl", option) == ALLOW
    for option in (22, 24, 26, 28, 35, 53, 59, 62, 0x59616D61):
        assert answer(NONE, "prctl", option) == EPERM
    for command in (0, 1, 2, 3, 4, 5, 9, 36, 1030, 1032, 1033, 1034):
        assert answer(NONE, "fcntl", 0, command) == ALLOW
    for command in tables.RECORD_LOCKS.values():
        assert answer(NONE, "fcntl", 0, command) == IGNORED
    for command in tables.FCNTLS_REFUSED.values():
        assert answer(NONE, "fcntl", 0, command) == EPERM
    assert answer(NONE, "personality", 0) == answer(NONE, "personality", 0xFFFFFFFF) == ALLOW
    assert answer(NONE, "personality", 0x40000) == EPERM


def test_what_runtimes_probe_for_answers_as_an_older_kernel() -> None:
    for name in words("clone3 openat2 memfd_create io_uring_setup pidfd_open shmget mq_open"):
        assert answer(NONE, name) == ENOSYS
    for name in words("getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr"):
        assert answer(NONE, name) == ENOTSUP
    for name in words("setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr"):
        assert answer(NONE, name, 0, 0, 0, 5) == EPERM
    assert answer(NONE, "fsetxattr", 0, 0, 0, 28) == ENOTSUP


def test_the_attack_surface_is_denied() -> None:
    for name in words(
        "ptrace process_vm_readv kcmp bpf userfaultfd perf_event_open keyctl add_key mount umount2"
        " move_mount fsopen unshare setns chroot pivot_root seccomp modify_ldt init_module"
        " kexec_load reboot iopl ioperm acct swapon quotactl open_by_handle_at inotify_init1"
        " fanotify_init vmsplice chown fchownat setgroups capset landlock_restrict_self"
    ):
        assert answer(NONE, name) == EPERM, name


# ---- sockets ------------------------------------------------------------------------------------


def test_without_network_there_is_no_socket_of_any_family() -> None:
    for family, kind in itertools.product(range(46), (1, 2, 3, 5, 2 | 0o2000000)):
        assert answer(NONE, "socket", family, kind) == EPERM
    for name in ("connect", "bind", "listen", "accept", "accept4"):
        assert answer(NONE, name) == EPERM


def test_the_network_of_the_host_is_tcp_and_udp() -> None:
    cloexec_nonblock = 0o2004000
    for family, kind, protocol in itertools.product((2, 10), (1, 2), (0, 6, 17)):
        assert answer(HOST, "socket", family, kind | cloexec_nonblock, protocol) == ALLOW
    refused = [(2, 3, 0), (2, 3 | cloexec_nonblock, 6), (2, 1, 262), (2, 2, 1), (2, 2, 136)]
    refused += [(family, 1, 0) for family in (1, 16, 17, 38, 40, 44)] + [(16, 3, 0), (10, 5, 132)]
    for arguments in refused:
        assert answer(HOST, "socket", *arguments) == EPERM


def test_a_pair_of_sockets_is_unix_and_cannot_be_sent_elsewhere() -> None:
    for policy in (NONE, HOST):
        assert answer(policy, "socketpair", 1, 1 | 0o2000000) == ALLOW
        assert answer(policy, "socketpair", 1, 5) == ALLOW
        assert answer(policy, "socketpair", 1, 2) == EPERM
        assert answer(policy, "socketpair", 30, 1) == EPERM


def test_fast_open_is_denied_in_every_way_to_ask_for_it() -> None:
    flag = 0x20000000
    for name, leading in (("sendto", (0, 0, 0)), ("sendmsg", (0, 0)), ("sendmmsg", (0, 0, 0))):
        assert answer(HOST, name, *leading, flag | 0x4000) == EPERM
        assert answer(HOST, name, *leading, 0x4000) == ALLOW
    assert answer(HOST, "setsockopt", 0, 6, 23) == answer(HOST, "setsockopt", 0, 6, 30) == EPERM
    assert answer(HOST, "setsockopt", 0, 6, 1) == ALLOW


def test_socket_buffers_stay_as_they_are() -> None:
    for option in (7, 8):
        assert answer(NONE, "setsockopt", 0, 1, option) == IGNORED
        assert answer(NONE, "setsockopt", 0, 6, option) == ALLOW
    for option in (32, 33):
        assert answer(NONE, "setsockopt", 0, 1, option) == EPERM
    assert answer(NONE, "setsockopt", 0, 1, 20) == ALLOW


# ---- changes by the policy -----------------------------------------------------------------------


def test_an_allowed_call_has_no_conditions_left() -> None:
    policy = Policy(syscalls=Syscalls().allow("ptrace", "clone", "socket"))
    assert answer(policy, "ptrace") == ALLOW
    assert answer(policy, "clone", 0x10000000) == ALLOW
    assert answer(policy, "socket", 1, 1) == ALLOW


def test_a_denied_call_is_eperm_and_a_refused_one_keeps_its_answer() -> None:
    policy = Policy(syscalls=Syscalls().deny("fork", "openat", "clone3", "getxattr", "ioctl"))
    assert answer(policy, "fork") == answer(policy, "openat") == EPERM
    assert answer(policy, "clone3") == ENOSYS
    assert answer(policy, "getxattr") == ENOTSUP
    assert answer(policy, "ioctl", 0, 0x5401) == EPERM


def test_under_kill_a_denial_notifies_and_a_probe_does_not() -> None:
    policy = Policy(on_denied="kill", syscalls=Syscalls().deny("fork"))
    for name, args in (
        ("ptrace", ()),
        ("fork", ()),
        ("socket", (2, 1)),
        ("clone", (0x10000000,)),
        ("chmod", (0, 0o4755)),
        ("prlimit64", (1234,)),
        ("setxattr", (0, 0, 0, 1)),
    ):
        assert answer(policy, name, *args) == NOTIFY, name
    for name, args, expected in (
        ("clone3", (), ENOSYS),
        ("getxattr", (), ENOTSUP),
        ("fsetxattr", (0, 0, 0, 28), ENOTSUP),
        ("ioctl", (0, 0x5412), ENOTTY),
        ("socket", (1, 1), EPERM),
        ("socket", (16, 3), EPERM),
        ("sched_setaffinity", (77,), EPERM),
        ("chown", (), EPERM),
        ("setsockopt", (0, 1, 7), IGNORED),
    ):
        assert answer(policy, name, *args) == expected, name


def test_no_default_rule_is_left_without_a_real_action() -> None:
    for policy in (NONE, HOST, Policy(on_denied="kill")):
        spec = effective_spec(policy, arch="x86_64", identity="ordinary")
        real = {ALLOW, EPERM, ENOSYS, ENOTSUP, ENOTTY, IGNORED, NOTIFY}
        assert all(rule.verdict.actions <= real for rule in spec.rules)
        assert (NOTIFY in set().union(*(r.verdict.actions for r in spec.rules))) == (
            policy.on_denied == "kill"
        )


def test_what_starts_the_program_cannot_be_denied() -> None:
    for on_denied, names in (("errno", ["prlimit64"]), ("kill", ["sendmsg", "close_range"])):
        for name in names:
            policy = Policy(on_denied=on_denied, syscalls=Syscalls().deny(name))
            with pytest.raises(PlanError, match=f"{name} cannot be denied with on_denied"):
                effective_spec(policy, arch="x86_64", identity="ordinary")
            with pytest.raises(PlanError):
                filter_specs(policy, arch="x86_64", identity="ordinary")
    sendmsg = Policy(syscalls=Syscalls().deny("sendmsg"))
    assert answer(sendmsg, "sendmsg") == EPERM


def test_the_files_of_root_stay_as_they_are_when_the_program_keeps_uid_0() -> None:
    for name in sorted(tables.OWNER_CALLS):
        assert answer(NONE, name, identity="caller_root") == EPERM
    assert answer(NONE, "utimensat") == answer(NONE, "chmod") == ALLOW


def test_no_policy_lets_a_program_that_keeps_uid_0_change_the_files_of_root() -> None:
    for name in sorted(tables.NOT_FOR_UID_0):
        policy = Policy(syscalls=Syscalls().allow(name))
        with pytest.raises(PlanError, match="keeps uid 0"):
            effective_spec(policy, arch="x86_64", identity="caller_root")
        effective_spec(policy, arch="x86_64", identity="ordinary")


def test_a_policy_names_what_it_gives_up() -> None:
    assert unfiltered(NONE) == frozenset()
    assert unfiltered(HOST) == {"tcp", "udp"}
    for name in ("prlimit64", "sched_setaffinity", "setpriority", "ioprio_set"):
        assert unfiltered(Policy(syscalls=Syscalls().allow(name))) == {"prlimit"}
    assert "unix_path" in unfiltered(Policy(syscalls=Syscalls().allow("socket")))
    assert unfiltered(Policy(syscalls=Syscalls().allow("ptrace"))) == frozenset()


# ---- two filters are one -----------------------------------------------------------------------

CHANGED = Syscalls().allow("ptrace", "memfd_create", "seccomp", "fchown").deny("openat", "kill")
SPLIT_POLICIES = [NONE, HOST, Policy(syscalls=CHANGED), Policy(syscalls=Syscalls().deny("read"))]


@pytest.mark.parametrize("arch", AUDIT_ARCH)
@pytest.mark.parametrize("identity", ["ordinary", "caller_root"])
@pytest.mark.parametrize("index", range(len(SPLIT_POLICIES)))
def test_launcher_and_child_filter_together_are_the_effective_one(
    arch: str, identity: Identity, index: int
) -> None:
    policy = SPLIT_POLICIES[index]
    if identity == "caller_root":
        kept = policy.syscalls.allowed - tables.NOT_FOR_UID_0
        policy = Policy(network=policy.network, syscalls=Syscalls(kept, policy.syscalls.denied))
    launcher, child = filter_specs(policy, arch=arch, identity=identity)
    assert launcher is not None
    whole = effective_spec(policy, arch=arch, identity=identity)
    models = [bpf.Model(spec) for spec in (child, launcher)]
    expected = bpf.Model(whole)
    chooser = random.Random(2)
    rules = {rule.nr: bpf.edges(rule) for rule in (*whole.rules, *launcher.rules)}
    for nr in (*range(601), 0x40000000, 0x7FFFFFFF, 0x80000000):
        for _ in range(30 if nr in rules else 1):
            args: Any = tuple(chooser.choice(values) for values in rules.get(nr, [[0]] * 6))
            for target in (whole.arch, 0x40000003):
                call = bpf.Call(target, nr, args)
                newest, older = (model.answer(call) for model in models)
                assert bpf.strictest(newest, older) == expected.answer(call), call


def test_the_launcher_may_do_what_the_policy_denies_the_program() -> None:
    policy = Policy(syscalls=Syscalls().deny("openat", "kill", "chmod"))
    verdicts = bpf.Model(launcher_spec(policy, arch="x86_64")).verdicts
    assert verdicts[NUMBER["kill"]] == Verdict(ALLOW)
    for name in tables.LAUNCHER_CALLS:
        assert verdicts[NUMBER[name]] == Verdict(ALLOW)


def test_the_filter_of_every_run_is_short() -> None:
    spec = child_spec(NONE, arch="x86_64", identity="ordinary")
    assert len(compile_spec(spec)) <= 32
    assert spec.default_action == ALLOW


def test_under_kill_the_child_has_the_only_filter() -> None:
    policy = Policy(on_denied="kill")
    launcher, child = filter_specs(policy, arch="x86_64", identity="ordinary")
    assert launcher is None
    assert child == effective_spec(policy, arch="x86_64", identity="ordinary")


def test_foreign_calls_die_and_unknown_ones_do_not_exist() -> None:
    spec: FilterSpec = effective_spec(NONE, arch="x86_64", identity="ordinary")
    program = compile_spec(spec)
    for arch, nr, expected in (
        (0x40000003, 20, KILL_PROCESS),
        (AUDIT_ARCH["aarch64"], 20, KILL_PROCESS),
        (spec.arch, 0x40000000 | 39, KILL_PROCESS),
        (spec.arch, 0xFFFFFFFF, ENOSYS),
        (spec.arch, LAST_NR["x86_64"] + 1, ENOSYS),
        (spec.arch, 400, ENOSYS),  # a number that was never given out
        (spec.arch, 39, ALLOW),
    ):
        assert bpf.run(program, bpf.Call(arch, nr)).action == expected
