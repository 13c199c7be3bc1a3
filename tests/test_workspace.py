"""Workspaces: what a run finds, what comes back of it, and that nothing stays.

Whatever a hostile program leaves is made here by hand, and once more by a
program; everything that is refused stands beside something alike that is not.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import evalbox
import tiers
from evalbox import Executor, File, Limits, MiB, Output, Plan, SetupError, Status, _native
from evalbox._host import host
from evalbox._launch import UidLocks, uids
from evalbox._launch.root import Root, sweep
from evalbox.workspace import collect, fill
from evalbox.workspace.collect import MAX_DEPTH
from proc import open_descriptors, until

IS_ROOT = os.geteuid() == 0
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
SOMEBODY = 54321
# What an ordinary user must be able to undo: no right at all, and each one alone.
MODES = [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600]
LONG_NAME = "n" * 255


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that every uid reaches, unlike tmp_path, removed whatever is in it."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    with opened(path.parent) as parent:
        _native.tree_remove(parent, path.name)


@pytest.fixture
def box(folder: Path) -> Path:
    path = folder / "box"
    path.mkdir()
    return path


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def collected(box: Path, *patterns: str, room: int | None = None) -> dict[str, bytes]:
    """What collect brings back; it must leave no descriptor open."""
    before = open_descriptors()
    with opened(box) as fd:
        found = collect(fd, patterns, room)
    assert open_descriptors() == before
    return found


def filled(box: Path, files: Mapping[str, File], cwd: str = ".", owner: int | None = None) -> None:
    with opened(box) as fd:
        fill(fd, files, cwd, owner)


def cleared(path: Path) -> None:
    with opened(path) as fd:
        _native.tree_clear(fd)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def deep(box: Path, levels: int, name: str = "d") -> int:
    """Makes nested directories, deeper than any path; a descriptor of the last."""
    fd = os.open(box, DIRECTORY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    return fd


def write_in(fd: int, name: str, content: bytes) -> None:
    with open(name, "wb", opener=lambda path, flags: os.open(path, flags, dir_fd=fd)) as file:
        file.write(content)


# ---- fill


def test_files_are_there_with_their_directories(box: Path) -> None:
    files = {"a": File("1"), "b/c/d": File(b"\0\xff"), "b/c/e": File(""), "b/f": File("é")}
    filled(box, files)
    found = {str(path.relative_to(box)) for path in box.rglob("*") if path.is_file()}
    assert found == set(files)
    for path, file in files.items():
        assert (box / path).read_bytes() == file.content


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o177, 0o777], ids=oct)
def test_modes_are_exact_whatever_the_umask(box: Path, mask: int) -> None:
    with umask(mask):
        filled(box, {"d/plain": File("x"), "d/tool": File("x", executable=True)}, cwd="w/x")
    for path, mode in (("d", 0o755), ("d/plain", 0o644), ("d/tool", 0o755), ("w/x", 0o755)):
        assert mode_of(box / path) == mode


def test_the_working_directory_is_made_or_found(box: Path) -> None:
    filled(box, {"w/a": File("x")}, cwd="w/x/y")
    assert (box / "w/x/y").is_dir()
    assert (box / "w/a").is_file()


@pytest.mark.root
def test_all_of_it_belongs_to_the_owner(box: Path) -> None:
    filled(box, {"d/e/f": File("x")}, cwd="w", owner=SOMEBODY)
    for path in ("d", "d/e", "d/e/f", "w"):
        status = (box / path).stat()
        assert (status.st_uid, status.st_gid) == (SOMEBODY, SOMEBODY)


def test_without_an_owner_it_belongs_to_the_caller(box: Path) -> None:
    filled(box, {"d/f": File("x")})
    assert {(box / path).stat().st_uid for path in ("d", "d/f")} == {os.geteuid()}


def test_a_large_file_is_written_whole(box: Path) -> None:
    content = bytes(range(256)) * (40 * MiB // 256)
    filled(box, {"large": File(content)})
    assert (box / "large").read_bytes() == content


@pytest.mark.parametrize("path", ["link/f", "link"])
def test_nothing_is_written_through_a_link(folder: Path, box: Path, path: str) -> None:
    outside = folder / "outside"
    outside.mkdir()
    (box / "link").symlink_to(outside)
    before = open_descriptors()
    with pytest.raises(OSError, match=r"Not a directory|Too many levels|File exists"):
        filled(box, {path: File("x")})
    assert open_descriptors() == before
    assert list(outside.iterdir()) == []
    filled(box, {"d/f": File("x")})
    assert (box / "d/f").is_file()


def test_a_file_that_is_there_is_not_overwritten(folder: Path, box: Path) -> None:
    (folder / "mine").write_text("mine")
    (box / "f").hardlink_to(folder / "mine")
    with pytest.raises(FileExistsError):
        filled(box, {"f": File("x")})
    assert (folder / "mine").read_text() == "mine"


# ---- collect: patterns

TREE = ["a.txt", "b.txt", "c.md", ".hidden", "d/a.txt", "d/.e/b.txt", "d/e/f/c.txt", "[x]"]
PATTERNS = {
    "a.txt": {"a.txt"},
    "?.txt": {"a.txt", "b.txt"},
    "[ab].txt": {"a.txt", "b.txt"},
    "[!a].txt": {"b.txt"},
    "[[]x]": {"[x]"},
    "*.txt": {"a.txt", "b.txt"},
    "*": {"a.txt", "b.txt", "c.md", ".hidden", "[x]"},
    ".*": {".hidden"},
    "*/*.txt": {"d/a.txt"},
    "d/*": {"d/a.txt"},
    "d": set(),
    "d/**": {"d/a.txt", "d/.e/b.txt", "d/e/f/c.txt"},
    "**": set(TREE),
    "**/a.txt": {"a.txt", "d/a.txt"},
    "**/*.txt": {"a.txt", "b.txt", "d/a.txt", "d/.e/b.txt", "d/e/f/c.txt"},
    "d/**/c.txt": {"d/e/f/c.txt"},
    "d/**/a.txt": {"d/a.txt"},
    "**/e/**": {"d/e/f/c.txt"},
    "**/**/f/**/*": {"d/e/f/c.txt"},
    "nothing": set(),
    "a.txt/x": set(),
    "A.TXT": set(),
}


@pytest.mark.parametrize(("pattern", "wanted"), PATTERNS.items(), ids=PATTERNS)
def test_a_pattern_finds_what_it_means(box: Path, pattern: str, wanted: set[str]) -> None:
    filled(box, {path: File(path) for path in TREE})
    assert collected(box, pattern) == {path: path.encode() for path in wanted}


def test_several_patterns_find_a_file_once_and_in_order(box: Path) -> None:
    filled(box, {path: File(path) for path in TREE})
    found = collected(box, "d/**", "**/a.txt", "a*", "c.md", room=10_000)
    assert list(found) == ["a.txt", "c.md", "d/.e/b.txt", "d/a.txt", "d/e/f/c.txt"]


def test_no_pattern_finds_nothing(box: Path) -> None:
    filled(box, {"a": File("x")})
    assert collected(box) == {}


def test_a_pattern_that_fits_in_many_ways_takes_no_longer(box: Path) -> None:
    os.close(deep(box, MAX_DEPTH))
    # In so many ways that they could not be gone through one by one.
    pattern = "/".join(["**", "d"] * 16) + "/**"
    (box / "/".join(["d"] * 40) / "f").write_text("x")
    assert len(collected(box, pattern)) == 1


# ---- collect: what is no regular file


def test_only_regular_files_come_back(folder: Path, box: Path) -> None:
    outside = folder / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (box / "passwd").symlink_to("/etc/passwd")
    (box / "inner").symlink_to("file")
    (box / "dangling").symlink_to("nowhere")
    (box / "loop").symlink_to("loop")
    (box / "folder").symlink_to(outside)
    os.mkfifo(box / "fifo")
    with socket.socket(socket.AF_UNIX) as server, opened(box) as fd:
        server.bind(f"/proc/self/fd/{fd}/socket")
        (box / "file").write_text("x")
        assert {path.name for path in box.iterdir()} >= {"socket", "fifo", "folder"}
        assert collected(box, "**", "folder/*", "folder/**") == {"file": b"x"}


@pytest.mark.root
def test_devices_do_not_come_back(box: Path) -> None:
    for name, kind, minor in (("null", stat.S_IFCHR, 3), ("zero", stat.S_IFCHR, 5)):
        os.mknod(box / name, kind | 0o666, os.makedev(1, minor))
    os.mknod(box / "disk", stat.S_IFBLK | 0o666, os.makedev(253, 0))
    (box / "file").write_text("x")
    assert collected(box, "*") == {"file": b"x"}


@pytest.mark.parametrize("mode", MODES, ids=oct)
def test_closed_files_and_directories_come_back(box: Path, mode: int) -> None:
    filled(box, {"d/e/f": File("1"), "g": File("2")})
    for path in ("d/e/f", "g", "d/e", "d"):
        (box / path).chmod(mode)
    assert collected(box, "**") == {"d/e/f": b"1", "g": b"2"}


# ---- collect: how much


def test_a_file_comes_back_exactly_at_the_cap(box: Path) -> None:
    (box / "f").write_bytes(b"x" * 1000)
    assert collected(box, "*", room=1000) == {"f": b"x" * 1000}
    assert collected(box, "*", room=999) == {}


def test_the_sum_of_the_sizes_stays_below_the_cap(box: Path) -> None:
    for number in range(10):
        (box / f"f{number}").write_bytes(b"x" * 100)
    assert len(collected(box, "*", room=1000)) == 10
    assert len(collected(box, "*", room=999)) == 9
    assert len(collected(box, "*", room=250)) == 2


def test_without_room_only_empty_files_come_back(box: Path) -> None:
    filled(box, {"empty": File(""), "full": File("x")})
    assert collected(box, "*", room=0) == {"empty": b""}


def test_a_sparse_file_over_the_cap_is_left_out(box: Path) -> None:
    with (box / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (box / "small").write_bytes(b"x")
    assert collected(box, "*", room=64 * MiB) == {"small": b"x"}


def test_a_sparse_file_that_no_memory_holds_is_an_os_error(box: Path) -> None:
    with (box / "sparse").open("wb") as file:
        # 4 TiB: more than any address space hands out at once, less than ext4's most.
        file.truncate((1 << 42) - 1)
    soft, hard = _limit_address_space(8 << 30)
    try:
        with pytest.raises(OSError, match="memory"):
            collected(box, "*")
    finally:
        _limit_address_space(soft, hard)
    assert collected(box, "*", room=0) == {}


def _limit_address_space(soft: int, hard: int | None = None) -> tuple[int, int]:
    """Sets the soft limit; returns what was."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (soft, before[1] if hard is None else hard))
    return before


def test_ten_thousand_files_come_back(box: Path) -> None:
    with opened(box) as fd:
        for number in range(10_000):
            write_in(fd, str(number), b"x")
    found = collected(box, "*", room=64 * MiB)
    assert len(found) == 10_000
    assert set(found.values()) == {b"x"}


def test_names_that_are_no_text_come_back(box: Path) -> None:
    names = [b"\xff\xfe", b"\xc3", b"a\nb", b"\x01", b"*", b"-rf", LONG_NAME.encode()]
    for name in names:
        Path(os.fsdecode(bytes(box) + b"/" + name)).write_bytes(name)
    assert collected(box, "*") == {os.fsdecode(name): name for name in names}


def test_what_lies_too_deep_is_left_out(box: Path) -> None:
    for levels, name in ((MAX_DEPTH, "last"), (MAX_DEPTH + 1, "lost")):
        path = box.joinpath(*["d"] * levels)
        path.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("x")
    assert [Path(path).name for path in collected(box, "**")] == ["last"]


def test_running_out_of_descriptors_is_an_error_and_not_an_empty_answer(box: Path) -> None:
    filled(box, {"d/d/d/d/d/d/f": File("x")})
    assert len(collected(box, "**")) == 1
    with opened(box) as fd, few_descriptors(4), pytest.raises(OSError, match="Too many open"):
        collect(fd, ["**"], None)


@contextmanager
def few_descriptors(left: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- clear


def test_a_tree_of_three_thousand_levels_is_removed(box: Path) -> None:
    fd = deep(box, 3000)
    write_in(fd, "f", b"x")
    os.close(fd)
    before = open_descriptors()
    cleared(box)
    assert list(box.iterdir()) == []
    assert open_descriptors() == before


def test_names_of_255_bytes_are_removed_at_every_depth(box: Path) -> None:
    # 100 times 255 bytes: several times PATH_MAX.
    fd = deep(box, 100, LONG_NAME)
    write_in(fd, LONG_NAME, b"x")
    os.close(fd)
    cleared(box)
    assert list(box.iterdir()) == []


@pytest.mark.parametrize("mode", MODES, ids=oct)
def test_closed_directories_are_removed(box: Path, mode: int) -> None:
    filled(box, {"d/e/f/g": File("x"), "d/h": File("x")})
    for path in ("d/e/f/g", "d/e/f", "d/e", "d"):
        (box / path).chmod(mode)
    cleared(box)
    assert list(box.iterdir()) == []


def test_links_are_removed_and_not_followed(folder: Path, box: Path) -> None:
    outside = folder / "outside"
    (outside / "d").mkdir(parents=True)
    (outside / "d/f").write_text("kept")
    (outside / "closed").mkdir(mode=0o500)
    (box / "d/e").mkdir(parents=True)
    for at in ("", "d", "d/e"):
        (box / at / "file").symlink_to(outside / "d/f")
        (box / at / "folder").symlink_to(outside / "d")
        (box / at / "closed").symlink_to(outside / "closed")
        (box / at / "up").symlink_to("..")
        (box / at / "hard").hardlink_to(outside / "d/f")
    cleared(box)
    assert list(box.iterdir()) == []
    assert (outside / "d/f").read_text() == "kept"
    assert mode_of(outside / "closed") == 0o500


def test_what_is_no_regular_file_is_removed(box: Path) -> None:
    (box / "d").mkdir()
    for at in (box, box / "d"):
        os.mkfifo(at / "fifo")
        with socket.socket(socket.AF_UNIX) as server, opened(at) as fd:
            server.bind(f"/proc/self/fd/{fd}/socket")
    cleared(box)
    assert list(box.iterdir()) == []


def test_many_files_and_directories_are_removed(box: Path) -> None:
    for number in range(50):
        (box / f"d{number}/e").mkdir(parents=True)
        with opened(box / f"d{number}/e") as fd:
            for name in range(200):
                write_in(fd, str(name), b"")
    cleared(box)
    assert list(box.iterdir()) == []


def test_names_like_those_that_clearing_uses_are_removed(box: Path) -> None:
    for number in range(1, 200):
        (box / f".evalbox-{number:x}").mkdir()
    (box / "d/e/f").mkdir(parents=True)
    cleared(box)
    assert list(box.iterdir()) == []


@pytest.mark.root
def test_what_belongs_to_another_uid_is_removed(box: Path) -> None:
    filled(box, {"d/e/f": File("x")}, owner=SOMEBODY)
    (box / "d/e").chmod(0o1000)
    cleared(box)
    assert list(box.iterdir()) == []


def test_clearing_something_empty_does_nothing(box: Path) -> None:
    cleared(box)
    assert list(box.iterdir()) == []


def test_removing_takes_the_directory_too_and_one_that_is_gone_is_no_error(
    folder: Path, box: Path
) -> None:
    filled(box, {"d/f": File("x")})
    with opened(folder) as parent:
        _native.tree_remove(parent, "box")
        assert not box.exists()
        _native.tree_remove(parent, "box")


def test_removing_does_not_go_through_a_link(folder: Path, box: Path) -> None:
    filled(box, {"f": File("x")})
    (folder / "link").symlink_to(box)
    with opened(folder) as parent, pytest.raises(OSError, match=r"Not a directory|Too many"):
        _native.tree_remove(parent, "link")
    assert (box / "f").exists()


# ---- Root: leftovers


NAME = "evalbox-" + "0123456789abcdef" * 2
HOST = """
import os, sys
from evalbox import Executor, Plan
with Executor() as executor:
    executor.run(Plan(["true"]))
    executor.spawn(Plan(["sleep", "1000"], files={"d/f": "x"}))
    launcher = executor._loop._fleet._launchers.popitem()[1]
    print(launcher.pid, launcher.root.path, flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_host() -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A host with a run: its process, the pid of its launcher, and its directory."""
    command = [sys.executable, "-c", tiers.prelude() + HOST]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid, path = process.stdout.readline().split()
        yield process, int(pid), Path(path)
        process.kill()


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


@pytest.mark.usefixtures("process_tier")
def test_what_host_and_launcher_left_is_removed_and_what_is_in_use_is_not() -> None:
    with another_host() as (process, launcher, path):
        place = str(path.parent)
        sweep(place)
        assert path.is_dir()
        # The launcher first: it would remove the directory itself.
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(launcher, signal.SIGSTOP)
        os.kill(launcher, signal.SIGKILL)
        process.kill()
        until(lambda: is_gone(launcher) and is_gone(process.pid), "host and launcher are gone")
        assert path.is_dir()

        def is_swept() -> bool:
            # Its inits, which end by themselves, have nothing locked.
            sweep(place)
            return not path.exists()

        until(is_swept, "the leftover is removed")


@pytest.mark.usefixtures("process_tier")
def test_a_launcher_keeps_its_directory_locked_without_its_host() -> None:
    with another_host() as (process, launcher, path):
        os.kill(launcher, signal.SIGSTOP)
        process.kill()
        until(lambda: is_gone(process.pid), "the host is gone")
        sweep(str(path.parent))
        assert path.is_dir()
        os.kill(launcher, signal.SIGCONT)
        until(lambda: not path.exists(), "the launcher removed it")


def leftover(place: Path, name: str = NAME) -> Path:
    path = place / name
    (path / "0/box/d").mkdir(parents=True)
    (path / "0/box/d/f").write_text("x")
    (path / "0/box/d").chmod(0o000)
    return path


def test_a_leftover_is_removed_with_all_below_it(folder: Path) -> None:
    path = leftover(folder)
    sweep(str(folder))
    assert not path.exists()


OTHERS = {
    "too short": NAME[:-1],
    "too long": NAME + "0",
    "not hexadecimal": NAME[:-1] + "g",
    "upper case": NAME[:-1] + "A",
    "another prefix": NAME.replace("evalbox", "evilbox"),
    "something before": "x" + NAME,
    "a line more": NAME + "\n",
}


@pytest.mark.parametrize("name", OTHERS.values(), ids=OTHERS)
def test_other_names_are_let_alone(folder: Path, name: str) -> None:
    other, control = folder / name, leftover(folder)
    other.mkdir()
    sweep(str(folder))
    assert other.is_dir()
    assert not control.exists()


def test_files_and_links_with_such_a_name_are_let_alone(folder: Path) -> None:
    target = folder / "target"
    target.mkdir()
    (target / "f").write_text("x")
    link, file = folder / NAME, folder / (NAME[:-1] + "0")
    link.symlink_to(target)
    file.write_text("x")
    sweep(str(folder))
    assert link.is_symlink()
    assert (target / "f").exists()
    assert file.exists()


@pytest.mark.root
def test_leftovers_of_other_users_are_let_alone(folder: Path) -> None:
    other, control = leftover(folder), leftover(folder, NAME[:-1] + "0")
    os.chown(other, SOMEBODY, SOMEBODY)
    sweep(str(folder))
    assert other.is_dir()
    assert not control.exists()


def test_a_new_root_is_locked_until_it_is_closed() -> None:
    root = Root()
    path = Path(root.path)
    try:
        assert mode_of(path) == (0o711 if IS_ROOT else 0o700)
        sweep(str(path.parent))
        assert path.is_dir()
    finally:
        root.close()
    sweep(str(path.parent))
    assert not path.exists()


def test_a_root_can_be_removed_twice() -> None:
    root = Root()
    (Path(root.path) / "0/box").mkdir(parents=True)
    root.remove()
    assert not Path(root.path).exists()
    root.remove()
    root.close()


@pytest.mark.usefixtures("tier")
@pytest.mark.parametrize("mask", [0o077, 0o777], ids=oct)
def test_a_run_works_whatever_the_umask(mask: int) -> None:
    plan = Plan(["sh", "-c", "cat d/f; umask"], files={"d/f": "x"}, collect=["d/*"])
    with umask(mask), Executor() as executor:
        output = executor.run(plan).check()
    assert (output.text, output.files) == ("x0022\n", {"d/f": b"x"})


# ---- uids


@pytest.fixture
def locks() -> Iterator[Callable[[range], UidLocks]]:
    """Makes owners of locks, which are closed at the end."""
    made: list[UidLocks] = []

    def make(uids: range) -> UidLocks:
        made.append(UidLocks(uids))
        return made[-1]

    yield make
    for one in made:
        one.close()


# Far from those that runs are given.
UIDS = range(0x60000000, 0x60000008)


@pytest.mark.root
def test_two_owners_never_get_the_same_uid(locks: Callable[[range], UidLocks]) -> None:
    first, second = locks(UIDS), locks(UIDS)
    taken = [owner.take() for _ in range(4) for owner in (first, second)]
    assert sorted(taken) == list(UIDS)
    for owner in (first, second):
        with pytest.raises(SetupError, match="no uid is free"):
            owner.take()


@pytest.mark.root
def test_a_released_uid_is_free_again(locks: Callable[[range], UidLocks]) -> None:
    first, second = locks(UIDS), locks(UIDS)
    taken = [first.take() for _ in UIDS]
    first.release(taken[3])
    assert second.take() == taken[3]
    with pytest.raises(SetupError, match="no uid is free"):
        first.take()


@pytest.mark.root
def test_a_closed_owner_frees_its_uids(locks: Callable[[range], UidLocks]) -> None:
    first, second = locks(UIDS), locks(UIDS)
    taken = [first.take() for _ in UIDS]
    first.close()
    assert sorted(second.take() for _ in UIDS) == sorted(taken)


@pytest.mark.root
def test_a_uid_stays_taken_while_an_heir_has_the_descriptor(
    locks: Callable[[range], UidLocks],
) -> None:
    first, second = locks(UIDS[:1]), locks(UIDS[:1])
    first.take()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[first.fd]) as heir:
        assert heir.stdin is not None
        first.close()
        with pytest.raises(SetupError, match="no uid is free"):
            second.take()
        heir.stdin.close()
    assert second.take() == UIDS[0]


def _symlink(path: Path, other: Path) -> None:
    path.symlink_to(other)


def _hard_link(path: Path, other: Path) -> None:
    path.hardlink_to(other)


def _foreign(path: Path, other: Path) -> None:
    path.touch()
    os.chown(path, SOMEBODY, SOMEBODY)


def _fifo(path: Path, other: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path, other: Path) -> None:
    path.mkdir()


HOSTILE = [_symlink, _hard_link, _foreign, _fifo, _directory]


@pytest.mark.root
@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_a_lock_file_that_somebody_else_prepared_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path, Path], None]
) -> None:
    bad, good = folder / "bad", folder / "good"
    for place in (bad, good):
        place.mkdir()
    other = folder / "other"
    other.write_text("other")
    make(bad / "evalbox.uids", other)
    monkeypatch.setattr(uids, "_FOLDERS", (str(bad),))
    before = open_descriptors()
    with pytest.raises(SetupError, match="can hold"):
        UidLocks(UIDS)
    assert open_descriptors() == before
    monkeypatch.setattr(uids, "_FOLDERS", (str(bad), str(good)))
    owner = UidLocks(UIDS)
    assert os.readlink(f"/proc/self/fd/{owner.fd}") == str(good / "evalbox.uids")
    owner.close()
    assert other.read_text() == "other"


@pytest.mark.root
def test_where_nothing_can_be_written_the_lock_file_is_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uids, "_FOLDERS", (str(folder / "none"), "/proc/self/nowhere"))
    monkeypatch.delenv("TMPDIR", raising=False)
    owner = UidLocks(UIDS)
    assert "memfd:evalbox.uids" in os.readlink(f"/proc/self/fd/{owner.fd}")
    first, second = owner.take(), owner.take()
    assert first != second
    owner.close()
    monkeypatch.setenv("TMPDIR", str(folder))
    owner = UidLocks(UIDS)
    assert os.readlink(f"/proc/self/fd/{owner.fd}") == str(folder / "evalbox.uids")
    owner.close()


@pytest.mark.root
@pytest.mark.usefixtures("tier")
def test_the_uids_of_live_runs_differ() -> None:
    plan = Plan(["id", "-u"])
    with Executor() as one, Executor() as two:
        held = Plan(["sleep", "1000"])
        for executor in (one, two):
            for _ in range(3):
                executor.spawn(held)
        slots = [slot for ex in (one, two) for slot in slots_of(ex)]
        assert len({slot.uid for slot in slots}) == 6
        uid = int(one.run(plan).check().text)
        assert uid in (host().uids or ())
        assert uid not in {slot.uid for slot in slots}


def slots_of(executor: Executor) -> list[Any]:
    loop = executor._loop
    assert loop is not None
    return [s for one in loop._fleet._launchers.values() for s in one.slots.values()]


# ---- end to end: hostile programs

HOSTILE_TREES = {
    "deep": "for i in range(3000): os.mkdir('d'); os.chdir('d')",
    "long names": "for i in range(60): os.mkdir('n' * 255); os.chdir('n' * 255)",
    "closed": """
for mode in range(8):
    os.makedirs(f'd{mode}/e'); open(f'd{mode}/e/f', 'w').close()
    os.chmod(f'd{mode}/e', mode << 6); os.chmod(f'd{mode}', mode << 6)
""",
    "closed places": "open('f', 'w').close(); os.chmod(here, 0)",
    "many": "for i in range(3000): open(str(i), 'w').close()",
    "fifos": "for i in range(10): os.mkfifo(str(i))",
    "links": """
for i, to in enumerate(['/etc/passwd', '/', '..', '/proc/self/root', 'nowhere', '4', '/dev/zero']):
    os.symlink(to, str(i))
""",
    "sparse": "os.truncate(os.open('s', os.O_CREAT | os.O_WRONLY), 16 << 20)",
    "odd names": """
for name in [b'\\xff', b'a\\nb', b'*', b'-rf', b'.evalbox-1', b'.evalbox-2']: os.mkdir(name)
""",
    "sticky": "os.makedirs('a/b'); os.chmod('a', 0o1777); os.chmod(here, 0o1700)",
}
LEAVE = """
import os
for here in {places!r}:
    here = os.path.realpath(os.path.expandvars(here))
    os.chdir(here)
    {acts}
    os.chdir('/')
print('left')
"""
LOOK = """
for place in "$@"; do
    echo "$(stat -c %a "$place") $(ls -A "$place" | wc -l)"
done
"""
# Where a program finds the directories of its workspace.
PLACES = {
    "process": ("$PWD", "$HOME", "$TMPDIR"),
    "namespace": ("/box", "/home/sandbox", "/tmp", "/dev/shm"),
}


def sh(script: str, *arguments: str, **fields: Any) -> Plan:
    """A plan whose program is always the same: in namespaces an init serves one."""
    return Plan(["sh", "-c", script, "sh", *arguments], **fields)


def look() -> Plan:
    return sh(f"set -- {' '.join(PLACES[tiers.current()])}\n{LOOK}")


def empty() -> str:
    """What `look` tells where nothing was left."""
    return "700 0\n" * len(PLACES[tiers.current()])


@pytest.mark.usefixtures("tier")
@pytest.mark.parametrize("patterns", [(), ("**",)], ids=["cleared by init", "cleared by the host"])
@pytest.mark.parametrize("tree", HOSTILE_TREES.values(), ids=HOSTILE_TREES)
def test_the_next_run_finds_nothing_of_a_hostile_one(tree: str, patterns: tuple[str, ...]) -> None:
    code = LEAVE.format(
        places=PLACES[tiers.current()], acts="\n    ".join(tree.strip().splitlines())
    )
    with Executor() as executor:
        left = executor.run(sh('python3 -c "$1"', code, collect=patterns))
        next_one = executor.run(look())
        assert len(slots_of(executor)) == 1
    # A tree that is too deep to be counted is over every limit of the disk.
    assert left.status in (Status.EXITED, Status.DISK_LIMIT)
    assert left.text == "left\n" or left.status is Status.DISK_LIMIT
    assert set(left.files.values()) <= {b"", bytes(16 * MiB)}
    assert next_one.check().text == empty()


@pytest.mark.usefixtures("tier")
def test_a_look_at_a_used_workspace_would_show_it() -> None:
    with Executor() as executor:
        script = f"touch $HOME/f; chmod 755 .; set -- $PWD $HOME $TMPDIR\n{LOOK}"
        output = executor.run(sh(script))
    assert output.check().text == "755 0\n700 1\n700 0\n"


def attempt(script: str, **fields: Any) -> Output:
    return evalbox.run(["sh", "-c", script], **fields)


@pytest.mark.usefixtures("tier")
def test_collect_brings_back_what_is_in_the_workspace_only() -> None:
    script = "mkdir d; echo 1 > d/f; echo 2 > .g; echo 3 > $HOME/h; echo 4 > $TMPDIR/i"
    output = attempt(script, collect=["**"], files={"given": "0"})
    assert output.files == {"d/f": b"1\n", ".g": b"2\n", "given": b"0"}


@pytest.mark.usefixtures("tier")
def test_links_of_a_program_bring_nothing_back(folder: Path) -> None:
    (folder / "secret").write_text("secret")
    script = f"ln -s {folder}/secret a; ln -s {folder} b; ln -s /etc/passwd c; echo x > d"
    assert attempt(script, collect=["**", "b/*"]).check().files == {"d": b"x\n"}


@pytest.mark.usefixtures("tier")
def test_collected_files_together_stay_below_the_disk_limit() -> None:
    script = "for i in 1 2 3 4; do truncate -s 1000000 $i; done"
    files = attempt(script, collect=["*"], disk=3_000_000).files
    assert [len(content) for content in files.values()] == [1_000_000] * 3
    assert len(attempt(script, collect=["*"], disk=4_000_000).files) == 4


@pytest.mark.usefixtures("tier")
def test_files_of_a_run_that_was_ended_come_back() -> None:
    output = attempt("echo x > f; sleep 1000", collect=["f"], timeout=0.3)
    assert (output.status, output.files) == (Status.WALL_TIME, {"f": b"x\n"})


@pytest.mark.usefixtures("tier")
def test_a_slot_that_could_not_be_emptied_serves_no_other_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with Executor() as executor:
        executor.run(sh("true", collect=["*"]))
        with monkeypatch.context() as broken:
            broken.setattr(_native, "tree_clear", fails)
            with pytest.raises(SetupError, match="collect"):
                executor.run(sh("touch left", collect=["*"]))
        assert executor.run(look()).check().text == empty()


WITHOUT = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, int(sys.argv[1])) == 0
# execve takes it from the permitted set, too.
os.execv(sys.executable, [sys.executable, '-c', sys.argv[2]])
"""
COLLECTS = """
import evalbox
script = "cp a b; id -u"
output = evalbox.run(["sh", "-c", script], files={"a": "x"}, collect=["b"]).check()
print(output.files, output.text == "0\\n", output.enforcement["fs_metadata"].mechanism)
"""
CAPABILITIES = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3, "CAP_MKNOD": 27}


@pytest.mark.root
@pytest.mark.usefixtures("tier")
@pytest.mark.parametrize("name", CAPABILITIES)
def test_root_without_a_capability_for_workspaces_gives_out_no_uid(name: str) -> None:
    code = tiers.prelude() + COLLECTS
    command = [sys.executable, "-c", WITHOUT, str(CAPABILITIES[name]), code]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    is_root = name != "CAP_MKNOD"
    mechanism = "seccomp" if is_root else "own uid"
    if tiers.current() == "namespace":
        mechanism = "mount namespace"
    assert said == f"{{'b': b'x'}} {is_root} {mechanism}\n"


HIDE = """
import os, sys
{}
files = [open(str(number), 'wb') for number in range(20)]
os.chmod('.', {})
for file in files:
    file.write(bytes(int(sys.argv[1]))); file.flush()
"""
HIDING_PLACES = {
    "in the open": ("pass", "0o700"),
    "closed": ("os.mkdir('d'); os.chdir('d')", "0"),
    "no way through": ("os.mkdir('d'); os.chdir('d')", "0o400"),
    "not to be listed": ("os.mkdir('d'); os.chdir('d')", "0o100"),
    "the box itself": ("pass", "0"),
    "below many": ("for i in range(1500): os.mkdir('d'); os.chdir('d')", "0o700"),
}


@pytest.mark.usefixtures("tier")
@pytest.mark.parametrize("place", HIDING_PLACES.values(), ids=HIDING_PLACES)
def test_nothing_is_hidden_from_the_limit_of_the_disk(place: tuple[str, str]) -> None:
    code = HIDE.format(*place)
    for size, status in ((1000, Status.EXITED), (MiB, Status.DISK_LIMIT)):
        output = evalbox.run(["python3", "-c", code, str(size)], disk=8 * MiB)
        assert output.status is status, output.stderr


@pytest.mark.usefixtures("process_tier")
def test_what_is_too_deep_to_be_counted_is_too_much() -> None:
    code = HIDE.format("for i in range(3000): os.mkdir('d'); os.chdir('d')", "0o700")
    assert evalbox.run(["python3", "-c", code, "1"]).status is Status.DISK_LIMIT


@pytest.mark.usefixtures("namespace_tier")
def test_in_namespaces_the_kernel_counts_however_deep_it_is() -> None:
    code = HIDE.format("for i in range(3000): os.mkdir('d'); os.chdir('d')", "0o700")
    for size, status in ((1000, Status.EXITED), (MiB, Status.DISK_LIMIT)):
        output = evalbox.run(["python3", "-c", code, str(size)], disk=8 * MiB)
        assert output.status is status, output.stderr


@pytest.mark.usefixtures("tier")
def test_a_look_at_a_closed_directory_leaves_it_closed() -> None:
    # The watch looks every 10 ms.
    script = "mkdir d; touch d/f; chmod 0 d; sleep 0.1; stat -c %a d"
    assert attempt(script).check().text == "0\n"


@pytest.mark.usefixtures("tier")
@pytest.mark.long
def test_a_million_files_are_removed() -> None:
    code = """
import os
for place in range(1000):
    os.mkdir(str(place)); os.chdir(str(place))
    for name in range(1000):
        os.close(os.open(str(name), os.O_CREAT | os.O_WRONLY))
    os.chdir('..')
"""
    limits = Limits(disk=None, wall_time=600.0, memory=None)
    with Executor() as executor:
        for patterns in ((), ("0/*",)):
            plan = sh('python3 -c "$1"', code, limits=limits, collect=patterns)
            output = executor.run(plan).check()
            assert len(output.files) == 1000 * len(patterns)
            assert executor.run(look()).check().text == empty()
