"""Makes the system that tools/kernels/run.py boots: system.py VENV IMAGE

An ext4 image of this machine's own packages (PACKAGES and what they depend on),
with the virtual environment VENV as /venv and tools/kernels/init as /init. What
runs inside is then what runs here, except the kernel. Needs no root: in the
image everything belongs to root anyway.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import needs

PACKAGES = (
    *("dash", "bash", "coreutils", "findutils", "grep", "sed", "mawk", "tar", "gzip"),
    *("diffutils", "file", "perl-base", "util-linux", "mount", "procps", "iproute2"),
    *("python3", "gcc", "g++", "libc6-dev", "libseccomp2"),
)
UNWANTED = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/")
DIRECTORIES = ("proc", "sys", "dev", "tmp", "run", "root", "home", "etc", "var/tmp")
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ntester:x:1000:1000::/home/tester:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\ntester:x:1000:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/hostname": "guest\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
INIT = Path(__file__).with_name("init")
PROJECT = "/evalbox"  # where init unpacks the project
SIZE = "3G"  # sparse: what is free takes no room


def output(*command: str, check: bool = True) -> str:
    return subprocess.run(command, check=check, stdout=subprocess.PIPE, text=True).stdout


def installed_files() -> Iterable[str]:
    """The files of the packages, by the paths that they have without symbolic links."""
    output("dpkg-query", "-W", *PACKAGES)  # fails, and says of which, if one is not there
    without = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    options = ["--recurse", "--installed", *(f"--no-{kind}" for kind in without)]
    lines = output("apt-cache", "depends", *options, *PACKAGES).splitlines()
    names = sorted({line for line in lines if line[0].isalnum()})
    # Among the names are alternatives to installed packages, for which dpkg says 1.
    for line in sorted(set(output("dpkg", "-L", *names, check=False).splitlines())):
        if line.startswith("/") and not line.startswith(UNWANTED):
            path = Path(line)
            # /bin/sh of a package lies in /usr/bin; /bin is a link that it does not list.
            yield os.path.realpath(path.parent) + "/" + path.name


def copy(paths: Iterable[str], root: Path) -> None:
    """Copies into root what can be read: what cannot, no test of a user could read either."""
    there = [path for path in paths if os.path.lexists(path) and path.strip("/")]
    pack = ["tar", "-c", "--no-recursion", "--ignore-failed-read", "-C", "/", "--null", "-T", "-"]
    names = "\0".join(path.lstrip("/") for path in there).encode()
    packed = subprocess.run(pack, input=names, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x", "-C", root], input=packed, check=True)


def copy_venv(venv: Path, root: Path) -> None:
    target = root / "venv"
    shutil.copytree(venv, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    # The editable installation names the clone; inside it lies elsewhere.
    for link in target.glob("lib/*/site-packages/__editable__*.pth"):
        link.write_text(f"{PROJECT}\n", encoding="utf-8")


def compile_python(root: Path) -> None:
    """What the packages make after their installation; most users could not write it there."""
    places = [*root.glob("usr/lib/python3*"), *root.glob("venv/lib/python3*")]
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", "-s", root, "-p", "/", *places]
    # Among what is installed are files that are broken on purpose, for tests.
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)


def fill(root: Path, venv: Path) -> None:
    links = [path for path in ("/bin", "/sbin", "/lib", "/lib64") if os.path.islink(path)]
    alternatives = [str(path) for path in Path("/etc/alternatives").iterdir()]
    copy([*links, "/etc/alternatives", *alternatives, *installed_files()], root)
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (root / name).write_text(text, encoding="utf-8")
    (root / "etc/shadow").chmod(0o600)
    copy_venv(venv, root)
    compile_python(root)
    shutil.copy(INIT, root / "init")
    subprocess.run(["/sbin/ldconfig", "-r", root], check=True)


def make_image(root: Path, image: Path) -> None:
    # In a user namespace of its own, an ordinary user's files are root's.
    become_root = [] if os.geteuid() == 0 else [needs.find("unshare"), "--map-root-user"]
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", root]
    # The name changes only when all is there.
    unfinished = image.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    subprocess.run([*become_root, needs.find("mke2fs"), *options, unfinished, SIZE], check=True)
    unfinished.rename(image)


def main() -> None:
    venv, image = Path(sys.argv[1]), Path(sys.argv[2])
    needs.find("mke2fs")
    image.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=image.parent) as folder:
        root = Path(folder) / "root"
        root.mkdir()
        fill(root, venv)
        make_image(root, image)


if __name__ == "__main__":
    main()
