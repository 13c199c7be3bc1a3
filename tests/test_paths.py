"""What a run may open: the promised default, a policy's own paths, and the descriptors."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from confine import errno_of, ruleset
from evalbox.compile import descriptors, paths
from evalbox.compile.descriptors import PathDescriptors
from evalbox.compile.paths import (
    CHANGE,
    DEVICE,
    HANDLED_NET,
    NAMES,
    READ,
    RUN,
    SYSTEM,
    WORKSPACE,
    Access,
    path_rules,
)
from evalbox.errors import PlanError
from evalbox.plan import Plan
from evalbox.policy import Network, Policy
from evalbox.resolve import Program, resolve

NOTHING = Program("./x", in_workspace=True, grants=())
BARE = Policy(system=False)


def granted(policy: Policy, program: Program = NOTHING) -> dict[str, Access]:
    return {rule.path: rule.access for rule in path_rules(policy, program)}


# ---- the default ---------------------------------------------------------------------


def test_no_rule_of_the_default_covers_what_holds_secrets() -> None:
    rules = granted(Policy())
    for place in ("/etc", "/etc/ssl", "/dev", "/proc", "/sys", "/home", "/root", "/tmp", "/var"):
        assert not {place, *map(str, Path(place).parents)} & set(rules)


@pytest.mark.parametrize("secret", ["/etc/shadow", "/etc/passwd", "/etc/group", "/etc/machine-id"])
def test_no_file_about_users_or_the_machine_is_granted(secret: str) -> None:
    assert secret not in granted(Policy())


def test_nothing_of_the_default_can_be_changed_but_five_devices() -> None:
    changeable = {path for path, access in granted(Policy()).items() if access & ~RUN}
    assert changeable <= {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}
    assert Access.IOCTL_DEV not in DEVICE
    assert Access.TRUNCATE not in DEVICE


def test_only_the_trees_of_programs_can_be_executed() -> None:
    runnable = {path for path, access in granted(Policy()).items() if Access.EXECUTE in access}
    tops = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}
    assert runnable <= tops
    assert "/usr" in runnable


def test_every_rule_is_for_a_real_path_that_exists() -> None:
    rules = granted(Policy(network=Network.host()))
    assert [path for path in rules if os.path.realpath(path, strict=True) != path] == []


def test_a_merged_usr_needs_one_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    rows = ((f"{tmp_path}/usr", RUN), (f"{tmp_path}/bin", RUN), (f"{tmp_path}/none", RUN))
    monkeypatch.setattr(paths, "SYSTEM", rows)
    assert granted(Policy()) == {f"{tmp_path}/usr": RUN}


def test_patterns_find_what_each_host_calls_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("java-11/a.cfg", "java-11/b.cfg", "java-11/c.txt", "java-17/a.cfg", "other/a.cfg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(paths, "SYSTEM", ((f"{tmp_path}/java-*/*.cfg", READ),))
    found = {os.path.relpath(path, tmp_path) for path in granted(Policy())}
    assert found == {"java-11/a.cfg", "java-11/b.cfg", "java-17/a.cfg"}


def test_name_lookup_is_granted_with_the_network_only() -> None:
    names = {os.path.realpath(path) for path, _ in NAMES if os.path.exists(path)}
    assert names
    assert not names & set(granted(Policy()))
    assert names <= set(granted(Policy(network=Network.host())))


def test_the_network_is_handled_unless_the_policy_grants_it() -> None:
    assert HANDLED_NET["none"] == 0b1111
    assert HANDLED_NET["host"] == 0


def test_without_the_system_only_program_and_policy_are_granted(tmp_path: Path) -> None:
    program = Program("/x", in_workspace=False, grants=(str(tmp_path),))
    assert granted(BARE, program) == {str(tmp_path): RUN}
    assert granted(BARE) == {}


def test_the_tables_name_each_path_once() -> None:
    named = [path for path, _ in (*SYSTEM, *NAMES)]
    assert len(named) == len(set(named))


# ---- what a policy adds ----------------------------------------------------------------


def test_read_is_read_and_execute_and_write_is_everything_but_devices(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "w").mkdir()
    rules = granted(Policy(read=[tmp_path / "r"], write=[tmp_path / "w"], system=False))
    assert rules == {f"{tmp_path}/r": RUN, f"{tmp_path}/w": CHANGE}
    assert not CHANGE & (Access.MAKE_CHAR | Access.MAKE_BLOCK | Access.IOCTL_DEV)
    assert RUN & ~CHANGE == 0
    assert WORKSPACE == CHANGE


@pytest.mark.parametrize("field", ["read", "write"])
def test_a_path_that_does_not_exist_is_named(tmp_path: Path, field: str) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(PlanError, match=f"{field}={missing}: No such file"):
        path_rules(Policy(**{field: [missing]}), NOTHING)  # type: ignore[arg-type]


def test_a_link_grants_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert granted(Policy(read=[tmp_path / "link"], system=False)) == {f"{tmp_path}/real": RUN}


def test_a_path_below_another_with_the_same_rights_needs_no_rule(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    a, b = tmp_path / "a", tmp_path / "a" / "b"
    assert granted(Policy(read=[a, b], system=False)) == {str(a): RUN}
    assert granted(Policy(read=[a], write=[b], system=False)) == {str(a): RUN, str(b): CHANGE}
    assert granted(Policy(read=[b], write=[a], system=False)) == {str(a): CHANGE}
    assert granted(Policy(read=[a], write=[a], system=False)) == {str(a): CHANGE}


# ---- descriptors -----------------------------------------------------------------------


def leads_to(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def count() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_each_rule_has_one_descriptor_of_its_path_until_closed() -> None:
    before = count()
    owner = PathDescriptors(Policy(), NOTHING)
    assert [(leads_to(fd), access) for fd, access in owner.entries] == [
        (rule.path, int(rule.access)) for rule in owner.rules
    ]
    assert not any(os.get_inheritable(fd) for fd, _ in owner.entries)
    owner.close()
    owner.close()
    assert count() == before


def test_a_path_that_is_missing_leaves_no_descriptor(tmp_path: Path) -> None:
    before = count()
    with pytest.raises(PlanError):
        PathDescriptors(Policy(read=[tmp_path / "missing"]), NOTHING)
    assert count() == before


def test_descriptors_hold_while_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PathDescriptors(Policy(read=[tmp_path]), NOTHING) as owner:
        assert owner.still_hold()
        monkeypatch.setattr(descriptors, "KEPT", -1.0)
        assert owner.still_hold()


def _remove(folder: Path) -> None:
    (folder / "data").rmdir()


def _replace(folder: Path) -> None:
    (folder / "data").rename(folder / "old")
    (folder / "data").mkdir()


def _retarget(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("other")


@pytest.mark.parametrize("change", [_remove, _replace, _retarget])
def test_a_policys_path_that_changes_is_noticed_at_once(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("data")
    with PathDescriptors(Policy(read=[tmp_path / "link"], system=False), NOTHING) as owner:
        assert owner.still_hold()
        change(tmp_path)
        assert not owner.still_hold()


def test_a_program_that_is_built_anew_is_noticed_at_once(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    shutil.copy2("/bin/true", tool)
    with PathDescriptors(Policy(), resolve(Plan([tool]))) as owner:
        assert owner.still_hold()
        shutil.copy2("/bin/true", tmp_path / "new")
        (tmp_path / "new").rename(tool)
        assert not owner.still_hold()


def test_a_program_of_the_system_is_not_asked_for_each_time() -> None:
    with PathDescriptors(Policy(), resolve(Plan(["sh"]))) as owner:
        assert owner._own == {}


def test_a_file_of_the_system_that_is_replaced_is_noticed_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings"
    settings.touch()
    monkeypatch.setattr(paths, "SYSTEM", ((str(settings), READ),))
    with PathDescriptors(Policy(), NOTHING) as owner:
        (tmp_path / "new").touch()
        (tmp_path / "new").rename(settings)
        assert owner.still_hold()
        monkeypatch.setattr(time, "monotonic", lambda: float("inf"))
        assert not owner.still_hold()


def test_a_setting_that_appears_is_noticed_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "_WATCHED", str(tmp_path))
    with PathDescriptors(BARE, NOTHING) as owner:
        os.utime(tmp_path, ns=(0, 1))
        monkeypatch.setattr(time, "monotonic", lambda: float("inf"))
        assert not owner.still_hold()


def test_a_path_replaced_by_a_link_after_its_check_is_not_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, secret = tmp_path / "top" / "data", tmp_path / "secret" / "data"
    data.mkdir(parents=True)
    secret.mkdir(parents=True)

    def then_replaced(policy: Policy, program: Program) -> tuple[paths.PathRule, ...]:
        rules = path_rules(policy, program)
        if not (tmp_path / "top").is_symlink():
            (tmp_path / "top").rename(tmp_path / "moved")
            (tmp_path / "top").symlink_to("secret")
        return rules

    program = Program("/x", in_workspace=False, grants=(str(data),))
    monkeypatch.setattr(descriptors, "path_rules", then_replaced)
    before = count()
    with pytest.raises(PlanError, match="is being replaced"):
        PathDescriptors(BARE, program)
    assert count() == before


# ---- on the running kernel ---------------------------------------------------------------


@pytest.fixture
def default(tmp_path: Path) -> Iterator[int]:
    """A ruleset of the default policy for this interpreter, with tmp_path as workspace."""
    program = resolve(Plan([sys.executable]))
    with PathDescriptors(Policy(), program) as owner:
        workspace = os.open(tmp_path, os.O_PATH)
        fd = ruleset([*owner.entries, (workspace, WORKSPACE)])
        os.close(workspace)
        assert fd >= 0
        yield fd
        os.close(fd)


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/hostname", "/proc/self/environ"])
def test_what_is_not_promised_cannot_be_read(path: str, default: int) -> None:
    assert errno_of(Path(path).read_bytes) == 0
    assert errno_of(Path(path).read_bytes, default) == errno.EACCES


@pytest.mark.parametrize("path", ["/", "/etc", "/dev", "/proc", "/tmp"])
def test_directories_outside_cannot_be_listed(path: str, default: int) -> None:
    assert errno_of(lambda: os.listdir(path)) == 0
    assert errno_of(lambda: os.listdir(path), default) == errno.EACCES


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo"])
def test_what_is_promised_can_be_read(path: str, default: int) -> None:
    def read() -> None:
        with open(path, "rb") as file:
            file.read(1)

    assert errno_of(read, default) == 0


def test_output_can_be_thrown_away(default: int) -> None:
    def write() -> None:
        with open("/dev/null", "wb") as file:
            file.write(b"x")

    assert errno_of(write, default) == 0


PROGRAMS = {
    "python": [
        sys.executable,
        "-c",
        "import ssl, mimetypes, tempfile\nmimetypes.init()\nssl.create_default_context()",
    ],
    "sh": ["/bin/sh", "-c", "echo x > a && mkdir d && mv a d/ && cat d/a > /dev/null && ls -l d"],
}


@pytest.mark.parametrize("command", PROGRAMS.values(), ids=PROGRAMS)
def test_ordinary_programs_run(command: list[str], tmp_path: Path, default: int) -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}

    def run() -> None:
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")

    assert errno_of(run, default) == 0


def test_a_program_of_its_own_installation_runs_and_its_neighbour_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    prefix = tmp_path / "opt" / "tool"
    (prefix / "bin").mkdir(parents=True)
    for name in ("tool", "neighbour"):
        shutil.copy2(os.path.realpath("/bin/true"), prefix / "bin" / name)
    with PathDescriptors(Policy(), resolve(Plan([prefix / "bin" / "tool"]))) as owner:
        fd = ruleset(owner.entries)
    neighbour = prefix / "bin" / "neighbour"
    assert errno_of(lambda: os.execv(prefix / "bin" / "tool", ["tool"]), fd) == 0
    assert errno_of(lambda: os.execv(neighbour, ["neighbour"]), fd) == errno.EACCES
    assert errno_of(lambda: os.execv(neighbour, ["neighbour"])) == 0
    os.close(fd)


def test_without_the_system_a_program_is_still_started(tmp_path: Path) -> None:
    """What its loader then misses (here the C library) is the policy's to grant."""
    with PathDescriptors(BARE, resolve(Plan(["/bin/true"]))) as owner:
        fd = ruleset(owner.entries)
    denied = ruleset([])

    def run() -> None:
        null = os.dup(2)
        os.close(2)
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.dup2(null, 2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 127

    assert errno_of(run, fd) == 0
    assert errno_of(run, denied) == errno.EACCES
    os.close(fd)
    os.close(denied)
