"""Runs forked from an interpreter mean what `python main.py` means, and are kept apart."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import evalbox
from evalbox import Executor, Output, Plan, Policy, Status, Template, Warm
from template_rows import SAME

pytestmark = pytest.mark.core
PYTHONS = sorted({"/usr/bin/python3", sys.executable})
# Workspaces of the process tier have names of their own; so have objects.
_CHANCE = re.compile(rb"/[^\s'\"]*/evalbox-[0-9a-f]{32}/[0-9a-f]{32}|0x[0-9a-f]{6,}")


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor() as made:
        yield made


@pytest.fixture(params=PYTHONS)
def python(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def template(tier: str, python: str) -> Template:
    made = Template(["json", "re"], python=python, policy=_policy(tier))
    if reason := made.why_cold:
        assert evalbox.host().landlock.abi < 6, reason
        pytest.skip(reason)
    return made


def _policy(tier: str, **fields: Any) -> Policy:
    return Policy(isolation=tier, require=(), **fields)  # type: ignore[arg-type]


def told(output: Output) -> tuple[object, ...]:
    """What a program did, without what is chance."""
    out, err = (_CHANCE.sub(b"/W", data) for data in (output.stdout, output.stderr))
    return output.status, output.exit_code, output.signal, out, err


# ---- the same as python main.py --------------------------------------------------


@pytest.mark.parametrize("name", SAME)
def test_a_warm_run_does_what_a_cold_one_does(
    name: str, template: Template, executor: Executor
) -> None:
    stdin = b"" if name == "nothing" else b"one\ntwo\n"
    warm = template.plan(SAME[name], stdin=stdin, env={"TZ": "Asia/Tokyo"}, args=["a", "\u20ac"])
    cold = replace_warm(warm)
    assert told(executor.run(warm)) == told(executor.run(cold))


def replace_warm(plan: Plan) -> Plan:
    """The same plan, which starts its interpreter."""
    return Plan.from_dict({**plan.to_dict(), "warm": None})


def test_it_is_not_the_interpreter_of_the_run_that_has_just_started(
    template: Template, executor: Executor
) -> None:
    """The control of all of these: a warm run has modules that a cold one has not."""
    plan = template.plan("import sys; print('json' in sys.modules)")
    assert executor.run(plan).text == "True\n"
    assert executor.run(replace_warm(plan)).text == "False\n"


# ---- chance ----------------------------------------------------------------------

CHANCE = {
    "random": "import random; print(random.random())",
    "random, preloaded": "import random; print(random.getrandbits(64))",
    "secrets": "import secrets; print(secrets.token_hex(8))",
    "uuid": "import uuid; print(uuid.uuid4())",
    "tempfile": "import tempfile; print(next(tempfile._get_candidate_names()))",
    "urandom": "import os; print(os.urandom(8))",
    "numpy": "import numpy.random as r; print(r.random(), r.default_rng().random())",
}


@pytest.mark.parametrize("name", CHANCE)
def test_two_runs_draw_different_numbers(name: str, tier: str, executor: Executor) -> None:
    modules = ["random", "tempfile", "uuid", *(["numpy.random"] if name == "numpy" else [])]
    template = Template(modules, policy=_policy(tier))
    first, second = (executor.run(template.plan(CHANCE[name])).check().text for _ in range(2))
    assert first != second


# ---- what one run cannot do to the next -------------------------------------------

_PLACES = "('.', os.environ['HOME'], os.environ['TMPDIR'])"
TRACES = {
    "a module": ("import json; json.trace = 1", "import json; print(hasattr(json, 'trace'))"),
    "a built-in": ("import builtins; builtins.trace = 1", "print('trace' in dir(__builtins__))"),
    "a variable": ("import os; os.environ['X'] = '1'", "import os; print('X' in os.environ)"),
    "a file": (
        f"import os\nfor d in {_PLACES}: open(d + '/trace', 'w')",
        f"import os\nprint(any(os.path.exists(d + '/trace') for d in {_PLACES}))",
    ),
    "a handler": (
        "import signal; signal.signal(15, signal.SIG_IGN)",
        "import signal; print(signal.getsignal(15) != signal.SIG_DFL)",
    ),
    "a limit": (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))",
        "import resource; print(resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 9)",
    ),
    "an umask": ("import os; os.umask(0)", "import os; print(os.umask(0o22) == 0)"),
    "a priority": (
        "import os; os.nice(15 - os.nice(0))",
        "import os; print(os.nice(0) == 15)",
    ),
    "a directory": ("import os; os.chdir('/')", "import os; print(os.getcwd() == '/')"),
    "a process": (
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(60)",
        "import os\ntry: print(os.wait() is None)\nexcept ChildProcessError: print(False)",
    ),
}


@pytest.mark.parametrize("name", TRACES)
def test_nothing_of_a_run_is_there_in_the_next(
    name: str, template: Template, executor: Executor
) -> None:
    leave, look = TRACES[name]
    # Control: in the same run it is there, but for what goes with the process.
    if name != "a process":
        assert executor.run(template.plan(f"{leave}\n{look}")).check().text == "True\n"
    executor.run(template.plan(leave)).check()
    assert executor.run(template.plan(look)).check().text == "False\n"


# What a run may know: init is its parent, the keeper and the template stand beside it.
ATTACKS_ON_THE_TEMPLATE = """
import os, signal
reached = []
for pid in range(1, int(open('/proc/sys/kernel/pid_max').read()) if ALL else 64):
    if pid == os.getpid():
        continue
    try:
        os.kill(pid, 0)
        reached.append(pid)
    except OSError:
        pass
    for leaf in ('mem', 'maps', 'environ', 'fd'):
        try:
            path = f'/proc/{pid}/{leaf}'
            # Of who has just ended nothing is left to be read; how many descriptors init
            # has, whose uid may be the run's, is no secret of any run.
            if (pid, leaf) == (1, 'fd'):
                continue
            if os.listdir(path) if leaf == 'fd' else open(path).read(1):
                reached.append((pid, leaf))
        except OSError:
            pass
for number in (signal.SIGSTOP, signal.SIGKILL):
    # Says 0 whether or not it reached anybody.
    os.kill(-1, number)
print(reached)
"""


def test_a_run_reaches_neither_template_nor_keeper(executor: Executor) -> None:
    if evalbox.host().namespaces.why_not:
        pytest.skip(f"no namespace tier here: {evalbox.host().namespaces.why_not}")
    template = Template(["json"], python="/usr/bin/python3", policy=_policy("namespace"))
    if template.why_cold:
        pytest.skip(template.why_cold)
    attempt = template.plan(ATTACKS_ON_THE_TEMPLATE.replace("ALL", "False"))
    count = "import os\nprint(sum(name.isdigit() for name in os.listdir('/proc')))"
    for _ in range(3):
        assert executor.run(attempt).check().text == "[]\n"
    # Control: they are there to be seen, so there was something to reach.
    assert int(executor.run(template.plan(count)).check().text) >= 4


def test_siblings_do_not_reach_each_other(template: Template) -> None:
    """Each has a slot of its own; a held run is there while the other looks."""
    look = "import os\nfor number in (19, 9): os.kill(-1, number)\nprint('done')"
    with Executor() as executor:
        other = executor.spawn(template.plan("print(input())", stdin=evalbox.PIPE))
        assert executor.run(template.plan(look)).text == "done\n"
        executor.write_stdin(other, b"alive\n")
        assert end_of(executor).text == "alive\n"


def end_of(executor: Executor) -> Output:
    while True:
        for event in executor.poll():
            if isinstance(event, evalbox.Completed | evalbox.TimedOut):
                return event.output


# ---- limits ----------------------------------------------------------------------

LIMITS: dict[str, tuple[str, dict[str, Any], Status]] = {
    "wall_time": ("import time; time.sleep(60)", {"wall_time": 0.2}, Status.WALL_TIME),
    "cpu_time": ("while 1: pass", {"cpu_time": 0.2}, Status.CPU_TIME),
    "output": ("print('x' * 100)", {"output": 50}, Status.OUTPUT_LIMIT),
    "memory": (
        "x = []\nwhile 1: x.append(bytearray(1 << 20))",
        {"memory": 64 * evalbox.MiB},
        Status.MEMORY_LIMIT,
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_holds_and_the_next_run_is_well(
    name: str, template: Template, executor: Executor
) -> None:
    code, limits, status = LIMITS[name]
    ended = executor.run(template.plan(code, **limits))
    # Without a cgroup, RLIMIT_DATA may be there first.
    assert ended.status is status or (name == "memory" and b"MemoryError" in ended.stderr)
    assert executor.run(template.plan("print(1)")).check().text == "1\n"


def test_a_limit_of_processes_counts_those_of_the_run_alone(executor: Executor) -> None:
    if evalbox.host().namespaces.why_not:
        pytest.skip(f"no namespace tier here: {evalbox.host().namespaces.why_not}")
    code = (
        "import os, signal\nn = 1\ntry:\n  while 1:\n    if os.fork() == 0: signal.pause()\n"
        "    n += 1\nexcept OSError: print(n)"
    )
    template = Template(python="/usr/bin/python3", policy=_policy("namespace"))
    plan = template.plan(code, processes=5)
    assert executor.run(plan).text == "5\n"
    assert executor.run(replace_warm(plan)).text == "5\n"


# ---- its life --------------------------------------------------------------------


def templates_alive(script: str = "main.py") -> list[int]:
    """Processes of ours that run the script and are nobody's run: their end is awaited."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[1:2] == [script.encode()] and _is_below(int(name), os.getpid()):
            found.append(int(name))
    return found


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def test_one_that_dies_is_replaced_and_no_run_is_lost(template: Template) -> None:
    with Executor() as executor:
        before = set(templates_alive())
        for number in range(3):
            output = executor.run(template.plan(f"print({number})"))
            assert output.check().text == f"{number}\n"
            # The template, and the process of the next run, which is there already.
            doomed = sorted(set(templates_alive()) - before)
            assert doomed
            for pid in doomed[: number % 2 + 1]:
                os.kill(pid, signal.SIGKILL)
            executor.run(template.plan("pass")).check()
    assert set(templates_alive()) <= before


def test_it_is_started_anew_after_as_many_requests_as_were_asked_for(tier: str) -> None:
    template = Template(python="/usr/bin/python3", policy=_policy(tier), requests=2)
    if template.why_cold:
        pytest.skip(template.why_cold)
    # Its hash seed is the template's: another one is another interpreter.
    with Executor() as executor:
        seen = [executor.run(template.plan("print(hash('x'))")).text for _ in range(6)]
    assert seen[0] == seen[1] != seen[2] == seen[3] != seen[4] == seen[5]


def test_what_a_preload_left_in_the_workspace_is_no_runs(tier: str, executor: Executor) -> None:
    warmup = "import os; open(os.environ['HOME'] + '/left', 'w'); open(os.getcwd() + '/left', 'w')"
    template = Template(python="/usr/bin/python3", policy=_policy(tier), warmup=warmup)
    look = "import os; print([os.listdir(os.environ[n]) for n in ('HOME', 'TMPDIR')], os.listdir())"
    assert executor.run(template.plan(look)).text == "[[], []] ['main.py']\n"


def _skip_where_none_can_be_had(policy: Policy) -> None:
    if reason := Template(policy=policy).why_cold:
        pytest.skip(reason)


def test_a_module_that_is_not_there_is_named(tier: str, executor: Executor) -> None:
    _skip_where_none_can_be_had(_policy(tier))
    template = Template(["no_such_module"], python="/usr/bin/python3", policy=_policy(tier))
    for _ in range(2):
        with pytest.raises(evalbox.SetupError, match="No module named 'no_such_module'") as caught:
            executor.run(template.plan("pass"))
        assert caught.value.stage == "template"


def test_what_is_no_cpython_is_told(tier: str, executor: Executor) -> None:
    _skip_where_none_can_be_had(_policy(tier))
    plan = Plan(["/bin/cat", "main.py"], files={"main.py": "x"}, policy=_policy(tier), warm=Warm())
    with pytest.raises(evalbox.SetupError) as caught:
        executor.run(plan)
    assert caught.value.stage == "template"


def test_variables_of_the_template_are_those_of_its_runs(tier: str, executor: Executor) -> None:
    template = Template(
        python="/usr/bin/python3", policy=_policy(tier), env={"PYTHONHASHSEED": "7", "A": "1"}
    )
    look = "import os; print(os.environ['A'], os.environ['PYTHONHASHSEED'], hash('x'))"
    plan = template.plan(look)
    cold = replace_warm(plan).to_dict()
    cold["env"] = dict(template.warm.env)
    assert executor.run(plan).text == executor.run(Plan.from_dict(cold)).check().text


# ---- in the loop -----------------------------------------------------------------


def test_warm_and_cold_plans_go_side_by_side(template: Template) -> None:
    cold = Plan(["sh", "-c", "echo cold"], policy=template.policy)
    warm = template.plan("print('warm')")
    with Executor() as executor:
        ids = {executor.spawn(plan): text for plan, text in ((cold, "cold"), (warm, "warm")) * 6}
        while ids:
            for event in executor.poll():
                if isinstance(event, evalbox.Completed):
                    assert event.output.check().text == f"{ids.pop(event.id)}\n"


def test_it_can_be_held_streamed_and_talked_to(template: Template) -> None:
    code = "print(input(), flush=True)\nprint(input())"
    plan = template.plan(code, stdin=evalbox.PIPE, hold=True, stream=True)
    with Executor() as executor:
        run = executor.spawn(plan)
        executor.write_stdin(run, b"one\n")
        assert executor.run(template.plan("print(1)")).text == "1\n"
        executor.release(run)
        seen = b""
        while seen != b"one\n":
            seen += b"".join(e.data for e in executor.poll() if isinstance(e, evalbox.Stdout))
        executor.write_stdin(run, b"two\n")
        assert end_of(executor).text == "one\ntwo\n"


def test_killing_a_run_spares_the_template(template: Template) -> None:
    endless = "import os, time\nif os.fork() == 0:\n  os.setsid()\ntime.sleep(60)"
    with Executor() as executor:
        seeds = set()
        for _ in range(3):
            run = executor.spawn(template.plan(endless))
            executor.poll()
            executor.kill(run)
            assert end_of(executor).status is Status.KILLED
            seeds.add(executor.run(template.plan("print(hash('x'))")).text)
    assert len(seeds) == 1


def test_nothing_is_left_when_the_executor_is_closed(template: Template) -> None:
    before = set(templates_alive())
    with Executor() as executor:
        executor.run(template.plan("pass")).check()
        assert set(templates_alive()) - before
    assert set(templates_alive()) <= before


# ---- values ----------------------------------------------------------------------

WRONG: dict[str, tuple[type[Any], dict[str, Any], str]] = {
    "no name": (Warm, {"preload": ["a b"]}, "no name of a module"),
    "a string": (Warm, {"preload": "json"}, "preload"),
    "no requests": (Warm, {"requests": 0}, "1 or more"),
    "too long": (Warm, {"warmup": "x" * 70000}, "65536"),
    "too long as sent": (Warm, {"warmup": "\x01" * 20000}, "65536"),
    "no policy": (Template, {"policy": 3}, "policy"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_could_never_work_is_refused(name: str) -> None:
    kind, fields, words = WRONG[name]
    with pytest.raises(evalbox.PlanError, match=words):
        kind(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"policy": Policy()}, "policy= is the template's"),
        ({"files": {"main.py": ""}}, "main.py"),
        ({"env": {"PYTHONPATH": "/x"}}, "PYTHONPATH"),
        ({"env": {"LC_ALL": "C"}}, "LC_ALL"),
        ({"read": ["/x"]}, "policy"),
    ],
)
def test_what_a_run_cannot_have_otherwise_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(evalbox.PlanError, match=words):
        Template(["json"]).plan("pass", **fields)


def test_a_plan_with_warm_goes_through_json() -> None:
    plan = Template(["json"], warmup="1", env={"A": "b"}, requests=5).plan("pass", args=["x"])
    assert Plan.from_dict(plan.to_dict()) == plan
    assert Template(["json"]) == Template(["json"]) != Template(["re"])


def test_run_takes_what_evalbox_run_takes(template: Template) -> None:
    output = template.run("import sys; print(sys.stdin.read())", stdin=b"x", timeout=5)
    assert output.check().text == "x\n"
    with pytest.raises(evalbox.ProgramFailed):
        template.run("1 / 0", check=True)


def test_a_policy_for_which_no_run_can_be_warm_says_so(executor: Executor) -> None:
    template = Template(["json"], python="/usr/bin/python3", policy=Policy(on_denied="kill"))
    has_any = evalbox.host().landlock.abi >= 6
    assert ("listener" if has_any else "Landlock ABI") in template.why_cold
    plan = template.plan("import sys; print('json' in sys.modules)")
    assert executor.run(plan).text == "False\n"


# ---- what one run tried against the next ---------------------------------------------


def test_variables_of_a_run_are_nowhere_in_the_memory_of_the_next(
    template: Template, executor: Executor
) -> None:
    secret = "SECRET-" + "s" * 40
    look = f"""
import ctypes, os, sys
at = ctypes.cast(ctypes.CDLL(None).__libc_start_main, ctypes.c_void_p).value & ~4095
read, write = os.pipe()
found = False
needle = {secret[::-1]!r}[::-1].encode()
libc = ctypes.CDLL(None)
for page in range(64):
    if libc.write(write, ctypes.c_void_p(at + page * 4096), 4096) != 4096:
        break
    found = found or needle in os.read(read, 4096)
print(found)
"""
    hiding = template.plan("pass", env={"A": "a" * 3000, "Z": secret})
    with Executor() as fresh:
        fresh.run(hiding).check()
        assert [fresh.run(template.plan(look)).check().text for _ in range(2)] == ["False\n"] * 2


ORPHANS = """
import os, signal, time
def joined():
    for pid in range(os.getpid() - 1, max(1, os.getpid() - 400), -1):
        try:
            os.setpgid(0, pid)
            return True
        except OSError:
            continue
    return False
child = os.fork()
if child == 0:
    os.write(1, b'joined ' if joined() else b'alone ')
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.1)
    os._exit(0)
os.waitpid(child, 0)
time.sleep(0.1)
print('done')
"""


@pytest.mark.parametrize("warm", [True, False])
def test_a_stopped_process_in_an_orphaned_group_ends_nobody_else(
    warm: bool, template: Template
) -> None:
    """The kernel sends SIGHUP to all of that group, whatever Landlock says."""
    with Executor() as executor:
        seed = "print(hash('x'))"
        before = executor.run(template.plan(seed)).text
        plan = template.plan(ORPHANS)
        output = executor.run(plan if warm else replace_warm(plan))
        assert (output.status, output.text.split()[-1]) == (Status.EXITED, "done")
        assert executor.run(template.plan(seed)).text == before


def test_what_a_warmup_leaves_running_does_not_hold_up_its_end(tier: str) -> None:
    warmup = "import subprocess, builtins\nbuiltins.p = subprocess.Popen(['/bin/sleep', '1000'])"
    template = Template(python="/usr/bin/python3", policy=_policy(tier), warmup=warmup, requests=1)
    with Executor() as executor:
        for number in range(3):
            assert executor.run(template.plan(f"print({number})")).text == f"{number}\n"


def test_the_interpreter_of_a_virtual_environment_below_tmp_stays(
    tier: str, tmp_path: Path
) -> None:
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", tmp_path / "v"], check=True)
    tmp_path.chmod(0o755)
    python = str(tmp_path / "v/bin/python")
    template = Template(python=python, policy=_policy(tier))
    with Executor() as executor:
        seen = {executor.run(template.plan("print(hash('x'))")).check().text for _ in range(3)}
    assert len(seen) == 1


def test_a_file_that_is_the_script_of_another_directory_is_kept_or_refused() -> None:
    template = Template(["json"])
    with pytest.raises(evalbox.PlanError, match=r"sub/main\.py"):
        template.plan("pass", cwd="sub", files={"sub/main.py": "x"})
    plan = template.plan("pass", cwd="sub", files={"main.py": "x"})
    assert set(plan.files) == {"main.py", "sub/main.py"}
