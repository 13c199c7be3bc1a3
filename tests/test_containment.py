"""Attacks on files and processes outside, each with a control that succeeds.

The ids are those of the catalogue of attacks: F files, P processes, I information.
Sockets are in test_containment_network.py, single system calls in _calls.py, the
ends of hostile runs in _runs.py and the identities of root in _root.py.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evalbox
import proc
import tiers
from evalbox import Policy, Syscalls
from probe import Attack, allowed, control, denied, inside, open_directory, witness

pytestmark = pytest.mark.usefixtures("tier")

NOT_THERE: dict[str, set[str]] = {"process": set(), "namespace": {"ENOENT"}}

READS = (
    Attack("F1 read", "opened(f'{D}/secret')"),
    Attack("F1 list", "os.listdir(D)"),
    Attack("F1 execute", "subprocess.run([f'{D}/program'])"),
    Attack("F8 through a link", "os.symlink(f'{D}/secret', 'link') or opened('link')"),
    Attack("F15 below O_PATH", "opened('secret', dir_fd=os.open(D, os.O_PATH))"),
    Attack("F26 after chdir", "from_within(D, lambda: opened('secret'))"),
    Attack("F26 by ..", "opened(os.path.relpath(f'{D}/secret'))"),
)
WRITES = (
    Attack("F3 write", "opened(f'{D}/secret', os.O_WRONLY)"),
    Attack("F3 create", "opened(f'{D}/new', os.O_WRONLY | os.O_CREAT)"),
    Attack("F3 unnamed", "opened(D, os.O_WRONLY | os.O_TMPFILE)"),
    Attack("F3 unlink", "os.unlink(f'{D}/secret')"),
    Attack("F3 mkdir", "os.mkdir(f'{D}/new')"),
    Attack("F3 rmdir", "os.rmdir(f'{D}/empty')"),
    Attack("F3 symlink", "os.symlink('x', f'{D}/new')"),
    Attack("F3 fifo", "os.mkfifo(f'{D}/new')"),
    Attack("F4 truncate", "os.truncate(f'{D}/secret', 0)"),
    Attack("F4 O_TRUNC", "opened(f'{D}/secret', os.O_WRONLY | os.O_TRUNC)"),
)
MOVES = (
    Attack("F5 hard link in", "os.link(f'{D}/secret', 'stolen')", "EXDEV", "ENOENT"),
    Attack("F6 rename in", "os.rename(f'{D}/secret', 'moved')"),
    Attack("F6 rename out", "opened('own', os.O_CREAT) or os.rename('own', f'{D}/new')"),
)
# What a host has; controlled by an ordinary process of the same user. Where the answer
# in namespaces is "ok", the run has its own, see test_namespaces.py.
HOST_FILES = (
    Attack("F2 passwd", "opened('/etc/passwd')", apart="ok"),
    Attack("F2 list etc", "os.listdir('/etc')", apart="ok"),
    Attack("F11 environ", "opened(f'/proc/{WITNESS}/environ')"),
    Attack("F11 maps", "opened(f'/proc/{WITNESS}/maps')"),
    Attack("F11 mem", "opened(f'/proc/{WITNESS}/mem', os.O_RDWR)"),
    Attack("F11 fd", "os.listdir(f'/proc/{WITNESS}/fd')"),
    Attack("F11 cwd", "os.listdir(f'/proc/{WITNESS}/cwd/.')"),
    Attack("F12 root", "opened(f'/proc/self/root{D}/secret')"),
    Attack("F12 own cwd", "os.listdir('/proc/self/fd')", apart="ok"),
    Attack("F13 cmdline", "opened(f'/proc/{WITNESS}/cmdline')"),
    Attack("F13 stat", "opened(f'/proc/{WITNESS}/stat')"),
    Attack("P25 list", "os.listdir('/proc')", apart="ok"),
    Attack("I8 sockets", "opened('/proc/self/net/tcp')", apart="ok"),
    Attack("F28 list dev", "os.listdir('/dev')", apart="ok"),
    Attack("F31 terminal", "opened('/dev/ptmx', os.O_RDWR | os.O_NOCTTY)"),
    Attack("F30 list shm", "os.listdir('/dev/shm')", apart="ok"),
    Attack("I9 other runs", "os.listdir(os.path.dirname(OUTSIDE))", apart="ok"),
)
# What must go on working; the first needs no right in the process tier.
ORDINARY = (
    Attack("F22 stat outside", "os.stat(f'{D}/secret')", "ok", "ENOENT"),
    Attack("F35 execute", "shutil.copy('/usr/bin/true', 'p') and subprocess.run(['./p'])"),
    Attack("read null", "opened('/dev/null', os.O_RDWR)"),
    Attack("read usr", "os.listdir('/usr/bin')"),
)


@pytest.fixture
def outside() -> Iterator[Path]:
    with open_directory() as folder:
        yield folder


@pytest.fixture
def pid() -> Iterator[int]:
    with witness() as process:
        yield process.pid


# ---- files -------------------------------------------------------------------------------


def test_files_outside_are_not_read_and_granted_ones_are(outside: Path) -> None:
    assert inside(READS, outside) == denied(READS)
    assert inside(READS, outside, Policy(read=[outside])) == allowed(READS)


def test_files_outside_are_not_changed_and_granted_ones_are(outside: Path) -> None:
    assert inside(WRITES, outside) == denied(WRITES)
    only_read = inside(WRITES, outside, Policy(read=[outside]))
    assert {name: seen for name, seen in only_read.items() if seen == "ok"} == {}
    assert inside(WRITES, outside, Policy(write=[outside])) == allowed(WRITES)


def test_nothing_is_moved_in_or_out(outside: Path) -> None:
    seen = inside(MOVES, outside)
    # A layer that denies the move as such says EXDEV, one that denies the file EACCES.
    assert set(seen.values()) <= {"EACCES", "EXDEV"} | NOT_THERE[tiers.current()]


def test_files_move_between_directories_that_are_granted(outside: Path) -> None:
    inner = "os.mkdir('a') or opened('f', os.O_CREAT) or os.rename('f', 'a/f')"
    within = [Attack("F7 rename inside", inner)]
    assert inside(within, outside) == allowed(within)
    assert inside(MOVES, outside) == denied(MOVES)
    granted = inside(MOVES, outside, Policy(write=[outside]))
    if tiers.current() == "process":
        assert granted == allowed(MOVES)
    else:
        # The workspace is a file system of its own: there programs copy.
        assert set(granted.values()) == {"EXDEV"}
        copy = Attack("copy", "shutil.move(f'{D}/secret', 'm') and shutil.move('m', f'{D}/m')")
        assert inside([copy], outside) == denied([copy])
        assert inside([copy], outside, Policy(write=[outside])) == allowed([copy])


def test_files_move_within_what_is_granted(outside: Path) -> None:
    acts = [Attack("F6 rename", "os.rename(f'{D}/secret', f'{D}/empty/secret')")]
    assert inside(acts, outside) == denied(acts)
    assert inside(acts, outside, Policy(write=[outside])) == allowed(acts)


def test_what_the_host_shows_every_user_is_closed(outside: Path, pid: int, tmp_path: Path) -> None:
    assert inside(HOST_FILES, outside, WITNESS=pid) == denied(HOST_FILES)
    assert control(HOST_FILES, outside, tmp_path, WITNESS=pid) == allowed(HOST_FILES)


def test_ordinary_work_in_the_workspace_goes_on(outside: Path) -> None:
    assert inside(ORDINARY, outside) == denied(ORDINARY[:1]) | allowed(ORDINARY[1:])


def test_a_device_is_not_made(outside: Path, tmp_path: Path) -> None:
    # 0:0, a whiteout, asks for no capability.
    make = [Attack("F27", "os.mknod('device', 0o020600, 0)", "EPERM")]
    assert inside(make, outside) == denied(make)
    assert control(make, outside, tmp_path) == allowed(make)


def test_set_id_bits_are_not_set(outside: Path, tmp_path: Path) -> None:
    made = "os.O_CREAT | os.O_WRONLY, 0o4755"
    acts = [
        Attack("F17 chmod", "opened('f', os.O_CREAT) or os.chmod('f', 0o4755)", "EPERM"),
        Attack("F17 create", f"os.close(os.open('g', {made}))", "EPERM"),
        Attack("F17 mkdir", "os.mkdir('d', 0o2755)", "EPERM"),
    ]
    assert inside(acts, outside) == denied(acts)
    assert control(acts, outside, tmp_path) == allowed(acts)


METADATA = (
    Attack("F16 chmod", "os.chmod(f'{D}/secret', 0o600)", "EPERM", "ENOENT"),
    Attack("F19 chown", "os.chown(f'{D}/secret', 0, 0)", "EPERM"),  # by the filter
    Attack("F20 utime", "os.utime(f'{D}/secret', (1, 1))", "EPERM", "ENOENT"),
)


@pytest.mark.root
def test_files_of_root_keep_mode_owner_and_times(outside: Path, tmp_path: Path) -> None:
    acts = METADATA
    (outside / "mine").mkdir(mode=0o700)
    as_caller = Policy(write=[outside / "mine"])
    assert inside(acts, outside) == denied(acts)
    # With uid 0 the filter denies the calls wherever they lead.
    assert inside(acts, outside, as_caller) == {act.name: act.inside for act in acts}
    assert "ok" not in inside(acts, outside, Policy(read=[outside])).values()
    assert control(acts, outside, tmp_path) == allowed(acts)


def test_times_of_what_every_user_may_write_can_be_set_to_now(outside: Path) -> None:
    # Neither Landlock nor a uid stops it, only a mount does; and the report says so.
    touch = [Attack("F20 now", "os.utime(f'{D}/secret')", "ok", "ENOENT")]
    of_what_is_read = [Attack("F20 now", "os.utime(f'{D}/secret')", "ok", "EROFS")]
    assert inside(touch, outside) == denied(touch)
    assert inside(of_what_is_read, outside, Policy(read=[outside])) == denied(of_what_is_read)
    assert inside(touch, outside, Policy(write=[outside])) == allowed(touch)
    report = evalbox.run(["true"]).enforcement["fs_metadata"]
    assert (report.level == "enforced") == (tiers.current() == "namespace")
    assert report.level == "enforced" or "times" in report.reason or "utime" in report.reason


# ---- processes ---------------------------------------------------------------------------

SIGNALS = (
    Attack("P3 kill", "os.kill(TARGET, 0)", "EPERM", "ESRCH"),
    Attack("P3 continue", "os.kill(TARGET, signal.SIGCONT)", "EPERM", "ESRCH"),
    Attack("P3 tgkill", "call('tgkill', TARGET, TARGET, 0)", "EPERM", "ESRCH"),
    Attack("P3 tkill", "call('tkill', TARGET, 0)", "EPERM", "ESRCH"),
)
OTHERS = (
    *SIGNALS,
    Attack("P3 pidfd", "call('pidfd_open', TARGET, 0)", "ENOSYS"),
    Attack("P6 limits", "call('prlimit64', TARGET, 7, 0, AT)", "EPERM"),
    Attack("P7 affinity", "os.sched_setaffinity(TARGET, os.sched_getaffinity(0))", "EPERM"),
    Attack(
        "P7 policy", "os.sched_setscheduler(TARGET, os.SCHED_OTHER, os.sched_param(0))", "EPERM"
    ),
    Attack("P8 priority", "os.setpriority(os.PRIO_PROCESS, TARGET, 0)", "EPERM"),
    Attack("P8 io priority", "call('ioprio_set', 1, TARGET, 0)", "EPERM"),
    # Attached to and left again.
    Attack(
        "P1 ptrace",
        "call('ptrace', 0x4206, TARGET, 0, 0) or os.waitpid(TARGET, 0x40000000 | os.WNOHANG)",
        "EPERM",
    ),
    Attack("P2 kcmp", "call('kcmp', TARGET, TARGET, 0, 0, 0)", "EPERM"),
)
OWN_CHILD = (
    Attack("kill", "child(lambda pid: os.kill(pid, 0))"),
    Attack("tgkill", "child(lambda pid: call('tgkill', pid, pid, 0))"),
)
TRACING = (
    Attack("P1 seize", "call('ptrace', 0x4206, TARGET, 0, 0)", "EPERM", "ESRCH"),
    Attack("P2 read", "call('process_vm_readv', TARGET, IOV, 1, IOV, 1, 0)", "EPERM", "ESRCH"),
)
TRACING_OF_A_CHILD = (
    Attack("seize", "child(lambda pid: call('ptrace', 0x4206, pid, 0, 0))"),
    Attack("read", "child(lambda pid: call('process_vm_readv', pid, IOV, 1, IOV, 1, 0))"),
)


def test_processes_outside_are_out_of_reach(outside: Path, pid: int, tmp_path: Path) -> None:
    assert inside(OTHERS, outside, TARGET=pid) == denied(OTHERS)
    assert control(OTHERS, outside, tmp_path, TARGET=pid) == allowed(OTHERS)
    assert inside(OWN_CHILD, outside) == allowed(OWN_CHILD)


def test_init_and_launcher_are_out_of_reach(outside: Path, tmp_path: Path) -> None:
    assert evalbox.run(["true"]).ok
    helpers = proc.helpers()
    assert len(helpers) > 1, "a launcher and an init"
    for helper in helpers:
        assert inside(OTHERS, outside, TARGET=helper) == denied(OTHERS)
        assert control(SIGNALS[:1], outside, tmp_path, TARGET=helper) == allowed(SIGNALS[:1])


def test_the_parent_of_the_program_is_out_of_reach(outside: Path) -> None:
    # It is seen in namespaces, too: as the first process there.
    acts = [
        Attack(act.name, act.act.replace("TARGET", "os.getppid()"), act.inside, act.inside)
        for act in OTHERS
    ]
    assert inside(acts, outside) == denied(acts)


@pytest.mark.root
def test_a_run_that_keeps_uid_0_reaches_no_process_of_root(outside: Path, pid: int) -> None:
    (outside / "mine").mkdir(mode=0o700)
    as_caller = Policy(write=[outside / "mine"])
    assert inside(OTHERS, outside, as_caller, TARGET=pid) == denied(OTHERS)


def test_landlock_holds_tracing_where_the_filter_grants_it(outside: Path, pid: int) -> None:
    policy = Policy(syscalls=Syscalls().allow("ptrace", "process_vm_readv"))
    assert inside(TRACING, outside, policy, TARGET=pid) == denied(TRACING)
    assert inside(TRACING_OF_A_CHILD, outside, policy) == allowed(TRACING_OF_A_CHILD)


# ---- what a program starts with ----------------------------------------------------------

LOOK_AROUND = """
import ctypes, fcntl, json, os, resource
libc = ctypes.CDLL(None)
def is_open(fd):
    try:
        return fcntl.fcntl(fd, fcntl.F_GETFD) >= 0
    except OSError:
        return False
header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[1] * 6)
assert libc.capget(header, held) == 0
try:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (OSError, ValueError):
    pass
print(json.dumps({
    "descriptors": [fd for fd in range(4096) if is_open(fd)],
    "capabilities": sum(held),
    "no_new_privs": libc.prctl(39, 0, 0, 0, 0),
    "seccomp": libc.prctl(21, 0, 0, 0, 0),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "groups": len(os.getgroups()),
    "uids": len({*os.getresuid()}),
    "terminal": any(os.isatty(fd) for fd in range(3)),
    "umask": os.umask(0),
    "nice": os.nice(0),
    "blocked": len(__import__("signal").pthread_sigmask(0, [])),
}))
"""


def test_a_program_starts_with_nothing_but_its_three_descriptors(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)
        looks = Policy(syscalls=Syscalls().allow("capget"))
        output = evalbox.run([sys.executable, "-c", LOOK_AROUND], policy=looks)
    found = json.loads(output.stdout)
    own_groups = 0 if os.geteuid() == 0 else len(os.getgroups())
    assert found == {
        "descriptors": [0, 1, 2],
        "capabilities": 0,
        "no_new_privs": 1,
        "seccomp": 2,
        "core": [1, 1],
        "groups": own_groups,
        "uids": 1,
        "terminal": False,
        "umask": 0o22,
        "nice": os.nice(0),
        "blocked": 0,
    }


def test_a_program_ignores_no_signal_that_its_host_does() -> None:
    show = ["bash", "-c", "trap -p"]
    assert evalbox.run(show).stdout == b""
    # Python ignores SIGPIPE, and a child that is not spared inherits it.
    assert b"SIGPIPE" in subprocess.run(show, restore_signals=False, capture_output=True).stdout


def test_of_the_environment_only_the_base_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "secret")
    names = {line.partition("=")[0] for line in evalbox.run(["env"]).text.splitlines()}
    assert names == {"PATH", "HOME", "TMPDIR", "USER", "LANG"}
    assert "mine=1" in evalbox.run(["env"], env={"mine": "1"}).text.splitlines()


def test_a_crash_leaves_no_core_file() -> None:
    output = evalbox.run(["sh", "-c", "ulimit -c unlimited; kill -ABRT $$"], collect=["*"])
    assert output.status is evalbox.Status.SIGNALED
    assert dict(output.files) == {}
