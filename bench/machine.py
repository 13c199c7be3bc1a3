"""What a reader needs to judge the figures; nothing that names the host."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import evalbox


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(("model name", "CPU part")):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory(key: str) -> int:
    """Bytes, of a line of /proc/meminfo."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    return 0


def describe() -> dict[str, str | int | float]:
    host = evalbox.host()
    cgroups = host.cgroups
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(memory("MemTotal") / 2**30, 1),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "landlock_abi": host.landlock.abi,
        "namespaces": host.namespaces.why_not or "yes",
        "cgroups": f"v{cgroups.version}" if not cgroups.why_not else cgroups.why_not,
        "load_before": round(os.getloadavg()[0], 2),
    }
