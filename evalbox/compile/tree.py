"""What a program in namespaces sees as its files: the same rules as a list of mounts.

The root is empty at first. What is granted is bound into it at the path that it has
on the host, and the links that lead there are made again; nothing else exists.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from evalbox.compile.paths import (
    DEVICE,
    NAMES,
    READ,
    RUN,
    SYSTEM,
    WORKSPACE,
    Access,
    PathRule,
    expand,
)
from evalbox.policy import Policy
from evalbox.resolve import Program
from evalbox.resolve.environment import USER
from evalbox.resolve.reach import is_inside, links

# Device and inode.
FileId = tuple[int, int]


class MountKind(enum.Enum):
    """enum eb_mount_kind of csrc/evalbox.h."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"
    BIND = "bind"
    PLACE = "place"
    PROC = "proc"
    HIDE = "hide"


@dataclass(frozen=True, slots=True)
class Mount:
    """One item of a tree.

    Attributes:
        target: absolute path in the tree.
        source: path of the host, content, where a link leads or name of a place.
        access: rights of its Landlock rule, 0 for none.
        writable: whether its mount is.
        devices: whether device nodes on it work.
        file_id: of what is to be bound.
    """

    kind: MountKind
    target: str
    source: str = ""
    access: int = 0
    writable: bool = False
    devices: bool = False
    file_id: FileId = (0, 0)


# Directories of the workspace and where a program sees them; the first is where it starts.
PLACES = {"box": "/box", "home": f"/home/{USER}", "tmp": "/tmp", "shm": "/dev/shm"}  # noqa: S108
# Where one of them is when the policy grants something that covers its path.
_ELSEWHERE = "/sandbox"
HOST_NAME = "evalbox"
# Of the whole machine or of the kernel, and of no use to a program.
_HIDDEN = (
    *("acpi", "asound", "bus", "cmdline", "config.gz", "diskstats", "driver", "fs", "interrupts"),
    *("iomem", "ioports", "irq", "kallsyms", "kcore", "key-users", "keys", "kmsg", "kpagecgroup"),
    *("kpagecount", "kpageflags", "latency_stats", "locks", "modules", "mtrr", "partitions"),
    *("pressure", "sched_debug", "schedstat", "scsi", "slabinfo", "softirqs", "swaps"),
    *("sys/fs/binfmt_misc", "sys/kernel/random/boot_id", "sysrq-trigger", "timer_list", "tty"),
    "vmallocinfo",
)
# Directories of links that lead from /usr through /etc back to /usr.
_LINK_FARMS = ("/etc/alternatives",)
_STANDARD_STREAMS = {"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"}


def places(rules: Iterable[PathRule]) -> dict[str, str]:
    """Where a program sees each directory of its workspace."""
    granted = [path for rule in rules for path in _expanded(rule.path)]
    return {
        name: f"{_ELSEWHERE}/{name}" if any(is_inside(path, g) for g in granted) else path
        for name, path in PLACES.items()
    }


def has_fixtures(tree: Iterable[Mount]) -> bool:
    """Whether something is mounted or linked in a directory of the workspace."""
    items = list(tree)
    tops = [item.target for item in items if item.kind is MountKind.PLACE]
    return any(item.target.startswith(f"{top}/") for item in items for top in tops)


def mounts(
    policy: Policy,
    program: Program,
    rules: tuple[PathRule, ...],
    file_ids: Mapping[str, FileId],
) -> tuple[Mount, ...]:
    """The tree of all runs of a program under a policy, but for `identity_files`."""
    found = [Mount(MountKind.DIRECTORY, "/", access=int(Access.READ_DIR))]
    found += (
        Mount(MountKind.PLACE, target, name, int(WORKSPACE), writable=True)
        for name, target in places(rules).items()
    )
    proc = READ if policy.system else Access(0)
    proc |= _granted("/proc", rules)
    found.append(Mount(MountKind.PROC, "/proc", access=int(proc)))
    hidden = (f"/proc/{name}" for name in _HIDDEN)
    found += (Mount(MountKind.HIDE, path) for path in hidden if not _granted(path, rules))
    # One in a granted directory comes with that; of "/" what is in it is bound, without links.
    bound = [rule for rule in rules if rule.path != "/"]
    found += (
        Mount(MountKind.LINK, at, target)
        for at, target in _all_links(policy, program)
        if not _granted(os.path.dirname(at), bound)
    )
    for rule in rules:
        found += _binds(rule, file_ids)
    if policy.system:
        found += _standard(rules)
    return tuple(found)


def identity_files(rules: tuple[PathRule, ...], uid: int, gid: int, home: str) -> Iterator[Mount]:
    """The files that name the user of a run and its machine."""
    content = {
        "/etc/passwd": f"root:x:0:0:root:/root:/bin/sh\n{USER}:x:{uid}:{gid}::{home}:/bin/sh\n",
        "/etc/group": f"root:x:0:\n{USER}:x:{gid}:\n",
        "/etc/hostname": f"{HOST_NAME}\n",
        "/etc/hosts": f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {HOST_NAME}\n",
    }
    for path, text in content.items():
        if not _granted(path, rules):
            yield Mount(MountKind.FILE, path, text, int(READ))


def _granted(path: str, rules: Iterable[PathRule]) -> Access:
    """The rights that a rule for the path, or for one above, gives."""
    access = Access(0)
    for rule in rules:
        if is_inside(path, rule.path):
            access |= rule.access
    return access


def _all_links(policy: Policy, program: Program) -> Iterator[tuple[str, str]]:
    """The links that lead to what is granted, each once."""
    paths = [*program.grants, *policy.read, *policy.write]
    if not program.in_workspace:
        paths.append(program.executable)
    if policy.system:
        rows = (*SYSTEM, *NAMES) if policy.network.mode == "host" else SYSTEM
        paths += expand(pattern for pattern, _ in rows)
    return iter(dict.fromkeys(link for path in paths for link in links(path)))


def _binds(rule: PathRule, file_ids: Mapping[str, FileId]) -> Iterator[Mount]:
    if is_inside(rule.path, "/proc"):
        return
    for path in _expanded(rule.path):
        yield Mount(
            MountKind.BIND,
            path,
            path,
            int(rule.access),
            writable=rule.access != DEVICE and bool(rule.access & Access.WRITE_FILE),
            devices=is_inside(path, "/dev"),
            file_id=file_ids[path] if path == rule.path else _file_id(path),
        )


def _expanded(path: str) -> list[str]:
    """The root directory as what is in it: it is not itself what a program has as root."""
    if path != "/":
        return [path]
    inside = sorted(os.path.join("/", name) for name in os.listdir("/"))
    return [p for p in inside if p != "/proc" and not os.path.islink(p) and os.access(p, os.R_OK)]


def _file_id(path: str) -> FileId:
    status = os.stat(path, follow_symlinks=False)
    return status.st_dev, status.st_ino


def _standard(rules: tuple[PathRule, ...]) -> Iterator[Mount]:
    if not _granted("/dev", rules):
        for name, end in _STANDARD_STREAMS.items():
            yield Mount(MountKind.LINK, f"/dev/{name}", f"/proc/self/fd{end}")
    for farm in _LINK_FARMS:
        if os.path.isdir(farm) and not _granted(farm, rules):
            yield Mount(MountKind.BIND, farm, farm, int(RUN), file_id=_file_id(farm))
