"""The surface of the kernel: every call that a sandbox refuses, made in one.

The control of each is the same call where the policy allows it: it must meet
something else, or it was not the filter that stopped it. What only a capability
would let through anyway is told apart by on_denied="kill", which ends a run for
what the filter denies and for nothing else.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

import evalbox
from evalbox import Network, Policy, Status, Syscalls
from probe import CALLS, INT_0X80, caller, make_call, make_call_outside

pytestmark = pytest.mark.usefixtures("tier")


@dataclass(frozen=True)
class Call:
    """A call with harmless arguments: `@` the address of zeroes, `%` the own pid.

    Who may name itself only as 0 cannot name another.

    Attributes:
        attack: of the catalogue in the security notes.
        quiet: refused without ending a run under on_denied="kill", because
            ordinary programs try it.
    """

    attack: str
    name: str
    args: str = ""
    expected: int = errno.EPERM
    quiet: bool = False

    @property
    def id(self) -> str:
        return f"{self.attack} {self.name} {self.args}".strip()


def absent(attack: str, *names: str) -> list[Call]:
    return [Call(attack, name, "-1 -1", errno.ENOSYS, quiet=True) for name in names]


def denied(attack: str, *names: str) -> list[Call]:
    return [Call(attack, name, "-1 -1 -1 -1 -1") for name in names]


def quiet(attack: str, name: str, args: str, expected: int = errno.EPERM) -> Call:
    return Call(attack, name, args, expected, quiet=True)


ALL_CALLS = [
    # ---- kernel surface
    *absent("K1", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *denied("K2", "bpf"),
    *denied("K3", "userfaultfd"),
    *denied("K4", "perf_event_open"),
    *denied("K5", "keyctl", "add_key", "request_key"),
    *denied("K6", "mount", "umount2", "fsopen", "fsconfig", "fsmount", "fspick", "open_tree"),
    *denied("K6", "move_mount", "mount_setattr"),
    quiet("K8", "personality", "0x40000"),
    *denied("K9", "modify_ldt"),
    quiet("K10", "ioctl", "0 0x5452 0", errno.ENOTTY),  # FIOASYNC: not of the list
    Call("K14", "seccomp", "1 1 @"),  # SECCOMP_SET_MODE_FILTER, with TSYNC
    Call("K14", "seccomp", "1 8 @"),  # NEW_LISTENER
    quiet("K14", "prctl", "22 2 @"),  # PR_SET_SECCOMP
    quiet("K15", "prctl", "8 0"),  # PR_SET_KEEPCAPS
    quiet("K15", "prctl", "0x59616d61 -1"),  # PR_SET_PTRACER
    *denied("K16", "kexec_load", "kexec_file_load", "init_module", "finit_module"),
    *denied("K16", "delete_module", "reboot", "iopl", "ioperm"),
    *denied("K18", "quotactl", "quotactl_fd", "lookup_dcookie"),
    *absent("K18", "move_pages", "mbind", "set_mempolicy"),
    quiet("K18", "vmsplice", "1 @ 0 0"),
    # ---- files
    *denied("F39", "open_by_handle_at", "name_to_handle_at"),
    *denied("F24", "fanotify_init", "fanotify_mark"),
    quiet("F24", "inotify_init1", "0"),
    *denied("F42", "acct", "swapon", "swapoff", "pivot_root", "chroot"),
    *absent("F41", "openat2"),
    *absent("F34", "memfd_create", "memfd_secret"),
    *denied("F21", "removexattr", "lremovexattr", "fremovexattr"),
    Call("F21", "setxattr", "0 0 0 1"),
    Call("F21", "fsetxattr", "0 0 0 1"),
    quiet("F23", "getxattr", "0 0", errno.ENOTSUP),
    quiet("F23", "flistxattr", "0 0", errno.ENOTSUP),
    quiet("F19", "fchownat", "-100 0 -1 -1"),
    # ---- processes
    Call("P1", "ptrace", "16 1"),  # PTRACE_ATTACH
    Call("P1", "ptrace", "0"),  # PTRACE_TRACEME
    *denied("P2", "process_vm_readv", "process_vm_writev", "kcmp", "process_madvise"),
    *denied("P2", "process_mrelease"),
    *absent("P2", "pidfd_open", "pidfd_getfd", "pidfd_send_signal"),
    quiet("P5", "fcntl", "0 8 1"),  # F_SETOWN
    quiet("P5", "fcntl", "0 10 9"),  # F_SETSIG
    *absent("P5", "mq_notify"),
    Call("P6", "prlimit64", "1 7 0 @"),
    Call("P6", "prlimit64", "1 7 @ 0"),
    quiet("P7", "sched_setaffinity", "% 8 @"),
    quiet("P7", "sched_setscheduler", "% 0 @"),
    quiet("P7", "sched_setparam", "% @"),
    quiet("P7", "sched_setattr", "% @ 0"),
    quiet("P8", "setpriority", "0 % 0"),  # PRIO_PROCESS
    quiet("P8", "setpriority", "2 -2 0"),  # PRIO_USER
    quiet("P8", "ioprio_set", "3 -2 0"),  # IOPRIO_WHO_USER
    *denied("P21", "setns", "unshare"),
    Call("P21", "clone", "0x10000011"),  # CLONE_NEWUSER | SIGCHLD
    Call("P21", "clone", "0x00020011"),  # CLONE_NEWNS
    Call("P21", "clone", "0x02000011"),  # CLONE_NEWCGROUP
    *absent("P21", "clone3"),
    # ---- the clock and the name of the machine
    *denied("host", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime"),
    *denied("host", "sethostname", "setdomainname", "syslog", "vhangup"),
    # ---- what would outlive a run
    *absent("R7", "shmget", "semget", "msgget"),
    *absent("R8", "mq_open", "mq_unlink"),
    quiet("R4", "fcntl", "1 1031 4096"),  # F_SETPIPE_SZ
    # ---- sockets, with the network off: family, type, protocol
    Call("N1", "socket", "2 1 0"),
    Call("N1", "socket", "10 1 0"),
    Call("N2", "socket", "2 2 0"),
    quiet("N11", "socket", "1 1 0"),
    quiet("N9", "socket", "16 3 0"),
    Call("N12", "socketpair", "1 2 0 @"),  # datagrams can be sent to a path
]
# Refused with the host's network too.
NEVER_SOCKETS = [
    Call("N4 MPTCP", "socket", "2 1 262"),
    Call("N5 SCTP", "socket", "2 1 132"),
    Call("N5 DCCP", "socket", "2 6 33"),
    Call("N5 SMC", "socket", "43 1 0"),
    Call("N5 UDPLITE", "socket", "2 2 136"),
    Call("N7 raw", "socket", "2 3 1"),
    Call("N7 raw, flagged", "socket", "2 0x80803 1"),
    Call("N8 ping", "socket", "2 2 1"),
    Call("N10 packet", "socket", "17 3 0"),
    Call("N10 key", "socket", "15 3 2"),
    Call("N10 alg", "socket", "38 5 0"),
    Call("N10 vsock", "socket", "40 1 0"),
    Call("N10 xdp", "socket", "44 3 0"),
    Call("N10 tipc", "socket", "30 1 0"),
    Call("N10 can", "socket", "29 3 1"),
    Call("N10 bluetooth", "socket", "31 3 1"),
]
HERE = [call for call in ALL_CALLS + NEVER_SOCKETS if call.name in CALLS]
ALLOWED = Syscalls().allow(*{call.name for call in HERE})


def of(calls: list[Call]) -> list[object]:
    return [pytest.param(call, id=call.id) for call in calls]


@pytest.mark.parametrize("call", of(HERE))
def test_a_call_is_refused_and_where_it_is_allowed_it_is_not(call: Call, tmp_path: Path) -> None:
    number = CALLS[call.name]
    assert make_call(number, call.args, Policy()).exit_code == call.expected
    seen = make_call(number, call.args, Policy(syscalls=ALLOWED)).exit_code
    if call.expected != errno.EPERM or call.quiet:
        # A kernel without the call leaves nothing to attack.
        lacking = make_call_outside(number, call.args, tmp_path) == errno.ENOSYS
        assert seen != call.expected or lacking


@pytest.mark.parametrize("call", of(HERE))
def test_a_denied_call_ends_the_run_when_that_is_asked_for(call: Call) -> None:
    number = CALLS[call.name]
    output = make_call(number, call.args, Policy(on_denied="kill"))
    if call.quiet:
        assert (output.status, output.exit_code) == (Status.EXITED, call.expected)
    else:
        assert (output.status, output.denied) == (Status.DENIED, call.name)
        allowed = Policy(on_denied="kill", syscalls=ALLOWED)
        assert make_call(number, call.args, allowed).status is Status.EXITED


@pytest.mark.parametrize("call", of(NEVER_SOCKETS))
def test_the_network_of_the_host_is_tcp_and_udp_only(call: Call) -> None:
    policy = Policy(network=Network.host())
    assert make_call(CALLS["socket"], call.args, policy).exit_code == errno.EPERM
    for allowed in ("2 1 0", "2 2 17", "10 0x80801 6"):
        assert make_call(CALLS["socket"], allowed, policy).exit_code in (0, errno.EAFNOSUPPORT)


@pytest.mark.parametrize("name", ["sendto", "sendmsg", "sendmmsg"])
def test_no_data_travels_with_a_connection_that_is_being_made(name: str) -> None:
    # N3: MSG_FASTOPEN connects without connect.
    flags = {"sendto": "0 @ 0 {} 0 0", "sendmsg": "0 @ {}", "sendmmsg": "0 @ 1 {}"}[name]
    policy = Policy(network=Network.host())
    seen = [make_call(CALLS[name], flags.format(flag), policy) for flag in ("0x20000000", "0")]
    assert [output.exit_code for output in seen] == [errno.EPERM, errno.ENOTSOCK]


@pytest.mark.parametrize("number", ["2000", "0x3fffffff", "-1"])
def test_unknown_calls_do_not_exist(number: str) -> None:
    # K17: a number that a later kernel gives to something.
    assert make_call(int(number, 0), "", Policy()).exit_code == errno.ENOSYS


OTHER_TABLES = {"K11 x32": 0x40000000 | 39, "K12 int 0x80": INT_0X80}


@pytest.mark.parametrize("number", OTHER_TABLES.values(), ids=OTHER_TABLES)
@pytest.mark.parametrize("on_denied", ["errno", "kill"])
def test_another_call_table_kills(number: int, on_denied: str, tmp_path: Path) -> None:
    if platform.machine() != "x86_64":
        return
    policy = Policy(on_denied=on_denied)  # type: ignore[arg-type]
    output = make_call(number, "", policy)
    assert (output.status, output.signal) == (Status.SIGNALED, signal.SIGSYS)
    # A kernel without these tables answers with an errno or a fault.
    assert make_call_outside(number, "", tmp_path) in (0, errno.ENOSYS, -signal.SIGSEGV)


def test_what_every_program_asks_is_answered() -> None:
    for name, args in (
        ("personality", "0xffffffff"),  # a query
        ("prctl", "39 0 0 0 0"),  # PR_GET_NO_NEW_PRIVS
        ("prlimit64", "0 7 0 @"),
        ("sched_setaffinity", "0 4096 @"),
        ("getpriority", "0 0"),
        ("clone", "17"),
        ("socketpair", "1 1 0 @"),
        ("fcntl", "0 3"),
    ):
        exit_code = make_call(CALLS[name], args, Policy()).exit_code
        assert exit_code in (0, errno.EINVAL), (name, os.strerror(exit_code or 0))


# ---- a verdict that cannot be forged -----------------------------------------------------


@pytest.mark.parametrize("on_denied", ["errno", "kill"])
def test_a_program_that_sends_itself_sigsys_was_not_denied(on_denied: str) -> None:
    policy = Policy(on_denied=on_denied)  # type: ignore[arg-type]
    output = evalbox.run(["sh", "-c", "kill -SYS $$"], policy=policy)
    assert (output.status, output.signal, output.denied) == (Status.SIGNALED, signal.SIGSYS, None)


def test_a_child_that_is_denied_ends_the_whole_run() -> None:
    policy = Policy(on_denied="kill")
    script = "./call {} -1 -1 -1 -1 -1 & wait; echo unreached"
    output = evalbox.run(
        ["sh", "-c", script.format(CALLS["mount"])],
        files={"call": caller()},
        policy=policy,
    )
    assert (output.status, output.denied, output.stdout) == (Status.DENIED, "mount", b"")


def test_a_caller_killed_in_the_middle_of_a_denied_call_does_not_hold_up_the_run() -> None:
    # Whether the call or the kill comes first is open; that the run ends is not.
    script = "for i in 1 2 3 4 5 6 7 8; do ./call {} -1 & kill -9 $!; wait $!; done; exit 3"
    for _ in range(5):
        output = evalbox.run(
            ["sh", "-c", script.format(CALLS["mount"])],
            files={"call": caller()},
            policy=Policy(on_denied="kill"),
        )
        found = (output.status, output.denied, output.exit_code)
        assert found in ((Status.DENIED, "mount", None), (Status.EXITED, None, 3))
