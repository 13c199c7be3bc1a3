"""Runs inside an interpreter that becomes a template, and in each run forked from it.

The C side (csrc/interpreter.c) calls these functions; none of them has a frame on the
stack while the program runs. It is text for CPython 3.8 and newer, of which nothing is
assumed to be installed, and none of its names is in a module that a program could find.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.machinery
import io
import os
import stat
import sys
import weakref

# Of modules that are loaded now, a program must not see the end.
_preloaded: set[str] = set()
# The variables that runs have unless they say otherwise; set by the C side.
started_with: bytes = globals().get("started_with", b"")
_kept: list[object] = []
_broken: list[object] = []
# The first compilation and the first format of a float cost far more than the next.
_FIRST = "import sys\nf'{1.5:.3f}'\n[i for i in (1, 2)]\n"
_ENCODING = sys.getfilesystemencoding()
_ERRORS = sys.getfilesystemencodeerrors()


def preload(names: tuple[str, ...], warmup: str) -> None:
    """What every run would otherwise do by itself."""
    for name in names:
        importlib.import_module(name)
    exec(compile(_FIRST, "<warm-up>", "exec"), {})  # noqa: S102
    if warmup:
        # Given by who made the template, to be run in its sandbox.
        exec(compile(warmup, "<warmup>", "exec"), {"__name__": "__main__"})  # noqa: S102
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    _preloaded.update(sys.modules)
    gc.collect()
    # Nobody looks at these objects again, and so their pages stay shared.
    gc.freeze()


def rehearse() -> None:
    """Writes once to what the beginning and the end of a run will write to."""
    items = b"python\0main.py\0".decode(_ENCODING, _ERRORS).split("\0")
    items.pop()
    stat.S_ISFIFO(os.fstat(0).st_mode)
    module = type(sys)("rehearsal")
    names = module.__dict__
    names.update(sys.modules["__main__"].__dict__)
    path = os.getcwd() + "/" + items[1]
    names["__loader__"] = importlib.machinery.SourceFileLoader("__main__", path)
    os.fsencode(path)
    exec(compile("", path, "exec"), names)  # noqa: S102
    [name for name in sys.modules if name not in _preloaded]
    weakref.ref(module)
    _flush()
    gc.collect()


# ---- the beginning of a run ------------------------------------------------------

# Every page that is written here for the first time is copied: what is not done, and
# what is not let go of, is what makes this fast.


def renew(argv: bytes, environment: bytes) -> bytes:
    """Makes the process what it would be as `python SCRIPT ARG...`; the path of the script."""
    items = argv.decode(_ENCODING, _ERRORS).split("\0")
    items.pop()
    if environment != started_with:
        _set_environment(environment.decode(_ENCODING, _ERRORS).split("\0"))
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = items
    sys.argv[:] = items[1:]
    # Standard output and error were pipes already, as they are now.
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        _kept.append((sys.stdin, sys.__stdin__))
        sys.stdin = sys.__stdin__ = _standard_input(sys.stdin)  # type: ignore[misc,arg-type]
    folder = os.getcwd()
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, folder)
    # Since 3.9 the main module knows where it is.
    path = items[1] if sys.version_info < (3, 9) else folder + "/" + items[1]
    _set_main(path)
    # `random` seeds itself after a fork.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    return os.fsencode(path)


def _set_main(path: str) -> None:
    """A module that is not frozen: what it refers to must be found when the run ends."""
    old = sys.modules["__main__"]
    _kept.append(old)
    new = sys.modules["__main__"] = type(sys)("__main__")
    names = new.__dict__
    names.clear()
    names.update(old.__dict__)
    names["__file__"] = path
    names["__cached__"] = None
    names["__loader__"] = importlib.machinery.SourceFileLoader("__main__", path)


def _set_environment(items: list[str]) -> None:
    wanted = dict(item.split("=", 1) for item in items if item)
    zone = os.environ.get("TZ")
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if os.environ.get("TZ") != zone:
        import time

        time.tzset()


def _standard_input(old: io.TextIOWrapper) -> io.TextIOWrapper:
    """As pylifecycle.c makes it, with the encoding that it chose at its start."""
    raw = io.FileIO(0, "r", closefd=False)
    raw.name = "<stdin>"
    stream = io.TextIOWrapper(
        io.BufferedReader(raw),
        encoding=old.encoding,
        errors=old.errors,
        newline="\n",
        line_buffering=old.line_buffering,
    )
    stream.mode = "r"  # type: ignore[misc]
    return stream


# ---- its end ---------------------------------------------------------------------


def cannot_open(error: int) -> int:
    """Says what python says of a script that is not there; its exit status."""
    reason = f"[Errno {error}] {os.strerror(error)}"
    prefix = repr(sys.argv[0]) if sys.version_info < (3, 9) else repr(os.path.abspath(sys.argv[0]))
    print(f"{sys.executable}: can't open file {prefix}: {reason}", file=sys.stderr)
    return 2


def exit_status(error: SystemExit) -> int:
    """What SystemExit asks for."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        # As PyLong_AsLong() has it: what is too large is -1.
        return int(code) & 0xFF if -(2**63) <= code < 2**63 else 0xFF
    sys.stdout.flush()
    print(code, file=sys.stderr)
    return 1


def finish() -> int:
    """What Py_FinalizeEx() does as far as a program can notice; 1 when output was lost."""
    names = sys.modules["__main__"].__dict__
    names.pop("__file__", None)
    names.pop("__cached__", None)
    del names
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()
    _run_exit_handlers()
    lost = _flush()
    _forget_modules()
    return _flush() or lost


def _run_exit_handlers() -> None:
    try:
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001  # before 3.10 it tells of it and raises it as well
        return


def _flush() -> int:
    lost = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed and stream not in _broken:
                stream.flush()
        except Exception as error:  # noqa: BLE001  # the program may have put anything there
            _broken.append(stream)
            lost = 1 if stream is sys.stdout else lost
            _tell_of(stream, error)
    return lost


def _tell_of(stream: object, error: Exception) -> None:
    try:
        where = f"in: {stream!r}" if sys.version_info < (3, 13) else "on flushing sys.stdout:"
        sys.stderr.write(f"Exception ignored {where}\n{type(error).__name__}: {error}\n")
        sys.stderr.flush()
    except Exception:  # noqa: BLE001
        return


def _forget_modules() -> None:
    """Ends the objects of the program: those with a __del__ may still have something to say."""
    mine = [name for name in sys.modules if name not in _preloaded or name == "__main__"]
    left = []
    for name in mine:
        module: object = sys.modules.pop(name)
        if type(getattr(module, "__dict__", None)) is dict:
            left.append(weakref.ref(module))
    module = None
    gc.collect()
    for reference in reversed(left):
        module = reference()
        if module is not None:
            _clear(module.__dict__)
    module = None
    gc.collect()


def _clear(names: dict[str, object]) -> None:
    """As _PyModule_Clear(): first those with one underscore, then all but __builtins__."""
    for name in list(names):
        if name[:1] == "_" and name[1:2] != "_":
            names[name] = None
    for name in list(names):
        if name != "__builtins__":
            names[name] = None
