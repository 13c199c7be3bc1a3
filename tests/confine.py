"""A forked child under a real Landlock ruleset, for tests of what rules allow.

csrc/landlock.c is compiled by itself, so these tests need neither the launcher
nor evalbox._core, and can ask for an older ABI.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

EVERYTHING = (1 << 64) - 1
NO_NEW_PRIVS = 38
RESTRICT_SELF = 446
CSRC = Path(__file__).parents[1] / "csrc"


class Rule(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int32), ("access", ctypes.c_uint64))


class Spec(ctypes.Structure):
    _fields_ = (
        ("handled_fs", ctypes.c_uint64),
        ("handled_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
        ("abi", ctypes.c_int32),
        ("rules", ctypes.POINTER(Rule)),
        ("n_rules", ctypes.c_size_t),
    )


@cache
def library() -> ctypes.CDLL:
    """csrc/landlock.c as a shared object."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "landlock.so")
        source = CSRC / "landlock.c"
        command = [compiler, "-shared", "-fPIC", "-D_GNU_SOURCE", f"-I{CSRC}", source]
        subprocess.run([*command, "-o", target], check=True)
        loaded = ctypes.CDLL(os.fspath(target))
    for name in ("eb_landlock_fs", "eb_landlock_net", "eb_landlock_scopes"):
        getattr(loaded, name).restype = ctypes.c_uint64
    return loaded


def ruleset(
    entries: Iterable[tuple[int, int]],
    *,
    fs: int = EVERYTHING,
    net: int = 0,
    scoped: int = 0,
    abi: int = 0,
) -> int:
    """A ruleset descriptor, or -errno; `entries` are descriptors and their rights."""
    rules = [Rule(fd, access) for fd, access in entries]
    array = (Rule * len(rules))(*rules)
    spec = Spec(fs, net, scoped, abi, array, len(rules))
    return int(library().eb_ruleset_create(ctypes.byref(spec)))


def ruleset_for(grants: dict[str | Path, int], **options: int) -> int:
    """The same from paths."""
    fds = {os.open(path, os.O_PATH): access for path, access in grants.items()}
    try:
        return ruleset(fds.items(), **options)
    finally:
        for fd in fds:
            os.close(fd)


def restrict(ruleset_fd: int) -> None:
    """Confines this thread for good; only for a child."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(RESTRICT_SELF, ruleset_fd, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")


def errno_of(action: Callable[[], object], *rulesets: int) -> int:
    """What `action` fails with in a child under all of the rulesets; 0 when it succeeds."""
    library()
    pid = os.fork()
    if pid == 0:
        os._exit(_attempt(action, rulesets))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert 0 <= code < 255, "the child broke; see its traceback"
    return code


def _attempt(action: Callable[[], object], rulesets: tuple[int, ...]) -> int:
    try:
        for fd in rulesets:
            restrict(fd)
    except OSError:
        traceback.print_exc()
        return 255
    try:
        action()
    except OSError as error:
        return error.errno or 255
    except BaseException:  # noqa: BLE001  # a child must not return into pytest
        traceback.print_exc()
        return 255
    return 0
