"""What two kinds of directories share: the lock that tells one in use from a leftover."""

from __future__ import annotations

import fcntl


def lock(fd: int) -> bool:
    """Locks a directory with flock for as long as its descriptor and all copies are open.

    False when somebody else has locked it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
