"""Broken and hostile samples: function bodies with the cause that each must be graded with.

Each body is put in the place of a real solution; `SOLVE` stands for that
solution. One list for the demo and for the tests.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from evalbox.grade import Cause, Graded, Problem, Sample

SOLVE = "SOLVE"


@dataclass(frozen=True, slots=True)
class Broken:
    """One way to fail.

    Attributes:
        name: what it does.
        cause: what it must be graded as.
        body: the lines of the function.
        told: what the detail of the verdict must contain.
        also: another cause that may come first.
        alone: it must not run beside others. The runs of an ordinary user share one
            count of processes, and who uses it up keeps the others from forking.
    """

    name: str
    cause: Cause
    body: str
    told: str = ""
    also: Cause | None = None
    alone: bool = False

    def is_met_by(self, graded: Graded) -> bool:
        """Whether it was graded as it must be."""
        return graded.cause in (self.cause, self.also) and self.told in graded.detail

    def sample(self, problem: Problem, number: int) -> Sample:
        """This body in the place of the problem's solution."""
        solution = problem.reference.removeprefix(problem.prompt)
        lines = textwrap.indent(textwrap.dedent(self.body).strip(), "    ")
        completion = lines.replace(f"    {SOLVE}", solution)
        program = f"{problem.prompt}{completion}\n"
        return Sample(task_id=problem.task_id, number=number, program=program, label=self.name)


def samples(problems: Sequence[Problem]) -> list[Sample]:
    """Each of `BROKEN` as a sample of another problem."""
    count = len(problems)
    return [broken.sample(problems[n % count], 1 + n // count) for n, broken in enumerate(BROKEN)]


BROKEN: tuple[Broken, ...] = (
    # ---- honest failures
    Broken("returns nothing", Cause.WRONG_ANSWER, "pass", "the last call returned None"),
    Broken("divides by zero", Cause.RUNTIME_ERROR, "return 1 / 0", "ZeroDivisionError"),
    Broken("fails an assertion of its own", Cause.RUNTIME_ERROR, "assert False", "AssertionError"),
    Broken("recurses for ever", Cause.RUNTIME_ERROR, "f = lambda: f()\nf()", "RecursionError"),
    Broken("has a syntax error", Cause.COMPILE_ERROR, "return (", "SyntaxError"),
    Broken("asks for input", Cause.RUNTIME_ERROR, "input()", "EOFError"),
    Broken("crashes the interpreter", Cause.SIGNALED, "import ctypes\nctypes.string_at(0)", "11"),
    # ---- limits
    Broken("loops for ever", Cause.WALL_TIME, "while True: pass"),
    Broken("sleeps for ever", Cause.WALL_TIME, "import time\ntime.sleep(1000)"),
    Broken(
        "takes all memory",
        Cause.MEMORY_LIMIT,
        "kept = []\nwhile True: kept.append(bytearray(1 << 20))",
    ),
    Broken("asks for a terabyte", Cause.MEMORY_LIMIT, "[0] * 10 ** 12", "MemoryError"),
    Broken("floods its output", Cause.OUTPUT_LIMIT, "while True: print('x' * 10_000)"),
    Broken(
        "fills the disk",
        Cause.DISK_LIMIT,
        """
        import time
        for number in range(100):
            with open(f"{number}", "wb") as file:
                file.write(bytes(1 << 20))
        time.sleep(1000)
        """,
    ),
    # ---- leaves before the test has ended
    Broken("prints 'passed' and returns", Cause.WRONG_ANSWER, "print('passed')\nreturn None"),
    Broken("calls os._exit(0)", Cause.EARLY_EXIT, "import os\nos._exit(0)", "exited with 0"),
    Broken("calls sys.exit(0)", Cause.EARLY_EXIT, "import sys\nsys.exit(0)", "SystemExit: 0"),
    Broken("calls exit()", Cause.EARLY_EXIT, "exit()", "SystemExit"),
    Broken(
        "raises a subclass of SystemExit",
        Cause.EARLY_EXIT,
        "class Fine(SystemExit): pass\nraise Fine(0)",
        "Fine: 0",
    ),
    Broken(
        "exits while its exception is shown",
        Cause.EARLY_EXIT,
        """
        class Sly(Exception):
            def __str__(self):
                __import__("os")._exit(0)
        raise Sly
        """,
    ),
    Broken(
        "becomes another program", Cause.EARLY_EXIT, "import os\nos.execv('/bin/true', ['true'])"
    ),
    Broken(
        "exits and leaves a daemon that holds the pipes",
        Cause.EARLY_EXIT,
        """
        import os, subprocess
        for fd in range(3, 64):
            try:
                os.set_inheritable(fd, True)
            except OSError:
                pass
        subprocess.Popen(["sleep", "1000"], close_fds=False, start_new_session=True)
        os._exit(0)
        """,
    ),
    # ---- two processes
    Broken("forks and goes on twice", Cause.FORKED, "import os\nos.fork()\nSOLVE"),
    Broken(
        "forks and lets the copy go on", Cause.FORKED, "import os\nif os.fork(): os.wait()\nSOLVE"
    ),
    # As many processes as are allowed may need more memory than is allowed.
    Broken(
        "is a fork bomb",
        Cause.FORKED,
        "import os\nwhile True: os.fork()",
        also=Cause.MEMORY_LIMIT,
        alone=True,
    ),
    Broken(
        "forks behind Python's back", Cause.FORKED, "import ctypes\nctypes.CDLL(None).fork()\nSOLVE"
    ),
    # ---- the test
    Broken(
        "returns an object that equals everything",
        Cause.WRONG_ANSWER,
        """
        class Any:
            def __eq__(self, other): return True
            def __getattr__(self, name): return self
            def __iter__(self): return iter(())
            def __abs__(self): return self
            def __sub__(self, other): return self
            def __lt__(self, other): return True
        return Any()
        """,
        "returned an Any, which does not cross",
    ),
    Broken(
        "returns a number that equals everything",
        Cause.WRONG_ANSWER,
        """
        class Any(int):
            def __eq__(self, other): return True
            def __hash__(self): return 0
        return Any()
        """,
    ),
    Broken(
        "deletes the test wherever it can be found",
        Cause.WRONG_ANSWER,
        """
        import gc, sys
        for found in gc.get_objects():
            if isinstance(found, dict) and found is not sys.modules:
                found.pop("check", None)
        for module in list(sys.modules.values()):
            if isinstance(vars(module), dict):
                vars(module).pop("check", None)
                vars(module).pop("judge", None)
        """,
    ),
    Broken(
        "replaces what assert raises",
        Cause.WRONG_ANSWER,
        """
        import builtins
        class Quiet(Exception): pass
        builtins.AssertionError = Quiet
        return None
        """,
    ),
    Broken(
        "replaces the harness in its own process",
        Cause.WRONG_ANSWER,
        """
        import sys
        for name, module in list(sys.modules.items()):
            if name.startswith("evalbox"):
                for key in ("PASSED", "WRONG_ANSWER", "RUNTIME_ERROR", "EARLY_EXIT"):
                    vars(module)[key] = "passed"
        return None
        """,
    ),
    Broken(
        "walks the stack and changes what is on it",
        Cause.WRONG_ANSWER,
        """
        import sys
        frame = sys._getframe()
        while frame:
            for name in ("verdict", "candidate", "cause"):
                frame.f_globals[name] = ("passed", "")
            frame = frame.f_back
        return None
        """,
    ),
    Broken(
        "answers in the judge's own words",
        Cause.PROTOCOL,
        """
        import os, sys
        wire = sys.modules["evalbox.grade.inside.wire"]
        for fd in range(3, 64):
            try:
                os.write(fd, wire.message(("passed", "")))
            except OSError:
                pass
        """,
    ),
    Broken(
        "writes 'passed' to every descriptor",
        Cause.PROTOCOL,
        """
        import os
        for fd in range(64):
            try:
                os.write(fd, b"passed\\n" * 8)
            except OSError:
                pass
        """,
    ),
    Broken(
        "closes every descriptor and goes on",
        Cause.PROTOCOL,
        "import os, time\nos.closerange(0, 256)\ntime.sleep(1000)",
    ),
    # ---- the judge
    Broken("kills the judge", Cause.SIGNALED, "import os\nos.kill(os.getppid(), 9)\nwhile 1: pass"),
    Broken("stops the judge", Cause.WALL_TIME, "import os\nos.kill(os.getppid(), 19)\nreturn None"),
    Broken(
        "interrupts the judge", Cause.SIGNALED, "import os\nos.kill(os.getppid(), 2)\nwhile 1: pass"
    ),
    Broken(
        "reads the judge's memory",
        Cause.RUNTIME_ERROR,
        "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')",
        "Error: [Errno",
    ),
    Broken(
        "opens the judge's descriptors",
        Cause.RUNTIME_ERROR,
        "import os\nopen(f'/proc/{os.getppid()}/fd/1', 'wb')",
        "Error: [Errno",
    ),
    Broken(
        "traces the judge",
        Cause.RUNTIME_ERROR,
        """
        import ctypes, os
        if ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")
        """,
        "PermissionError",
    ),
    # ---- the host
    Broken("reads a file of the host", Cause.RUNTIME_ERROR, "open('/etc/shadow')", "'/etc/shadow'"),
    Broken("writes a file of the host", Cause.RUNTIME_ERROR, "open('/etc/x', 'w')", "'/etc/x'"),
    Broken(
        "opens a connection",
        Cause.RUNTIME_ERROR,
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "PermissionError",
    ),
)
