"""The half that runs the test and is believed.

It holds the only descriptor that the host reads a verdict from. The order is
what keeps the test secret: fork first, then read the secret and the test.
"""

import _signal  # type: ignore[import-not-found]  # the signal module takes a while to load
import builtins
import os
import select
import sys
import time

from evalbox.grade.inside.subject import BROKEN, LateSite, run_subject
from evalbox.grade.inside.wire import (
    COMPILE_ERROR,
    EARLY_EXIT,
    FORKED,
    LINE_LIMIT,
    MEMORY_LIMIT,
    PASSED,
    PROTOCOL,
    RUNTIME_ERROR,
    SECRET_BYTES,
    SETUP_ERROR,
    SIGNALED,
    WRONG_ANSWER,
    Malformed,
    Opaque,
    crosses,
    decode,
    describe,
    encode,
    line_in,
    message,
    read_body,
    read_exactly,
    write_all,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Verdict = tuple[str, str]

# Imported before the fork where the sample names them, so that one import serves
# both halves; typing alone takes longer than the interpreter to start.
SHARED = (
    "bisect", "collections", "copy", "datetime", "functools", "hashlib", "heapq",
    "itertools", "math", "random", "re", "string", "typing",
)  # fmt: skip
TEST = "<test>"
REFERENCE = "<reference>"
SEE = "; see docs/grading.md"
PR_SET_DUMPABLE = 4
# How often a silent subject is looked at: it may be dead while a process that it
# left behind holds its end of the pipe, and then no end of file comes.
LOOK = 0.05
# A pipe is closed a moment before its owner can be waited for.
DYING = 2.0


class Ended(BaseException):
    """The subject failed for good. Not an Exception, so that a test does not swallow it."""


class RaisedInSample(Exception):  # noqa: N818  # named for the reader of a report
    """Stands for an exception of the sample that extends no built-in one."""


class Candidate:
    """What the test calls: the subject, in the shape of a function.

    Attributes:
        verdict: set once it has failed for good.
        raised: what the last call raised, and so what is the sample's own doing.
        last: the last call's outcome, for the reader of a report.
    """

    def __init__(self, pid: int, requests: int, replies: int, name: str) -> None:
        self.pid = pid
        self.requests = requests
        self.replies = replies
        self.__name__ = name
        self.verdict: Verdict | None = None
        self.raised: Exception | None = None
        self.raised_text = ""
        self.exit_code: int | None = None
        self.last = "the sample was never called"

    def start(self) -> None:
        """Runs the sample's own top level."""
        self._ask(message(None))
        if self.raised is not None:
            self.fail(*self._own_failure())

    def __call__(self, *args: object, **kwargs: object) -> object:
        given = [args, kwargs]
        foreign = _foreign(given)
        if type(foreign) is Opaque:
            self.fail(WRONG_ANSWER, f"the test passes on what the sample returned: {foreign}{SEE}")
        if foreign is not None:
            kind = type(foreign).__name__
            self.fail(SETUP_ERROR, f"the test passes a {kind}, which is not plain data")
        result, changed = self._ask(message(given))
        if self.raised is not None:
            raise self.raised
        if changed is not None:
            _write_back(given, changed)
        self.last = f"the last call returned {_shown(result)}"
        return result

    def verdict_of(self, error: BaseException) -> "Verdict | None":
        """What it means that this exception ended the test; None when it is the test's own."""
        return self._own_failure() if error is self.raised else None

    def _own_failure(self) -> "Verdict":
        cause = MEMORY_LIMIT if isinstance(self.raised, MemoryError) else RUNTIME_ERROR
        return cause, self.raised_text

    def fail(self, cause: str, detail: str) -> "NoReturn":
        self.verdict = self.verdict or (cause, detail)
        raise Ended

    def _ask(self, request: bytes) -> "tuple[Any, Any]":
        if self.verdict is not None:
            raise Ended
        self.raised = None
        try:
            answer = self._exchange(request)
            return _ANSWERS[answer[0]](self, *answer[1:])
        except (BrokenPipeError, EOFError):
            self._gone()
        except (Malformed, LookupError, TypeError, ValueError) as error:
            self.fail(PROTOCOL, f"what came back is no answer: {describe(error)}")
        except MemoryError:
            self.fail(MEMORY_LIMIT, "the answer does not fit into the memory limit")

    def _exchange(self, request: bytes) -> "Any":
        write_all(self.requests, request)
        return decode(self._read())

    def _read(self) -> bytes:
        while not _readable(self.replies, LOOK):
            # The answer may have come between the two looks.
            if self._is_dead() and not _readable(self.replies, 0):
                raise EOFError
        return read_body(self.replies)

    def _is_dead(self) -> bool:
        if self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.exit_code = os.waitstatus_to_exitcode(status) if pid else None
        return self.exit_code is not None

    def _gone(self) -> "NoReturn":
        deadline = time.monotonic() + DYING
        while not self._is_dead() and time.monotonic() < deadline:
            time.sleep(LOOK / 10)
        code = self.exit_code
        if code is None:
            self.fail(PROTOCOL, "the sample closed its pipes to the judge and ran on")
        if code < 0:
            self.fail(SIGNALED, f"the sample died of signal {-code}")
        or_broken = ", or broke the code that answers for it," if code == BROKEN else ""
        self.fail(EARLY_EXIT, f"the sample exited with {code}{or_broken} before the test ended")

    # ---- what the subject may answer ------------------------------------------

    def _value(self, result: object, changed: object) -> "tuple[object, object]":
        return result, changed

    def _raised(self, names: "list[str]", text: str) -> "tuple[None, None]":
        self.raised = _exception(names, text)
        self.raised_text = str(text)
        return None, None

    def _exit(self, text: str) -> "NoReturn":
        self.fail(EARLY_EXIT, f"the sample raised {text} before the test ended")

    def _compile(self, text: str) -> "NoReturn":
        self.fail(COMPILE_ERROR, str(text))

    def _missing(self) -> "NoReturn":
        self.fail(RUNTIME_ERROR, f"NameError: the sample defines no {self.__name__}")

    def _forked(self) -> "NoReturn":
        self.fail(FORKED, "the sample forked its interpreter")


_ANSWERS: "dict[str, Callable[..., tuple[Any, Any]]]" = {
    "value": Candidate._value,
    "raised": Candidate._raised,
    "exit": Candidate._exit,
    "compile": Candidate._compile,
    "missing": Candidate._missing,
    "forked": Candidate._forked,
}


def _readable(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


def _exception(names: "list[str]", text: str) -> Exception:
    """The nearest built-in exception, so that a test can catch what it expects."""
    for name in names:
        kind = getattr(builtins, name, None)
        # StopIteration would quietly end an all(map(...)) of the test.
        if kind in (StopIteration, StopAsyncIteration):
            continue
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(text)
            except TypeError:
                # UnicodeDecodeError and its like want more than a text.
                continue
    return RaisedInSample(text)


def _foreign(value: object) -> object:
    """The first part that does not cross as plain data; None when all of it does."""
    if not crosses(type(value)):
        return value
    parts: list[object] = []
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = [*value]
    return next((part for part in map(_foreign, parts) if part is not None), None)


def _write_back(old: "Any", new: "Any") -> "Any":
    """Brings home what the sample did to an argument: the same object where it can change."""
    kind = type(old)
    if kind is not type(new):
        return new
    if kind in (list, tuple):
        items = [*map(_write_back, old, new), *new[len(old) :]]
        return tuple(items) if kind is tuple else _refill(old, items)
    if kind is dict:
        return _refill(old, {key: _write_back(old.get(key), new[key]) for key in new})
    return _refill(old, new) if kind in (set, bytearray) else new


def _refill(old: "Any", new: "Any") -> "Any":
    old.clear()
    fill = old.update if hasattr(old, "update") else old.extend
    fill(new)
    return old


def _shown(value: object) -> str:
    if type(value) is Opaque:
        return f"{value}{SEE}"
    try:
        text = repr(value)
    except ValueError:
        text = "an integer of thousands of digits"
    return text if len(text) <= LINE_LIMIT else f"{text[:LINE_LIMIT]}..."


# ---- the verdict --------------------------------------------------------------


def judge(candidate: Candidate, reference: str, test: str) -> "Verdict":
    """Runs the test against the candidate.

    The reference solution is run first for what a test may use of it, such as
    the helpers that a prompt defines; its entry point is then the candidate.
    """
    names: dict[str, Any] = {"__name__": "test"}
    try:
        for source, file in ((reference, REFERENCE), (test, TEST)):
            exec(compile(source, file, "exec", dont_inherit=True), names)  # noqa: S102  # the judge's task
        check = names["check"]
    except BaseException as error:  # noqa: BLE001  # the data set is not ours
        return SETUP_ERROR, f"the test does not load: {describe(error)}"
    try:
        candidate.start()
        names[candidate.__name__] = candidate
        check(candidate)
    except BaseException as error:  # noqa: BLE001  # whatever ends the test, it has not passed
        return candidate.verdict or candidate.verdict_of(error) or _wrong(candidate, test, error)
    # A test may swallow what ended the candidate.
    return candidate.verdict or (PASSED, "")


def _wrong(candidate: Candidate, test: str, error: BaseException) -> "Verdict":
    line = line_in(TEST, error)
    text = test.splitlines()[line - 1].strip() if line else ""
    told = "" if type(error) is AssertionError and not str(error) else f"{describe(error)}; "
    return WRONG_ANSWER, f"{text}: {told}{candidate.last}"


def hide_memory() -> None:
    """Closes /proc/<pid>/mem and /proc/<pid>/fd to processes of the same user.

    No sandbox rule about paths does: a link in /proc/<pid>/fd leads to a pipe, and
    Landlock lets pipes be opened. Through it the sample would read the secret.

    Raises:
        OSError: it cannot be done; nothing may be graded then.
    """
    # Not ctypes, which takes longer to import than all the rest of the judge.
    import _ctypes

    itself: Any = None  # dlopen(NULL): this program and its libraries
    prctl = _ctypes.dlsym(_ctypes.dlopen(itself, 0), "prctl")
    if _ctypes.call_function(prctl, (PR_SET_DUMPABLE, 0, 0, 0, 0)) != 0:
        raise OSError("the judge cannot hide its descriptors from the sample")


def main() -> "NoReturn":
    """Reads one job from stdin and writes one verdict, behind the secret, to stdout."""
    if "site" not in sys.modules:
        sys.meta_path.append(LateSite)
    # The sample may signal the judge. That may end it, and not raise in its midst.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    hide_memory()
    job: Any = decode(read_body(0))
    source, entry_point = job
    for name in SHARED:
        if f"import {name}" in source or f"from {name} import" in source:
            __import__(name)
    (request_end, requests), (replies, reply_end) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        run_subject(request_end, reply_end, source, entry_point)
    os.close(request_end)
    os.close(reply_end)
    # What the test prints must not stand before the verdict.
    verdicts = os.dup(1)
    os.dup2(2, 1)
    secret = read_exactly(0, SECRET_BYTES)
    hidden: Any = decode(read_body(0))
    reference, test = hidden
    verdict = judge(Candidate(pid, requests, replies, entry_point), reference, test)
    write_all(verdicts, secret + encode(verdict))
    os._exit(0)
