"""The forked half, in which the sample runs: it answers the judge's requests.

The sample shares this interpreter and may do to it what it likes, so nothing
here is trusted: whatever is said from here on, it can only be an answer.
"""

import builtins
import os
import sys

from evalbox.grade.inside.wire import (
    Opaque,
    decode,
    describe,
    encode,
    line_in,
    message,
    read_body,
    write_all,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, NoReturn

    Answer = tuple[Any, ...]

SAMPLE = "<sample>"
# More than the judge ever has open when it forks.
DESCRIPTORS = 64
# The exit code of a subject that cannot answer any more.
BROKEN = 70


class LateSite:
    """Brings site-packages in when an import needs them: site costs a quarter of the start."""

    loaded = False

    @classmethod
    def find_spec(cls, name: str, path: object = None, _target: object = None) -> "Any":
        # The standard copy module looks for org.python, which only Jython has.
        if cls.loaded or path is not None or name == "org":
            return None
        cls.loaded = True
        import importlib.machinery
        import site

        site.main()
        return importlib.machinery.PathFinder.find_spec(name)


class Subject:
    """One sample behind its two pipes."""

    def __init__(self, requests: int, replies: int) -> None:
        self.requests = requests
        self.replies = replies
        self.pid = os.getpid()
        self.forked = False
        self.function: Any = None
        os.register_at_fork(after_in_parent=self._on_fork, after_in_child=self._on_fork)

    def _on_fork(self) -> None:
        self.forked = True

    def serve(self, source: str, entry_point: str) -> None:
        """Answers for as long as the judge asks; its end is an EOFError."""
        program = _compiled(source)
        read_body(self.requests)
        self._answer(self._load(program, entry_point))
        while True:
            self._answer(self._call(read_body(self.requests)))

    def _answer(self, answer: "Answer") -> None:
        # A fork by another way than os.fork does not tell, but has another id.
        if self.forked or os.getpid() != self.pid:
            answer = ("forked",)
        try:
            data = message(answer)
        except RecursionError:
            data = message(("value", Opaque("value nested too deeply"), None))
        write_all(self.replies, data)

    def _load(self, program: "CodeType | Answer", entry_point: str) -> "Answer":
        if isinstance(program, tuple):
            return program
        # A real module: dataclasses and pickle look theirs up by its name.
        module = type(sys)("solution")
        sys.modules["solution"] = module
        try:
            exec(program, module.__dict__)  # noqa: S102  # in its sandbox
        except BaseException as error:  # noqa: BLE001  # the sample may raise anything
            return _raised(error)
        self.function = module.__dict__.get(entry_point)
        return ("missing",) if self.function is None else ("value", None, None)

    def _call(self, request: bytes) -> "Answer":
        given: Any = decode(request)
        args, kwargs = given
        try:
            result = self.function(*args, **kwargs)
            # Python passes by reference: a test may look at what it passed in.
            return "value", result, None if encode(given) == request else given
        except BaseException as error:  # noqa: BLE001  # the sample may raise anything
            return _raised(error)


def _compiled(source: str) -> "CodeType | Answer":
    try:
        return compile(source, SAMPLE, "exec", dont_inherit=True)
    except BaseException as error:  # noqa: BLE001  # SyntaxError, ValueError, RecursionError, ...
        return "compile", describe(error)


def _raised(error: BaseException) -> "Answer":
    if isinstance(error, SystemExit):
        return "exit", describe(error)
    names = [kind.__name__ for kind in type(error).__mro__]
    line = line_in(SAMPLE, error)
    where = f" (line {line})" if line else ""
    return "raised", names, describe(error) + where


def run_subject(requests: int, replies: int, source: str, entry_point: str) -> "NoReturn":
    """Runs in the forked child: keeps the two pipes and drops what else the judge holds."""
    try:
        nothing, end = os.pipe()
        os.close(end)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        for fd in set(range(3, DESCRIPTORS)) - {requests, replies}:
            _close(fd)
        # site would have made these two.
        vars(builtins).update(exit=sys.exit, quit=sys.exit)
        Subject(requests, replies).serve(source, entry_point)
    finally:
        os._exit(BROKEN)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        # Most of the numbers are not open.
        return
