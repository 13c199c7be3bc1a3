"""Whether runs can have namespaces of their own here: asked by making one.

Nothing but trying tells: a container's seccomp profile, AppArmor, a sysctl or a
masked /proc may each be in the way, at another step. So a launcher is started as
for real runs, with an init, and ended; what failed leads to what would help.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evalbox.compile.identity import Caller
from evalbox.compile.paths import READ, SCOPES
from evalbox.compile.tree import HOST_NAME, PLACES, Mount, MountKind
from evalbox.errors import SetupError, UnsupportedError

if TYPE_CHECKING:
    from evalbox._native import Wire
    from evalbox._native.tree import NamespaceConfig

PROGRAM = Path(__file__).parent.parent / "_launcher"
_SECONDS = 30.0
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ETIMEDOUT)
_FIRST_SLOT = 0


@dataclass(frozen=True, slots=True)
class Namespaces:
    """`why_not` is empty where runs can have them; else `remedy` would bring them."""

    why_not: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class _Failure:
    stage: str
    error: int
    target: str = ""


def namespace_config(caller: Caller, uids: range | None, *, own_network: bool) -> NamespaceConfig:
    """Of a launcher: each id is itself inside."""
    from evalbox._native.tree import NamespaceConfig  # may not load, see `namespaces`

    lines = [(caller.uid, 1), *([(uids[0], len(uids))] if uids and caller.own_uids else [])]
    groups = [(caller.gid, 1), *lines[1:]]
    uid_map, gid_map = (
        "".join(f"{first} {first} {count}\n" for first, count in rows) for rows in (lines, groups)
    )
    return NamespaceConfig(own_network, HOST_NAME, uid_map, gid_map, groups=caller.own_uids)


def namespaces(caller: Caller, uids: range | None) -> Namespaces:
    """Whether a launcher and an init in namespaces can be started now, by starting them.

    Raises:
        SetupError: this process is short of something just now, which says nothing.
    """
    try:
        failure = _try(caller, uids)
    except UnsupportedError as missing:
        return Namespaces(missing.reason, missing.remedy)
    except OSError as error:
        failure = _Failure("start", error.errno or errno.EIO)
    if failure is None:
        return Namespaces()
    if failure.error in _SHORT:
        raise SetupError(failure.stage, failure.error)
    what = f"{failure.stage} {failure.target}".strip()
    reason, remedy = _meaning(failure, caller.uid)
    return Namespaces(f"{reason} ({what}: {os.strerror(failure.error)})", remedy)


def _try(caller: Caller, uids: range | None) -> _Failure | None:
    """Starts a launcher with one init; where that failed."""
    from evalbox import _native  # may not load

    wire = _native.Wire()
    try:
        with _launcher() as control:
            code = _native.sealed_memfd(b"")
            try:
                config = namespace_config(caller, uids, own_network=True)
                wire.send(control, _native.config("", b"", b"", False, config), [code])
            finally:
                os.close(code)
            _await(control)
            said = wire.receive_control(control)
            if said is None:
                return _Failure("start", errno.ECHILD)
            if said.type is not _native.Control.READY:
                return _Failure(_native.stage_name(said.stage), said.error)
            return _try_init(wire, control)
    finally:
        wire.close()


@contextlib.contextmanager
def _launcher() -> Iterator[int]:
    """The control socket of a launcher, which has ended afterwards."""
    from evalbox import _native

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs, contextlib.ExitStack() as stack:
            host = os.pidfd_open(os.getpid())
            stack.callback(os.close, host)
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, nothing)
            fds = [theirs.fileno(), host, nothing, nothing, nothing]
            pid = _native.start_launcher(os.fspath(PROGRAM), fds)
        try:
            yield ours.fileno()
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            os.waitpid(pid, 0)


def _try_init(wire: Wire, control: int) -> _Failure | None:
    from evalbox import _native
    from evalbox._native.tree import tree

    mounts = _smallest_tree()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        message = tree(mounts, 1, int(READ), 0, SCOPES)
        files = _native.sealed_memfd(message)
        try:
            order = _native.control(_native.Control.SPAWN, _FIRST_SLOT)
            wire.send(control, order, [theirs.fileno(), files])
        finally:
            os.close(files)
        theirs.close()
        # Who failed says so here, be it the launcher; what that says of an init's end
        # is no reason.
        _await(ours.fileno())
        answer = wire.receive_ready(ours.fileno())
    if answer is None:
        return _Failure("start", errno.ECHILD)
    if answer.workspace >= 0:
        os.close(answer.workspace)
        return None
    target = mounts[answer.item].target if answer.item >= 0 else ""
    return _Failure(_native.stage_name(answer.stage), answer.error, target)


def _smallest_tree() -> list[Mount]:
    usr = os.stat("/usr")
    return [
        *(Mount(MountKind.PLACE, path, name, writable=True) for name, path in PLACES.items()),
        Mount(MountKind.PROC, "/proc", access=int(READ)),
        Mount(MountKind.BIND, "/usr", "/usr", int(READ), file_id=(usr.st_dev, usr.st_ino)),
    ]


def _await(fd: int) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if not poller.poll(_SECONDS * 1000):
        raise TimeoutError(errno.ETIMEDOUT, "the launcher does not answer")


# ---- what it means -------------------------------------------------------------

_CONTAINER = (
    "in a container: docker run --security-opt seccomp=unconfined --security-opt"
    " apparmor=unconfined --security-opt systempaths=unconfined"
)
_UNMASK = "in a container: docker run --security-opt systempaths=unconfined"
_MORE = "sysctl -w user.max_user_namespaces=15000"
_MAPS = "uid_map cannot be written (a security module, or root lacks CAP_SETFCAP)"
_DENIED = (errno.EPERM, errno.EACCES)
_FULL = (errno.ENOSPC, errno.EUSERS)
_ANY: tuple[int, ...] = ()

# Stage, target and errors, each empty for any, and what they mean; the first that fits.
_MEANINGS: tuple[tuple[str, str, tuple[int, ...], str, str], ...] = (
    ("", "", _FULL, "there are as many as user.max_user_namespaces allows", _MORE),
    (
        "mount",
        "/proc",
        _DENIED,
        "parts of /proc are masked, so that the kernel allows no other /proc",
        _UNMASK,
    ),
    (
        "pivot_root",
        "",
        (errno.EINVAL,),
        "the root directory is not a mount that can be changed (an initramfs, a chroot)",
        "start from a mounted root file system (switch_root)",
    ),
    ("id_map", "", (errno.EROFS,), "/proc is mounted read-only", "mount -o remount,rw /proc"),
    ("id_map", "", _ANY, _MAPS, f"{_CONTAINER}; as root also --cap-add SETFCAP"),
    (
        "user_namespace",
        "",
        _ANY,
        "user namespaces are forbidden here (seccomp, a security module or a chroot)",
        _CONTAINER,
    ),
    (
        "",
        "",
        _ANY,
        "namespaces can be made and not be used (seccomp, a security module)",
        _CONTAINER,
    ),
)

_APPARMOR = (
    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; or an AppArmor profile for"
    f" {PROGRAM} with flags=(unconfined) {{ userns, }}"
)
# What forbids namespaces to ordinary users: the file, its value, and what allows them.
_FOR_USERS = (
    ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", _APPARMOR),
)


def _meaning(failure: _Failure, uid: int) -> tuple[str, str]:
    """Reason and remedy."""
    if not os.path.exists("/proc/self"):
        return "/proc is not mounted", "mount -t proc proc /proc"
    if not os.path.exists("/proc/self/ns/user"):
        return "the kernel has no user namespaces", "a kernel with CONFIG_USER_NS=y"
    if failure.error in _FULL and _setting("user/max_user_namespaces") == "0":
        return "user.max_user_namespaces is 0", _MORE
    reason, remedy = next(
        (reason, remedy)
        for stage, target, errors, reason, remedy in _MEANINGS
        if stage in ("", failure.stage)
        and target in ("", failure.target)
        and (errors == _ANY or failure.error in errors)
    )
    if uid == 0 or failure.error not in _DENIED or remedy == _UNMASK:
        return reason, remedy
    return _for_users(reason, remedy)


def _for_users(reason: str, remedy: str) -> tuple[str, str]:
    for name, value, allowing in _FOR_USERS:
        if _setting(name) == value:
            setting = f"{name.replace('/', '.')} is {value}"
            # That of the container's host is seen inside, whatever else denies it there.
            inside = any(map(os.path.exists, _CONTAINER_SIGNS))
            return (
                (f"{reason}; {setting}", f"{allowing}; {remedy}") if inside else (setting, allowing)
            )
    return reason, remedy


_CONTAINER_SIGNS = ("/.dockerenv", "/run/.containerenv")


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text(encoding="ascii").strip()
    except OSError:
        return ""
