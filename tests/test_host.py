"""What is reported as enforced: the table of properties, and the facts under it."""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from evalbox._host import Host, facts, host
from evalbox._host.cgroups import NO_CGROUPS
from evalbox._host.namespaces import Namespaces
from evalbox._host.properties import TABLE, Situation, enforcement, held, situation
from evalbox.compile.identity import Caller, Identity, Tier
from evalbox.errors import SetupError, UnsupportedError
from evalbox.limits import Limits
from evalbox.output import LEVELS
from evalbox.policy import ALL, CORE, PROPERTIES, Network, Policy, Syscalls

# The module: the package has a function of the same name.
spaces = importlib.import_module("evalbox._host.namespaces")
TIERS: tuple[Tier, ...] = get_args(Tier)
OWN = Identity("own")
CALLER = Identity("caller", "write=/data")
USER = Identity("user", "started by uid 1000")
NO_LIMITS = Limits(
    wall_time=None, cpu_time=None, memory=None, processes=None, output=None, disk=None
)
NO_NAMESPACES = Namespaces("user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=9")
# A kernel with everything, and root; namespaces are forbidden.
FULL = Host(
    kernel="7.2",
    machine="x86_64",
    landlock=facts.Landlock(10),
    seccomp=True,
    notification=True,
    proc=True,
    caller=Caller(0, 0, frozenset(), own_uids=True),
    uids=facts.UID_RANGES[0],
    places=(facts.Place("/tmp", tmpfs=False, free=1 << 40),),
    namespaces=NO_NAMESPACES,
    cgroups=NO_CGROUPS,
)


def levels(
    host: Host = FULL,
    identity: Identity = OWN,
    policy: Policy | None = None,
    limits: Limits | None = None,
) -> dict[str, str]:
    report = host.enforcement(policy or Policy(), limits or Limits(cpu_time=1.0), identity)
    return {name: item.level for name, item in report.items()}


def with_abi(abi: int) -> Host:
    return replace(FULL, landlock=facts.Landlock(abi))


# ---- the table -------------------------------------------------------------------------


def test_every_property_has_rows_and_the_last_one_always_answers() -> None:
    assert set(TABLE) == set(PROPERTIES)
    kinds = (OWN, CALLER, USER)
    for abi, seccomp, identity in itertools.product(range(12), (True, False), kinds):
        for tier in TIERS:
            at = Situation(abi, seccomp, tier, identity, frozenset(), frozenset())
            assert tuple(enforcement(at)) == PROPERTIES


def test_what_is_not_enforced_has_a_reason_and_a_remedy_and_the_rest_has_none() -> None:
    for name, rows in TABLE.items():
        for row in rows:
            assert row.level in LEVELS
            assert bool(row.reason) == (row.level != "enforced"), name
            assert bool(row.mechanism) == (row.level != "none"), name
    for identity in (OWN, CALLER, USER):
        at = situation(7, True, "process", Policy(), Limits(), identity)
        assert all(item.remedy for item in held(at).values())


def test_root_with_everything_enforces_the_core_and_counts_processes() -> None:
    found = levels()
    assert {name for name, level in found.items() if level == "enforced"} == CORE | {"processes"}
    assert "none" not in found.values()


@pytest.mark.parametrize(
    ("abi", "name", "level"),
    [
        (0, "fs_read", "none"),
        (1, "fs_read", "enforced"),
        (0, "fs_write", "none"),
        (2, "fs_write", "partial"),
        (3, "fs_write", "enforced"),
        (0, "ptrace", "none"),
        (5, "tree_kill", "partial"),
        (6, "tree_kill", "enforced"),
        (0, "proc_view", "none"),
        (1, "proc_view", "partial"),
    ],
)
def test_each_abi_of_landlock_brings_what_the_kernel_brings(
    abi: int, name: str, level: str
) -> None:
    assert levels(with_abi(abi))[name] == level


@pytest.mark.parametrize(
    ("identity", "metadata", "processes", "signals_at_abi_5"),
    [
        (OWN, "partial", "enforced", "enforced"),
        (CALLER, "partial", "none", "none"),
        (USER, "none", "partial", "none"),
    ],
)
def test_each_identity_holds_what_its_uid_holds(
    identity: Identity, metadata: str, processes: str, signals_at_abi_5: str
) -> None:
    found = levels(identity=identity)
    assert found["fs_metadata"] == metadata
    assert found["processes"] == processes
    assert found["signals"] == "enforced"
    assert levels(with_abi(5), identity)["signals"] == signals_at_abi_5


def test_why_there_is_no_own_uid_is_told_where_it_matters() -> None:
    report = FULL.enforcement(Policy(), Limits(), CALLER)
    assert "write=/data" in report["processes"].reason
    assert "write=/data" not in report["memory"].reason


def test_without_seccomp_what_it_holds_is_not_held() -> None:
    found = levels(replace(FULL, seccomp=False))
    lost = {"prlimit", "unix_path", "unix_abstract", "tcp", "udp"}
    assert {found[name] for name in lost} == {"none"}


def test_a_limit_that_is_none_is_granted() -> None:
    report = FULL.enforcement(Policy(), NO_LIMITS, USER)
    for name in ("memory", "cpu", "disk", "output", "wall_time", "processes"):
        assert (report[name].level, report[name].mechanism) == ("enforced", "granted")


def test_a_limit_of_zero_is_a_limit() -> None:
    limits = Limits(memory=0, disk=0)
    report = FULL.enforcement(Policy(), limits, OWN)
    assert report["memory"].mechanism != "granted"
    assert report["disk"].mechanism != "granted"


def test_the_network_that_a_policy_grants_is_granted() -> None:
    report = FULL.enforcement(Policy(network=Network.host()), Limits(), OWN)
    assert {report[name].mechanism for name in ("tcp", "udp")} == {"granted"}
    assert "seccomp" in report["unix_path"].mechanism
    assert {report[name].level for name in ("tcp", "udp", "unix_path")} == {"enforced"}


def test_a_view_of_proc_that_a_policy_grants_is_granted() -> None:
    for paths, mechanism in ((["/proc"], "granted"), (["/"], "granted"), (["/srv"], "Landlock")):
        for policy in (Policy(read=paths), Policy(write=paths)):
            report = FULL.enforcement(policy, Limits(), OWN)
            assert report["proc_view"].mechanism == mechanism


def test_every_limit_of_the_kernel_that_is_reported_is_set_for_the_child() -> None:
    rows = [row for rows in TABLE.values() for row in rows]
    named = {name for row in rows for name in re.findall(r"RLIMIT_\w+", row.mechanism)}
    source = Path(__file__).parents[1] / "csrc" / "spawn.c"
    assert named
    assert named <= set(re.findall(r"RLIMIT_\w+", source.read_text(encoding="utf-8")))


def test_a_call_that_a_policy_allows_is_granted() -> None:
    policy = Policy(syscalls=Syscalls().allow("prlimit64"))
    assert FULL.enforcement(policy, Limits(), OWN)["prlimit"].mechanism == "granted"
    assert FULL.enforcement(Policy(), Limits(), OWN)["prlimit"].mechanism == "seccomp"


# ---- what a policy requires --------------------------------------------------------------


def test_what_is_required_and_enforced_is_reported() -> None:
    report = FULL.check(Policy(), Limits(), OWN)
    assert set(report) == ALL
    assert report == FULL.enforcement(Policy(), Limits(), OWN)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("memory", NO_CGROUPS.remedy),
        ("disk", NO_NAMESPACES.remedy),
        ("fs_metadata", NO_NAMESPACES.remedy),
        ("proc_view", NO_NAMESPACES.remedy),
    ],
)
def test_a_required_property_that_is_partial_is_refused(name: str, remedy: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        FULL.check(Policy(require=CORE | {name}), Limits(), OWN)
    assert caught.value.property == name
    assert caught.value.reason
    assert caught.value.remedy == remedy


def test_a_remedy_of_its_own_stands_beside_that_for_namespaces() -> None:
    user = replace(FULL, caller=Caller(1000, 1000, frozenset(), own_uids=False))
    remedy = user.held(Policy(), Limits(), USER)["processes"].remedy
    assert NO_NAMESPACES.remedy in remedy
    assert "run as root" in remedy


def test_namespaces_that_a_policy_does_not_want_are_the_remedy() -> None:
    able = replace(FULL, namespaces=Namespaces())
    found = able.held(Policy(isolation="process"), Limits(), OWN)
    assert "isolation='namespace'" in found["disk"].remedy
    assert able.held(Policy(), Limits(), OWN)["disk"].enforcement.level == "enforced"


def test_a_required_property_that_the_kernel_lacks_names_the_kernel_that_has_it() -> None:
    with pytest.raises(UnsupportedError, match=r"Linux 6\.12") as caught:
        with_abi(5).check(Policy(), Limits(), USER)
    assert caught.value.property == "signals"
    weaker = Policy(require=CORE - {"signals", "tree_kill"})
    assert with_abi(5).check(weaker, Limits(), USER)["signals"].level == "none"


def test_without_landlock_seccomp_and_proc_nothing_runs_whatever_is_required() -> None:
    old = replace(FULL, landlock=facts.Landlock(0, errno.ENOSYS))
    with pytest.raises(UnsupportedError, match="Landlock") as caught:
        old.check(Policy(require=()), Limits(), OWN)
    assert caught.value.property == "fs_read"
    with pytest.raises(UnsupportedError, match="mount -t proc"):
        replace(FULL, proc=False).check(Policy(require=()), Limits(), OWN)
    with pytest.raises(UnsupportedError, match="seccomp"):
        replace(FULL, seccomp=False).check(Policy(require=()), Limits(), OWN)


def test_the_remedy_for_landlock_depends_on_the_error() -> None:
    told = {
        number: facts.landlock_remedy(facts.Landlock(0, number))
        for number in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
    }
    assert "lsm=landlock" in told[errno.EOPNOTSUPP]
    assert "CONFIG_SECURITY_LANDLOCK" in told[errno.ENOSYS]
    assert "seccomp profile" in told[errno.EPERM]


def test_namespaces_are_refused_until_there_are_any() -> None:
    with pytest.raises(UnsupportedError) as caught:
        FULL.check(Policy(isolation="namespace"), Limits(), OWN)
    assert caught.value.property == "isolation"
    for isolation in ("auto", "process"):
        FULL.check(Policy(isolation=isolation), Limits(), OWN)  # type: ignore[arg-type]


def test_killing_for_a_denied_call_needs_the_kernel_to_tell() -> None:
    old = replace(FULL, notification=False)
    with pytest.raises(UnsupportedError, match=r"Linux 5\.0"):
        old.check(Policy(on_denied="kill"), Limits(), OWN)
    old.check(Policy(), Limits(), OWN)
    assert "on_denied" in {item.thing for item in old.missing}


def test_another_machine_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="riscv64"):
        replace(FULL, machine="riscv64").check(Policy(), Limits(), OWN)


# ---- doctor ----------------------------------------------------------------------------


def test_a_host_is_ok_when_the_default_policy_is_held_in_full() -> None:
    assert FULL.ok
    assert not with_abi(5).ok
    assert not replace(FULL, seccomp=False).ok
    assert not replace(FULL, machine="riscv64").ok
    assert not replace(FULL, proc=False).ok


def test_a_host_without_a_directory_for_workspaces_is_ok_only_with_namespaces() -> None:
    closed = facts.Place("/tmp", tmpfs=False, free=0, why_not="not writable")
    found = replace(FULL, places=(closed,))
    assert not found.ok
    (told,) = [item for item in found.missing if item.thing == "workspace"]
    assert "/tmp: not writable" in told.reason
    assert "TMPDIR" in told.remedy
    able = replace(found, namespaces=Namespaces())
    assert able.ok
    assert "workspace" not in {item.thing for item in able.missing}


def test_whatever_is_missing_comes_with_a_remedy() -> None:
    bare = replace(with_abi(0), proc=False, notification=False, places=())
    found = bare.missing
    assert {item.thing for item in found} - ALL == {
        "anything",
        "isolation",
        "on_denied",
        "workspace",
    }
    assert all(item.reason and item.remedy for item in found)
    assert len({item.thing for item in found}) == len(found)


def test_a_report_is_json() -> None:
    report = json.loads(json.dumps(FULL.to_dict()))
    assert report["ok"] is True
    assert set(report["enforcement"]) == ALL
    assert report["landlock_abi"] == 10


# ---- this host ---------------------------------------------------------------------------


def test_this_host_is_described_once() -> None:
    assert host() is host()
    assert host().kernel == os.uname().release
    assert host().machine == os.uname().machine


def test_this_host_is_described_before_and_after_its_package_is_imported() -> None:
    program = "import evalbox; print(evalbox.host() is evalbox.host())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_the_default_policy_can_be_checked_here() -> None:
    here = host()
    report = here.enforcement(Policy(), Limits(), here.default_identity)
    assert here.ok == all(report[name].level == "enforced" for name in CORE)


@pytest.mark.root
def test_root_gets_uids_that_nobody_has() -> None:
    import pwd

    assert host().caller.own_uids
    uids = host().uids
    assert uids is not None
    assert not [entry for entry in pwd.getpwall() if entry.pw_uid in uids]
    assert host().default_identity == OWN


@pytest.mark.user
def test_a_user_stays_who_it_is() -> None:
    assert not host().caller.own_uids
    assert host().default_identity.kind == "user"


def test_there_is_a_place_for_workspaces_where_programs_run() -> None:
    best = host().places[0]
    assert best.why_not == ""
    assert os.access(best.path, os.W_OK | os.X_OK)
    assert not os.statvfs(best.path).f_flag & os.ST_NOEXEC


def test_a_place_that_others_cannot_enter_is_put_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(mode=0o500)
    monkeypatch.setattr(facts.tempfile, "gettempdir", lambda: str(tmp_path / "closed"))
    monkeypatch.setattr(facts, "_PLACES", ("/nonexistent", str(tmp_path / "file")))
    (found,) = facts.places()
    assert found.why_not


def test_a_small_tmpfs_is_taken_only_where_there_is_nothing_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, disk = tmp_path / "small", tmp_path / "disk"
    for folder in (tmp_path, small, disk):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    monkeypatch.setattr(facts, "_temporary", lambda: [str(disk)])
    monkeypatch.setattr(facts, "_PLACES", (str(small), "/nonexistent"))
    monkeypatch.setattr(facts, "_ROOM", 1 << 62)
    monkeypatch.setattr(facts, "_filesystem", lambda p: "tmpfs" if p == str(small) else "ext4")
    assert [place.path for place in facts.places()] == [str(disk), str(small)]
    monkeypatch.setattr(facts, "_ROOM", 0)
    assert [place.path for place in facts.places()] == [str(small), str(disk)]


def test_a_host_without_any_temporary_directory_can_be_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(facts.tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(facts, "_PLACES", ("/nonexistent",))
    assert facts.places() == []


# ---- namespaces ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "target", "error", "reason", "remedy"),
    [
        ("user_namespace", "", errno.EPERM, "are forbidden", "seccomp=unconfined"),
        ("user_namespace", "", errno.ENOSPC, "max_user_namespaces", "user.max_user_namespaces="),
        ("fork", "", errno.EUSERS, "max_user_namespaces", "user.max_user_namespaces="),
        ("namespaces", "", errno.EPERM, "not be used", "apparmor=unconfined"),
        ("id_map", "", errno.EROFS, "read-only", "mount -o remount,rw /proc"),
        ("id_map", "", errno.EPERM, "CAP_SETFCAP", "--cap-add SETFCAP"),
        ("mount", "/proc", errno.EPERM, "masked", "systempaths=unconfined"),
        ("mount", "/usr", errno.EPERM, "not be used", "apparmor=unconfined"),
        ("pivot_root", "", errno.EINVAL, "initramfs", "switch_root"),
        ("start", "", errno.ECHILD, "not be used", "seccomp=unconfined"),
    ],
)
def test_why_there_are_no_namespaces_depends_on_what_failed(
    stage: str, target: str, error: int, reason: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spaces, "_setting", lambda _: "")
    told = spaces._meaning(spaces._Failure(stage, error, target), 0)
    assert reason in told[0]
    assert remedy in told[1]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_what_forbids_namespaces_to_users_is_not_blamed_for_roots(
    setting: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spaces, "_setting", lambda name: value if name == setting else "")
    denied = spaces._Failure("user_namespace", errno.EPERM)
    name = setting.replace("/", ".")
    assert name in spaces._meaning(denied, 1000)[0]
    assert f"sysctl -w {name}" in spaces._meaning(denied, 1000)[1]
    assert name not in " ".join(spaces._meaning(denied, 0))
    # Nor where something else is the cause.
    for other in (
        spaces._Failure("mount", errno.EPERM, "/proc"),
        spaces._Failure("id_map", errno.EROFS),
    ):
        assert name not in " ".join(spaces._meaning(other, 1000))


def test_a_container_is_not_taken_for_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spaces, "_setting", lambda _: "1")
    denied = spaces._Failure("user_namespace", errno.EPERM)
    for sign, is_inside in ((tmp_path, True), (tmp_path / "none", False)):
        monkeypatch.setattr(spaces, "_CONTAINER_SIGNS", (sign,))
        assert ("docker run" in spaces._meaning(denied, 1000)[1]) == is_inside


def test_a_shortage_says_nothing_about_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(spaces, "_try", short)
    with pytest.raises(SetupError, match="RLIMIT_NOFILE"):
        spaces.namespaces(facts.caller(), facts.uids())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("         0          0 4294967295\n", facts.UID_RANGES[0]),
        ("0 100000 65536\n", facts.UID_RANGES[1]),
        ("0 1000 1\n1 100000 40000\n", facts.UID_RANGES[2]),
        ("0 1000 1\n", None),
        ("", None),
    ],
)
def test_uids_come_from_what_the_user_namespace_maps(
    text: str, expected: range | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "map"
    table.write_text(text)
    mapped = facts._mapped(table)
    monkeypatch.setattr(facts, "_mapped", lambda _: mapped)
    assert facts.uids() == expected


def test_the_file_system_of_a_path_is_that_of_its_last_mount() -> None:
    assert facts._filesystem("/proc/self") == "proc"
    assert facts._filesystem("/") != ""
