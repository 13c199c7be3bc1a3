"""Attacks on the host's disk: what fills it, what hides there and what is hard to remove.

Where a limit of 4 MiB is meant, each tries to hold twice as much; hoard.py says
how that is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from evalbox import MiB
from security.base import Context, attack, program
from security.hoard import hoard

_SIZE = 4 * MiB
_AMOUNT = 8 * MiB
# The answers of a file system of that size, and ours.
_BLOCKED = "DISK_LIMIT ENOSPC"
# As much as a watch reckons for what has a name, and no less than the kernel needs.
_ENTRY = 1024


def _disk(id: str, title: str, act: str, **more: object) -> None:  # noqa: A002
    hoard(id, title, act, limit="disk", size=_SIZE, amount=_AMOUNT, blocked=_BLOCKED, **more)  # type: ignore[arg-type]


# ---- bytes -----------------------------------------------------------------------------------

for _variant, _title, _place in (
    ("cwd", "many files in the working directory", "."),
    ("home", "many files in HOME", "$HOME"),
    ("tmp", "many files in TMPDIR", "$TMPDIR"),
):
    _disk(
        f"R10.{_variant}",
        _title,
        f"""
os.chdir(os.path.expandvars({_place!r}))
def grow():
    for number in range(AMOUNT >> 16):
        with open(str(number), "wb") as file:
            file.write(bytes(65536))
        yield (number + 1) << 16
""",
    )
_disk(
    "R10.one",
    "one large file",
    """
def grow():
    with open("f", "wb", 0) as file:
        while file.tell() < AMOUNT:
            file.write(bytes(65536))
            yield file.tell()
""",
)
_disk(
    "R10.reserved",
    "room that is reserved and not written",
    """
def grow():
    file = os.open("f", os.O_CREAT | os.O_RDWR)
    for at in range(0, AMOUNT, 1 << 20):
        os.posix_fallocate(file, at, 1 << 20)
        yield at + (1 << 20)
""",
)
_disk(
    "R10.mapped",
    "a file that is only written through a mapping",
    """
def grow():
    file = os.open("f", os.O_CREAT | os.O_RDWR)
    os.truncate(file, AMOUNT)
    room = mmap.mmap(file, AMOUNT)
    for at in range(0, AMOUNT, 1 << 16):
        # A full file system is a SIGBUS.
        signal.signal(signal.SIGBUS, lambda *_: _tell("ENOSPC") or os._exit(0))
        room[at:at + (1 << 16)] = bytes([1]) * (1 << 16)
        yield at + (1 << 16)
""",
)
_disk(
    "R37",
    "files that have no name any more",
    """
def grow():
    total = 0
    while total < AMOUNT:
        KEPT.append(open("f", "wb", 0))
        os.unlink("f")
        total += KEPT[-1].write(bytes(1 << 20))
        yield total
""",
)
_disk(
    "R38",
    "files below directories that move while somebody looks for them",
    """
os.makedirs("a/b/c/d/e")
os.makedirs("b")
here = os.open("a/b/c/d/e", os.O_RDONLY)
if os.fork() == 0:
    while True:
        os.rename("a/b/c", "b/c")
        os.rename("b/c", "a/b/c")
def grow():
    for number in range(AMOUNT >> 16):
        file = os.open(str(number), os.O_CREAT | os.O_WRONLY, dir_fd=here)
        os.write(file, bytes(65536))
        os.close(file)
        yield (number + 1) << 16
""",
)
_disk(
    "R39",
    "files below a directory that its owner closed",
    """
os.mkdir("closed")
here = os.open("closed", os.O_RDONLY)
names = [os.open(str(number), os.O_CREAT | os.O_WRONLY, dir_fd=here) for number in range(128)]
os.chmod("closed", 0)
def grow():
    for number in range(AMOUNT >> 16):
        os.write(names[number], bytes(65536))
        yield (number + 1) << 16
""",
)


# ---- names -----------------------------------------------------------------------------------

_ENTRIES = {
    "files": ("empty files", "os.close(os.open(name, os.O_CREAT))"),
    "directories": ("directories", "os.mkdir(name)"),
    "links": ("links to nowhere", "os.symlink('x' * 100, name)"),
    "names": ("names of one file", "os.link('given', name)"),
    "fifos": ("FIFOs", "os.mkfifo(name)"),
    "long": ("names of 255 bytes", "os.close(os.open(name.zfill(255), os.O_CREAT))"),
}
for _variant, (_title, _make) in _ENTRIES.items():
    _disk(
        f"R11.{_variant}",
        _title,
        f"""
open("given", "w").close()
def grow():
    for number in range(AMOUNT // {_ENTRY}):
        name = str(number)
        {_make}
        yield (number + 1) * {_ENTRY}
""",
    )


# ---- one file --------------------------------------------------------------------------------

_TOO_LARGE = {
    "written": "while file.tell() < 2 << 20:\n    file.write(bytes(1 << 16))",
    "sparse": "os.truncate(file.fileno(), 2 << 20)",
    "reserved": "os.posix_fallocate(file.fileno(), 0, 2 << 20)",
    "at-its-end": "os.pwrite(file.fileno(), b'x', 2 << 20)",
    "copied": """
source = open("/usr/bin/python3", "rb")
while os.sendfile(file.fileno(), source.fileno(), None, 1 << 16):
    pass
""",
}
for _variant, _make in _TOO_LARGE.items():
    program(
        f"R12.{_variant}",
        f"a file that is too large: {_variant.replace('-', ' ')}",
        property=None,
        blocked="EFBIG SIGXFSZ",
        act=f'file = open("f", "wb", 0)\n{_make}',
        fields=lambda _: {"file_size": MiB},
        control=lambda _: {"file_size": None},
    )


# ---- /dev/shm --------------------------------------------------------------------------------


def _left_in_shm(ctx: Context, make: Callable[[str], object]) -> str:
    path = Path("/dev/shm", ctx.scratch.parent.name)
    make(f"open({str(path)!r}, 'w').close()")
    left = path.exists()
    path.unlink(missing_ok=True)
    return "OK" if left else "nothing"


@attack(
    "R9",
    "an object of shared memory that stays behind",
    property="fs_write",
    blocked="nothing",
    control=lambda ctx: _left_in_shm(ctx, ctx.act_outside),
)
def left_in_shm(ctx: Context) -> str:
    return _left_in_shm(ctx, ctx.act_inside)


hoard(
    "R9.fill",
    "shared memory in /dev/shm",
    """
def grow():
    name = f"/dev/shm/{os.getpid()}"
    with open(name, "wb", 0) as file:
        os.unlink(name)
        for number in range(AMOUNT >> 16):
            file.write(bytes(65536))
            yield (number + 1) << 16
""",
    limit="disk",
    size=_SIZE,
    amount=_AMOUNT,
    blocked=f"{_BLOCKED} EACCES",
    outside=True,
)


# ---- what is hard to remove ------------------------------------------------------------------

# As it is left in each of the three places of a workspace.
_HARD_TREES = {
    "deep": """
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
""",
    "long": """
for _ in range(300):
    os.mkdir("n" * 255)
    os.chdir("n" * 255)
""",
    "closed": """
os.makedirs("a/b/c")
open("a/b/c/f", "w").close()
for path in ("a/b/c", "a/b", "a", "."):
    os.chmod(path, 0)
""",
    "odd": r"""
for name in (b"\xff", b"a\nb", b"*", b"-rf", b".evalbox-1", b"..."):
    os.mkdir(name)
for number, to in enumerate(("/", "..", "/etc/passwd", "nowhere", "/proc/self/root", "/dev/zero")):
    os.symlink(to, f"l{number}")
os.mkfifo("p")
""",
    "wide": """
for number in range(2000):
    os.mkdir(str(number))
    os.close(os.open(f"{number}/f", os.O_CREAT))
""",
    # By daemons that never stop, until they are killed.
    "growing": """
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        number = 0
        while True:
            number += 1
            name = f"{os.getpid()}-{number % 1000}"
            os.makedirs(f"{name}/a/b", exist_ok=True)
            try:
                os.rename(f"{name}/a", str(number % 7))
            except OSError:
                pass
time.sleep(0.1)
""",
}
_LITTER = """
import os, time
PLACES = [os.getcwd(), os.environ["HOME"], os.environ["TMPDIR"]]
for place in PLACES:
    os.chdir(place)
    {tree}
"""
_COUNT_HERE = """
for place in PLACES:
    os.chmod(place, 0o700)
# From a template the program itself is there.
print(sum(name != 'main.py' for place in PLACES for name in os.listdir(place)))
"""
_COUNT = f"""
import os
PLACES = [os.getcwd(), os.environ["HOME"], os.environ["TMPDIR"]]
{_COUNT_HERE}
"""


def _litter(tree: str) -> str:
    return _LITTER.format(tree=tree.strip().replace("\n", "\n    "))


def _seen_before_the_end(ctx: Context, tree: str) -> str:
    found = ctx.python(f"{_litter(tree)}\n{_COUNT_HERE}", disk=None).text
    return "nothing" if found in ("", "0\n") else "OK"


def _left_for_the_next(ctx: Context, tree: str) -> str:
    ctx.python(_litter(tree), disk=None)
    found = [ctx.python(_COUNT, disk=None).text for _ in range(2)]
    return "nothing" if found == ["0\n"] * 2 else "OK"


for _variant, _tree in _HARD_TREES.items():
    attack(
        f"R13.{_variant}",
        f"a tree that is hard to remove: {_variant}",
        property=None,
        blocked="nothing",
        control=partial(_seen_before_the_end, tree=_tree),
    )(partial(_left_for_the_next, tree=_tree))
