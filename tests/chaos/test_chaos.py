"""A little chaos in each tier, and that what looks for harm would see it."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chaos import remains
from chaos.judge import Record, Verdicts
from chaos.kinds import IPC_KEYS, Site, kinds
from chaos.victims import Kill
from proc import mark, until

TESTS = Path(__file__).parents[1]
_IPC_CREAT, _IPC_RMID = 0o1000, 0


def _drive(*arguments: str) -> dict[str, Any]:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-m", "chaos.drive", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout, done.stderr
    return {"code": done.returncode, "stderr": done.stderr, **json.loads(done.stdout)}


@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.long)])
def test_kills_hurt_nobody_else_and_leave_nothing(tier: str, count: int) -> None:
    report = _drive("--tiers", tier, "--kills", str(count))
    assert report["clean"], report
    assert report["code"] == 0, report
    assert report["sent"] >= count
    assert report["ends"]["exact"] > 0


# ---- the judge sees what is wrong


def _kill(what: str, **more: Any) -> Kill:
    who = {"host": 1, "pid": 7, "launcher": 7, "tier": "process", "run": ""}
    return Kill(what=what, stroke=(what,), **{**who, "sockets": frozenset(), "at": 10.0, **more})


def _end(what: str = "cut", **more: Any) -> dict[str, Any]:
    ties = {"run": "chaos-1-1-1", "tier": "process", "launcher": 7, "init": 70}
    return {"what": what, "at": 11.0, "kind": "writer", **ties, "how": "lost", **more}


def _judged(tmp_path: Path, line: dict[str, Any], *kills: Kill) -> Verdicts:
    record = Record(1, 1, tmp_path / "log", kills=[*kills])
    # The second line is being written.
    record.log.write_text(json.dumps(line) + '\n{"what": ')
    verdicts = Verdicts()
    verdicts.take(record)
    return verdicts


EXPLAINED: dict[str, tuple[Any, ...]] = {
    "launcher": (_end(), _kill("launcher")),
    "init": (_end(), _kill("init", sockets=frozenset({69, 70}))),
    "program": (_end(how="signal"), _kill("program", run="chaos-1-1-1")),
    "before execve": (_end(how="signal"), _kill("program", sockets=frozenset({70}))),
    "no launcher": (_end("refused", error=""), _kill("launcher")),
    "no init": (_end("error", error=""), _kill("init", sockets=frozenset({70}))),
}
UNEXPLAINED: dict[str, tuple[Any, ...]] = {
    "nobody was killed": (_end(),),
    "another launcher": (_end(), _kill("launcher", pid=8)),
    "the launcher, later": (_end(), _kill("launcher", at=12.0)),
    "another init": (_end(), _kill("init", sockets=frozenset({69}))),
    "another program": (_end(how="signal"), _kill("program", run="chaos-1-1-2")),
    "lost with only its program killed": (_end(), _kill("program", run="chaos-1-1-1")),
    "another launcher, no start": (_end("refused", error=""), _kill("launcher", pid=8)),
    "another end than any": (_end("wrong"), _kill("launcher")),
    "a crash": ({"what": "crash", "at": 1.0}, _kill("launcher")),
    "a descriptor": ({"what": "done", "at": 1.0, "descriptors": ["x"], "zombies": []},),
}


@pytest.mark.parametrize("case", EXPLAINED)
def test_an_end_that_a_kill_explains_is_right(case: str, tmp_path: Path) -> None:
    verdicts = _judged(tmp_path, *EXPLAINED[case])
    assert (verdicts.wrong, verdicts.lost) == ([], [])
    assert sum(verdicts.causes.values()) == 1


@pytest.mark.parametrize("case", UNEXPLAINED)
def test_an_end_that_no_kill_explains_is_wrong(case: str, tmp_path: Path) -> None:
    line = UNEXPLAINED[case][0]
    assert _judged(tmp_path, *UNEXPLAINED[case]).wrong == [line]


def test_what_was_written_before_a_kill_must_have_come(tmp_path: Path) -> None:
    line = _end(seen=3, acknowledged=4)
    assert _judged(tmp_path, line, _kill("launcher")).lost == [line]
    # What init had not taken from the pipe went with it.
    init = _kill("init", sockets=frozenset({70}))
    assert _judged(tmp_path, line, _kill("launcher"), init).lost == []


@pytest.mark.parametrize("has_cgroups", [False, True])
def test_a_survivor_is_excused_only_where_nobody_was_left_above_it(
    has_cgroups: bool, tmp_path: Path
) -> None:
    above = [_kill("launcher"), _kill("init", pid=8, at=10.5)]
    host = _kill("host", pid=1, launcher=0, at=10.6)

    def excused(*kills: Kill) -> bool:
        return Record(1, 1, tmp_path, kills=[*kills]).lost_all_above(has_cgroups)

    assert excused(*above, host)
    assert excused(*above) is not has_cgroups
    assert not excused(above[0], host)
    assert not excused(above[1], host)
    assert not excused(above[0], _kill("init", pid=8, at=20.0), host)
    assert not excused(above[0], _kill("init", pid=8, launcher=9), host)
    assert not excused(_kill("launcher", tier="namespace"), above[1], host)


# ---- remains are seen


def test_an_orphan_that_stays_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remains, "GRACE", 0.0)
    orphans = remains.Orphans()
    with subprocess.Popen(["sleep", mark()]) as orphan:
        try:
            until(lambda: orphans.look(set()) and orphans.survivors, "it is seen")
            assert any(str(orphan.pid) in told for told, _ in orphans.survivors)
            assert orphan.wait() == -signal.SIGKILL
        finally:
            orphan.kill()


@pytest.mark.parametrize("make", ["shmget", "semget", "msgget"])
def test_an_ipc_object_is_seen(make: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    end: dict[str, Callable[[int], int]] = {
        "shmget": lambda made: libc.shmctl(made, _IPC_RMID, None),
        "semget": lambda made: libc.semctl(made, 0, _IPC_RMID),
        "msgget": lambda made: libc.msgctl(made, _IPC_RMID, None),
    }
    size = {"shmget": (64,), "semget": (1,), "msgget": ()}[make]
    made = getattr(libc, make)(IPC_KEYS[-1], *size, _IPC_CREAT | 0o600)
    assert made >= 0, os.strerror(ctypes.get_errno())
    try:
        assert len(remains.ipc_objects()) == 1
    finally:
        assert end[make](made) == 0
    assert remains.ipc_objects() == []


def test_a_directory_is_a_remain_when_nobody_has_it(tmp_path: Path) -> None:
    left = tmp_path / "evalbox-left"
    left.mkdir()
    (tmp_path / "another").mkdir()
    assert remains.directories(str(tmp_path)) == [str(left)]
    fd = os.open(left, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert remains.directories(str(tmp_path)) == []
    os.close(fd)


def test_a_mount_is_seen() -> None:
    """Of what is mounted in every process: here the root directory."""
    assert any(each.startswith(f"{os.getpid()}: ") for each in remains.mounts(Path("/"), set()))


def test_shared_memory_is_seen() -> None:
    nap = mark()
    path = Path(f"/dev/shm/chaos-{nap}-1-1")
    path.touch()
    try:
        assert remains.shared_memory(nap) == [str(path)]
    finally:
        path.unlink()


def test_every_kind_comes_to_what_it_must_without_chaos(tier: str) -> None:
    report = _drive("--tiers", tier, "--kills", "0", "--runs", "60")
    assert report["clean"], report
    assert set(report["ends"]) == {"exact"}
    assert report["ends"]["exact"] >= 60


def test_kinds_are_the_same_in_both_tiers() -> None:
    assert set(kinds("process")) == set(kinds("namespace"))
    site = Site("process", Path("/nowhere"), "1")
    assert all(kind.plan(site, "name") for kind in kinds("process").values())
