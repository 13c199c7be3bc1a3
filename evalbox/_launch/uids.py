"""Uids for the runs of root, each used by one live run on this host.

A uid is taken by locking the byte of its number in one file, with a lock that
belongs to the open file description (F_OFD_SETLK, Linux 3.15). The launcher
inherits the descriptor, so a uid stays taken while a process of its run may
live, and the kernel frees it when host and launcher are both gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import struct

from evalbox.errors import SetupError

# The first of these that root can write; all executors of a host must agree. Where
# only TMPDIR is left, those agree that have the same.
_FOLDERS = ("/run", "/dev/shm", "/var/tmp", "/tmp")  # noqa: S108  # opened without following links
_NAME = "evalbox.uids"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
# struct flock: type, whence, start, length, pid
_FLOCK = struct.Struct("hhqqi")
_ATTEMPTS = 1000
# What a read-only file system says, and a directory that there is not.
_UNWRITABLE = (errno.EROFS, errno.ENOENT)
_SHORT = (errno.EMFILE, errno.ENFILE)


class UidLocks:
    """Owner of the lock file's descriptor and of the uids taken through it."""

    def __init__(self, uids: range) -> None:
        self.uids = uids
        self.fd = _open()
        # Byte-range locks of one open file never conflict with each other.
        self._taken: set[int] = set()

    def take(self) -> int:
        """A uid that no other run has.

        Raises:
            SetupError: stage "identity": none can be found.
        """
        for _ in range(_ATTEMPTS):
            uid = self.uids[secrets.randbelow(len(self.uids))]
            if uid not in self._taken and self._lock(uid, fcntl.F_WRLCK):
                self._taken.add(uid)
                return uid
        raise SetupError("identity", errno.EAGAIN, "no uid is free for a run; run fewer at once")

    def release(self, uid: int) -> None:
        """Gives a uid back; no process may have it any more."""
        self._taken.discard(uid)
        self._lock(uid, fcntl.F_UNLCK)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _lock(self, uid: int, kind: int) -> bool:
        request = _FLOCK.pack(kind, os.SEEK_SET, uid, 1, 0)
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True


def _open() -> int:
    """A descriptor of the lock file.

    Where nothing at all can be written, that of a file of our own: there only runs
    in namespaces are possible, as no directory holds workspaces, and two runs that
    took the same uid by chance would not meet in anything.

    Raises:
        SetupError: stage "identity": there are only files that others could lock.
    """
    last = errno.ENOENT
    folders = (*_FOLDERS, *filter(None, [os.environ.get("TMPDIR")]))
    for folder in folders:
        try:
            fd = os.open(f"{folder}/{_NAME}", _FLAGS, 0o600)
        except OSError as error:
            if error.errno in _SHORT:
                raise
            if error.errno not in _UNWRITABLE:
                last = error.errno or last
            continue
        status = os.fstat(fd)
        # Somebody else's file could be locked by him for ever.
        if stat.S_ISREG(status.st_mode) and status.st_uid == 0 and status.st_nlink == 1:
            return fd
        os.close(fd)
        last = errno.EACCES
    if last == errno.ENOENT:
        return os.memfd_create(_NAME, os.MFD_CLOEXEC)
    message = (
        f"none of {', '.join(folders)} can hold {_NAME}; set TMPDIR to one that root can write"
    )
    raise SetupError("identity", last, message)
