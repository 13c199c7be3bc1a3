"""Where cgroups may be made: decided from what the kernel's files say, in a copy of them.

What comes of it in real runs is in test_cgroup_runs.py.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from evalbox import _launch
from evalbox._host import cgroups
from evalbox._host.cgroups import CPU, KILL, MEMORY, PIDS, Cgroups, Mount, choose

BOTH = f"{MEMORY} {PIDS}"
# A process that has ended meanwhile: whose it was does not matter.
GONE = "4194304"


# ---- what the kernel says ------------------------------------------------------------------

V2_ONLY = """\
25 1 0:23 / /sys rw,nosuid - sysfs sysfs rw
32 25 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/1 /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/with\\040space rw,relatime - cgroup2 cgroup2 rw
"""


def test_mounts_of_cgroups_are_found_among_the_others() -> None:
    assert cgroups.parse_mounts(V2_ONLY) == [
        Mount("/", "/sys/fs/cgroup", "cgroup2", frozenset({"rw", "nsdelegate"}))
    ]
    found = {mount.point: mount for mount in cgroups.parse_mounts(HYBRID)}
    assert found["/sys/fs/cgroup/cpu,cpuacct"].options >= {"cpu", "cpuacct"}
    assert found["/sys/fs/cgroup/memory"].root == "/docker/1"
    assert found["/sys/fs/cgroup/with space"].kind == "cgroup2"
    assert "/sys/fs/cgroup" not in found


def test_a_mount_that_lies_under_another_one_is_not_seen() -> None:
    covered = f"{V2_ONLY}50 25 0:9 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
    assert cgroups.parse_mounts(covered) == []


@pytest.mark.parametrize("junk", ["", "\n", "1 2 3", "a b c d e f - cgroup2", " - - - "])
def test_what_is_no_line_of_mountinfo_is_passed_over(junk: str) -> None:
    assert cgroups.parse_mounts(f"{junk}\n{V2_ONLY}") == cgroups.parse_mounts(V2_ONLY)


def test_the_own_cgroup_is_found_for_each_controller() -> None:
    own = cgroups.parse_own("8:pids:/a\n3:cpu,cpuacct:/b c\n9:name=systemd:/\n0::/x:y (deleted)\n")
    assert own == {
        "pids": "/a",
        "cpu": "/b c",
        "cpuacct": "/b c",
        "name=systemd": "/",
        "": "/x:y",
    }


@pytest.mark.parametrize(
    ("root", "own", "path"),
    [
        ("/", "/", "/cg"),
        ("/", "/a/b", "/cg/a/b"),
        ("/a", "/a", "/cg"),
        ("/a", "/a/b", "/cg/b"),
        ("/a", "/ab", None),
        ("/a", "/", None),
        ("/", "/../b", None),
    ],
)
def test_a_cgroup_is_looked_for_where_its_mount_shows_it(
    root: str, own: str, path: str | None
) -> None:
    assert Mount(root, "/cg", "cgroup2", frozenset()).path_of(own) == path


# ---- v2 --------------------------------------------------------------------------------------


class Tree:
    """A copy of a v2 hierarchy. Whether a cgroup is delegated is up to the test."""

    def __init__(self, point: Path) -> None:
        self.point = point
        self.marked: set[str] = set()
        self.add("", controllers=BOTH, is_root=True)

    def add(
        self,
        name: str,
        *,
        controllers: str = BOTH,
        given_on: str = "",
        procs: str = "",
        kind: str = "domain",
        is_root: bool = False,
    ) -> str:
        path = self.point / name
        path.mkdir(exist_ok=True)
        files = {
            "cgroup.controllers": controllers,
            "cgroup.subtree_control": given_on,
            "cgroup.procs": procs,
        }
        if not is_root:
            files |= {"cgroup.type": kind, "memory.max": "max", "pids.max": "max"}
            files["cgroup.kill"] = ""
        for file, content in files.items():
            (path / file).write_text(f"{content}\n" if content else "")
        return str(path)

    def content(self) -> dict[str, bytes]:
        files = (path for path in self.point.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    def find(self, own: str) -> Cgroups:
        return choose([Mount("/", str(self.point), "cgroup2", frozenset())], {"": own})


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """As an ordinary user on a host without systemd, to whom nothing is delegated."""
    made = Tree(tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "_is_marked", made.marked.__contains__)
    monkeypatch.setattr(cgroups, "_has_systemd", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    return made


def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_the_real_root_needs_neither_delegation_nor_a_move(tree: Tree) -> None:
    tree.add("", controllers=BOTH, procs="1\n2", is_root=True)
    found = tree.find("/")
    assert (found.version, found.moves, found.why_not) == (2, False, "")
    assert found.controllers >= {MEMORY, PIDS, CPU}
    assert set(dict(found.bases).values()) == {str(tree.point)}


def test_what_was_not_delegated_is_left_alone(tree: Tree) -> None:
    here = tree.add("session-3.scope")
    found = tree.find("/session-3.scope")
    assert found.version == 0
    assert here in found.why_not
    assert found.remedy


def test_a_marked_cgroup_is_used_and_its_processes_move(tree: Tree) -> None:
    here = tree.add("run.scope", procs=GONE)
    tree.marked.add(here)
    found = tree.find("/run.scope")
    assert (found.version, found.moves, found.here) == (2, True, here)
    assert found.controllers == {MEMORY, PIDS, CPU, KILL}


def test_processes_of_others_do_not_move(tree: Tree) -> None:
    here = tree.add("run.scope", procs="1")
    tree.marked.add(here)
    found = tree.find("/run.scope")
    assert found.version == 0
    assert "pid 1" in found.why_not
    tree.add("run.scope", procs="0")  # in a PID namespace that cannot be seen
    assert tree.find("/run.scope").version == 0


def test_a_process_that_is_gone_is_in_nobodys_way(tree: Tree) -> None:
    tree.marked.add(tree.add("run.scope", procs=GONE))
    assert tree.find("/run.scope").version == 2


def test_what_belongs_to_the_user_was_given_to_him(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tree.add("mine")
    assert tree.find("/mine").version == 0
    monkeypatch.setattr(os, "geteuid", os.getuid)
    if os.getuid() == 0:
        os.chown(here, 12345, 12345)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert tree.find("/mine").version == 2


def test_below_a_users_manager_only_what_it_delegated_counts(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "_has_systemd", lambda: True)
    manager = tree.add("user@1000.service")
    tree.add("user@1000.service/app.slice")
    here = tree.add("user@1000.service/app.slice/a.scope")
    # It was delegated to the manager, which has not given it on.
    tree.marked.add(manager)
    found = tree.find("/user@1000.service/app.slice/a.scope")
    assert found.version == 0
    assert found.remedy == "systemd-run --user --scope -p Delegate=yes -- COMMAND"
    tree.marked.add(here)
    assert tree.find("/user@1000.service/app.slice/a.scope").version == 2


def test_a_leaf_of_a_delegated_cgroup_uses_the_one_above(tree: Tree) -> None:
    above = tree.add("foo.service", given_on=BOTH)
    tree.add("foo.service/main", procs="1")
    tree.marked.add(above)
    found = tree.find("/foo.service/main")
    assert (found.version, found.moves, found.bases[0][1]) == (2, False, above)


def test_a_limit_on_the_own_cgroup_is_not_escaped(tree: Tree) -> None:
    above = tree.add("foo.service", given_on=BOTH)
    here = tree.add("foo.service/main")
    tree.marked.add(above)
    Path(here, "memory.max").write_text("1000000\n")
    found = tree.find("/foo.service/main")
    assert (found.moves, found.bases[0][1]) == (False, here)


def test_the_cgroup_above_the_delegated_one_is_not_used(tree: Tree) -> None:
    above = tree.add("slice", given_on=BOTH)
    here = tree.add("slice/a.scope", procs=str(os.getpid()))
    tree.marked.add(here)
    found = tree.find("/slice/a.scope")
    assert above not in dict(found.bases).values()


def test_missing_controllers_are_named_and_the_rest_is_used(tree: Tree) -> None:
    tree.marked.add(tree.add("run.scope", controllers="pids cpu io"))
    found = tree.find("/run.scope")
    assert found.controllers == {PIDS, CPU, KILL}
    assert "memory" in found.why_not
    assert "memory" in found.remedy


def test_a_threaded_cgroup_is_of_no_use(tree: Tree) -> None:
    tree.marked.add(tree.add("run.scope", kind="threaded"))
    assert tree.find("/run.scope").version == 0


def test_a_cgroup_that_is_not_seen_here_is_not_taken_for_another(tree: Tree) -> None:
    found = tree.find("/../run.scope")
    assert found.version == 0
    assert "--cgroupns" in found.remedy


@pytest.mark.parametrize(("systemd", "version"), [(False, 2), (True, 0)])
def test_root_in_a_container_was_given_what_it_sees(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, systemd: bool, version: int
) -> None:
    as_root(monkeypatch)
    monkeypatch.setattr(cgroups, "_has_systemd", lambda: systemd)
    tree.add("")
    assert tree.find("/").version == version


@pytest.mark.user
def test_a_hierarchy_that_cannot_be_written_has_a_remedy(tree: Tree) -> None:
    tree.point.chmod(0o555)
    found = tree.find("/")
    assert found.version == 0
    assert "not writable" in found.why_not
    assert found.remedy


# ---- v1 --------------------------------------------------------------------------------------


def legacy(point: Path, *names: str) -> list[Mount]:
    mounts = []
    for name in names:
        (point / name / "own").mkdir(parents=True, exist_ok=True)
        mounts.append(Mount("/", str(point / name), "cgroup", frozenset(name.split("+"))))
    return mounts


OWN = dict.fromkeys(("memory", "pids", "cpuacct"), "/own")


def test_v1_has_a_base_in_each_hierarchy(tmp_path: Path) -> None:
    found = choose(legacy(tmp_path, "memory", "pids", "cpu+cpuacct"), OWN)
    assert (found.version, found.moves, found.why_not) == (1, False, "")
    assert dict(found.bases) == {
        MEMORY: f"{tmp_path}/memory/own",
        PIDS: f"{tmp_path}/pids/own",
        CPU: f"{tmp_path}/cpu+cpuacct/own",
    }


def test_of_v1_what_is_there_is_used_and_the_rest_is_named(tmp_path: Path) -> None:
    found = choose(legacy(tmp_path, "pids"), OWN)
    assert found.controllers == {PIDS}
    assert "memory, cpu" in found.why_not


def test_two_controllers_of_one_hierarchy_are_not_both_used(tmp_path: Path) -> None:
    found = choose(legacy(tmp_path, "memory+pids", "cpuacct"), OWN)
    assert found.controllers == {MEMORY, CPU}


def test_a_hierarchy_with_processor_sets_is_not_used(tmp_path: Path) -> None:
    assert choose(legacy(tmp_path, "memory+cpuset", "pids"), OWN).controllers == {PIDS}


def test_v1_is_used_where_the_controllers_are_there(tree: Tree, tmp_path: Path) -> None:
    tree.add("", controllers="", is_root=True)
    v2 = Mount("/", str(tree.point), "cgroup2", frozenset())
    full = [v2, *legacy(tmp_path, "memory", "pids", "cpuacct")]
    assert choose([v2], {"": "/"}).controllers <= {CPU, KILL}
    assert choose(full, {"": "/", **OWN}).version == 1
    tree.add("", controllers=BOTH, is_root=True)
    assert choose(full, {"": "/", **OWN}).version == 2


def test_without_any_there_is_a_reason_and_a_remedy() -> None:
    found = choose([], {})
    assert found.version == 0
    assert found.why_not
    assert found.remedy
    assert found.why_not in str(found)


def test_a_proc_that_cannot_be_read_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "denied", "/proc/self/mountinfo")

    monkeypatch.setattr(Path, "read_text", fail)
    assert cgroups.find().version == 0


def test_looking_changes_nothing(tree: Tree) -> None:
    tree.marked.add(tree.add("run.scope", procs=GONE))
    before = tree.content()
    assert tree.find("/run.scope").moves
    assert tree.content() == before


@pytest.mark.parametrize(
    ("controllers", "no_cgroup", "shares"),
    [({PIDS}, "", False), ({PIDS}, "none was free", True), ({MEMORY}, "", True)],
)
def test_a_users_other_processes_are_let_alone_only_where_no_cgroup_counts(
    monkeypatch: pytest.MonkeyPatch, controllers: set[str], no_cgroup: str, shares: bool
) -> None:
    here = SimpleNamespace(cgroups=SimpleNamespace(controllers=frozenset(controllers)))
    monkeypatch.setattr(_launch, "host", lambda: here)
    kit, slot = SimpleNamespace(shares_uid=True), SimpleNamespace(no_cgroup=no_cgroup)
    assert _launch._shares_count(kit, slot) is shares  # type: ignore[arg-type]
    kit.shares_uid = False
    assert not _launch._shares_count(kit, slot)  # type: ignore[arg-type]
