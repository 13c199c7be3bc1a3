"""Random system calls from inside sandboxes: does the host come to harm?

    python tests/fuzz/run_syscalls.py CALLS [process|namespace|auto]

Prints figures; ends with a traceback when the host is not afterwards what it was.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from evalbox import Policy  # noqa: E402  (needs the line above)
from syscall_fuzz import CALLS, Result, attack_host  # noqa: E402  (the same)


def report(result: Result, policy: Policy) -> None:
    tally = result.tally
    ends = ", ".join(f"{count} {end}" for end, count in sorted(tally.ends.items()))
    print(f"isolation        {policy.isolation}, as uid {os.getuid()}")
    print(f"calls            {tally.calls:,}")
    print(f"calls per second {tally.calls / result.seconds:,.0f}")
    print(f"runs             {tally.runs} ({ends})")
    print(f"workers          {tally.workers:,}, of them stuck {tally.stuck:,}")
    print(f"numbers tried    {len(tally.made)}, with a name {len(CALLS)}")
    print(f"numbers answered {len(tally.answered())}, with success {len(+tally.succeeded)}")
    print(f"kernel log       {'read' if result.log_was_read else 'not readable'}")
    print("host             unharmed")


def main() -> None:
    calls = int(sys.argv[1])
    policy = Policy(isolation=sys.argv[2] if len(sys.argv) > 2 else "auto")
    with tempfile.TemporaryDirectory() as folder:
        # Whoever attacks gets as far as permissions are concerned.
        Path(folder).chmod(0o755)
        at_once = len(os.sched_getaffinity(0))
        report(attack_host(calls, policy, Path(folder), at_once), policy)


if __name__ == "__main__":
    main()
