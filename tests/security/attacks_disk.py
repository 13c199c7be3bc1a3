"""Attacks on the host's disk: what fills it, what hides there and what is hard to remove.

Where a limit of 4 MiB is meant, each tries to hold twice as much; hoard.py says
how that is judged.
"""

from __future__ import annotations

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
        for number in range(AMOUNT >> 16):
            file.write(bytes(65536))
            yield (number + 1) << 16
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
    for at in range(0, AMOUNT, 1 << 20):
        KEPT.append(open("f", "wb", 0))
        os.unlink("f")
        KEPT[-1].write(bytes(1 << 20))
        yield at + (1 << 20)
""",
)
_disk(
    "R38",
    "files below directories that move while somebody looks for them",
    """
os.makedirs("a/b/c/d/e")
os.makedirs("b")
if os.fork() == 0:
    while True:
        os.rename("a/b/c", "b/c")
        os.rename("b/c", "a/b/c")
here = os.open("a/b/c/d/e", os.O_RDONLY)
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
    "written": "file.write(bytes(2 << 20))",
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


def _shm_name(ctx: Context) -> dict[str, str]:
    return {"NAME": f"/dev/shm/{ctx.scratch.parent.name}"}


def _is_left(ctx: Context) -> bool:
    from pathlib import Path

    path = Path(_shm_name(ctx)["NAME"])
    left = path.exists()
    path.unlink(missing_ok=True)
    return left


program(
    "R9",
    "an object of shared memory that stays behind",
    property="fs_write",
    # A /dev/shm of its own goes with the run.
    blocked="EACCES ENOENT without effect",
    act='open(NAME, "w").close()',
    given=_shm_name,
    harm=_is_left,
)
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
for name in (b"\\xff", b"a\\nb", b"*", b"-rf", b".evalbox-1", b"..."):
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
                os.rename(f"{name}/a", f"{number % 7}")
            except OSError:
                pass
time.sleep(0.1)
""",
}
_LITTER = """
import os, time
for place in (".", os.environ["HOME"], os.environ["TMPDIR"]):
    os.chdir(os.path.realpath(place))
    {tree}
"""
_LOOK = """
import os
places = [os.getcwd(), os.environ["HOME"], os.environ["TMPDIR"]]
print(sum(len(os.listdir(place)) for place in places))
"""


def _litter(tree: str) -> str:
    return _LITTER.format(tree=tree.strip().replace("\n", "\n    "))


def _is_seen(ctx: Context, tree: str) -> str:
    """By a look in the run that made it, before it ends."""
    script = _LOOK.replace("print(", "os.chmod('.', 0o700); print(")
    places = "places = [os.getcwd(), os.environ['HOME'], os.environ['TMPDIR']]\n"
    litter = f"import os\n{places}{_litter(tree)}"
    reopen = "for place in places: os.chmod(place, 0o700)\n"
    count = "print(sum(len(os.listdir(place)) for place in places))"
    del script
    output = ctx.python(f"{litter}\n{reopen}{count}", disk=None)
    return "OK" if output.text.strip() not in ("", "0") else f"{output!r}"


def _is_left_behind(ctx: Context, tree: str, **fields: object) -> str:
    ctx.python(_litter(tree), disk=None, **fields)
    found = [ctx.python(_LOOK, **fields).text for _ in range(2)]
    return "cleaned" if found == ["0\n"] * 2 else f"OK{found}"[:2]


def _hard_tree(variant: str, tree: str) -> None:
    register = attack(
        f"R13.{variant}",
        f"a tree that is hard to remove: {variant}",
        property=None,
        blocked="cleaned",
        control=lambda ctx: _is_seen(ctx, tree),
    )
    register(lambda ctx: _is_left_behind(ctx, tree))


for _variant, _tree in _HARD_TREES.items():
    _hard_tree(_variant, _tree)
