"""What each kernel gives: the process tier by its Landlock ABI, the namespace tier in full.

They run on any kernel, `make test-kernels` runs them on Debian's 6.1 and 6.12. What a
report calls weaker than enforced is shown to be weaker: there the act succeeds.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evalbox
import proc
from evalbox import ALL, CORE, Output, Template, UnsupportedError
from evalbox._host import host
from probe import open_directory, python, witness

ABI = host().landlock.abi
# From this ABI on it is enforced without namespaces, before it is what stands there.
OWN_UID_BY_ABI = {"fs_write": (3, "partial"), "tree_kill": (6, "partial")}
USER_BY_ABI = {**OWN_UID_BY_ABI, "signals": (6, "none")}
# Which no ABI brings.
OWN_UID_WEAK = {"fs_metadata": "partial", "proc_view": "partial"}
USER_WEAK = {"fs_metadata": "none", "proc_view": "partial", "processes": "partial"}
WATCHED = {"memory": "partial", "cpu": "partial", "disk": "partial"}
# Controllers of cgroups, and what they count where this caller may make some.
COUNTED = {"memory": "memory", "pids": "processes", "cpu": "cpu"}
# Of the kernel itself: include/uapi/linux/landlock.h of each release.
ABI_SINCE = {(5, 13): 1, (5, 19): 2, (6, 2): 3, (6, 7): 4, (6, 10): 5, (6, 12): 6, (6, 15): 7}
LIMITED = {"cpu_time": 60.0, "wall_time": 60.0}

TRUNCATE = "import os, sys; os.truncate(sys.argv[1], 0)"
SIGNAL = "import os, sys; os.kill(int(sys.argv[1]), 0)"


@pytest.fixture
def file() -> Iterator[Path]:
    """Outside, and everybody's to write."""
    with open_directory() as folder:
        path = folder / "file"
        path.write_text("content")
        path.chmod(0o666)
        yield path


def is_root() -> bool:
    return os.geteuid() == 0


def expected_of_process_tier() -> dict[str, str]:
    by_abi = OWN_UID_BY_ABI if is_root() else USER_BY_ABI
    found = {name: weak for name, (since, weak) in by_abi.items() if since > ABI}
    weak = OWN_UID_WEAK if is_root() else USER_WEAK
    return {**dict.fromkeys(ALL, "enforced"), **WATCHED, **weak, **found, **by_cgroups()}


def by_cgroups() -> dict[str, str]:
    found = host().cgroups
    counted = {COUNTED[name] for name in found.controllers & COUNTED.keys()}
    # Of v2 a cgroup is also killed as a whole (Linux 5.14).
    killed = {"tree_kill"} if "kill" in found.controllers else set()
    return dict.fromkeys(counted | killed, "enforced")


def levels(output: Output) -> dict[str, str]:
    assert output.ok, (output.explain(), output.stderr.decode())
    return {name: item.level for name, item in output.enforcement.items()}


def lacking() -> list[str]:
    expected = expected_of_process_tier()
    return [name for name in sorted(CORE) if expected[name] != "enforced"]


def test_the_kernel_has_at_least_the_abi_of_its_release() -> None:
    numbers = re.match(r"(\d+)\.(\d+)", host().kernel)
    assert numbers is not None
    release = (int(numbers[1]), int(numbers[2]))
    assert max(abi for since, abi in ABI_SINCE.items() if since <= release) <= ABI


# ---- the process tier ------------------------------------------------------------------


def test_the_process_tier_reports_what_the_abi_gives() -> None:
    output = evalbox.run(["true"], isolation="process", require=(), **LIMITED)
    assert levels(output) == expected_of_process_tier()


def test_the_process_tier_starts_nothing_where_the_abi_does_not_give_the_core() -> None:
    if not lacking():
        output = evalbox.run(["true"], isolation="process")
        assert {levels(output)[name] for name in CORE} == {"enforced"}
        return
    with pytest.raises(UnsupportedError, match=f"cannot enforce {lacking()[0]}: ") as caught:
        evalbox.run(["true"], isolation="process")
    assert "before" in caught.value.reason
    assert re.search(r"Linux 6\.\d+ or newer", caught.value.remedy)


def test_the_process_tier_names_each_property_that_the_abi_does_not_give() -> None:
    for name in sorted(ALL):
        required = {"isolation": "process", "require": {name}, **LIMITED}
        if expected_of_process_tier()[name] == "enforced":
            assert evalbox.run(["true"], **required).ok
            continue
        with pytest.raises(UnsupportedError) as caught:
            evalbox.run(["true"], **required)
        assert caught.value.property == name
        assert caught.value.reason
        assert caught.value.remedy


def test_asking_for_less_is_the_way_down() -> None:
    output = evalbox.run(["true"], isolation="process", require=CORE - set(lacking()))
    assert {name for name in CORE if levels(output)[name] != "enforced"} == set(lacking())


def test_a_file_outside_is_truncated_only_where_that_is_said(file: Path) -> None:
    output = python(TRUNCATE, str(file), isolation="process", require=())
    is_held = output.enforcement["fs_write"].level == "enforced"
    assert file.read_text() == ("content" if is_held else "")
    assert (b"PermissionError" in output.stderr) == is_held
    # Without a sandbox it can be.
    subprocess.run([sys.executable, "-c", TRUNCATE, file], check=True)
    assert file.read_text() == ""


def test_a_process_outside_is_signalled_only_where_that_is_said() -> None:
    with witness() as target:
        output = python(SIGNAL, str(target.pid), isolation="process", require=())
        subprocess.run([sys.executable, "-c", SIGNAL, str(target.pid)], check=True)
    is_held = output.enforcement["signals"].level == "enforced"
    assert (output.exit_code != 0) == is_held, output.stderr.decode()


def test_templates_are_there_from_the_abi_on_that_keeps_runs_from_signalling_them() -> None:
    template = Template(["json"], python="/usr/bin/python3")
    loaded = template.plan("import sys; print('json' in sys.modules)")
    assert evalbox.Executor.run(loaded).text == f"{ABI >= 6}\n"
    if ABI < 6:
        assert f"Landlock ABI {ABI} " in template.why_cold
    else:
        assert template.why_cold == ""


# ---- the namespace tier ----------------------------------------------------------------


def test_the_namespace_tier_gives_on_every_kernel_what_the_abi_does_not() -> None:
    output = evalbox.run(["true"], isolation="namespace", require=(), **LIMITED)
    weak = {name for name, level in levels(output).items() if level != "enforced"}
    assert weak == {"memory", "cpu"} - by_cgroups().keys()
    output = evalbox.run(["true"], isolation="namespace", require=ALL - weak)
    assert output.ok


def test_the_default_is_the_namespace_tier_and_has_the_core() -> None:
    output = evalbox.run(["true"])
    assert {levels(output)[name] for name in CORE} == {"enforced"}
    assert "namespace" in output.enforcement["tree_kill"].mechanism


def test_with_namespaces_a_file_outside_is_not_truncated(file: Path) -> None:
    output = python(TRUNCATE, str(file), isolation="namespace")
    assert output.exit_code == 1
    assert b"FileNotFoundError" in output.stderr
    assert file.read_text() == "content"


def test_with_namespaces_a_file_that_may_be_read_is_not_truncated(file: Path) -> None:
    output = python(TRUNCATE, str(file), isolation="namespace", read=[file])
    assert output.exit_code == 1
    assert file.read_text() == "content"
    python(TRUNCATE, str(file), isolation="namespace", write=[file]).check()
    assert file.read_text() == ""


def test_with_namespaces_no_process_outside_can_be_signalled() -> None:
    with witness() as target:
        output = python(SIGNAL, str(target.pid), isolation="namespace")
    assert b"ProcessLookupError" in output.stderr


def test_with_namespaces_whoever_leaves_every_group_dies_with_the_run() -> None:
    mark = proc.mark()
    script = f"setsid sleep {mark} & exec sleep {mark}"
    output = evalbox.run(["sh", "-c", script], isolation="namespace", wall_time=1.0)
    assert output.status is evalbox.Status.WALL_TIME
    assert proc.marked(mark) == []
