"""The hard places are what they say: each is looked at from inside.

What Docker's default profile says is tested on the filter itself, with an
interpreter for it; that the kernel has the filter, by a few calls.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

import bpf
from evalbox import _native
from evalbox._syscall_table import NUMBERS
from evalbox.compile.seccomp import ALLOW, AUDIT_ARCH, ENOSYS, EPERM
from hard_places import CannotMake, run
from hard_places.docker import CAPABILITIES, MASKED, profile
from hard_places.linux import CAPABILITIES as ALL_CAPABILITIES
from hard_places_here import HERE, base, run_there

MACHINE = os.uname().machine
CALLS = NUMBERS[MACHINE]

_LOOK = """
import ctypes, errno, json, os, resource, socket, sys
libc = ctypes.CDLL(None, use_errno=True)

def call(nr, *args):
    if (got := libc.syscall(ctypes.c_long(nr), *(ctypes.c_long(a) for a in args))) < 0:
        raise OSError(ctypes.get_errno(), "call")
    return got

def text(path):
    with open(path) as file:
        return file.read()

def fields(name):
    return [line.split()[1:] for line in text("/proc/self/status").splitlines()
            if line.startswith(name + ":")][0]

seen = []
for expression in sys.argv[1:]:
    try:
        seen.append(eval(expression))
    except OSError as error:
        seen.append(errno.errorcode[error.errno])
print(json.dumps(seen))
"""


def look(place: str, *expressions: str) -> list[object]:
    """What Python expressions are there; a failed call is the name of its errno."""
    done = run_there(place, [sys.executable, "-c", _LOOK, *expressions])
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


def each_who(*bases: str) -> list[str]:
    return [name for name in HERE if base(name) in bases]


# ---- Docker's profile ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "answer"),
    [
        ("read", (), ALLOW),
        ("landlock_create_ruleset", (), ALLOW),
        ("seccomp", (), ALLOW),
        ("ptrace", (), ALLOW),
        ("chroot", (), ALLOW),
        ("mount", (), EPERM),
        ("umount2", (), EPERM),
        ("unshare", (), EPERM),
        ("setns", (), EPERM),
        ("keyctl", (), EPERM),
        ("io_uring_setup", (), EPERM),
        ("kcmp", (), EPERM),
        ("pidfd_getfd", (), EPERM),
        ("open_tree_attr", (), ENOSYS),
        ("clone3", (), ENOSYS),
        ("clone", (0x11,), ALLOW),
        ("clone", (0x003D0F00,), ALLOW),
        ("clone", (0x10000011,), EPERM),
        ("clone", (0x02000011,), EPERM),
        ("clone", (0x00020011,), EPERM),
        ("socket", (1,), ALLOW),
        ("socket", (16,), ALLOW),
        ("socket", (38,), EPERM),
        ("socket", (40,), EPERM),
        ("socket", (1 << 32 | 38,), EPERM),
        ("personality", (0,), ALLOW),
        ("personality", (0x20008,), ALLOW),
        ("personality", (0x0040000,), EPERM),
    ],
)
def test_the_profile_answers_as_published(name: str, args: tuple[int, ...], answer: int) -> None:
    program = bpf.disassemble(_native.filter_program(profile()))
    bpf.check(program)
    call = bpf.Call(AUDIT_ARCH[MACHINE], CALLS[name], (*args, *(0,) * (6 - len(args))))
    assert bpf.run(program, call).action == answer


def test_with_sys_admin_the_profile_lets_namespaces_through() -> None:
    program = bpf.disassemble(_native.filter_program(profile([*CAPABILITIES, "SYS_ADMIN"])))
    for name in ("mount", "unshare", "clone3"):
        assert bpf.run(program, bpf.Call(AUDIT_ARCH[MACHINE], CALLS[name])).action == ALLOW


# ---- a container -----------------------------------------------------------------


@pytest.mark.parametrize("place", each_who("docker"))
def test_a_container_has_the_filter_and_no_more_privileges(place: str) -> None:
    unshare, clone3 = CALLS["unshare"], CALLS["clone3"]
    mode, no_new_privs, namespace, clone = look(
        place,
        "fields('Seccomp')",
        "fields('NoNewPrivs')",
        f"call({unshare}, 0x10000000)",
        f"call({clone3}, 0, 0)",
    )
    assert (mode, no_new_privs) == (["2"], ["0"])
    assert (namespace, clone) == ("EPERM", "ENOSYS")


@pytest.mark.parametrize("place", each_who("docker", "docker-unconfined"))
def test_a_container_has_dockers_capabilities(place: str) -> None:
    bound = sum(1 << ALL_CAPABILITIES.index(name) for name in CAPABILITIES)
    held = bound if place.endswith("-root") else 0
    expected = [[f"{value:016x}"] for value in (held, held, bound, 0, 0)]
    names = ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")
    assert look(place, *(f"fields('{name}')" for name in names)) == expected


@pytest.mark.parametrize("place", each_who("docker", "docker-unconfined"))
def test_a_container_has_processes_mounts_and_network_of_its_own(place: str) -> None:
    pids, interfaces, host, temporary, devices, shm = look(
        place,
        "[name for name in os.listdir('/proc') if name.isdigit()]",
        "[name for _, name in socket.if_nameindex()]",
        "socket.gethostname() == text('/etc/hostname').strip()",
        "os.access('/tmp', os.W_OK)",
        "sorted(os.listdir('/dev'))",
        "os.statvfs('/dev/shm').f_flag & 14",
    )
    assert pids == ["1"]
    assert interfaces == ["lo"]
    assert host is True
    assert temporary is True
    assert {"null", "zero", "full", "random", "urandom", "tty", "shm", "pts"} <= set(devices)  # type: ignore[call-overload]
    assert not {"sda", "vda", "kmsg", "mem"} & set(devices)  # type: ignore[call-overload]
    assert shm == 14, "nosuid, nodev, noexec"


@pytest.mark.parametrize("place", each_who("docker", "docker-unconfined"))
def test_a_container_has_a_masked_proc(place: str) -> None:
    hidden = [path for path in MASKED if Path(path).exists()]
    assert hidden
    seen = look(
        place,
        *(f"os.listdir('{p}') if os.path.isdir('{p}') else list(text('{p}'))" for p in hidden),
        "os.close(os.open('/proc/sys/kernel/hostname', os.O_WRONLY))",
        "os.close(os.open('/proc/self/oom_score_adj', os.O_WRONLY))",
    )
    *masked, setting, own = seen
    assert masked == [[]] * len(hidden)
    assert setting == ("EROFS" if place.endswith("-root") else "EACCES")
    assert own is None


@pytest.mark.root
def test_without_capabilities_root_is_a_user() -> None:
    seen = look("docker-cap-drop-root", "fields('CapEff')", "fields('CapBnd')", "os.chroot('/')")
    assert seen == [["0" * 16], ["0" * 16], "EPERM"]


@pytest.mark.parametrize("place", each_who("docker-no-new-privs"))
def test_no_new_privileges_are_to_be_had(place: str) -> None:
    assert look(place, "fields('NoNewPrivs')", "fields('Seccomp')") == [["1"], ["2"]]


@pytest.mark.root
def test_what_root_changes_in_a_container_stays_there() -> None:
    made = "os.close(os.open('/etc/hard-places', os.O_CREAT))"
    assert look("docker-root", made, "os.path.exists('/etc/hard-places')") == [None, True]
    assert not Path("/etc/hard-places").exists()


@pytest.mark.parametrize("place", each_who("docker-unconfined"))
def test_without_the_profile_a_user_namespace_is_made_but_no_proc_in_it(place: str) -> None:
    # CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWPID; the mount is by the child, in the PID namespace.
    seen = look(
        place,
        f"call({CALLS['unshare']}, 0x10000000 | 0x20000 | 0x20000000)",
        "os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if (pid := os.fork()) else os._exit("
        "ctypes.get_errno() if libc.mount(b'proc', b'/proc', b'proc', 0, None) else 0)",
    )
    assert seen == [0, errno.EPERM]


# ---- user namespaces ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "answer"),
    [
        *((name, "ENOSPC") for name in each_who("no-userns")),
        *((name, "EPERM") for name in each_who("debian-userns", "apparmor-userns")),
        *((name, 0) for name in each_who("apparmor-caps", "docker-unconfined", "no-tmpfs")),
    ],
)
def test_user_namespaces_are_made_where_they_are_said_to_be(place: str, answer: object) -> None:
    assert look(place, f"call({CALLS['unshare']}, 0x10000000)") == [answer]


@pytest.mark.parametrize("place", each_who("apparmor-caps"))
def test_a_namespace_without_capabilities_can_do_nothing(place: str) -> None:
    namespace, network, name, mount = look(
        place,
        f"call({CALLS['unshare']}, 0x10000000 | 0x20000)",
        f"call({CALLS['unshare']}, 0x40000000)",
        "socket.sethostname('x')",
        f"call({CALLS['mount']}, 0, 0, 0, 0, 0)",
    )
    assert namespace == 0
    assert {network, name, mount} == {"EPERM"}


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("no-userns", "/proc/sys/user/max_user_namespaces", "0"),
        ("debian-userns", "/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("apparmor-userns", "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("apparmor-caps", "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_the_setting_can_be_read_there_and_is_not_changed_here(
    name: str, path: str, value: str
) -> None:
    before = Path(path).read_text() if Path(path).exists() else ""
    for place in each_who(name):
        assert look(place, f"text('{path}').strip()") == [value]
    assert (Path(path).read_text() if Path(path).exists() else "") == before


# ---- file systems and limits ---------------------------------------------------------

_WRITABLE = "[p for p in ('/tmp', '/var/tmp', '/dev/shm', '/mnt') if os.access(p, os.W_OK)]"
_TYPES = (
    "[line.split()[-3] for line in text('/proc/self/mountinfo').splitlines()"
    " if line.split()[4] in ('/tmp', '/var/tmp', '/dev/shm', '/dev')]"
)


@pytest.mark.parametrize("place", each_who("no-tmpfs"))
def test_no_tmpfs_can_be_written(place: str) -> None:
    writable, shm, null = look(
        place,
        "[p for p in ('/tmp', '/var/tmp') if os.access(p, os.W_OK)]",
        "os.path.exists('/dev/shm')",
        "os.close(os.open('/dev/null', os.O_RDWR))",
    )
    assert (writable, shm, null) == (["/tmp", "/var/tmp"], False, None)


@pytest.mark.parametrize("place", each_who("read-only-root", "read-only-all"))
def test_a_read_only_root_is_that(place: str) -> None:
    writable, home, room = look(
        place,
        _WRITABLE,
        "os.access('.', os.W_OK)",
        "(os.statvfs('/mnt').f_blocks * os.statvfs('/mnt').f_frsize) >> 20",
    )
    small = place.startswith("read-only-root")
    assert writable == (["/mnt"] if small else [])
    assert home is False
    assert not small or room == 16


@pytest.mark.parametrize("place", each_who("noexec-tmp"))
def test_nothing_can_be_executed_in_temporary_directories(place: str) -> None:
    flags = "[os.statvfs(p).f_flag & 8 for p in ('/tmp', '/var/tmp', '/dev/shm')]"
    assert look(place, flags, _WRITABLE.replace(", '/mnt'", "")) == [
        [8, 8, 8],
        ["/tmp", "/var/tmp", "/dev/shm"],
    ]


@pytest.mark.parametrize("place", each_who("no-proc"))
def test_there_is_no_proc(place: str) -> None:
    assert look(place, "os.listdir('/proc')") == [[]]


@pytest.mark.parametrize("place", each_who("read-only-proc"))
def test_proc_cannot_be_written(place: str) -> None:
    assert look(place, "os.close(os.open('/proc/self/oom_score_adj', os.O_WRONLY))") == ["EROFS"]


@pytest.mark.parametrize("place", each_who("few-files"))
def test_few_files_can_be_open(place: str) -> None:
    assert look(place, "resource.getrlimit(resource.RLIMIT_NOFILE)") == [[32, 32]]


@pytest.mark.parametrize("place", each_who("few-processes"))
def test_few_processes_can_be_there(place: str) -> None:
    # The command itself is one; none of the two is waited for.
    start = "os.fork() or __import__('signal').pause()"
    first, second = look(place, f"({start}) and 'started'", start)
    assert (first, second) == ("started", "EAGAIN")


@pytest.mark.parametrize("place", each_who("closed-stdio"))
def test_the_usual_descriptors_are_closed(place: str) -> None:
    done = run_there(place, ["sh", "-c", "ls /proc/self/fd/0 /proc/self/fd/1; exit 7"])
    assert (done.returncode, done.stdout) == (7, "")


def test_several_places_can_be_one() -> None:
    both = "docker-user+noexec-tmp-user+few-files-user"
    flags = "os.statvfs('/tmp').f_flag & 8"
    files = "resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
    assert look(both, flags, files, "fields('Seccomp')") == [8, 32, ["2"]]


# ---- the tool ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $(sh -c 'echo $PPID')", 0)]
)
def test_the_exit_code_is_passed_on(script: str, code: int) -> None:
    # The last: PID 1 is deaf to signals from inside.
    assert run_there("docker-user", ["sh", "-c", script]).returncode == code


def test_a_place_that_there_is_not_is_refused() -> None:
    with pytest.raises(CannotMake, match="no such place"):
        run("nowhere-root", ["true"])
    assert run_there("docker-user", ["/no/such/program"]).returncode == 127


@pytest.mark.user
def test_only_root_makes_a_place_for_root() -> None:
    with pytest.raises(CannotMake, match="only root can make docker-root"):
        run("docker-root", ["true"])
