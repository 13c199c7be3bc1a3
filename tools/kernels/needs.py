"""Where the programs are that emulation needs, or which package of Debian has them."""

from __future__ import annotations

import os
import shutil
import sys

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "debugfs": "e2fsprogs",
    "mke2fs": "e2fsprogs",
    "unshare": "util-linux",
}


def find(program: str) -> str:
    """The path of one of PACKAGES; ends this process with a line of advice where it is missing."""
    # An ordinary user's PATH leaves out where e2fsprogs lies.
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    if found := shutil.which(program, path=places):
        return found
    sys.exit(f"{program} is missing: apt-get install {PACKAGES[program]}")
