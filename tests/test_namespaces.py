"""What a run in namespaces of its own sees: files, names, processes, devices.

Whatever it finds is its own or was granted. Limits are in test_namespaces_limits.py,
grants in _grants.py, and what is left of runs, inits and launchers in _ends.py.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import evalbox
from evalbox import Executor, File, Network, Plan, Policy
from proc import mark, marked, until

pytestmark = pytest.mark.usefixtures("namespace_tier")


def shell(script: str, **fields: Any) -> str:
    """What a script prints; it must end with 0."""
    return evalbox.run(["sh", "-c", script], **fields).check().text


def lines(script: str, **fields: Any) -> list[str]:
    return shell(script, **fields).splitlines()


# ---- the tree ------------------------------------------------------------------------------


def test_a_program_starts_in_its_box_and_finds_its_places() -> None:
    told = lines("pwd; echo $HOME; echo $TMPDIR; ls; cat a/b", files={"a/b": "given"})
    assert told == ["/box", "/home/sandbox", "/tmp", "a", "given"]
    assert lines("pwd", cwd="a/c", files={"a/b": ""}) == ["/box/a/c"]


def test_the_root_has_what_was_granted_and_nothing_else() -> None:
    found = {*lines("ls -A /")}
    assert found >= {"box", "dev", "etc", "home", "proc", "tmp", "usr"}
    links = {name for name in os.listdir("/") if os.path.islink(f"/{name}")}
    assert found - links == {"box", "dev", "etc", "home", "proc", "tmp", "usr"}
    assert lines("ls -A /home /tmp /dev/shm") == ["/dev/shm:", "", "/home:", "sandbox", "", "/tmp:"]


def test_nothing_can_be_made_or_changed_outside_the_places() -> None:
    tried = "for d in / /etc /usr /dev /home /proc; do (echo x >$d/new) 2>&1; done | wc -l"
    assert lines(tried) == ["6"]
    assert lines("for d in /box /tmp /dev/shm /home/sandbox; do echo x >$d/new && cat $d/new; done")


def test_a_file_that_was_put_into_one_place_is_seen_in_that_only() -> None:
    script = "touch /box/b $HOME/h $TMPDIR/t /dev/shm/s; ls /box $HOME $TMPDIR /dev/shm"
    seen = "/box:\nb\n\n/dev/shm:\ns\n\n/home/sandbox:\nh\n\n/tmp:\nt\n"
    assert shell(script) == seen


def test_without_the_system_there_are_only_the_places_and_what_was_granted(tmp_path: Path) -> None:
    program = ["/usr/bin/env", "-i", "/usr/bin/ls", "-A", "/", "/dev", "/etc"]
    granted = [path for path in ("/usr", "/lib", "/lib64") if os.path.exists(path)]
    output = evalbox.run(program, system=False, read=granted)
    told = output.text.split("\n\n")
    assert {*told[0].split("\n")[1:]} >= {"box", "dev", "etc", "home", "proc", "tmp", "usr"}
    assert told[1] == "/dev:\nshm"
    assert {*told[2].split()} == {"/etc:", "passwd", "group", "hosts", "hostname"}


def test_a_mount_of_the_host_is_not_there() -> None:
    mounts = [line.split()[4] for line in lines("cat /proc/self/mountinfo")]
    assert {"/", "/proc", "/box", "/tmp", "/dev/shm", "/home/sandbox", "/usr"} <= {*mounts}
    others = [path for path in mounts if not Path(path).is_relative_to("/proc")]
    tops = {Path(path).parts[1] for path in others if path != "/"}
    assert tops <= {"box", "dev", "etc", "home", "lib", "lib32", "lib64", "opt", "tmp", "usr"}


def test_what_is_mounted_is_read_only_but_for_the_places() -> None:
    rows = [line.split() for line in lines("cat /proc/self/mountinfo")]
    options = {row[4]: row[5].split(",") for row in rows if row[4] != "/proc"}
    writable = {path for path, found in options.items() if "ro" not in found}
    assert writable == {"/box", "/home/sandbox", "/tmp", "/dev/shm"}
    assert [path for path, found in options.items() if "nosuid" not in found] == []
    with_devices = {path for path, found in options.items() if "nodev" not in found}
    of_null = {path for path in with_devices if path.startswith("/proc/")}
    names = ("full", "null", "random", "urandom", "zero")
    assert with_devices - of_null == {f"/dev/{name}" for name in names}


# ---- names ---------------------------------------------------------------------------------


def test_the_user_and_the_machine_have_names_of_their_own() -> None:
    told = lines("id -un; id -gn; hostname; cat /etc/hostname; id -u; echo ~; whoami")
    assert told[:4] == ["sandbox", "sandbox", "evalbox", "evalbox"]
    assert told[5:] == ["/home/sandbox", "sandbox"]
    assert socket.gethostname() != "evalbox"


def test_the_users_of_the_host_are_not_told() -> None:
    users = [line.split(":")[0] for line in lines("cat /etc/passwd")]
    groups = [line.split(":")[0] for line in lines("cat /etc/group")]
    assert (users, groups) == (["root", "sandbox"], ["root", "sandbox"])
    assert len(Path("/etc/passwd").read_text(encoding="utf-8").splitlines()) > 2


def test_the_files_of_the_host_are_there_when_they_are_granted() -> None:
    real = Path("/etc/passwd").read_text(encoding="utf-8")
    assert shell("cat /etc/passwd", read=["/etc/passwd"]) == real


def test_names_are_resolved_without_a_network() -> None:
    code = "import socket; print(socket.gethostbyname('localhost'), socket.gethostname())"
    # The lookup asks for a socket first and does without it.
    assert evalbox.run(["python3", "-c", code]).text == "127.0.0.1 evalbox\n"


def test_the_host_name_cannot_be_changed_and_that_of_the_host_stays() -> None:
    before = socket.gethostname()
    code = "import socket; socket.sethostname('other')"
    assert "PermissionError" in evalbox.run(["python3", "-c", code]).stderr.decode()
    assert socket.gethostname() == before


def test_the_network_is_empty_without_the_hosts() -> None:
    names = "cut -d: -f1 -s /proc/net/dev"
    assert [line.strip() for line in lines(names)] == ["lo"]
    there = [line.strip() for line in lines(names, policy=Policy(network=Network.host()))]
    assert {*there} == {name for _, name in socket.if_nameindex()}


# ---- devices -------------------------------------------------------------------------------


def test_there_are_five_devices_and_they_work() -> None:
    code = """
import json, os, stat
found = {n: os.stat(f"/dev/{n}", follow_symlinks=False) for n in sorted(os.listdir("/dev"))}
devices = {n: [os.major(s.st_rdev), os.minor(s.st_rdev)] for n, s in found.items()
           if stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode)}
others = [n for n in found if n not in devices]
with open("/dev/null", "wb", buffering=0) as null:
    null.write(b"x" * 100000)
with open("/dev/zero", "rb") as zero:
    zeroes = zero.read(5) == bytes(5)
try:
    os.write(os.open("/dev/full", os.O_WRONLY), b"x")
except OSError as error:
    full = error.strerror
read = [len(open(f"/dev/{n}", "rb").read(7)) if n == "urandom" else 7 for n in ("urandom",)]
print(json.dumps([devices, others, zeroes, full, read]))
"""
    told = json.loads(evalbox.run(["python3", "-c", code]).check().text)
    numbers = {name: os.stat(f"/dev/{name}").st_rdev for name in told[0]}
    assert told[0] == {name: [os.major(n), os.minor(n)] for name, n in numbers.items()}
    assert sorted(told[0]) == ["full", "null", "random", "urandom", "zero"]
    assert told[1] == ["fd", "shm", "stderr", "stdin", "stdout"]
    assert told[2:] == [True, "No space left on device", [7]]


@pytest.mark.root
def test_a_device_in_a_granted_directory_is_dead(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    zero = tmp_path / "zero"
    os.mknod(zero, 0o666 | stat.S_IFCHR, os.stat("/dev/zero").st_rdev)
    zero.chmod(0o666)
    with zero.open("rb") as opened:
        assert opened.read(1) == b"\0"
    output = evalbox.run(["head", "-c", "1", zero], read=[tmp_path])
    assert "Permission denied" in output.stderr.decode()


# ---- processes -----------------------------------------------------------------------------


def test_only_the_own_processes_exist() -> None:
    number = mark()
    with subprocess.Popen(["sleep", number]) as other:
        until(lambda: marked(f"sleep\0{number}"), "another process is there")
        try:
            told = lines("echo /proc/[0-9]*; cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'")
        finally:
            other.kill()
    # The supervisor, the shell, and what the shell starts.
    assert told[0].split()[:2] == ["/proc/1", "/proc/2"]
    assert len(told[0].split()) <= 4
    assert number not in told


def test_of_its_supervisor_a_program_reads_nothing_that_matters() -> None:
    leaves = "environ maps mem fd/0 root/usr/bin/true cwd/a exe auxv stack syscall smaps io"
    script = f"for f in {leaves}; do head -c 10 /proc/1/$f >/dev/null 2>&1 && echo $f; done; true"
    assert lines(script) == []
    assert lines(script.replace("/proc/1/", "/proc/self/")) != []


def test_the_first_process_cannot_be_signalled() -> None:
    script = "for s in TERM KILL STOP INT HUP; do kill -$s 1 2>/dev/null && echo $s; done; echo on"
    assert lines(script) == ["on"]


def test_pids_begin_again_with_each_init() -> None:
    plans = [Plan(["sh", "-c", "echo $$"], policy=Policy(read=path)) for path in ([], ["/usr"])]
    with Executor() as executor:
        assert [executor.run(plan).text for plan in plans] == ["2\n", "2\n"]
        # An init that serves again goes on counting, and nobody is there any more.
        assert int(executor.run(plans[0]).text) > 2


def test_settings_of_the_kernel_are_not_changed_and_hardly_told() -> None:
    settings = "kernel/core_pattern vm/drop_caches kernel/hostname net/ipv4/ip_forward"
    script = f"for f in {settings}; do (echo 1 >/proc/sys/$f) 2>/dev/null && echo $f; done; true"
    assert lines(script) == []
    masked = "kcore kallsyms keys key-users timer_list kmsg sysrq-trigger config.gz"
    script = f"for f in {masked}; do cat /proc/$f 2>/dev/null; done | wc -c"
    assert lines(script) == ["0"]


def test_objects_of_the_host_in_memory_are_not_there(tmp_path: Path) -> None:
    name = Path("/dev/shm") / tmp_path.name
    assert not name.exists()
    name.write_text("of the host", encoding="utf-8")
    try:
        assert lines(f"test -e {name} || echo absent; echo own >{name}; cat {name}") == [
            "absent",
            "own",
        ]
        assert name.read_text(encoding="utf-8") == "of the host"
    finally:
        name.unlink()


# ---- input and output ----------------------------------------------------------------------


def test_the_standard_streams_have_names() -> None:
    script = "cat /dev/stdin; echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/fd/0"
    output = evalbox.run(["sh", "-c", script], stdin=b"in\n").check()
    assert (output.text, output.stderr) == ("in\nout\n", b"err\n")


def test_without_input_a_program_reads_its_end_also_where_no_device_is() -> None:
    granted = [path for path in ("/usr", "/lib", "/lib64") if os.path.exists(path)]
    plan = {"system": False, "read": granted}
    assert evalbox.run(["/usr/bin/cat"], **plan).check().stdout == b""  # type: ignore[arg-type]
    fed = evalbox.run(["/usr/bin/cat"], stdin=b"fed", **plan)  # type: ignore[arg-type]
    assert fed.check().stdout == b"fed"


def test_an_interpreter_of_an_environment_and_its_modules_are_there() -> None:
    script = "import sys, evalbox; print(sys.prefix)"
    folder = str(Path(evalbox.__file__).parent.parent)
    output = evalbox.run([sys.executable, "-c", script], read=[folder], env={"PYTHONPATH": folder})
    assert output.check().text == f"{sys.prefix}\n"


def test_files_of_the_plan_run_and_come_back() -> None:
    files = {"run": File("#!/bin/sh\necho made >d/new; cat d/given\n", executable=True)}
    output = evalbox.run(["./run"], files={**files, "d/given": "x\n"}, collect=["d/*"])
    assert (output.check().text, dict(output.files)) == (
        "x\n",
        {"d/given": b"x\n", "d/new": b"made\n"},
    )
