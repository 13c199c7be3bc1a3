"""The files of an init in namespaces, as the message that it gets.

tree(mounts, ...)       struct eb_tree and what follows it
NamespaceConfig         what a launcher is told of the namespaces that it makes
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from evalbox._core import ffi, lib
from evalbox.compile.tree import Mount, MountKind

_KINDS = {
    MountKind.DIRECTORY: lib.EB_MOUNT_DIRECTORY,
    MountKind.FILE: lib.EB_MOUNT_FILE,
    MountKind.LINK: lib.EB_MOUNT_LINK,
    MountKind.BIND: lib.EB_MOUNT_BIND,
    MountKind.PLACE: lib.EB_MOUNT_PLACE,
    MountKind.PROC: lib.EB_MOUNT_PROC,
    MountKind.HIDE: lib.EB_MOUNT_HIDE,
}


class NamespaceConfig(NamedTuple):
    """What a launcher is told of its namespaces.

    Attributes:
        own_network: whether there is one of the network too.
        host_name: in the UTS namespace.
        uid_map, gid_map: lines of user_namespaces(7).
        groups: whether runs may drop their groups, which an ordinary user may not.
    """

    own_network: bool
    host_name: str
    uid_map: str
    gid_map: str
    groups: bool

    @property
    def flags(self) -> int:
        flags: int = lib.EB_CONFIG_NAMESPACES
        if self.own_network:
            flags |= lib.EB_CONFIG_OWN_NETWORK
        if not self.groups:
            flags |= lib.EB_CONFIG_DENY_SETGROUPS
        return flags


def tree(
    mounts: Sequence[Mount], ruleset_id: int, handled_fs: int, handled_net: int, scoped: int
) -> bytes:
    """The message of which csrc/mounts.c makes a root directory and a ruleset."""
    strings = b"".join(
        os.fsencode(text) + b"\0" for mount in mounts for text in (mount.target, mount.source)
    )
    head = ffi.new(
        "struct eb_tree *",
        {
            "n_mounts": len(mounts),
            "strings": len(strings),
            "ruleset_id": ruleset_id,
            "handled_fs": handled_fs & (2**64 - 1),
            "handled_net": handled_net,
            "scoped": scoped,
        },
    )
    rows = ffi.new("struct eb_mount[]", [_row(mount) for mount in mounts])
    return bytes(ffi.buffer(head)) + bytes(ffi.buffer(rows)) + strings


def _row(mount: Mount) -> tuple[int, ...]:
    flags = (lib.EB_MOUNT_WRITABLE if mount.writable else 0) | (
        lib.EB_MOUNT_DEVICES if mount.devices else 0
    )
    return (_KINDS[mount.kind], flags, mount.access, *mount.file_id)
