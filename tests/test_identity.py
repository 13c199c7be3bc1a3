"""Which uid a run gets: its own, unless what the policy grants is closed to it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from evalbox.compile import identity as identities
from evalbox.compile.identity import Caller, Identity, identity_for
from evalbox.errors import PlanError
from evalbox.plan import Plan
from evalbox.policy import Policy
from evalbox.resolve import Program, resolve
from evalbox.resolve.reach import steps

ROOT = Caller(0, 0, frozenset(), own_uids=True)
# Root, and in the group that owns the files of these tests whoever runs them.
MINE = Caller(0, 0, frozenset({os.getgid()}), own_uids=True)
NOTHING = Program("./x", in_workspace=True, grants=())


@pytest.fixture
def tree() -> Iterator[Path]:
    """A directory that everybody may enter; tmp_path is closed to others."""
    folder = Path(os.path.realpath(tempfile.mkdtemp(dir="/tmp")))
    folder.chmod(0o755)
    (folder / "data").mkdir()
    (folder / "data" / "file").write_text("x")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield folder
    shutil.rmtree(folder)


def decide(policy: Policy, program: Program = NOTHING, caller: Caller = ROOT) -> Identity:
    return identity_for(policy, program, caller, "process")


def test_an_ordinary_user_stays_who_it_is() -> None:
    found = decide(Policy(), caller=Caller(1000, 1000, frozenset(), own_uids=False))
    assert found.kind == "user"
    assert "1000" in found.reason


def test_root_gives_a_program_of_the_system_a_uid_of_its_own() -> None:
    assert decide(Policy(), resolve(Plan(["sh"]))) == Identity("own")


def test_root_that_cannot_change_uid_says_why() -> None:
    caller = Caller(0, 0, frozenset(), own_uids=False, why_not="root lacks CAP_SETUID")
    assert decide(Policy(), caller=caller) == Identity("caller", "root lacks CAP_SETUID")


def test_what_everybody_may_read_needs_no_other_uid(tree: Path) -> None:
    assert decide(Policy(read=[tree / "data"])) == Identity("own")


@pytest.mark.parametrize("closed", ["", "data", "data/file"])
def test_what_only_its_owner_may_read_keeps_the_callers_uid(tree: Path, closed: str) -> None:
    (tree / closed).chmod(0o770)
    found = decide(Policy(read=[tree / "data"]), caller=MINE)
    assert found.kind == "caller"
    assert found.reason == f"{tree / closed} is closed to a uid of its own"


def test_a_grant_to_write_keeps_the_callers_uid_unless_everybody_may(tree: Path) -> None:
    (tree / "data").chmod(0o775)
    (tree / "data" / "file").chmod(0o664)
    policy = Policy(write=[tree / "data"])
    assert decide(policy, caller=MINE).kind == "caller"
    (tree / "data").chmod(0o777)
    assert decide(policy, caller=MINE).reason.startswith(f"{tree}/data/file is closed")
    (tree / "data" / "file").chmod(0o666)
    assert decide(policy, caller=MINE) == Identity("own")


def test_a_program_behind_a_closed_directory_keeps_the_callers_uid(tree: Path) -> None:
    tool = tree / "data" / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    (tree / "data").chmod(0o750)
    assert decide(Policy(), resolve(Plan([tool])), MINE).kind == "caller"


def test_the_way_through_a_link_counts(tree: Path) -> None:
    (tree / "hidden").mkdir(mode=0o700)
    (tree / "hidden" / "link").symlink_to("/bin/sh")
    (tree / "hidden").chmod(0o750)
    (tree / "link").symlink_to("hidden/link")
    found = decide(Policy(), resolve(Plan([tree / "link"])), MINE)
    assert found.reason == f"{tree}/hidden is closed to a uid of its own"


def test_what_not_even_uid_0_may_reach_without_capabilities_is_refused(tree: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tree / "data", 4321, 4321)
    owner = (tree / "data").stat().st_uid
    (tree / "data").chmod(0o700)
    with pytest.raises(PlanError) as caught:
        decide(Policy(read=[tree / "data" / "file"]))
    assert f"{tree}/data (mode 0700, uid {owner}) is closed to uid 0" in str(caught.value)
    assert f"chmod o+rx {tree}/data" in str(caught.value)


def test_a_link_that_leads_nowhere_does_not_count(tree: Path) -> None:
    (tree / "data" / "link").symlink_to("/root/secret")
    assert decide(Policy(read=[tree / "data"])) == Identity("own")


def test_only_the_beginning_of_a_large_tree_is_looked_at(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "data" / "file").chmod(0o640)
    assert decide(Policy(read=[tree / "data"]), caller=MINE).kind == "caller"
    monkeypatch.setattr(identities, "WALKED", 0)
    assert decide(Policy(read=[tree / "data"]), caller=MINE).kind == "own"


def test_a_loop_of_links_ends(tree: Path) -> None:
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")
    assert len(list(steps(f"{tree}/a/x"))) < 200
