"""The environment that every program starts with; the host's is never inherited."""

from __future__ import annotations

# What a login shell of Debian, Fedora and Alpine has in common.
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USER = "sandbox"


def base_environment(home: str, tmp: str) -> dict[str, str]:
    """What a plan's own `env` is added to; `home` and `tmp` are absolute paths."""
    return {
        "PATH": BASE_PATH,
        "HOME": home,
        "TMPDIR": tmp,
        "USER": USER,
        "LANG": "C.UTF-8",
    }
