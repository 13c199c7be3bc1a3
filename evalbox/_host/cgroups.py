"""Where this caller may make cgroups, found by looking: nothing is changed here.

v2 has one hierarchy. A cgroup there either holds processes or gives controllers
to those below it, the real root excepted; so evalbox needs one whose processes it
may move out of the way, and it takes only what was handed to it:

- systemd marks what it has delegated (Delegate=yes) with an extended attribute,
  user.delegate or trusted.delegate; everything else below a manager is the
  manager's, also where the user owns the files;
- elsewhere a directory that belongs to the caller's uid was given to it, and all that
  it can see and write to root.

v1 has a hierarchy for each controller, without that rule: a child below the
caller's own cgroup is enough.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY, PIDS, CPU, KILL = "memory", "pids", "cpu", "kill"
# The name of each in the options of a v1 mount; in the order of EB_CGROUP_*.
V1_NAMES = {MEMORY: "memory", PIDS: "pids", CPU: "cpuacct"}
HOST_LEAF = "evalbox-host"

_OCTAL = re.compile(r"\\([0-7]{3})")
_MANAGER = re.compile(r"user@\d+\.service")
_ATTRIBUTES = ("user.delegate", "trusted.delegate")
_CGROUP_KILL = (5, 14)
_WRITABLE = os.W_OK | os.X_OK


@dataclass(frozen=True, slots=True)
class Cgroups:
    """What evalbox can use.

    Attributes:
        version: 2 or 1; 0 when there is nothing to use.
        controllers: those that hold: "memory", "pids", "cpu", and "kill" where a
            cgroup can be killed as a whole.
        bases: controller -> the directory to make cgroups in; with v2 it is the same
            for all.
        moves: the processes of the base have to move into a cgroup below it first.
        here: with v2 the directory of the process' own cgroup.
        why_not: why it is not more; empty when it is all of v2.
        remedy: the command that would bring more.
    """

    version: int
    controllers: frozenset[str] = frozenset()
    bases: tuple[tuple[str, str], ...] = ()
    moves: bool = False
    here: str = ""
    why_not: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        if not self.version:
            return f"none can be used: {self.why_not}"
        names = ", ".join(name for name in V1_NAMES if name in self.controllers)
        return f"v{self.version} at {self.bases[0][1]} ({names})"

    def to_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "controllers": sorted(self.controllers),
            "reason": self.why_not,
            "remedy": self.remedy,
        }


NO_CGROUPS = Cgroups(0, why_not="there are none", remedy="cgroup v2, delegated to the caller")


# ---- what the kernel says --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo: `root` is the cgroup that is seen at `point`."""

    root: str
    point: str
    kind: str
    options: frozenset[str]

    def path_of(self, cgroup: str) -> str | None:
        """The directory of a cgroup; None when it cannot be seen here."""
        if "/.." in cgroup:
            return None
        if self.root == "/":
            return f"{self.point}{cgroup}".rstrip("/")
        if cgroup == self.root or cgroup.startswith(f"{self.root}/"):
            return f"{self.point}{cgroup[len(self.root) :]}"
        return None


def parse_mounts(mountinfo: str) -> list[Mount]:
    """The mounts of cgroups; of several on one directory the last is the one seen."""
    found: dict[str, Mount] = {}
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if not dash or len(fields) < 6 or len(rest) < 3:
            continue
        point = _unescaped(fields[4])
        found.pop(point, None)
        if rest[0] in ("cgroup", "cgroup2"):
            options = frozenset(rest[2].split(","))
            found[point] = Mount(_unescaped(fields[3]), point, rest[0], options)
    return list(found.values())


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def parse_own(proc_cgroup: str) -> dict[str, str]:
    """Controller, "" for v2 -> the cgroup of this process."""
    own = {}
    for line in proc_cgroup.splitlines():
        _, names, path = line.split(":", 2)
        own.update(dict.fromkeys(names.split(","), path.removesuffix(" (deleted)")))
    return own


def own_directories(controller: str) -> list[tuple[Mount, str]]:
    """Where this process is as to a controller, and all above it that can be seen."""
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        own = parse_own(Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []
    found = []
    for mount in parse_mounts(mountinfo):
        name = "" if mount.kind == "cgroup2" else controller
        path = mount.path_of(own.get(name, "/..")) if name in {"", *mount.options} else None
        if path is not None:
            found += [(mount, folder) for folder in _lineage(path, mount)]
    return found


# ---- the answer --------------------------------------------------------------------


def find() -> Cgroups:
    """The best that there is for this process."""
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return Cgroups(0, why_not=f"{error.filename}: {error.strerror}", remedy="mount /proc")
    return choose(parse_mounts(mountinfo), parse_own(own))


def choose(mounts: list[Mount], own: dict[str, str]) -> Cgroups:
    """v2, unless v1 has more of the controllers."""
    unified, legacy = _unified(mounts, own), _legacy(mounts, own)
    names = V1_NAMES.keys()
    return legacy if len(legacy.controllers & names) > len(unified.controllers & names) else unified


# ---- v1 ----------------------------------------------------------------------------


def _legacy(mounts: list[Mount], own: dict[str, str]) -> Cgroups:
    bases: list[tuple[str, str]] = []
    for controller, name in V1_NAMES.items():
        for mount in mounts:
            # Nothing runs in a new cpuset before it has been given processors.
            if mount.kind != "cgroup" or name not in mount.options or "cpuset" in mount.options:
                continue
            path = mount.path_of(own.get(name, "/.."))
            # A process is in one cgroup of a hierarchy, whatever controllers share it.
            if path in dict(bases).values():
                continue
            if path is not None and os.access(path, _WRITABLE, effective_ids=True):
                bases.append((controller, path))
                break
    lacking = [name for name in V1_NAMES if name not in dict(bases)]
    why_not = f"v1 has no writable hierarchy for {', '.join(lacking)}" if lacking else ""
    version = 1 if bases else 0
    held = frozenset(name for name, _ in bases)
    return Cgroups(version, held, tuple(bases), why_not=why_not, remedy=_REMEDY_V1)


_REMEDY_V1 = "a host with cgroup v2 (systemd.unified_cgroup_hierarchy=1 for its kernel)"


# ---- v2 ----------------------------------------------------------------------------


def _unified(mounts: list[Mount], own: dict[str, str]) -> Cgroups:
    seen = [mount for mount in mounts if mount.kind == "cgroup2"]
    paths = [(mount, mount.path_of(own.get("", "/.."))) for mount in seen]
    for mount, path in paths:
        if path is not None and os.path.isdir(path):
            return _at(path, mount)
    if seen:
        why_not = f"this process' own cgroup is not visible at {seen[0].point}"
        return Cgroups(0, why_not=why_not, remedy="a container with --cgroupns=private")
    return Cgroups(0, why_not="cgroup v2 is not mounted", remedy=_MOUNT)


_MOUNT = "mount -t cgroup2 none /sys/fs/cgroup"


def _at(here: str, mount: Mount) -> Cgroups:
    """What can be done from the cgroup of this process."""
    if not os.access(here, _WRITABLE, effective_ids=True):
        return Cgroups(0, why_not=f"{here} is not writable", remedy=_remedy(here, mount))
    boundary = here if _is_root(here) else _delegated(here, mount)
    if boundary is None:
        why_not = f"{here} is not delegated to this process"
        return Cgroups(0, why_not=why_not, remedy=_remedy(here, mount))
    for base in _places(here, boundary):
        if _may_migrate(base) and _needs_no_move(base):
            return _found(base, here, moves=False)
    if not _may_migrate(here):
        why_not = f"the files of {here} are not writable"
        return Cgroups(0, why_not=why_not, remedy=_remedy(here, mount))
    if others := _not_ours(here):
        why_not = f"{here} also holds processes that are not ours ({others})"
        return Cgroups(0, why_not=why_not, remedy=_remedy(here, mount))
    return _found(here, here, moves=True)


def _places(here: str, boundary: str) -> Iterator[str]:
    """The own cgroup, and the one above when that was given to us as well."""
    yield here
    if here != boundary and not _is_limited(here):
        yield os.path.dirname(here)


def _is_limited(path: str) -> bool:
    """Whether somebody put a limit on a cgroup, which what is made above would escape."""
    return any(_words(f"{path}/{name}") - {"max"} for name in ("memory.max", "pids.max"))


def _found(base: str, here: str, *, moves: bool) -> Cgroups:
    held = _controllers(base)
    lacking = [name for name in (MEMORY, PIDS) if name not in held]
    why_not = f"{base} has no controller for {', '.join(lacking)}" if lacking else ""
    remedy = _remedy_for_controllers(lacking) if lacking else ""
    bases = tuple((name, base) for name in V1_NAMES if name in held)
    return Cgroups(2, held, bases, moves, here, why_not, remedy)


def _words(path: str) -> frozenset[str]:
    try:
        return frozenset(Path(path).read_text(encoding="ascii").split())
    except OSError:
        return frozenset()


def _controllers(path: str) -> frozenset[str]:
    """What cgroups below this one can hold. Time of processors is always counted."""
    held = _words(f"{path}/cgroup.controllers") & {MEMORY, PIDS}
    places = [path, *(entry.path for entry in os.scandir(path) if entry.is_dir())]
    kill = any(os.path.exists(f"{place}/cgroup.kill") for place in places)
    # The real root has no such file itself.
    if _is_root(path) and len(places) == 1:
        kill = _release() >= _CGROUP_KILL
    return held | {CPU} | ({KILL} if kill else frozenset())


def _release() -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


def _is_root(path: str) -> bool:
    """Whether it is the root of the hierarchy, and not only of a cgroup namespace."""
    return not os.path.exists(f"{path}/cgroup.type")


def _may_migrate(path: str) -> bool:
    names = ("cgroup.procs", "cgroup.subtree_control")
    writable = (os.access(f"{path}/{name}", os.W_OK, effective_ids=True) for name in names)
    kind = _words(f"{path}/cgroup.type") or {"domain"}
    return os.access(path, _WRITABLE, effective_ids=True) and all(writable) and kind == {"domain"}


def _needs_no_move(base: str) -> bool:
    wanted = _controllers(base) & {MEMORY, PIDS}
    if _is_root(base) or wanted <= _words(f"{base}/cgroup.subtree_control"):
        return True
    return not _words(f"{base}/cgroup.procs")


def _not_ours(path: str) -> str:
    """Processes of another uid, or of another PID namespace, in a cgroup."""
    for pid in sorted(_words(f"{path}/cgroup.procs"), key=int):
        try:
            if pid == "0" or os.stat(f"/proc/{pid}").st_uid != os.geteuid():
                return f"pid {pid}"
        except FileNotFoundError:
            continue
    return ""


# ---- delegation --------------------------------------------------------------------


def _has_systemd() -> bool:
    return os.path.isdir("/run/systemd/system")


def _lineage(here: str, mount: Mount) -> Iterator[str]:
    """The cgroup, the one above, and so on to the mount."""
    while True:
        yield here
        if here == mount.point:
            return
        here = os.path.dirname(here)


def _is_marked(path: str) -> bool:
    for name in _ATTRIBUTES:
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _delegated(here: str, mount: Mount) -> str | None:
    """The cgroup, from this one up, that was given to this caller; None without one."""
    lineage = list(_lineage(here, mount))
    managed = False
    for path in lineage:
        # What a user's manager was given is the manager's to give on.
        managed = managed or bool(_MANAGER.fullmatch(os.path.basename(path)))
        if not managed and _is_marked(path):
            return path
    if managed:
        return None
    if os.geteuid() == 0:
        return None if _has_systemd() else mount.point
    owned = None
    for path in lineage:
        if os.stat(path).st_uid != os.geteuid():
            break
        owned = path
    return owned


# ---- remedies ------------------------------------------------------------------------


def _remedy(here: str, mount: Mount) -> str:
    if _has_systemd():
        user = "" if os.geteuid() == 0 else "--user "
        return f"systemd-run {user}--scope -p Delegate=yes -- COMMAND"
    if not os.access(mount.point, os.W_OK) and os.geteuid() == 0:
        return "a container with a writable one: docker run --privileged --cgroupns=private"
    if os.geteuid() == 0:
        return f"setfattr -n user.delegate -v 1 {here}"
    base = f"{mount.point}/NAME"
    return (
        f"as root: mkdir {base} && chown -R {os.geteuid()} {base} && echo PID > {base}/cgroup.procs"
        ", with the PID of the shell that starts this program"
    )


def _remedy_for_controllers(lacking: list[str]) -> str:
    if _has_systemd():
        return f"systemctl edit user@.service, with Delegate={' '.join(lacking)}"
    wanted = " ".join(f"+{name}" for name in lacking)
    return f"as root, in each cgroup above it: echo '{wanted}' > cgroup.subtree_control"
