"""Runs in cgroups: what they count, what they hold, and that nothing is left of them.

Each limit has its control: the same program goes through where the limit is higher.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import evalbox
import proc
from evalbox import PIPE, Executor, Limits, MiB, Plan, Policy, Status, UnsupportedError
from evalbox._host import host
from evalbox._host.cgroups import CPU, MEMORY, PIDS
from evalbox._launch import cgroup_base
from evalbox._launch.cgroups import LauncherCgroups
from evalbox.flat import plan_from_fields
from evalbox.policy import CORE
from leaks import launchers_of
from probe import ends, open_directory

pytestmark = [
    pytest.mark.skipif(
        not host().cgroups.controllers >= {MEMORY, PIDS, CPU},
        reason="this caller may make no cgroups with memory, pids and cpu",
    ),
    pytest.mark.usefixtures("tier"),
]

LIMIT = 32 * MiB
# More than the limit by far.
AMOUNT = 64 * MiB


def held() -> frozenset[str]:
    """What this kernel lacks in other respects is no matter here."""
    bare = host().without_cgroups("")
    report = bare.enforcement(Policy(), Limits(), bare.default_identity)
    return frozenset(name for name in CORE if report[name].level == "enforced")


def plan(*command: str | Path, **fields: Any) -> Plan:
    return plan_from_fields(command, **{"require": held(), **fields})


def python(script: str, *args: str, **fields: Any) -> evalbox.Output:
    return evalbox.Executor.run(plan(sys.executable, "-c", script, *args, **fields))


def ours() -> list[Path]:
    """The cgroups that launchers of this process have now."""
    bases = {Path(base) for _, base in host().cgroups.bases}
    name = f"evalbox-{os.getpid()}-*"
    return [path for base in bases for path in base.glob(name)]


@pytest.fixture
def executor() -> Iterator[Executor]:
    """One slot, as long as one run at a time is started."""
    with Executor() as made:
        yield made


def run(executor: Executor, script: str, **fields: Any) -> evalbox.Output:
    return executor.run(plan(sys.executable, "-c", script, **fields))


# ---- memory -----------------------------------------------------------------------------------

KINDS = {
    "private": f"x = bytearray({AMOUNT})",
    "shared": f"""
import mmap
m = mmap.mmap(-1, {AMOUNT})
for at in range(0, len(m), 4096):
    m[at] = 1
""",
    "pipes": f"""
import os
ends = [os.pipe() for _ in range({AMOUNT} // 65536)]
for _, end in ends:
    os.set_blocking(end, False)
    os.write(end, bytes(65536))
""",
    "sockets": f"""
import socket
kept, total = [], 0
while total < {AMOUNT}:
    kept.append(socket.socketpair())
    kept[-1][0].setblocking(False)
    try:
        while True:
            total += kept[-1][0].send(bytes(32768))
    except BlockingIOError:
        pass
""",
    "page tables": f"""
import mmap
m = mmap.mmap(-1, {AMOUNT} // 4096 << 21, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
for at in range(0, len(m), 1 << 21):
    m[at]
""",
}


@pytest.mark.parametrize("script", KINDS.values(), ids=KINDS)
def test_memory_of_every_kind_is_limited(script: str) -> None:
    fields = {"open_files": 2500, "disk": None}
    limited = python(script, memory=LIMIT, **fields)
    assert limited.status is Status.MEMORY_LIMIT, limited.stderr
    assert 0.9 * LIMIT <= limited.usage.peak_memory <= 1.1 * LIMIT
    control = python(script, memory=None, **fields)
    assert control.ok, control.stderr
    assert control.usage.peak_memory >= 0.75 * AMOUNT


FILE = f"""
with open("file", "wb") as file:
    for _ in range({AMOUNT} >> 20):
        file.write(bytes(1 << 20))
"""


@pytest.mark.skipif(not host().places[0].tmpfs, reason="workspaces are on a disk")
def test_files_in_memory_are_limited() -> None:
    fields = {"disk": None, "file_size": None}
    assert python(FILE, memory=LIMIT, **fields).status is Status.MEMORY_LIMIT
    control = python(FILE, memory=None, **fields)
    assert control.ok
    assert control.usage.peak_memory >= AMOUNT


def test_what_fits_is_not_killed() -> None:
    script = f"x = bytearray({LIMIT})"
    used = max(python(script, memory=None).usage.peak_memory for _ in range(3))
    for _ in range(5):
        assert python(script, memory=used + MiB).ok
    assert python(script, memory=used - 8 * MiB).status is Status.MEMORY_LIMIT


@pytest.mark.parametrize("memory", [0, 4096, 65536])
def test_too_little_memory_to_start_in_is_a_limit_like_any_other(memory: int) -> None:
    assert evalbox.Executor.run(plan("true", memory=memory)).status is Status.MEMORY_LIMIT
    assert evalbox.Executor.run(plan("true")).ok


# Holds a share in each of four processes, all at once or one after the other.
SHARES = f"""
import os, sys
at_once = sys.argv[1] == "at once"
told, tell = os.pipe()
wait, go = os.pipe()
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        os.close(go)
        x = bytearray({AMOUNT} // 4)
        os.write(tell, b".")
        os._exit(len(os.read(wait, 1)) if at_once else 0)
    if not at_once:
        os.waitpid(pid, 0)
for _ in range(4):
    os.read(told, 1)
"""


def test_memory_and_its_peak_are_those_of_the_tree() -> None:
    together, alone = python(SHARES, "at once"), python(SHARES, "in turn")
    assert together.ok, together.stderr
    assert alone.ok, alone.stderr
    assert together.usage.peak_memory >= AMOUNT
    assert alone.usage.peak_memory <= AMOUNT // 2
    assert python(SHARES, "at once", memory=LIMIT).status is Status.MEMORY_LIMIT
    assert python(SHARES, "in turn", memory=LIMIT).ok


def test_a_run_is_out_of_memory_whichever_process_asked_for_more() -> None:
    script = f"""
import os
pid = os.fork()
if pid == 0:
    x = bytearray({AMOUNT})
os.waitpid(pid, 0)
os.close(os.pipe()[1])
while True:
    os.sched_yield()
"""
    assert python(script, memory=LIMIT).status is Status.MEMORY_LIMIT


def test_out_of_memory_is_told_from_a_kill(executor: Executor) -> None:
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    # In the same slot, before and after: no count of another run is taken for this one's.
    for _ in range(2):
        killed = run(executor, kill, memory=LIMIT)
        assert (killed.status, killed.signal) == (Status.SIGNALED, signal.SIGKILL)
        full = run(executor, KINDS["private"], memory=LIMIT)
        assert (full.status, full.signal) == (Status.MEMORY_LIMIT, signal.SIGKILL)
        assert full.usage.peak_memory >= 0.9 * LIMIT


def test_each_run_has_its_own_limits_and_accounts(executor: Executor) -> None:
    script = f"x = bytearray({LIMIT})"
    for memory, status in (
        (LIMIT, Status.MEMORY_LIMIT),
        (AMOUNT, Status.EXITED),
        (None, Status.EXITED),
        (LIMIT, Status.MEMORY_LIMIT),
    ):
        assert run(executor, script, memory=memory).status is status
    assert run(executor, "pass").usage.peak_memory < LIMIT
    forks = "import os; [os.fork() or os._exit(0) for _ in range(4)]"
    assert (run(executor, forks).usage.processes or 2) >= 2
    assert run(executor, "pass").usage.processes in (None, 1)
    assert run(executor, "pass").usage.cpu_time < 30
    assert len(launchers_of(executor)[0].slots) == 1


def test_kept_output_is_not_the_programs_memory() -> None:
    script = f"import sys; sys.stdout.write('x' * {MiB}); sys.stdout.flush()\n" * 24
    output = python(script, memory=LIMIT // 2, output=LIMIT)
    assert (output.status, len(output.stdout)) == (Status.EXITED, 24 * MiB)


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("on_denied", ["errno", "kill"])
def test_every_way_to_start_leads_into_the_cgroup(
    executor: Executor, hold: bool, on_denied: str
) -> None:
    fields: dict[str, Any] = {"hold": hold, "on_denied": on_denied, "memory": LIMIT}
    started = executor.spawn(plan(sys.executable, "-c", KINDS["private"], **fields))
    if hold:
        executor.release(started)
    (output,) = ends(executor).values()
    assert output.status is Status.MEMORY_LIMIT


# ---- processes and their time -----------------------------------------------------------------

FORKS = """
import os, time
made = 0
try:
    while made < 100:
        if os.fork() == 0:
            time.sleep(100)
        made += 1
except OSError as error:
    print(made, error.errno)
else:
    print(made)
"""


def test_processes_are_counted_to_the_last() -> None:
    limited = python(FORKS, processes=10)
    assert limited.text == f"9 {errno.EAGAIN}\n"
    assert limited.usage.processes in (None, 10)
    assert python(FORKS, processes=None).text == "100\n"


@pytest.mark.root
def test_processes_of_uid_0_are_counted() -> None:
    with open_directory() as folder:
        folder.chmod(0o700)
        fields = {"write": [folder], "require": {"processes"}, "processes": 10}
        output = python("import os; print(os.getuid())" + FORKS, **fields)
    assert output.text == f"0\n9 {errno.EAGAIN}\n"


# Nobody waits for the children, whose time so vanishes from /proc; each is short.
ORPHANS = """
import os, signal, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(int(sys.argv[1])):
    if os.fork() == 0:
        while time.process_time() < 0.004:
            pass
        os._exit(0)
    try:
        os.wait()
    except ChildProcessError:
        pass
"""


def test_time_that_nobody_waits_for_counts() -> None:
    output = python(ORPHANS, "100")
    assert output.ok, output.stderr
    assert output.usage.cpu_time >= 0.4
    limited = python(ORPHANS, "1000000", cpu_time=0.4, timeout=60.0)
    assert limited.status is Status.CPU_TIME
    assert 0.4 <= limited.usage.cpu_time < 1.0


# ---- where everything is ----------------------------------------------------------------------


def processes_in(path: Path) -> set[int]:
    return set(cgroup_base._processes(str(path)))


def test_only_the_program_is_in_its_cgroup(executor: Executor) -> None:
    mark = proc.mark()
    executor.spawn(plan("sh", "-c", f"sleep {mark} & read x", stdin=PIPE))
    proc.until(lambda: proc.marked(f"\0{mark}"), "the process has started")
    (launcher,) = launchers_of(executor)
    (slot,) = launcher.slots.values()
    inside = [processes_in(Path(path, slot.name)) for path in launcher.cgroups._paths.values()]
    assert inside
    for found in inside:
        assert found >= set(proc.marked(f"\0{mark}"))
        assert found.isdisjoint({os.getpid(), launcher.pid, *proc.children(launcher.pid)})


def test_the_reports_say_so() -> None:
    output = evalbox.run(["true"], cpu_time=10.0, require=held() | {"memory", "cpu", "processes"})
    version = f"cgroup v{host().cgroups.version} "
    for name in ("memory", "cpu", "processes"):
        assert output.enforcement[name].level == "enforced"
        assert output.enforcement[name].mechanism.startswith(version)


# ---- nothing is left --------------------------------------------------------------------------


def test_nothing_is_left_of_an_executor() -> None:
    before = set(ours())
    with Executor() as executor:
        executor.run(plan("true"))
        made = set(ours()) - before
        assert made
    assert set(ours()) <= before


def test_what_outlives_init_and_launcher_is_killed(executor: Executor) -> None:
    mark = proc.mark()
    executor.spawn(plan("sh", "-c", f"setsid sleep {mark} & read x", stdin=PIPE))
    proc.until(lambda: proc.marked(f"\0{mark}"), "the process has started")
    (launcher,) = launchers_of(executor)
    (init,) = proc.children(launcher.pid)
    for pid in (launcher.pid, init):
        os.kill(pid, signal.SIGSTOP)
    for pid in (launcher.pid, init):
        os.kill(pid, signal.SIGKILL)
    (output,) = ends(executor).values()
    assert output.status is Status.KILLED
    assert proc.marked(mark) == []


HOST = """
import sys
from evalbox import PIPE, Executor, Plan, Policy
executor = Executor()
command = ["sh", "-c", f"setsid sleep {sys.argv[1]} & read x"]
executor.spawn(Plan(command, stdin=PIPE, policy=Policy(require=(), isolation="process")))
while True:
    executor.poll()
"""


def leftovers(pid: int) -> list[Path]:
    return [
        path for _, base in host().cgroups.bases for path in Path(base).glob(f"evalbox-{pid}-*")
    ]


def test_what_a_killed_host_and_launcher_left_is_gone_after_the_next_start() -> None:
    mark = proc.mark()
    command = [sys.executable, "-c", HOST, mark]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as dying:
        proc.until(
            lambda: proc.marked(f"\0sleep\0{mark}") or proc.marked(f"sleep\0{mark}"), "it runs"
        )
        (launcher,) = proc.children(dying.pid)
        inits = proc.children(launcher)
        for pid in (launcher, *inits):
            os.kill(pid, signal.SIGSTOP)
        for pid in (dying.pid, launcher, *inits):
            os.kill(pid, signal.SIGKILL)
        dying.wait()
    # The control: without the next start they would be there for ever.
    assert leftovers(dying.pid)
    assert proc.marked(f"sleep\0{mark}")
    # A start of a process that is alive is none of its business.
    with Executor() as other:
        other.run(plan("true"))
        mine = set(ours())
        script = "import evalbox; assert evalbox.run(['true'], require=()).ok"
        subprocess.run([sys.executable, "-c", script], check=True)
        assert set(ours()) == mine
        assert other.run(plan("true")).ok
    assert leftovers(dying.pid) == []
    assert proc.marked(f"sleep\0{mark}") == []


# ---- when they cannot be made after all -------------------------------------------------------


def full(_self: object, slot: str) -> None:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), f"/cgroup/{slot}")


def test_a_run_without_its_cgroup_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with Executor() as executor:
        monkeypatch.setattr(LauncherCgroups, "_add", full)
        output = executor.run(plan("true"))
        assert output.ok
        assert output.enforcement["memory"].level == "partial"
        assert os.strerror(errno.EAGAIN) in output.enforcement["memory"].reason
        assert output.usage.processes is None
        demanding = plan("true", require=held() | {"memory"})
        with pytest.raises(UnsupportedError, match=os.strerror(errno.EAGAIN)) as caught:
            executor.run(demanding)
        assert caught.value.property == "memory"
        monkeypatch.undo()
        assert executor.run(demanding).enforcement["memory"].level == "enforced"


def test_a_launcher_without_cgroups_serves_runs_that_do_not_need_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/cgroup")

    before = ours()
    monkeypatch.setattr(cgroup_base, "enter", refuse)
    with Executor() as executor:
        output = executor.run(plan("true"))
        assert output.ok
        assert os.strerror(errno.EACCES) in output.enforcement["memory"].reason
        assert ours() == before
