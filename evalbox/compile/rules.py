"""What a program may ask of the kernel: one table with a default.

A call that is not in the table is denied with EPERM. Calls that runtimes probe
for are answered as an older kernel would (ENOSYS, ENOTSUP, ENOTTY), and what a
C library or a common tool tries on its own and gets over is REFUSED: neither is
deadly under on_denied="kill", DENIED is.

Facts behind the argument rules:

- the kernel reads an int argument from the low 32 bits of the register, so only
  those are compared; the type of a socket has flags above its low four bits;
- the mode of open and openat is junk unless the flags create a file;
- mknod of the device 0:0 (a whiteout) asks for no capability, some kernels' Landlock
  takes it for an ordinary file (Debian's 6.12.117), and a rename can leave one behind;
- a datagram socket made by socketpair can still be sent or connected to a path
  (net/unix/af_unix.c), a stream or packet socket cannot: EISCONN;
- urgent data (MSG_OOB) in a pair of sockets is code of the kernel that no program
  uses and that has been a way into it (net/unix/af_unix.c);
- prlimit64 and sched_set* reach other processes of the same uid, Landlock or not;
- a piped core_pattern ignores RLIMIT_CORE 0 but honours the 1 that we set. So it
  stays, and who asks for another (the sanitizers, gpg: they end when they may not
  have 0) is told that it was done: nothing is dumped either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evalbox.compile.seccomp import (
    ALLOW,
    ENOSYS,
    ENOTSUP,
    ENOTTY,
    EPERM,
    IGNORED,
    LONG,
    ArgTest,
    Clause,
    Verdict,
    any_bit,
    none_of,
    only,
    unless,
)
from evalbox.policy import NetworkMode

Verdicts = Mapping[str, Verdict]

# Stands for EPERM or, under on_denied="kill", for a notification. As an action
# it would kill: one that is forgotten fails closed.
DENIED = 0
# EPERM either way.
REFUSED = EPERM

# ---- values of arguments (include/uapi) ------------------------------------------

SET_ID_BITS = 0o6000
DEVICE_BIT = 0o020000  # in the type of a character or block device, and of no file or pipe
RENAME_WHITEOUT = 4
CREATES_FILE = 0o100 | 0o20000000  # O_CREAT, __O_TMPFILE
NAMESPACES = 0x7E020000  # every CLONE_NEW* that clone knows
RLIMIT_CORE = 4
PRIO_PROCESS = 0
SMALLEST_ACL = 28  # bytes: a header of 4 and three entries of 8, linux/posix_acl_xattr.h
XATTR_SETTERS = "setxattr lsetxattr fsetxattr"
PERSONALITY = (0, 0xFFFFFFFF)  # PER_LINUX, query

IOCTLS = {
    "TCGETS": 0x5401,
    "TIOCGPGRP": 0x540F,
    "TIOCGWINSZ": 0x5413,
    "FIONREAD": 0x541B,
    "FIONBIO": 0x5421,
    "FIONCLEX": 0x5450,
    "FIOCLEX": 0x5451,
    "FICLONE": 0x40049409,
}
PRCTLS = {
    "PR_SET_PDEATHSIG": 1,
    "PR_GET_PDEATHSIG": 2,
    "PR_GET_DUMPABLE": 3,
    # With 0 a process hides from those that it starts (/proc/PID/fd).
    "PR_SET_DUMPABLE": 4,
    "PR_GET_KEEPCAPS": 7,
    "PR_GET_TIMING": 13,
    "PR_SET_NAME": 15,
    "PR_GET_NAME": 16,
    "PR_GET_SECCOMP": 21,
    "PR_CAPBSET_READ": 23,
    "PR_GET_TSC": 25,
    "PR_GET_SECUREBITS": 27,
    "PR_SET_TIMERSLACK": 29,
    "PR_GET_TIMERSLACK": 30,
    "PR_MCE_KILL_GET": 34,
    "PR_SET_CHILD_SUBREAPER": 36,
    "PR_GET_CHILD_SUBREAPER": 37,
    "PR_SET_NO_NEW_PRIVS": 38,
    "PR_GET_NO_NEW_PRIVS": 39,
    "PR_GET_TID_ADDRESS": 40,
    "PR_SET_THP_DISABLE": 41,
    "PR_GET_THP_DISABLE": 42,
    "PR_SVE_SET_VL": 50,
    "PR_SVE_GET_VL": 51,
    "PR_GET_SPECULATION_CTRL": 52,
    "PR_PAC_RESET_KEYS": 54,
    "PR_SET_TAGGED_ADDR_CTRL": 55,
    "PR_GET_TAGGED_ADDR_CTRL": 56,
    "PR_SET_MDWE": 65,
    "PR_GET_MDWE": 66,
    "PR_GET_SHADOW_STACK_STATUS": 74,
    "PR_SET_SHADOW_STACK_STATUS": 75,
    "PR_LOCK_SHADOW_STACK_STATUS": 76,
}
# Signals to others, growing pipes, and leases, which hold up who opens the file.
FCNTLS_REFUSED = {
    "F_SETOWN": 8,
    "F_SETSIG": 10,
    "F_SETOWN_EX": 15,
    "F_SETLEASE": 1024,
    "F_NOTIFY": 1026,
    "F_SETPIPE_SZ": 1031,
}

# The kernel counts these to nobody's memory, and there is no limit to their number
# (CVE-2022-0480). Programs go on as on a file system that keeps none; flock() is real.
RECORD_LOCKS = {"F_SETLK": 6, "F_SETLKW": 7, "F_OFD_SETLK": 37, "F_OFD_SETLKW": 38}

AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = 1, 2, 5
SOCKET_TYPE = 0xF
IPPROTO_TCP, IPPROTO_UDP = 6, 17
SOL_SOCKET = 1
MSG_OOB = 1
MSG_FASTOPEN = 0x20000000
# Sizes that the kernel caps silently anyway; the two FORCE options need a capability.
BUFFER_SIZES = (7, 8)  # SO_SNDBUF, SO_RCVBUF
BUFFER_SIZES_FORCED = (32, 33)
# Programs for the kernel to run: SO_ATTACH_FILTER, _BPF, _REUSEPORT_CBPF, _REUSEPORT_EBPF.
SOCKET_PROGRAMS = (26, 50, 51, 52)
TCP_FASTOPENS = (23, 30)  # TCP_FASTOPEN, TCP_FASTOPEN_CONNECT

# ---- the table --------------------------------------------------------------------


def _new_mode(arg: int) -> Verdict:
    return unless(Clause(DENIED, (any_bit(arg, SET_ID_BITS),)))


def _open_mode(flags: int, mode: int) -> Verdict:
    return unless(Clause(DENIED, (any_bit(flags, CREATES_FILE), any_bit(mode, SET_ID_BITS))))


def _option(level: int, name: int) -> tuple[ArgTest, ...]:
    return (ArgTest(1, level), ArgTest(2, name))


_SETS_CORE = (ArgTest(1, RLIMIT_CORE), ArgTest(2, 0, mask=LONG, negate=True))
_ONLY_SELF = only(0, (0,), REFUSED)


def _no_flags(arg: int, flags: int) -> Verdict:
    return unless(Clause(DENIED, (any_bit(arg, flags),)))


_ROWS: tuple[tuple[Verdict, str], ...] = (
    # ---- allowed -------------------------------------------------------------
    # files by descriptor
    (Verdict(ALLOW), "read write pread64 pwrite64 readv writev lseek close close_range"),
    (Verdict(ALLOW), "dup dup2 dup3 fstat fstatfs ftruncate fallocate fsync fdatasync flock"),
    (Verdict(ALLOW), "getdents64 fchdir sendfile pipe pipe2"),
    # files by path: Landlock decides which
    (Verdict(ALLOW), "stat lstat newfstatat statx statfs access faccessat readlink"),
    (Verdict(ALLOW), "readlinkat truncate chdir getcwd umask rename renameat rmdir"),
    (Verdict(ALLOW), "link linkat symlink symlinkat unlink unlinkat"),
    (Verdict(ALLOW), "utimensat"),
    # waiting
    (Verdict(ALLOW), "poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait"),
    (Verdict(ALLOW), "eventfd2 futex restart_syscall"),
    # memory; writable and executable at once too, because JITs need it
    (Verdict(ALLOW), "mmap munmap mprotect mremap madvise msync brk"),
    # processes and threads
    (Verdict(ALLOW), "fork vfork execve exit exit_group wait4 waitid set_tid_address arch_prctl"),
    (Verdict(ALLOW), "rseq set_robust_list getpid getppid gettid getpgid getpgrp setpgid setsid"),
    (
        Verdict(ALLOW),
        "getrlimit getrusage getpriority times sysinfo uname sched_yield sched_getaffinity",
    ),
    # identity; setting works only to what one already is
    (Verdict(ALLOW), "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid"),
    # posix_spawn() does it in a child
    (Verdict(ALLOW), "setresuid setresgid"),
    # signals: Landlock keeps them inside
    (Verdict(ALLOW), "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend"),
    (Verdict(ALLOW), "rt_sigtimedwait sigaltstack pause kill tkill tgkill"),
    # time
    (Verdict(ALLOW), "time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep"),
    (Verdict(ALLOW), "alarm setitimer getrandom"),
    # the ends of a socketpair
    (Verdict(ALLOW), "shutdown getsockname getsockopt"),
    # ---- decided by the arguments ---------------------------------------------
    (_no_flags(2, MSG_OOB), "sendmsg recvmsg"),
    (_no_flags(3, MSG_OOB), "sendto recvfrom"),
    (_open_mode(1, 2), "open"),
    (_open_mode(2, 3), "openat"),
    (_new_mode(1), "chmod fchmod creat mkdir"),
    (_new_mode(2), "fchmodat mkdirat"),
    (_no_flags(2, SET_ID_BITS | DEVICE_BIT), "mknodat"),
    (_no_flags(4, RENAME_WHITEOUT), "renameat2"),
    (unless(Clause(DENIED, (any_bit(0, NAMESPACES),))), "clone"),
    (
        unless(
            Clause(DENIED, none_of(0, (0,))),
            # Not where the old limit is asked for too: it would not be written.
            Clause(IGNORED, (*_SETS_CORE, ArgTest(3, 0, mask=LONG))),
            Clause(REFUSED, _SETS_CORE),
        ),
        "prlimit64",
    ),
    # A thread may be set only as 0, which is the caller: a thread's own number
    # cannot be told from another process'.
    (_ONLY_SELF, "sched_setaffinity"),
    (Verdict(REFUSED, (Clause(ALLOW, (ArgTest(0, PRIO_PROCESS), ArgTest(1, 0))),)), "setpriority"),
    (only(1, IOCTLS.values(), ENOTTY), "ioctl"),
    (only(0, PRCTLS.values(), REFUSED), "prctl"),
    (
        unless(
            *(Clause(REFUSED, (ArgTest(1, command),)) for command in FCNTLS_REFUSED.values()),
            *(Clause(IGNORED, (ArgTest(1, command),)) for command in RECORD_LOCKS.values()),
        ),
        "fcntl",
    ),
    (only(0, PERSONALITY, REFUSED), "personality"),
    (
        unless(
            Clause(DENIED, none_of(0, (AF_UNIX,))),
            Clause(DENIED, none_of(1, (SOCK_STREAM, SOCK_SEQPACKET), SOCKET_TYPE)),
        ),
        "socketpair",
    ),
    (
        unless(
            *(Clause(IGNORED, _option(SOL_SOCKET, name)) for name in BUFFER_SIZES),
            *(Clause(REFUSED, _option(SOL_SOCKET, name)) for name in BUFFER_SIZES_FORCED),
            *(Clause(REFUSED, _option(SOL_SOCKET, name)) for name in SOCKET_PROGRAMS),
            *(Clause(REFUSED, _option(IPPROTO_TCP, name)) for name in TCP_FASTOPENS),
        ),
        "setsockopt",
    ),
    # ---- as an older kernel, or one without the feature, would answer ----------
    (Verdict(ENOSYS), "clone3 openat2 memfd_create memfd_secret"),
    (Verdict(ENOSYS), "io_uring_setup io_uring_enter io_uring_register"),
    (Verdict(ENOSYS), "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents"),
    (Verdict(ENOSYS), "pidfd_open pidfd_send_signal pidfd_getfd"),
    (Verdict(ENOSYS), "shmget shmat shmctl shmdt semget semop semctl semtimedop"),
    (Verdict(ENOSYS), "msgget msgsnd msgrcv msgctl"),
    (Verdict(ENOSYS), "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr"),
    (Verdict(ENOSYS), "mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages"),
    (Verdict(ENOSYS), "move_pages pkey_alloc pkey_free pkey_mprotect mseal map_shadow_stack"),
    (Verdict(ENOSYS), "futex_waitv futex_wake futex_wait futex_requeue cachestat statmount"),
    (Verdict(ENOSYS), "listmount listns lsm_get_self_attr lsm_set_self_attr lsm_list_modules"),
    (Verdict(ENOSYS), "open_tree_attr file_getattr file_setattr rseq_slice_yield uretprobe uprobe"),
    # What few programs use and all can do without, for less of the kernel to attack.
    (Verdict(ENOSYS), "preadv pwritev preadv2 pwritev2 sync_file_range fadvise64 tee splice"),
    (Verdict(ENOSYS), "copy_file_range faccessat2 fchmodat2 mknod utime utimes futimesat"),
    (Verdict(ENOSYS), "epoll_create epoll_pwait2 signalfd4 mincore membarrier"),
    (Verdict(ENOSYS), "timerfd_create timerfd_settime timerfd_gettime"),
    (Verdict(ENOSYS), "execveat setrlimit getcpu getitimer timer_create timer_settime"),
    (Verdict(ENOSYS), "timer_gettime timer_getoverrun timer_delete"),
    # shutil.copy2 gets over this one, and not over EPERM
    (Verdict(ENOTSUP), "getxattr lgetxattr fgetxattr getxattrat"),
    (Verdict(ENOTSUP), "listxattr llistxattr flistxattr listxattrat"),
    # cp -p sets the access rights once more as an ACL and gets over ENOTSUP only.
    (Verdict(DENIED, (Clause(ENOTSUP, (ArgTest(3, SMALLEST_ACL),)),)), XATTR_SETTERS),
    # ---- refused, but tried by ordinary programs --------------------------------
    (Verdict(REFUSED), "chown fchown lchown fchownat setgroups setfsuid setfsgid capset capget"),
    (Verdict(REFUSED), "setreuid setregid getsid getpeername"),
    (Verdict(REFUSED), "rt_sigqueueinfo rt_tgsigqueueinfo ioprio_get ioprio_set"),
    (Verdict(REFUSED), "sched_getparam sched_setparam sched_getscheduler sched_setscheduler"),
    (Verdict(REFUSED), "sched_getattr sched_setattr sched_rr_get_interval"),
    (Verdict(REFUSED), "sched_get_priority_max sched_get_priority_min"),
    (Verdict(REFUSED), "mlock mlock2 munlock mlockall munlockall readahead vmsplice sync syncfs"),
    (Verdict(REFUSED), "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch"),
)

# The C library itself tries these two families, for the name service cache and
# for name lookup.
_PROBED_FAMILIES = (
    Clause(REFUSED, (ArgTest(0, AF_UNIX),)),
    Clause(REFUSED, (ArgTest(0, AF_NETLINK),)),
)


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


def _by_name(rows: Iterable[tuple[Verdict, str]]) -> dict[str, Verdict]:
    return {name: verdict for verdict, names in rows for name in names.split()}


TABLE: Verdicts = _by_name(_ROWS)
DEFAULT = Verdict(DENIED)

NETWORK: Mapping[NetworkMode, Verdicts] = {
    "none": {"socket": Verdict(DENIED, _PROBED_FAMILIES)},
    "host": _by_name(
        (
            (
                unless(
                    *_PROBED_FAMILIES,
                    Clause(DENIED, none_of(0, (AF_INET, AF_INET6))),
                    Clause(DENIED, none_of(1, (SOCK_STREAM, SOCK_DGRAM), SOCKET_TYPE)),
                    Clause(DENIED, none_of(2, (0, IPPROTO_TCP, IPPROTO_UDP))),
                ),
                "socket",
            ),
            (Verdict(ALLOW), "connect bind listen accept accept4 getpeername"),
            (_no_flags(3, MSG_OOB), "recvmmsg"),
            (_no_flags(2, MSG_OOB | MSG_FASTOPEN), "sendmsg"),
            (_no_flags(3, MSG_OOB | MSG_FASTOPEN), "sendto sendmmsg"),
        )
    ),
}

# Limits and scheduling, of other processes too when they are not filtered.
SCHEDULING_CALLS = _names(
    "prlimit64 sched_setparam sched_setscheduler sched_setaffinity sched_setattr",
    "setpriority ioprio_set",
)

# What the owner of a file may do to it wherever it is: Landlock does not ask.
OWNER_CALLS = _names(
    "chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat",
    "utime utimes utimensat futimesat",
)

# What a policy may not allow a program that keeps uid 0: it could change the files
# of root (an access list sets the mode, io_uring passes every filter) or leave a
# set-user-id program of root behind.
NOT_FOR_UID_0 = OWNER_CALLS | _names(
    "setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat",
    "file_setattr ioctl io_uring_setup",
    "open openat openat2 creat mkdir mkdirat mknod mknodat",
)

# What they make outlives the process that made it.
LASTING_CALLS = _names("shmget semget msgget mq_open")

# Launcher and init do these, and so does the child before its own filter. What
# they ask of prctl, fcntl and the rest any program may: each name here costs
# time in every run, because the child's filter is installed anew.
LAUNCHER_CALLS = _names(
    "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    "capget capset setgroups",
    "setfsuid setfsgid fchown fchownat memfd_create mount clone3",
)
