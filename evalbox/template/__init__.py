"""Runs of Python code that need not wait for an interpreter to start.

    template = Template(preload=["numpy", "json"])
    out = template.run("import numpy\\nprint(numpy.arange(3))", timeout=2)

The interpreter starts once in a sandbox, imports what is to be preloaded, and forks
one confined process for each run. What the code means is what `python main.py` would
mean: preloaded modules are loaded and not bound to names.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

from evalbox._values import Argument, StrPath, argument, instance, mapping, store
from evalbox.errors import PlanError
from evalbox.executor import run_on_shared
from evalbox.flat import PlanFields, plan_from_fields
from evalbox.output import Output
from evalbox.plan import Content, Plan
from evalbox.policy import Policy
from evalbox.warm import REQUESTS, SCRIPT, Warm

_DEFAULT_POLICY = Policy()


@dataclass(frozen=True, slots=True, init=False)
class Template:
    """An interpreter and what it has done before a run begins; a value that holds nothing.

    The processes belong to the executor that runs its plans: each slot has one, which
    stays from one run to the next, takes the memory that no other shares with it, and
    ends with the executor. One that dies, or has served `requests` runs, is started
    anew before the next run.

    A template needs Landlock ABI 6 (Linux 6.12), so that no run can signal it, a CPython
    3.8 or newer that is dynamically linked, and `on_denied="errno"`. Where one of these
    is missing, the same plans start the interpreter each time; `why_cold` says why.

    Attributes:
        python: the interpreter, looked up like any `Plan.cmd[0]`; an absolute path
            may be that of a virtual environment.
        policy: of its runs.
        warm: what it does first.

    Raises:
        PlanError: for a value that could never work.
    """

    python: str | bytes
    policy: Policy
    warm: Warm

    def __init__(
        self,
        preload: Iterable[str] = (),
        *,
        policy: Policy = _DEFAULT_POLICY,
        python: Argument | None = None,
        warmup: str = "",
        env: Mapping[str, str] | None = None,
        requests: int = REQUESTS,
    ) -> None:
        chosen = sys.executable if python is None else python
        store(
            self,
            python=argument(os.fspath(chosen), "python"),
            policy=instance(policy, "policy", Policy),
            warm=Warm(preload, warmup=warmup, env=env, requests=requests),
        )

    def plan(
        self, code: Content, *, args: Sequence[Argument] = (), **fields: Unpack[PlanFields]
    ) -> Plan:
        """The run of `code` as the file main.py, with `args` as sys.argv[1:].

        `fields` are those of Plan and Limits; the policy is the template's.

        Raises:
            PlanError: for a field that the template has already, for a file main.py, and
                for a variable that an interpreter reads at its start (PYTHON*, LC_*, ...):
                that is the template's.
        """
        files: Mapping[StrPath, Content] = mapping(fields.pop("files", {}), "files")
        taken = {"policy", "executable", "warm"} & fields.keys()
        if taken:
            raise PlanError(f"{taken.pop()}= is the template's")
        script = _script_in(fields.get("cwd", "."))
        if any(os.path.normpath(os.fspath(name)) == script for name in files):
            raise PlanError(f"files has a {script}, which is the name of the code itself")
        fields["policy"] = self.policy
        fields["files"] = {**files, script: code}
        fields["warm"] = self.warm
        return plan_from_fields((self.python, SCRIPT, *args), **fields)

    def run(
        self,
        code: Content,
        *,
        args: Sequence[Argument] = (),
        check: bool = False,
        **fields: Unpack[PlanFields],
    ) -> Output:
        """Runs `code` and waits for its end; any number of threads may call it.

        Raises:
            EvalboxError: as `evalbox.run`; a SetupError of stage "template" when the
                interpreter could not do what was asked before the run, with its last words.
            ProgramFailed: only with `check`, when the code did not exit with 0.
        """
        output = run_on_shared(self.plan(code, args=args, **fields))
        return output.check() if check else output

    @property
    def why_cold(self) -> str:
        """Why each run starts the interpreter on this host; "" where runs are warm.

        Raises:
            EvalboxError: its plans cannot be run here at all.
        """
        from evalbox._launch import why_cold

        return why_cold(self.plan(""))


def _script_in(cwd: StrPath) -> str:
    return os.path.normpath(os.path.join(os.fspath(cwd), SCRIPT))
