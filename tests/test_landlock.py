"""csrc/landlock.c on the running kernel: every denial has a control that succeeds."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from confine import EVERYTHING, errno_of, library, ruleset, ruleset_for
from evalbox._host import facts
from evalbox.compile.paths import CHANGE, HANDLED, READ, RUN, SCOPES, Access

# Linux, include/uapi/linux/landlock.h: what each ABI knows in all.
FS_KNOWN = {0: 0, 1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF, 8: 0xFFFF, 9: 0x1FFFF}
NET_KNOWN = {3: 0, 4: 0b11, 9: 0b11, 10: 0b1111}
SCOPES_KNOWN = {5: 0, 6: 0b11, 10: 0b11}

needs_scopes = pytest.mark.skipif(
    facts.landlock().abi < 6, reason="Landlock scopes came with ABI 6 (Linux 6.12)"
)


@pytest.fixture
def box(tmp_path: Path) -> Path:
    folder = tmp_path / "box"
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    (folder / "a" / "file").write_text("inside")
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


@pytest.fixture
def confined(box: Path) -> Iterator[int]:
    fd = ruleset_for({box: CHANGE}, scoped=SCOPES)
    assert fd >= 0
    yield fd
    os.close(fd)


# ---- the table of ABIs -------------------------------------------------------------


@pytest.mark.parametrize(("abi", "known"), FS_KNOWN.items())
def test_each_abi_knows_the_file_rights_of_the_kernel_header(abi: int, known: int) -> None:
    assert library().eb_landlock_fs(abi) == known


@pytest.mark.parametrize(("abi", "known"), NET_KNOWN.items())
def test_each_abi_knows_the_network_rights_of_the_kernel_header(abi: int, known: int) -> None:
    assert library().eb_landlock_net(abi) == known


@pytest.mark.parametrize(("abi", "known"), SCOPES_KNOWN.items())
def test_each_abi_knows_the_scopes_of_the_kernel_header(abi: int, known: int) -> None:
    assert library().eb_landlock_scopes(abi) == known


def test_an_abi_newer_than_the_table_is_taken_as_the_newest_known() -> None:
    assert library().eb_landlock_fs(99) == library().eb_landlock_fs(10)
    assert library().eb_landlock_net(99) == library().eb_landlock_net(10)


def test_a_negative_abi_knows_nothing() -> None:
    assert library().eb_landlock_fs(-errno.ENOSYS) == 0


def test_python_names_exactly_the_rights_that_c_knows() -> None:
    assert int(HANDLED) == library().eb_landlock_fs(99)
    assert library().eb_landlock_scopes(99) == SCOPES


def test_the_abi_is_the_one_that_the_host_report_shows() -> None:
    assert library().eb_landlock_abi() == facts.landlock().abi


# ---- rulesets ----------------------------------------------------------------------


def test_bits_that_no_kernel_knows_never_reach_it(box: Path) -> None:
    fd = ruleset_for({box: EVERYTHING}, fs=EVERYTHING, net=EVERYTHING, scoped=EVERYTHING)
    assert fd >= 0
    os.close(fd)


def test_rights_of_directories_are_taken_off_a_file(outside: Path) -> None:
    fd = ruleset_for({outside / "secret": READ | Access.MAKE_DIR})
    assert errno_of((outside / "secret").read_bytes, fd) == 0
    os.close(fd)


def test_a_rule_that_means_nothing_for_a_file_is_left_out(outside: Path) -> None:
    fd = ruleset_for({outside / "secret": Access.READ_DIR})
    assert errno_of((outside / "secret").read_bytes, fd) == errno.EACCES
    os.close(fd)


def test_an_error_names_itself_and_leaves_no_descriptor(box: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    good = os.open(box, os.O_PATH)
    assert ruleset([(good, READ), (9999, READ)]) == -errno.EBADF
    os.close(good)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_ruleset_does_not_survive_exec(box: Path) -> None:
    fd = ruleset_for({box: READ})
    assert not os.get_inheritable(fd)
    os.close(fd)


# ---- what is held ------------------------------------------------------------------

Act = Callable[[Path], object]
ACTS: dict[str, Act] = {
    "read": lambda folder: (folder / "secret").read_bytes(),
    "write": lambda folder: os.close(os.open(folder / "secret", os.O_WRONLY)),
    "truncate": lambda folder: os.truncate(folder / "secret", 0),
    "open_truncating": lambda folder: os.close(os.open(folder / "secret", os.O_RDWR | os.O_TRUNC)),
    "list": os.listdir,
    "create": lambda folder: (folder / "new").write_text("x"),
    "mkdir": lambda folder: (folder / "new").mkdir(),
    "symlink": lambda folder: (folder / "new").symlink_to("secret"),
    "fifo": lambda folder: os.mkfifo(folder / "new"),
    "unlink": lambda folder: (folder / "secret").unlink(),
    "rename": lambda folder: (folder / "secret").rename(folder / "new"),
    "through_a_link": lambda folder: (folder / "link").read_bytes(),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_file_is_touched_only_where_it_is_granted(act: Act, outside: Path, confined: int) -> None:
    (outside / "link").symlink_to(outside / "secret")
    assert errno_of(lambda: act(outside), confined) == errno.EACCES
    granted = ruleset_for({outside: CHANGE})
    assert errno_of(lambda: act(outside), granted) == 0
    os.close(granted)


def test_a_link_inside_does_not_lead_outside(box: Path, outside: Path, confined: int) -> None:
    (box / "link").symlink_to(outside / "secret")
    (box / "inner").symlink_to(box / "a" / "file")
    assert errno_of((box / "link").read_bytes, confined) == errno.EACCES
    assert errno_of((box / "inner").read_bytes, confined) == 0


def test_nothing_is_moved_or_linked_across_the_border(
    box: Path, outside: Path, confined: int
) -> None:
    into = box / "stolen"
    assert errno_of(lambda: into.hardlink_to(outside / "secret"), confined) == errno.EXDEV
    assert errno_of(lambda: (outside / "secret").rename(into), confined) == errno.EACCES
    assert errno_of(lambda: (box / "a" / "file").rename(outside / "x"), confined) == errno.EACCES
    assert errno_of(lambda: into.hardlink_to(box / "a" / "file"), confined) == 0


def test_a_file_moves_between_directories_that_are_granted(box: Path, confined: int) -> None:
    move = lambda: (box / "a" / "file").rename(box / "b" / "file")  # noqa: E731  # an action
    no_refer = ruleset_for({box: CHANGE & ~Access.REFER})
    assert errno_of(move, no_refer) == errno.EXDEV
    assert errno_of(move, confined) == 0
    os.close(no_refer)


@needs_scopes
def test_a_layer_that_only_scopes_forbids_moving_unless_it_grants_refer(
    box: Path, confined: int
) -> None:
    only_scopes = ruleset([], fs=0, scoped=SCOPES)
    granting = ruleset_for({"/": Access.REFER}, fs=Access.REFER, scoped=SCOPES)
    move = lambda: (box / "a" / "file").rename(box / "b" / "file")  # noqa: E731  # an action
    assert errno_of(move, only_scopes, confined) == errno.EXDEV
    assert errno_of(move, granting, confined) == 0
    os.close(only_scopes)
    os.close(granting)


def test_a_program_is_executed_only_where_that_is_granted(box: Path) -> None:
    program = box / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    system = {path: RUN for path in ("/usr", "/bin", "/lib", "/lib64") if Path(path).exists()}
    execute = lambda: os.execv(program, ["program"])  # noqa: E731  # an action
    denied = ruleset_for({**system, box: READ})
    allowed = ruleset_for({**system, box: RUN})
    assert errno_of(execute, denied) == errno.EACCES
    assert errno_of(execute, allowed) == 0
    os.close(denied)
    os.close(allowed)


def test_a_device_is_not_made(box: Path, confined: int) -> None:
    # mknod of a character device asks for a capability first; 0:0 (a whiteout) does not.
    make = lambda: os.mknod(box / "device", 0o020600, os.makedev(0, 0))  # noqa: E731  # an action
    assert errno_of(make, confined) == errno.EACCES
    granted = ruleset_for({box: CHANGE | Access.MAKE_CHAR})
    assert errno_of(make, granted) == 0
    os.close(granted)


@needs_scopes
def test_a_process_outside_cannot_be_signalled(confined: int, box: Path) -> None:
    parent = os.getpid()
    unscoped = ruleset_for({box: READ})
    assert errno_of(lambda: os.kill(parent, 0), confined) == errno.EPERM
    assert errno_of(lambda: os.kill(parent, 0), unscoped) == 0
    assert errno_of(lambda: os.kill(os.getpid(), 0), confined) == 0
    os.close(unscoped)


@pytest.mark.user
def test_another_process_cannot_be_looked_into_even_where_proc_is_granted() -> None:
    # Not as root: with CAP_PERFMON mm_access() asks no security module (Linux 6.13).
    path = Path(f"/proc/{os.getpid()}/environ")
    granted = ruleset_for({"/proc": READ})
    assert errno_of(path.read_bytes, granted) == errno.EACCES
    assert errno_of(path.read_bytes) == 0
    assert errno_of(Path("/proc/version").read_bytes, granted) == 0
    os.close(granted)


# ---- what an older kernel would not hold --------------------------------------------


def test_before_abi_3_a_file_outside_can_be_emptied(box: Path, outside: Path) -> None:
    old = ruleset_for({box: CHANGE}, abi=2)
    assert errno_of(lambda: os.truncate(outside / "secret", 0), old) == 0
    assert (outside / "secret").read_bytes() == b""
    os.close(old)


@needs_scopes
def test_before_abi_6_there_are_no_scopes(box: Path) -> None:
    old = ruleset_for({box: CHANGE}, scoped=SCOPES, abi=5)
    parent = os.getpid()
    assert errno_of(lambda: os.kill(parent, 0), old) == 0
    os.close(old)
