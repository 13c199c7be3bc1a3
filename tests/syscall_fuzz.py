"""Random system calls from inside sandboxes: what tests/fuzz/syscalls.c is told, and its runs.

SHAPES says what the arguments of a call are, so that many calls get past the first
check of their arguments. What is not in it gets arguments of every kind.
"""

from __future__ import annotations

import os
import platform
import random
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evalbox import (
    Completed,
    Enforcement,
    Executor,
    File,
    Limits,
    MiB,
    Output,
    Plan,
    Policy,
    SandboxId,
    Status,
    TimedOut,
)
from evalbox._syscall_table import NUMBERS
from host_health import Patient, unharmed
from proc import helpers, mark, marked

ROOT = Path(__file__).resolve().parents[1]
CALLS = NUMBERS[platform.machine()]

# f descriptor, d directory, p pointer, s path, l length, i small number, x flags,
# P process, g signal, t time, v iovec, m msghdr, a socket address, e argument list,
# A page, c command, u uid, M mode, z size of a signal set, 0 to 9 up to that, r anything
_ROWS = (
    # files by descriptor
    ("fpl", "read write getdents64 getdents"),
    ("fplr", "pread64 pwrite64"),
    ("fvi", "readv writev vmsplice"),
    ("fvil", "preadv pwritev"),
    ("fvilix", "preadv2 pwritev2"),
    ("fl4", "lseek"),
    ("f", "close dup fsync fdatasync fchdir syncfs"),
    ("ffx", "close_range dup2 dup3"),
    ("fp", "fstat fstatfs"),
    ("fl", "ftruncate flock"),
    ("fill", "fallocate"),
    ("fllx", "sync_file_range fadvise64 readahead"),
    ("ffpl", "sendfile"),
    ("fpfplx", "copy_file_range splice"),
    ("fflx", "tee"),
    ("px", "pipe pipe2"),
    ("fcp", "ioctl fcntl"),
    # files by path
    ("sp", "stat lstat statfs utime utimes"),
    ("dspx", "newfstatat"),
    ("dsxxp", "statx"),
    ("sx", "access"),
    ("dsxx", "faccessat faccessat2"),
    ("spl", "readlink"),
    ("dspl", "readlinkat"),
    ("sl", "truncate"),
    ("s", "chdir rmdir unlink chroot swapon swapoff acct umount2"),
    ("pl", "getcwd"),
    ("M", "umask"),
    ("ss", "rename link symlink pivot_root"),
    ("dsdsx", "renameat renameat2 linkat"),
    ("sds", "symlinkat"),
    ("dsx", "unlinkat"),
    ("dst", "futimesat"),
    ("dstx", "utimensat"),
    ("sxM", "open"),
    ("dsxM", "openat"),
    ("dspl", "openat2"),
    ("sM", "creat mkdir chmod"),
    ("fM", "fchmod"),
    ("sMr", "mknod"),
    ("dsM", "mkdirat"),
    ("dsMr", "mknodat fchmodat fchmodat2"),
    ("suu", "chown lchown"),
    ("fuu", "fchown"),
    ("dsuux", "fchownat"),
    ("ssplx", "setxattr lsetxattr getxattr lgetxattr"),
    ("fsplx", "fsetxattr fgetxattr"),
    ("sssxp", "mount"),
    ("dspplx", "name_to_handle_at open_by_handle_at open_tree move_mount fsopen fsmount"),
    # waiting
    ("p99", "poll"),
    ("p9tpz", "ppoll"),
    ("9pppt", "select pselect6"),
    ("i", "epoll_create epoll_create1 alarm"),
    ("f3fp", "epoll_ctl"),
    ("fp99", "epoll_wait"),
    ("fp99pz", "epoll_pwait"),
    ("fp9tpz", "epoll_pwait2"),
    ("ix", "eventfd eventfd2 timerfd_create inotify_init1"),
    ("fpzx", "signalfd4"),
    ("f1tp", "timerfd_settime"),
    ("fp", "timerfd_gettime"),
    ("pcittp", "futex"),
    # memory
    ("Alxxfl", "mmap"),
    ("Al", "munmap mlock msync mincore"),
    ("Alx", "mprotect"),
    ("AllxA", "mremap"),
    ("Ali", "madvise"),
    ("A", "brk"),
    ("iixi", "membarrier memfd_create"),
    ("plx", "getrandom"),
    # processes
    ("see", "execve"),
    ("dseex", "execveat"),
    ("Ppxp", "wait4"),
    ("2Ppxp", "waitid"),
    ("p", "set_tid_address times sysinfo uname time pipe"),
    ("ip", "getrlimit setrlimit"),
    ("cp", "arch_prctl"),
    ("2p", "getrusage getitimer"),
    ("2pp", "setitimer getcpu"),
    ("plxi", "rseq"),
    ("pl", "set_robust_list"),
    ("PP", "setpgid getpgid getsid"),
    ("Pipp", "prlimit64"),
    ("Plp", "sched_getaffinity sched_setaffinity"),
    ("Pp", "sched_getparam sched_setparam sched_rr_get_interval sched_getattr sched_setattr"),
    ("P6p", "sched_setscheduler sched_getscheduler"),
    ("2P9", "getpriority setpriority ioprio_get ioprio_set"),
    ("xppprr", "clone"),
    ("pl", "clone3"),
    ("cirrr", "prctl"),
    ("x", "unshare personality"),
    ("fx", "setns"),
    # identity
    ("u", "setuid setgid setfsuid setfsgid"),
    ("uu", "setreuid setregid"),
    ("uuu", "setresuid setresgid"),
    ("ppp", "getresuid getresgid"),
    ("ip", "getgroups setgroups"),
    ("pp", "capget capset"),
    # signals and others
    ("gppz", "rt_sigaction"),
    ("2ppz", "rt_sigprocmask"),
    ("pz", "rt_sigpending rt_sigsuspend"),
    ("pptz", "rt_sigtimedwait"),
    ("Pg", "kill tkill"),
    ("PPg", "tgkill"),
    ("Pgp", "rt_sigqueueinfo"),
    ("PPgp", "rt_tgsigqueueinfo"),
    ("pp", "sigaltstack gettimeofday settimeofday"),
    ("iPpp", "ptrace"),
    ("Pvivix", "process_vm_readv process_vm_writev"),
    ("Px", "pidfd_open"),
    ("fgpx", "pidfd_send_signal"),
    ("ffx", "pidfd_getfd"),
    ("PPiff", "kcmp"),
    # time
    ("9p", "clock_gettime clock_getres clock_settime clock_adjtime"),
    ("91tp", "clock_nanosleep"),
    ("tp", "nanosleep"),
    ("9pp", "timer_create"),
    ("21tp", "timer_settime"),
    ("2p", "timer_gettime timer_getoverrun timer_delete"),
    # sockets
    ("992", "socket"),
    ("261p", "socketpair"),
    ("fplxai", "sendto"),
    ("fplxap", "recvfrom"),
    ("fmx", "sendmsg recvmsg"),
    ("fmix", "sendmmsg recvmmsg"),
    ("f2", "shutdown listen"),
    ("fap", "getsockname getpeername accept"),
    ("fai", "connect bind"),
    ("fapx", "accept4"),
    ("fiipp", "getsockopt"),
    ("fiipl", "setsockopt"),
    # what would leave something behind
    ("ilx", "shmget"),
    ("ipx", "shmat"),
    ("iip", "shmctl msgctl"),
    ("iix", "semget msgget"),
    ("iplx", "msgsnd msgrcv semop"),
    ("sxMp", "mq_open"),
    ("ip", "io_uring_setup io_setup"),
    ("sspi", "add_key request_key"),
    ("ppPix", "perf_event_open"),
    ("cpl", "bpf"),
    ("cxp", "seccomp"),
    ("pxx", "landlock_create_ruleset"),
    ("x", "userfaultfd inotify_init sync reboot"),
    ("pl", "sethostname setdomainname"),
    ("plsx", "init_module finit_module"),
)

SHAPES = {name: shape for shape, names in _ROWS for name in names.split()}

# Of the program's own, and of the system: the C program opens the first of them.
_NAMES = """
f0 f1 f2 f3 d0 d0/g d0/h d0/i . .. / ./syscalls n0 n1 n2 n3 n4 n5 s0
/etc/passwd /etc/shadow /proc/self/mem /proc/self/fd/3 /proc/self/oom_score_adj /proc/1/environ
/proc/sys/kernel/core_pattern /dev/null /dev/shm/x /tmp/x /usr/bin/true
"""
# Calls of one run.
_FEWEST, _MOST = 20_000, 2_000_000
_SECONDS = 60
# The program ends by itself; this is for one that cannot.
_PATIENCE = 60


def program_input(pids: Iterable[int], names: Iterable[str]) -> str:
    """What the program reads; `pids` and `names` are of the host."""
    lines = [f"call {nr} {SHAPES.get(name, 'rrrrrr')}" for name, nr in CALLS.items()]
    lines += [f"name {name}" for name in [*_NAMES.split(), "y" * 250, *names]]
    lines += [f"pid {pid}" for pid in pids]
    return "\n".join(lines) + "\n"


def build(folder: Path) -> Path:
    """The program, which needs nothing of the sandbox it runs in."""
    program = folder / "syscalls"
    flags = "-std=c17 -D_GNU_SOURCE -O2 -Wall -Wextra -static -fno-stack-protector"
    source = ROOT / "tests" / "fuzz" / "syscalls.c"
    subprocess.run(["gcc", *shlex.split(flags), source, "-o", program], check=True)
    return program


@dataclass
class Tally:
    """What was done in all runs together."""

    calls: int = 0
    workers: int = 0
    stuck: int = 0
    runs: int = 0
    made: Counter[int] = field(default_factory=Counter)
    succeeded: Counter[int] = field(default_factory=Counter)
    failed: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)

    def add(self, output: Output) -> None:
        """The report of one run; one that came to its end too soon has only a total."""
        self.runs += 1
        self.ends[output.status.name if output.signal is None else f"signal {output.signal}"] += 1
        total = 0
        for line in output.text.splitlines():
            match line.split():
                case ["calls", count]:
                    total = int(count)
                case ["of", nr, *counts]:
                    made, succeeded, failed, _denied = map(int, counts)
                    self.made[int(nr)] += made
                    self.succeeded[int(nr)] += succeeded
                    self.failed[int(nr)] += failed
                case ["workers", ended, stuck]:
                    self.workers += int(ended)
                    self.stuck += int(stuck)
        self.calls += total

    def answered(self) -> set[int]:
        """The numbers that were not always denied."""
        return {nr for nr in self.made if self.succeeded[nr] or self.failed[nr]}


@dataclass(frozen=True)
class Attack:
    """Runs of the program.

    Attributes:
        at_once: how many there are at a time.
        pids, names: processes and files of the host that each gets to know.
        mark: on the command lines of all their processes.
    """

    program: Path
    policy: Policy
    at_once: int
    pids: Sequence[int]
    names: Sequence[str]
    mark: str

    def plan(self, calls: int) -> Plan:
        arguments = [self.mark, str(calls), str(_SECONDS), str(random.getrandbits(63))]
        return Plan(
            ["./syscalls", *arguments],
            files={
                "syscalls": File(self.program.read_bytes(), executable=True),
                self.mark: program_input(self.pids, self.names),
            },
            limits=Limits(wall_time=_SECONDS + _PATIENCE, file_size=4 * MiB, memory=512 * MiB),
            policy=self.policy,
        )

    def run(self, executor: Executor, calls: int) -> Tally:
        """Until that many calls have been made."""
        tally = Tally()
        active: set[SandboxId] = set()
        while tally.calls < calls or active:
            while tally.calls < calls and len(active) < self.at_once:
                share = (calls - tally.calls) // self.at_once
                active.add(executor.spawn(self.plan(min(max(share, _FEWEST), _MOST))))
            for event in executor.poll():
                if isinstance(event, Completed | TimedOut):
                    active.remove(event.id)
                    tally.add(event.output)
        return tally


@dataclass(frozen=True)
class Result:
    """An attack after which the host was found unharmed."""

    tally: Tally
    seconds: float
    enforcement: Mapping[str, Enforcement]
    log_was_read: bool


def attack_host(calls: int, policy: Policy, folder: Path, at_once: int) -> Result:
    """Makes the calls and looks at the host before and after.

    Raises:
        AssertionError: the host is not what it was.
    """
    name, launchers = mark(), set(helpers())
    program = build(folder)
    place = folder / "open to all"
    place.mkdir()
    with Patient.made_in(place) as patient:
        before = patient.metadata()
        with unharmed(patient) as log:
            pids = [patient.process.pid, os.getpid(), os.getppid()]
            attack = Attack(program, policy, at_once, pids, [*map(str, patient.files)], name)
            start = time.monotonic()
            with Executor() as executor:
                tally = attack.run(executor, calls)
                seconds = time.monotonic() - start
                # Nothing of the attackers stays, and others are served as before.
                assert marked(name) == []
                other = executor.run(Plan(["sh", "-c", "echo fine > f; cat f"], policy=policy))
                assert (other.status, other.text) == (Status.EXITED, "fine\n")
            assert set(helpers()) <= launchers
        if other.enforcement["fs_metadata"].level == "enforced":
            assert patient.metadata() == before
    return Result(tally, seconds, other.enforcement, log.is_readable)
