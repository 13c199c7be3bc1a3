"""What an attack is, and how to add one.

Most attacks are a piece of Python that is run in a sandbox. When it comes to its
end, it has succeeded ("OK"); an OSError is its errno ("EACCES"). It is one call
in the attacks_*.py of its section:

    program(
        "F1.read",
        "read a file outside",
        property="fs_read",            # of evalbox.ALL; None: held in every tier, by our code
        blocked="EACCES ENOENT",       # the only answers that count as blocked
        act='open(f"{DIR}/secret").read()',
    )

- The names that an act has are in inside.py: `call("kcmp", ...)` for raw system
  calls, `held("word")` to answer something else than an errno, `DIR`, a directory
  outside the sandbox that everybody may read and write, fresh for each attempt
  (what lies in it: `Context.fill`). Its working directory is the workspace.
- More names: `given=lambda ctx: {"PID": ctx.world.witness()}`, JSON-safe.
- What the run is like: `fields=lambda ctx: {"read": [ctx.dir]}`, as in evalbox.run.
- **The control**: the same act as an ordinary process of the same caller. It must
  succeed, or the attack counts as broken and not as blocked. Instead of that,
  `control=lambda ctx: {"write": [ctx.dir]}` is a sandbox that allows it (added to
  `fields`), and `control_given` what else the act is told there.
- `reached="OK EINVAL"`: answers that mean that the act got through.
- `harm=lambda ctx: bool`: what the act did outside; decides instead of "OK", which
  without it is "unharmed".
- A caller that cannot do the act anyway (`mknod` takes CAP_MKNOD) is "not
  applicable" for it, if the attack says so: `privileged="CAP_MKNOD"`. Then the
  control may fail, and the attack still counts as a success if it gets through.
- What a machine may lack: `needs=exists("/dev/kvm")`, a reason or "". What makes
  sense for some callers only: `callers="root container"`.

An attack on our own code, from outside or over several runs, is a function:

    @attack("F9", "replace the output by a link", property=None, blocked="skipped",
            control=lambda ctx: ...)    # the act where it is allowed: answers one of `reached`
    def replace_output(ctx: Context) -> str:
        output = ctx.run(["sh", "-c", "..."], collect=["*"])
        return "OK" if "secret" in output.files else "skipped"

Try one by `PYTHONPATH=.:tests python -m security.drive --caller root --tier process F9`.
An attack that the catalogue does not have takes the next free number of its section.

An answer that is neither in `reached` nor in `blocked` is a failure, and so is a
success where `Output.enforcement` said "enforced" for its property, unless by the
mechanism "granted": the attack's own policy gave it up, to see what else holds.
"""

from __future__ import annotations

import builtins
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import evalbox
from evalbox._syscall_table import NUMBERS
from evalbox.flat import plan_from_fields
from security.inside import ANSWER, PRELUDE
from security.world import World

PYTHON = "/usr/bin/python3"
CALLERS = ("root", "container", "user")
TIERS = ("process", "namespace")
# A first answer takes a fraction of a second; this is for a machine under load.
PATIENCE = 60.0

Fields = Mapping[str, Any]


class Verdict(StrEnum):
    BLOCKED = "blocked"
    ALLOWED = "allowed"
    NOT_APPLICABLE = "n/a"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one attack in one tier for one caller.

    Attributes:
        answer: what the attack met.
        control: what the control met.
        level: of the attack's property, as the run itself reported it; "" without one.
        reason: why it is not applicable, or what the report says of an allowed one.
        failure: empty when all is as it must be.
        seconds: what control and attack took together.
    """

    id: str
    caller: str
    tier: str
    verdict: Verdict
    answer: str
    control: str
    level: str = ""
    reason: str = ""
    failure: str = ""
    seconds: float = 0.0


@dataclass
class Context:
    """What an attempt is made with; there is one for each attempt.

    Attributes:
        tier: the isolation of every run.
        caller: who starts the runs, one of CALLERS.
        dir: a directory outside, with targets; the caller's, open to everybody.
        scratch: another one, for what the attempt itself needs, as the control's cwd.
        world: witnesses and sockets, shared by all attacks.
        enforcement: what the last run reported.
    """

    tier: str
    caller: str
    dir: Path
    scratch: Path
    world: World
    enforcement: Mapping[str, evalbox.Enforcement] = field(default_factory=dict)

    def fill(self) -> None:
        """Fresh targets in `dir`: files secret and program, a directory empty."""
        shutil.rmtree(self.dir, ignore_errors=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        for folder in (self.dir, self.dir / "empty", self.scratch):
            folder.mkdir(parents=True)
            folder.chmod(0o777)
        for name, text, mode in (("secret", "secret", 0o666), ("program", "#!/bin/sh\n", 0o777)):
            (self.dir / name).write_text(text)
            (self.dir / name).chmod(mode)

    def plan_fields(self, fields: Fields) -> dict[str, Any]:
        """Nothing is required: what is not held is to be seen, and compared with the report."""
        patience = {} if "wall_time" in fields else {"timeout": PATIENCE}
        return {"isolation": self.tier, "require": (), **patience, **fields}

    def plan(self, cmd: list[Any], **fields: Any) -> evalbox.Plan:
        """For an Executor of the attack's own; set `enforcement` from its Output."""
        cmd, fields = _warmed(cmd, fields)
        return plan_from_fields(cmd, **self.plan_fields(fields))

    def run(self, cmd: list[Any], **fields: Any) -> evalbox.Output:
        """A run of this tier; `enforcement` is then what it reported."""
        cmd, fields = _warmed(cmd, fields)
        output = evalbox.run(cmd, **self.plan_fields(fields))
        self.enforcement = output.enforcement
        return output

    def python(self, script: str, *args: str, **fields: Any) -> evalbox.Output:
        return self.run([PYTHON, "-c", script, *args], **fields)

    def command(self, act: str, given: Fields) -> list[str]:
        """The program that makes an act; see inside.py."""
        known = {"calls": NUMBERS[platform.machine()], "act": act}
        return [PYTHON, "-I", "-S", "-c", PRELUDE, repr({**known, "names": self.names(given)})]

    def names(self, given: Fields) -> dict[str, Any]:
        """All that an act is given; see inside.py."""
        return {"DIR": str(self.dir), **given}

    def act_inside(self, act: str, given: Fields | None = None, **fields: Any) -> str:
        """What an act meets in a sandbox."""
        return answer_of(self.run(self.command(act, given or {}), **fields))

    def act_outside(self, act: str, given: Fields | None = None) -> str:
        """What it meets in an ordinary process of the caller's."""
        done = subprocess.run(
            self.command(act, given or {}),
            cwd=self.scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
        )
        return answer_of_process(done)


# With drive's --warm: the programs of acts are forked from a template.
warm: evalbox.Warm | None = None


def _warmed(cmd: list[Any], fields: Fields) -> tuple[list[Any], Fields]:
    """The same program as a file of a plan with `warm`, if it is one of Python's."""
    if warm is None or cmd[0] != PYTHON or "-c" not in cmd or fields.get("stdin") is evalbox.PIPE:
        return cmd, fields
    at = cmd.index("-c")
    script, arguments = cmd[at + 1], cmd[at + 2 :]
    folder = fields.get("cwd", ".")
    files = {**fields.get("files", {}), f"{folder}/main.py": script}
    return [PYTHON, "main.py", *arguments], {**fields, "files": files, "warm": warm}


def answer_of(output: evalbox.Output) -> str:
    """An attack's own word; of one that did not end by itself, how it ended."""
    if output.status is evalbox.Status.EXITED:
        told = _told(output.stdout)
        return told or f"exit {output.exit_code}: {_last_line(output.stderr)}"
    if output.signal is not None and output.status is evalbox.Status.SIGNALED:
        return signal_answer(output.signal)
    return output.status.name


def answer_of_process(done: subprocess.CompletedProcess[bytes]) -> str:
    """The same of an ordinary process."""
    if done.returncode < 0:
        return signal_answer(-done.returncode)
    return _told(done.stdout) or f"exit {done.returncode}: {_last_line(done.stderr)}"


def signal_answer(number: int) -> str:
    return signal.Signals(number).name


def _told(stdout: bytes) -> str:
    for line in reversed(stdout.decode("utf-8", "replace").splitlines()):
        if line.startswith(ANSWER):
            return line.removeprefix(ANSWER)
    return ""


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "no word"


# ---- the attacks -----------------------------------------------------------------------------


def nothing(_: Context) -> Fields:
    return {}


def nothing_lacks(_: Context) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """See above. Exactly one of `act` and `function` is there."""

    id: str
    title: str
    property: str | None
    blocked: frozenset[str]
    reached: frozenset[str]
    act: str = ""
    given: Callable[[Context], Fields] = nothing
    fields: Callable[[Context], Fields] = nothing
    control: Callable[[Context], Any] | None = None
    control_given: Callable[[Context], Fields] = nothing
    harm: Callable[[Context], bool] | None = None
    privileged: str = ""
    needs: Callable[[Context], str] = nothing_lacks
    callers: str = " ".join(CALLERS)
    function: Callable[[Context], str] | None = None

    def __post_init__(self) -> None:
        assert re.fullmatch(r"[FPNKRXI][0-9]+([.][a-z0-9-]+)?", self.id), self.id
        assert self.property is None or self.property in evalbox.ALL, self.id
        assert self.blocked, self.id
        assert "|" not in self.title, self.id
        assert set(self.callers.split()) <= set(CALLERS), self.id
        assert not self.blocked & self.reached, self.id
        # A function says itself where its act is allowed; an act has an ordinary process.
        assert self.function is None or self.control is not None, self.id

    def why_not(self, context: Context) -> str:
        """Why there is nothing to try here; "" when there is."""
        if context.caller not in self.callers.split():
            return f"only for {self.callers}"
        return self.needs(context)

    @builtins.property
    def depends_on_machine(self) -> bool:
        return self.needs is not nothing_lacks


ATTACKS: dict[str, Attack] = {}


def _register(made: Attack) -> None:
    assert made.id not in ATTACKS, f"{made.id} is there already"
    ATTACKS[made.id] = made


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def program(
    id: str,  # noqa: A002  # what the catalogue calls it
    title: str,
    *,
    property: str | None,  # noqa: A002
    blocked: str,
    act: str,
    reached: str = "OK",
    **more: Any,
) -> None:
    """An attack that is a piece of Python in a sandbox."""
    _register(
        Attack(
            id=id,
            title=title,
            property=property,
            blocked=_words(blocked),
            reached=_words(reached),
            act=act,
            **more,
        )
    )


def attack(
    id: str,  # noqa: A002
    title: str,
    *,
    property: str | None,  # noqa: A002
    blocked: str,
    control: Callable[[Context], str],
    reached: str = "OK",
    **more: Any,
) -> Callable[[Callable[[Context], str]], Callable[[Context], str]]:
    """An attack that is a function; its answer is a word of `blocked` or `reached`."""

    def registered(function: Callable[[Context], str]) -> Callable[[Context], str]:
        _register(
            Attack(
                id=id,
                title=title,
                property=property,
                blocked=_words(blocked),
                reached=_words(reached),
                function=function,
                control=control,
                **more,
            )
        )
        return function

    return registered


# ---- what a machine may lack -----------------------------------------------------------------


def exists(path: str) -> Callable[[Context], str]:
    return lambda _: "" if Path(path).exists() else f"there is no {path} here"


def since(major: int, minor: int) -> Callable[[Context], str]:
    """Of what a release of Linux brought."""
    found = tuple(int(part) for part in os.uname().release.split(".")[:2])
    return lambda _: "" if found >= (major, minor) else f"Linux {major}.{minor} brought it"


def make_context(attack_id: str, tier: str, caller: str, base: Path, world: World) -> Context:
    """Directories of its own, filled."""
    home = Path(tempfile.mkdtemp(prefix=f"{attack_id}-", dir=base))
    home.chmod(0o755)
    context = Context(tier, caller, home / "dir", home / "scratch", world)
    context.fill()
    return context
