"""The host's side of the harness: a sample becomes a Plan, an Output a verdict.

What runs inside the sandbox is `evalbox.grade.inside`; it explains how a verdict
is kept out of a sample's hands. A verdict counts only if the sandbox says that
the judge exited by itself with 0 and its output begins with this run's secret.
"""

from __future__ import annotations

import base64
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from evalbox._values import signal_name
from evalbox.errors import EvalboxError, SetupError
from evalbox.grade.dataset import Problem, Sample
from evalbox.grade.inside import wire
from evalbox.grade.inside.judge import SHARED
from evalbox.grade.verdict import Cause, Graded
from evalbox.grade.words import printable
from evalbox.limits import Limits, MiB
from evalbox.output import Output, Status
from evalbox.plan import Plan
from evalbox.policy import Policy
from evalbox.warm import SCRIPT, Warm

INSIDE: Final = Path(__file__).with_name("inside")
MODULES: Final = ("wire", "subject", "judge")
HARNESS: Final = "harness"
DEFAULT_LIMITS: Final = Limits(wall_time=5.0, output=MiB, disk=16 * MiB)

# Loads the modules under their own names without the packages around them, which
# would read half of evalbox. Compiling them costs as much as the interpreter's
# start, so it is done once and by the interpreter that will load them.
_EXECUTE = """
import sys
for name, code in modules:
    module = sys.modules[name] = type(sys)(name)
    exec(code, module.__dict__)
"""
_LOAD = f"""
import marshal
with open({HARNESS!r}, "rb") as file:
    modules = marshal.load(file)
{_EXECUTE}
"""
_RUN = f"{_LOAD}module.main()"
_PREPARE = f"""
import marshal, sys
if sys.version_info < (3, 10):
    sys.exit("Python 3.10 or newer is needed, and this is " + sys.version.split()[0])
modules = []
for name in {MODULES!r}:
    with open(name + ".py", "rb") as file:
        code = compile(file.read(), name, "exec", dont_inherit=True, optimize=2)
    modules.append(("evalbox.grade.inside." + name, code))
with open({HARNESS!r}, "wb") as file:
    marshal.dump(modules, file)
{_LOAD}
module.hide_memory()
"""


# The same in a template: the modules are loaded before there is a run.
_WARMUP = """
import base64, marshal, zlib
modules = marshal.loads(zlib.decompress(base64.b85decode({packed!r})))
{execute}
"""
_FIND: Final = b"import sys\njudge = sys.modules['evalbox.grade.inside.judge']\n"
_MAIN: Final = _FIND + b"judge.main()\n"


class InterpreterError(EvalboxError):
    """The interpreter that was chosen cannot run the harness in a sandbox."""


class Runner(Protocol):
    """What is needed of an Executor to prepare."""

    def run(self, plan: Plan, /) -> Output: ...


def _command(python: str, code: str) -> tuple[str, ...]:
    # -S: site costs a quarter of the start and is loaded when an import needs it.
    return (python, "-I", "-S", "-B", "-c", code)


@dataclass(frozen=True, slots=True)
class Harness:
    """How samples are run: made once by `prepare`, used for each of them.

    Attributes:
        python: the interpreter.
        code: the modules of `inside`, compiled by it.
        limits: of each sample.
        policy: of each sample.
        warm: what an interpreter does from which the runs are forked; None: each starts it.
    """

    python: str
    code: bytes
    limits: Limits
    policy: Policy
    warm: Warm | None = None

    def plan(self, problem: Problem, sample: Sample, secret: bytes) -> Plan:
        """The run that grades one sample."""
        # The judge reads the first message, forks the subject, and reads the rest.
        job = wire.message((sample.program, problem.entry_point))
        hidden = wire.message((problem.reference, problem.test))
        return Plan(
            _command(self.python, _RUN) if self.warm is None else (self.python, SCRIPT),
            stdin=job + secret + hidden,
            files={HARNESS: self.code} if self.warm is None else {SCRIPT: _MAIN},
            limits=self.limits,
            policy=self.policy,
            warm=self.warm,
        )


def prepare(
    runner: Runner,
    python: str,
    limits: Limits = DEFAULT_LIMITS,
    policy: Policy | None = None,
    *,
    cold: bool = False,
) -> Harness:
    """Compiles the harness with that interpreter, in a sandbox, and so tries both out.

    The runs are forked from a template where that can be had, unless `cold`.

    Raises:
        InterpreterError: it cannot run the harness there.
        EvalboxError: there is no such program, or the sandbox cannot start.
    """
    policy = policy or Policy()
    sources = {f"{name}.py": (INSIDE / f"{name}.py").read_bytes() for name in MODULES}
    roomy = replace(limits, wall_time=60.0, cpu_time=None)
    output = runner.run(
        Plan(
            _command(python, _PREPARE),
            files=sources,
            collect=(HARNESS,),
            limits=roomy,
            policy=policy,
        )
    )
    if not output.ok or HARNESS not in output.files:
        raise InterpreterError(
            f"{python} cannot run the harness: {_last_line(output) or output.explain()}"
        )
    code = output.files[HARNESS]
    warm = None if cold else _tried(runner, python, code, policy)
    return Harness(python, code, limits, policy, warm)


def _tried(runner: Runner, python: str, code: bytes, policy: Policy) -> Warm | None:
    """A template for the harness; None when this interpreter, or this host, has none."""
    packed = base64.b85encode(zlib.compress(code))
    warm = Warm(SHARED, warmup=_WARMUP.format(packed=packed, execute=_EXECUTE))
    plan = Plan((python, SCRIPT), files={SCRIPT: _FIND}, policy=policy, warm=warm)
    try:
        return warm if runner.run(plan).ok else None
    except SetupError:
        return None


def new_secret() -> bytes:
    return secrets.token_bytes(wire.SECRET_BYTES)


def graded(sample: Sample, secret: bytes, output: Output) -> Graded:
    """The verdict on one sample."""
    cause, detail = _verdict(secret, output)
    usage = output.usage
    return Graded(
        task_id=sample.task_id,
        number=sample.number,
        cause=cause,
        detail=printable(detail),
        wall_time=usage.wall_time,
        cpu_time=usage.cpu_time,
        peak_memory=usage.peak_memory,
        label=printable(sample.label),
    )


def _verdict(secret: bytes, output: Output) -> tuple[Cause, str]:
    if output.status is not Status.EXITED:
        cause, tell = _ENDED[output.status]
        return cause, tell(output)
    head, body = output.stdout[: len(secret)], output.stdout[len(secret) :]
    if output.exit_code == 0 and secrets.compare_digest(head, secret):
        match wire.decode(body):
            case (str(name), str(detail)):
                return Cause(name), detail
    last = _last_line(output)
    reason = f"; it said: {last}" if last else ""
    return Cause.PROTOCOL, f"the judge exited with {output.exit_code} and no verdict{reason}"


def _last_line(output: Output) -> str:
    lines = output.stderr[-4096:].decode("utf-8", "replace").strip().splitlines() or [""]
    return lines[-1][: wire.LINE_LIMIT]


def _mebibytes(count: int | None) -> str:
    return "no" if count is None else f"{count / MiB:g} MiB"


_ENDED: Final[dict[Status, tuple[Cause, Callable[[Output], str]]]] = {
    Status.SIGNALED: (
        Cause.SIGNALED,
        lambda out: f"the judge died of {signal_name(out.signal or 0)}",
    ),
    Status.WALL_TIME: (
        Cause.WALL_TIME,
        lambda out: (
            f"no verdict within {out.limits.wall_time:g} s"
            f" ({out.usage.cpu_time:.2f} s of processor time)"
        ),
    ),
    Status.CPU_TIME: (
        Cause.CPU_TIME,
        lambda out: f"more than {out.limits.cpu_time:g} s of processor time",
    ),
    Status.MEMORY_LIMIT: (
        Cause.MEMORY_LIMIT,
        lambda out: f"more than {_mebibytes(out.limits.memory)} of memory",
    ),
    Status.OUTPUT_LIMIT: (
        Cause.OUTPUT_LIMIT,
        lambda out: f"more than {_mebibytes(out.limits.output)} of output",
    ),
    Status.DISK_LIMIT: (
        Cause.DISK_LIMIT,
        lambda out: f"more than {_mebibytes(out.limits.disk)} of files",
    ),
    Status.DENIED: (Cause.DENIED, lambda out: f"killed for the system call {out.denied}"),
    Status.KILLED: (Cause.KILLED, lambda _: "ended from outside"),
}
