"""The share of this process' descriptors that an executor may use."""

from __future__ import annotations

import contextlib
import os
import resource

# For launchers, policies made ready and what is open for a moment only. Of a high limit
# more stays free: policies keep two dozen each.
_KEPT_FREE = 128
_MORE_KEPT_FREE = 128
_LEAST = 8


class Descriptors:
    """Counts what slots and runs keep open, and compares it with the soft RLIMIT_NOFILE.

    The limit is asked for anew when more are wanted: a caller may raise it at any time.
    """

    def __init__(self) -> None:
        self._used = 0
        self._open_before = _open_now()

    def have(self, more: int) -> bool:
        """Whether so many more may be opened."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        kept = self._open_before + _KEPT_FREE + min(_MORE_KEPT_FREE, soft // 8)
        return self._used + more <= max(_LEAST, soft - kept)

    def take(self, count: int) -> None:
        self._used += count

    def give_back(self, count: int) -> None:
        self._used -= count


def _open_now() -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir("/proc/self/fd"))
    return 0
