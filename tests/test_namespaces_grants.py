"""What is granted to a run in namespaces: mounted at its path, seen, and never cleared away."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import evalbox
from evalbox import Executor, Limits, MiB, Output, Plan, PlanError, Policy, SetupError, Status
from evalbox._launch import Kit
from evalbox._native.tree import tree
from evalbox.compile.tree import MountKind
from leaks import launchers_of
from proc import children, until

pytestmark = pytest.mark.usefixtures("namespace_tier")


@pytest.fixture(params=["/tmp", "/dev/shm", "/var/tmp"])
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory that every uid may change, below a place of the workspace and not."""
    path = Path(tempfile.mkdtemp(dir=request.param))
    path.chmod(0o777)
    (path / "d" / "e").mkdir(parents=True)
    (path / "d").chmod(0o777)
    (path / "d" / "e").chmod(0o777)
    for name in ("kept", "d/kept", "d/e/kept"):
        (path / name).write_text(name)
        (path / name).chmod(0o666)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def shell(script: str, **fields: Any) -> Output:
    return evalbox.run(["sh", "-c", script], **fields)


def content(folder: Path) -> dict[str, str]:
    """All files below a directory."""
    return {
        os.fspath(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


KEPT = {name: name for name in ("kept", "d/kept", "d/e/kept")}
ENDS: dict[str, tuple[str, dict[str, Any], Status]] = {
    "exit": ("exit 3", {}, Status.EXITED),
    "collect": ("echo x >own", {"collect": ("**",)}, Status.EXITED),
    "files": ("cat own", {"files": {"own": "x"}}, Status.EXITED),
    "timeout": ("sleep 1000", {"limits": Limits(wall_time=0.1)}, Status.WALL_TIME),
    "disk": ("yes >/box/own", {"limits": Limits(disk=MiB)}, Status.DISK_LIMIT),
    "memory": (
        "python3 -c 'input(b\"x\" * (300 << 20))'",
        {"limits": Limits(memory=64 * MiB)},
        Status.MEMORY_LIMIT,
    ),
    "output": ("yes", {"limits": Limits(output=1000)}, Status.OUTPUT_LIMIT),
    "closed": ("chmod 0 /tmp /dev/shm /box $HOME", {}, Status.EXITED),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_what_may_be_written_is_never_cleared_away(
    folder: Path, end: tuple[str, dict[str, Any], Status]
) -> None:
    script, fields, status = end
    litter = f"echo new >{folder}/new; touch /box/b $HOME/h /tmp/t /dev/shm/s; {script}"
    policy = Policy(write=[folder])
    with Executor() as executor:
        plan = Plan(["sh", "-c", litter], policy=policy, **fields)
        for _ in range(3):
            assert executor.run(plan).status is status
            assert content(folder) == {**KEPT, "new": "new\n"}
        # What it left in its own directories is gone all the same.
        names = "ls -A /box $HOME /tmp /dev/shm | grep -v :"
        found = executor.run(Plan(["sh", "-c", names], policy=policy)).text.split()
        assert {*found} <= {folder.name}
    assert content(folder) == {**KEPT, "new": "new\n"}


def test_an_executor_that_is_closed_in_the_middle_clears_no_grant_away(folder: Path) -> None:
    policy = Policy(write=[folder])
    with Executor() as executor:
        for _ in range(3):
            executor.spawn(Plan(["sh", "-c", f"echo >{folder}/$$; sleep 1000"], policy=policy))
        until(lambda: len(content(folder)) > len(KEPT), "one has written")
    assert {name: text for name, text in content(folder).items() if name in KEPT} == KEPT


def test_an_init_with_a_grant_in_its_places_serves_on_unless_the_host_empties_it() -> None:
    for parent, once in (("/tmp", True), ("/dev/shm", True), ("/var/tmp", False)):
        with tempfile.TemporaryDirectory(dir=parent) as path, Executor() as executor:
            os.chmod(path, 0o755)
            plain = Plan(["true"], policy=Policy(read=[path]))
            for plan, is_kept in ((plain, True), (replace(plain, collect=["*"]), not once)):
                executor.run(plan).check()
                (launcher,) = launchers_of(executor)
                assert len(launcher.slots) == 1
                (first,) = launcher.slots.values()
                assert (first in launcher.idle) is is_kept


HOSTILE = """
import os, sys
folder = sys.argv[1]
def tried(act, *arguments):
    try:
        act(*arguments)
    except OSError:
        pass
tried(os.symlink, '/', f'{folder}/d/e/link')
tried(os.mkdir, f'{folder}/d/e/own')
for place in ('/box', os.environ['HOME'], '/tmp', '/dev/shm', folder, f'{folder}/d'):
    tried(os.makedirs, f'{place}/litter/more')
    tried(os.symlink, '/', f'{place}/link')
    tried(os.mkfifo, f'{place}/fifo')
tried(os.rmdir, f'{folder}/d/e')
tried(os.rename, f'{folder}/d/e', f'{folder}/d/elsewhere')
tried(os.rename, f'{folder}/d', f'{folder}/elsewhere')
tried(os.rename, folder, f'{os.path.dirname(folder)}/elsewhere')
for closed in (f'{folder}/d', folder, '/tmp', '/dev/shm', '/box'):
    tried(os.chmod, closed, 0)
"""
LOOK = """
stat -c %a /box /tmp /dev/shm $HOME {folder} {folder}/d
ls -A /box $HOME /tmp /dev/shm {folder} {folder}/d
cat {folder}/d/e/kept
"""


def test_in_what_leads_to_a_grant_nothing_of_a_hostile_run_is_found(folder: Path) -> None:
    policy = Policy(write=[folder / "d" / "e"])
    act = ["sh", "-c", 'python3 -c "$@"', "sh", HOSTILE, folder]
    hostile = Plan(act, policy=policy)
    look = Plan(["sh", "-c", LOOK.format(folder=folder)], policy=policy)
    with Executor() as executor:
        before = executor.run(look).check().text
        for _ in range(2):
            executor.run(hostile).check()
            after = executor.run(look).check().text
            assert after == before
    assert content(folder).items() >= KEPT.items()
    assert {*os.listdir(folder)} == {"kept", "d"}
    assert {*os.listdir(folder / "d" / "e")} == {"kept", "link", "own"}


def test_a_directory_that_covers_a_place_is_seen_and_the_place_is_elsewhere() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        os.chmod(path, 0o777)
        script = f"echo $TMPDIR; echo x >$TMPDIR/own; ls $TMPDIR; echo given >{path}/new"
        output = shell(script, write=["/tmp"])
        assert output.check().text == "/sandbox/tmp\nown\n"
        assert content(Path(path)) == {"new": "given\n"}
        assert not os.path.exists("/tmp/own")


def test_the_whole_tree_of_the_host_can_be_read(folder: Path) -> None:
    script = (
        f"cat {folder}/kept; pwd; echo x >own && cat own; (echo >{folder}/new) 2>&1; ls /proc/1"
    )
    output = shell(script, read=["/"])
    assert output.text.startswith("kept/box\nx\n"), output.stderr
    assert "cannot create" in output.text
    assert content(folder) == KEPT
    # Processes are not part of it.
    pids = shell("ls /proc | grep -c '^[0-9]'", read=["/"])
    assert int(pids.text) <= 5


def test_a_writable_directory_in_a_readable_one(folder: Path) -> None:
    tried = f"(echo x >{folder}/new) 2>&1 | grep -o Read-only"
    script = f"{tried}; echo x >{folder}/d/new; cat {folder}/kept"
    output = shell(script, read=[folder], write=[folder / "d"])
    assert output.text == "Read-only\nkept"
    assert content(folder) == {**KEPT, "d/new": "x\n"}


def test_a_readable_directory_in_a_writable_one_is_writable(folder: Path) -> None:
    # Rights add up, as in the process tier.
    script = f"echo x >{folder}/new && echo x >{folder}/d/new"
    shell(script, read=[folder / "d"], write=[folder]).check()
    assert content(folder) == {**KEPT, "new": "x\n", "d/new": "x\n"}


def test_a_single_file_is_granted_and_its_siblings_are_not_there(folder: Path) -> None:
    script = f"cat {folder}/d/kept; ls -A {folder} {folder}/d | tr '\\n' ' '"
    output = shell(script, read=[folder / "d/kept"])
    assert output.check().text == f"d/kept{folder}: d  {folder}/d: kept "


def test_a_single_file_can_be_written_and_not_replaced(folder: Path) -> None:
    script = f"echo new >{folder}/kept; rm {folder}/kept 2>&1 | grep -c cannot; echo x >{folder}/x"
    output = shell(script, write=[folder / "kept"])
    assert output.text == "1\n", output.stderr
    assert content(folder) == {**KEPT, "kept": "new\n"}


# ---- links on the way ----------------------------------------------------------------------


def test_links_lead_where_they_lead_on_the_host(folder: Path) -> None:
    (folder / "absolute").symlink_to(folder / "d")
    (folder / "relative").symlink_to("d")
    (folder / "twice").symlink_to("absolute/e")
    (folder / "file").symlink_to("twice/kept")
    for way, name in {
        "absolute/kept": "d/kept",
        "relative/kept": "d/kept",
        "twice/kept": "d/e/kept",
        "file": "d/e/kept",
    }.items():
        granted = folder / way
        script = f"cat {granted}; cat {folder}/{name}; cat {folder}/kept 2>&1 | grep -c No"
        assert shell(script, read=[granted]).text == f"{name}{name}1\n"


def test_a_link_in_a_granted_tree_leads_out_of_it_only_where_that_is_granted(folder: Path) -> None:
    (folder / "d" / "out").symlink_to("../kept")
    look = ["cat", folder / "d" / "out"]
    assert b"No such file" in evalbox.run(look, read=[folder / "d"]).stderr
    assert evalbox.run(look, read=[folder / "d", folder / "kept"]).text == "kept"


def test_a_link_that_leads_nowhere_is_a_plan_error(folder: Path) -> None:
    (folder / "dead").symlink_to("gone")
    with pytest.raises(PlanError, match="dead"):
        shell("true", read=[folder / "dead"])


# ---- what changes between two runs ---------------------------------------------------------


def replace_directory(path: Path, text: str) -> None:
    path.rename(path.with_name(f"old-{text}"))
    path.mkdir()
    (path / "kept").write_text(text)


def test_a_directory_that_was_replaced_is_granted_anew(folder: Path) -> None:
    plan = Plan(["cat", folder / "d" / "kept"], policy=Policy(read=[folder / "d"]))
    with Executor() as executor:
        assert executor.run(plan).text == "d/kept"
        for text in ("one", "two"):
            replace_directory(folder / "d", text)
            assert executor.run(plan).text == text
            assert executor.run(plan).text == text


def test_a_file_that_was_replaced_is_granted_anew(folder: Path) -> None:
    plan = Plan(["cat", folder / "kept"], policy=Policy(read=[folder / "kept"]))
    with Executor() as executor:
        assert executor.run(plan).text == "kept"
        (folder / "fresh").write_text("fresh")
        (folder / "fresh").replace(folder / "kept")
        assert executor.run(plan).text == "fresh"
        (folder / "kept").unlink()
        with pytest.raises(PlanError, match="kept"):
            executor.run(plan)
        (folder / "kept").write_text("again")
        assert executor.run(plan).text == "again"


def test_a_link_that_leads_elsewhere_by_now_is_followed_anew(folder: Path) -> None:
    link = folder / "link"
    link.symlink_to("d")
    plan = Plan(["cat", link / "kept"], policy=Policy(read=[link]))
    with Executor() as executor:
        assert executor.run(plan).text == "d/kept"
        link.unlink()
        link.symlink_to("d/e")
        assert executor.run(plan).text == "d/e/kept"
        # Where it led before is not granted any more.
        look = Plan(["cat", folder / "d" / "kept"], policy=plan.policy)
        assert b"No such file" in executor.run(look).stderr


def test_what_is_written_into_a_granted_directory_meanwhile_is_seen(folder: Path) -> None:
    plan = Plan(["ls", folder / "d"], policy=Policy(read=[folder / "d"]))
    with Executor() as executor:
        assert executor.run(plan).text == "e\nkept\n"
        (folder / "d" / "more").write_text("more")
        assert executor.run(plan).text == "e\nkept\nmore\n"


# ---- an init that cannot be made -----------------------------------------------------------


def broken_tree(kit: Kit, uid: int, gid: int) -> tuple[bytes, Any]:
    """As if /usr had been replaced since it was looked up."""
    _, items = MADE(kit, uid, gid)
    wrong = [
        replace(item, file_id=(1, 1))
        if (item.kind, item.target) == (MountKind.BIND, "/usr")
        else item
        for item in items
    ]
    return tree(wrong, kit.serial, 1, 0, 0), tuple(wrong)


MADE = Kit.tree


def test_what_was_replaced_since_it_was_looked_up_is_not_mounted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = Plan(["echo", "hi"])
    with Executor() as executor:
        with monkeypatch.context() as broken:
            broken.setattr(Kit, "tree", broken_tree)
            for _ in range(20):
                with pytest.raises(SetupError) as caught:
                    executor.run(plan)
                assert (caught.value.stage, caught.value.errno) == ("mount", errno.ESTALE)
                assert "/usr" in str(caught.value)
        # Nothing is left of them: their uids and their numbers are free again.
        assert executor.run(plan).check().text == "hi\n"
        (launcher,) = launchers_of(executor)
        until(lambda: executor.run(plan).ok and not launcher._failed, "the launcher told of all")
        assert len(launcher.slots) == 1
        if launcher.uids is not None:
            assert launcher.uids._taken == {slot.uid for slot in launcher.slots.values()}
        assert len(children(launcher.pid)) == 1


# ---- many policies -------------------------------------------------------------------------


def test_a_hundred_policies_take_turns() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as parent:
        os.chmod(parent, 0o755)
        paths = [Path(parent, str(number)) for number in range(100)]
        for path in paths:
            path.mkdir()
            (path / "name").write_text(path.name)
        with Executor() as executor:
            for _ in range(2):
                for path in paths:
                    look = f"cat {parent}/*/name"
                    plan = Plan(["sh", "-c", look], policy=Policy(read=[path]))
                    assert executor.run(plan).check().text == path.name
            (launcher,) = launchers_of(executor)
            # Not one init for each of them waits.
            until(lambda: executor.run(plan).ok and len(launcher.slots) <= 65, "others are ended")


def test_a_run_never_gets_an_init_with_the_files_of_another_policy(folder: Path) -> None:
    look = ["sh", "-c", f"cat {folder}/d/kept {folder}/kept 2>/dev/null; true"]
    policies = [Policy(read=[folder / name]) for name in ("d", "kept")] + [Policy()]
    with Executor() as executor:
        for _ in range(3):
            told = [executor.run(Plan(look, policy=policy)).text for policy in policies]
            assert told == ["d/kept", "kept", ""]
