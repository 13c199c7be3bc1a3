"""Untrusted content never chooses what a run may read.

Content is what a plan's files hold, and what earlier runs left in the directories
that the policy makes writable. Every attack has a control: the same thing named by
the author of the plan or of the policy, which is granted.
"""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import evalbox
from evalbox import resolve as resolving
from evalbox.compile import identity as identities
from evalbox.compile import paths
from evalbox.compile.identity import Caller, identity_for
from evalbox.compile.paths import CHANGE, READ, RUN, path_rules
from evalbox.errors import CommandNotFound, PlanError, SetupError
from evalbox.plan import File, Plan
from evalbox.policy import Policy
from evalbox.resolve import BASE_PATH, Program, resolve

SH = os.path.realpath("/bin/sh")
NOTHING = Program("./x", in_workspace=True, grants=())


@pytest.fixture(autouse=True)
def _nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    resolving._known.clear()
    yield
    resolving._known.clear()


def program(path: Path, content: str | bytes = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def file(path: Path, content: str = "secret") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def elf(loader: str | Path) -> bytes:
    """A 64-bit ELF header with one PT_INTERP entry."""
    name = os.fsencode(loader) + b"\0"
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(name), len(name), 1)
    return head.ljust(120, b"\0") + name


def of_file(content: str | bytes, path: str = BASE_PATH, **fields: object) -> Program:
    """The program of a plan whose own file ./run is what is started."""
    files = {"run": File(content, executable=True), **fields.pop("files", {})}  # type: ignore[dict-item]
    env = {"PATH": path}
    return resolve(Plan(["./run"], env=env, files=files, **fields))  # type: ignore[arg-type]


def of_host(cmd: str | Path, path: str = BASE_PATH, **fields: object) -> Program:
    return resolve(Plan([cmd], env={"PATH": path}, **fields))  # type: ignore[arg-type]


def rules(policy: Policy, found: Program = NOTHING) -> dict[str, paths.Access]:
    return {rule.path: rule.access for rule in path_rules(policy, found)}


# ---- what a plan's file names --------------------------------------------------------


def test_the_interpreter_that_a_plans_file_names_is_not_granted(tmp_path: Path) -> None:
    tool = program(tmp_path / "opt" / "bin" / "tool")
    file(tmp_path / "opt" / "lib" / "secret")
    with pytest.raises(SetupError) as caught:
        of_file(f"#!{tool}\n")
    assert (caught.value.stage, caught.value.errno) == ("execve", errno.EACCES)
    for part in (str(tool), "./run", f"read=[{str(tool)!r}]"):
        assert part in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    # Control: the author names it, and its libraries are granted as ever.
    assert {str(tool), str(tmp_path / "opt" / "lib")} <= set(of_host(tool).grants)


@pytest.mark.parametrize("field", ["read", "write"])
def test_an_interpreter_that_the_policy_covers_brings_nothing_else(
    tmp_path: Path, field: str
) -> None:
    tool = program(tmp_path / "opt" / "bin" / "tool")
    file(tmp_path / "opt" / "lib" / "secret")
    policy = Policy(**{field: [tool.parent]})  # type: ignore[arg-type]
    assert of_file(f"#!{tool}\n", policy=policy).grants == ()


def test_an_interpreter_of_the_system_is_covered_only_by_the_system(tmp_path: Path) -> None:
    assert of_file("#!/bin/sh\n").grants == ()
    with pytest.raises(SetupError, match="read="):
        of_file("#!/bin/sh\n", policy=Policy(system=False))
    bare = Policy(system=False, read=[SH, *_libraries_of_sh()])
    assert of_file("#!/bin/sh\n", policy=bare).grants == ()


def _libraries_of_sh() -> list[str]:
    return list(of_host("/bin/sh").grants)


def test_a_link_of_the_system_that_leads_out_of_it_is_judged_by_its_end(tmp_path: Path) -> None:
    tool = program(tmp_path / "opt" / "tool")
    link = tmp_path / "covered" / "tool"
    link.parent.mkdir()
    link.symlink_to(tool)
    policy = Policy(read=[link.parent])
    with pytest.raises(SetupError, match=str(tool)):
        of_file(f"#!{link}\n", policy=policy)
    both = Policy(read=[link.parent, tool])
    assert of_file(f"#!{link}\n", policy=both).grants == ()


def test_what_a_covered_script_names_for_a_plans_file_must_be_covered_too(tmp_path: Path) -> None:
    inner = program(tmp_path / "inner" / "tool")
    outer = program(tmp_path / "outer" / "tool", f"#!{inner}\n")
    with pytest.raises(SetupError, match=str(inner)):
        of_file(f"#!{outer}\n", policy=Policy(read=[outer]))
    assert of_file(f"#!{outer}\n", policy=Policy(read=[outer, inner])).grants == ()
    assert str(inner) in of_host(outer).grants


@pytest.mark.parametrize("named", ["", "folder", "folder/secret"])
def test_the_loader_that_a_plans_file_names_is_not_granted(tmp_path: Path, named: str) -> None:
    file(tmp_path / "folder" / "secret")
    loader = tmp_path / named if named else Path("/")
    with pytest.raises(SetupError) as caught:
        of_file(elf(loader))
    assert caught.value.errno == errno.EACCES
    for part in (str(loader), "./run", "read="):
        assert part in str(caught.value)


def test_a_loader_that_the_policy_covers_brings_nothing_else(tmp_path: Path) -> None:
    loader = program(tmp_path / "libc" / "lib" / "ld.so")
    assert of_file(elf(loader), policy=Policy(read=[loader])).grants == ()
    assert of_file(elf("/no/such/loader")).grants == ()
    assert of_file(Path(SH).read_bytes()).grants == ()
    # Control: a program of the host may bring a private C library.
    assert str(loader.parent) in of_host(program(tmp_path / "tool", elf(loader))).grants


@pytest.mark.parametrize("named", ["/", "folder", "plain", "fifo"])
def test_a_loader_is_an_executable_file_for_a_program_of_the_host_too(
    tmp_path: Path, named: str
) -> None:
    file(tmp_path / "plain").chmod(0o644)
    file(tmp_path / "folder" / "secret")
    os.mkfifo(tmp_path / "fifo", 0o777)
    tool = program(tmp_path / "tool", elf(tmp_path / named))
    assert of_host(tool).grants == (str(tool),)


@pytest.mark.parametrize(
    "line", ["/usr/bin/env {}", "/usr/bin/env -S {} -x", "/usr/bin/env -S -- {}"]
)
def test_what_env_starts_for_a_plans_file_must_be_covered(tmp_path: Path, line: str) -> None:
    tool = program(tmp_path / "opt" / "bin" / "tool")
    with pytest.raises(SetupError, match=str(tool)):
        of_file(f"#!{line.format(tool)}\n")
    assert of_file(f"#!{line.format(tool)}\n", policy=Policy(read=[tool])).grants == ()
    # Control: a name that is found in the PATH that the author wrote.
    assert str(tool) in of_file(f"#!{line.format('tool')}\n", str(tool.parent)).grants


def test_what_env_starts_by_a_relative_name_is_a_file_of_the_plan(tmp_path: Path) -> None:
    tool = program(tmp_path / "opt" / "tool")
    inner = {"bin/inner": File(f"#!{tool}\n", executable=True)}
    for line, path in (("bin/inner", BASE_PATH), ("inner", "bin")):
        with pytest.raises(SetupError, match=str(tool)):
            of_file(f"#!/usr/bin/env {line}\n", path, files=inner)
    plain = {"bin/inner": File("#!/bin/sh\n", executable=True)}
    assert of_file("#!/usr/bin/env bin/inner\n", files=plain).grants == ()


@pytest.mark.parametrize(
    "options", ["-C {0}", "--chdir {0}", "-u", "--unset=X", "-uX", "-a x", "PATH=/x"]
)
def test_what_is_not_read_as_env_reads_it_grants_nothing(tmp_path: Path, options: str) -> None:
    tool = program(tmp_path / "bin" / "tool")
    line = f"#!/usr/bin/env -S {options.format(tmp_path)} tool\n"
    assert of_file(line, str(tool.parent)).grants == ()
    understood = "#!/usr/bin/env -S -i -u X A=1 tool\n"
    assert str(tool) in of_file(understood, str(tool.parent)).grants


def test_a_line_ends_at_its_nul(tmp_path: Path) -> None:
    tool = program(tmp_path / "bin" / "tool")
    assert of_file("#!/bin/sh\0x\n").grants == ()
    with pytest.raises(SetupError, match=str(tool)):
        of_file(f"#!{tool}\0x\n")
    assert str(tool) in of_file("#!/usr/bin/env tool\0x\n", str(tool.parent)).grants


def test_a_plans_file_does_not_choose_who_a_run_is() -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o755)
        tool = program(folder / "closed" / "tool")
        tool.parent.chmod(0o750)
        mine = Caller(0, 0, frozenset({os.getgid()}), own_uids=True)
        with pytest.raises(SetupError):
            of_file(f"#!{tool}\n")
        found = of_file("#!/bin/sh\n")
        assert identity_for(Policy(), found, mine, "process").kind == "own"
        # Control: in a directory of the author's PATH it does count.
        chosen = of_file("#!/usr/bin/env tool\n", str(tool.parent))
        assert identity_for(Policy(), chosen, mine, "process").kind == "caller"
    finally:
        shutil.rmtree(folder)


def test_a_run_does_not_start_with_an_interpreter_that_its_file_chose(tmp_path: Path) -> None:
    secret = file(tmp_path / "opt" / "lib" / "secret")
    tool = program(tmp_path / "opt" / "bin" / "tool", f"#!/bin/sh\ncat {secret}\n")
    files = {"run": File(f"#!{tool}\n", executable=True)}
    with pytest.raises(SetupError, match="file of the plan"):
        evalbox.run(["./run"], files=files)
    assert evalbox.run([tool]).stdout == b"secret"
    plain = {"run": File("#!/bin/sh\necho works\n", executable=True)}
    assert evalbox.run(["./run"], files=plain).stdout == b"works\n"


# ---- pyenv ---------------------------------------------------------------------------


@pytest.fixture
def pyenv(tmp_path: Path) -> Path:
    root = tmp_path / "pyenv"
    program(root / "versions" / "3.9.2" / "bin" / "python3")
    program(root / "shims" / "python3", f'exec "{root}/libexec/pyenv" exec "$program" "$@"\n')
    return root


@pytest.mark.parametrize("version", ["../../evil", "/evil", "..", ".", "3.9.2/../../../evil", "\0"])
def test_a_version_is_one_plain_name(pyenv: Path, tmp_path: Path, version: str) -> None:
    for place in (tmp_path / "evil", pyenv, pyenv / "versions"):
        program(place / "bin" / "python3")
    shims = str(pyenv / "shims")
    with pytest.raises(CommandNotFound, match="no name of a version"):
        of_host("python3", shims, files={".python-version": version})
    found = of_host("python3", shims, files={".python-version": "3.9.2"})
    assert found.executable == f"{pyenv}/versions/3.9.2/bin/python3"


def test_a_fifo_in_place_of_a_file_is_not_waited_for(pyenv: Path, tmp_path: Path) -> None:
    os.mkfifo(pyenv / "version", 0o666)
    os.mkfifo(pyenv / "shims" / "other", 0o777)
    done: list[object] = []

    def look() -> None:
        done.append(resolving.pyenv.versions_in(resolving.pyenv._read(str(pyenv / "version"))))
        done.append(resolving.pyenv.is_shim(str(pyenv / "shims" / "other")))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(10)
    assert done == ["", False]
    (pyenv / "version").unlink()
    file(pyenv / "version", "3.9.2")
    assert resolving.pyenv._read(str(pyenv / "version")) == b"3.9.2"


# ---- what is kept --------------------------------------------------------------------


def test_one_plans_files_do_not_decide_anothers_grants(tmp_path: Path) -> None:
    tool = program(tmp_path / "bin" / "tool")
    path = str(tool.parent)
    outer = "#!/usr/bin/env ./inner\n"
    evil = {"inner": File("#!/usr/bin/env tool\n", executable=True)}
    plain = {"inner": File("#!/bin/sh\n", executable=True)}
    assert str(tool) in of_file(outer, path, files=evil).grants
    assert of_file(outer, path, files=plain).grants == ()
    assert str(tool) in of_file(outer, path, files=evil).grants


@pytest.mark.parametrize("line", ["#!inner\n", "#!/usr/bin/env ./inner\n"])
def test_a_hosts_script_that_leads_to_the_plan_is_not_kept(tmp_path: Path, line: str) -> None:
    tool = program(tmp_path / "bin" / "tool")
    script = program(tmp_path / "script", line)
    evil = {"inner": File("#!/usr/bin/env tool\n", executable=True)}
    plain = {"inner": File("#!/bin/sh\n", executable=True)}
    path = str(tool.parent)
    assert str(tool) in of_host(script, path, files=evil).grants
    assert str(tool) not in of_host(script, path, files=plain).grants
    assert resolving._known == {}
    # Control: what only the host decides is kept.
    of_host(program(tmp_path / "plain"))
    assert len(resolving._known) == 1


def test_what_is_kept_for_one_policy_is_not_used_for_one_that_may_write(tmp_path: Path) -> None:
    tool = program(tmp_path / "opt" / "tool")
    script = program(tmp_path / "proj" / "script", f"#!{tool}\n")
    assert str(tool) in of_host(script).grants
    with pytest.raises(PlanError, match=str(tool)):
        of_host(script, policy=Policy(write=[script.parent]))


# ---- what earlier runs left ----------------------------------------------------------


@pytest.fixture
def proj(tmp_path: Path) -> Path:
    file(tmp_path / "secret" / "key")
    (tmp_path / "proj" / "data").mkdir(parents=True)
    return tmp_path / "proj"


def swap(path: Path, target: Path) -> None:
    """What a run may do in a directory that it may write."""
    path.rename(path.with_name("moved"))
    path.symlink_to(target)


@pytest.mark.parametrize("field", ["read", "write"])
def test_a_grant_below_a_writable_directory_that_becomes_a_link_is_refused(
    proj: Path, field: str
) -> None:
    grants = {"read": [], "write": [proj]}
    grants[field] = [*grants[field], proj / "data"]
    policy = Policy(system=False, **grants)  # type: ignore[arg-type]
    assert rules(policy) == {str(proj): CHANGE}
    swap(proj / "data", proj.parent / "secret")
    with pytest.raises(PlanError) as caught:
        rules(policy)
    for path in (f"{field}={proj}/data", f"write={proj}", f"{proj.parent}/secret"):
        assert path in str(caught.value)
    # Control: the same link is followed where no run could have made it.
    assert f"{proj.parent}/secret" in rules(Policy(read=[proj / "data"]))


@pytest.mark.parametrize("way", ["proj/data/../../secret", "link", "proj/data/key"])
def test_every_step_of_a_grant_counts(proj: Path, tmp_path: Path, way: str) -> None:
    (tmp_path / "link").symlink_to("proj/data")
    swap(proj / "data", tmp_path / "secret")
    (tmp_path / "secret" / "secret").mkdir()
    (tmp_path / "top").symlink_to("proj")
    path = f"{tmp_path}/{way}".replace("../../secret", "../secret/secret")
    for writable in ("proj", "top"):
        with pytest.raises(PlanError, match="read="):
            rules(Policy(read=[path], write=[tmp_path / writable]))
    assert rules(Policy(read=[path]))


def test_two_writable_directories_do_not_excuse_each_other(proj: Path, tmp_path: Path) -> None:
    (proj / "other").symlink_to(tmp_path / "secret")
    with pytest.raises(PlanError):
        rules(Policy(write=[proj, proj / "other"]))
    (proj / "inside").symlink_to("data")
    policy = Policy(write=[proj, proj / "inside"], system=False)
    assert rules(policy) == {str(proj): CHANGE}


def test_a_path_of_the_system_that_a_run_may_swap_is_refused(
    proj: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "SYSTEM", ((f"{proj}/data", READ),))
    policy = Policy(write=[proj])
    assert rules(policy) == {str(proj): CHANGE}
    swap(proj / "data", tmp_path / "secret")
    with pytest.raises(PlanError, match=r"put .*secret' into read="):
        rules(policy)
    assert rules(Policy(write=[proj], read=[tmp_path / "secret"]))[f"{tmp_path}/secret"] == RUN
    assert rules(Policy()) == {f"{tmp_path}/secret": READ}


def test_two_runs_of_one_policy_do_not_read_what_the_first_linked(tmp_path: Path) -> None:
    file(tmp_path / "secret" / "key")
    (tmp_path / "proj" / "data").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "proj", tmp_path / "proj" / "data"):
        folder.chmod(0o777)
    policy = Policy(read=[tmp_path / "proj" / "data"], write=[tmp_path / "proj"])
    attack = f"cd {tmp_path}/proj && mv data old && ln -s {tmp_path}/secret data && echo done"
    assert evalbox.run(["sh", "-c", attack], policy=policy).stdout == b"done\n"
    with pytest.raises(PlanError, match="where a run may change its way"):
        evalbox.run(["cat", tmp_path / "proj" / "data" / "key"], policy=policy)
    plain = Policy(read=[tmp_path / "proj" / "data"])
    assert evalbox.run(["cat", tmp_path / "secret" / "key"], policy=plain).stdout == b"secret"


# ---- a program in a writable directory -------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "script", "loader", "file"])
def test_what_a_changeable_program_leads_to_is_not_granted(
    proj: Path, tmp_path: Path, kind: str
) -> None:
    target = program(tmp_path / "opt" / "bin" / "target")
    tool, writable = proj / "tool", proj
    if kind == "link":
        tool.symlink_to(target)
    else:
        program(tool, elf(target) if kind == "loader" else f"#!{target}\n")
    if kind == "file":
        writable = tool
    with pytest.raises(PlanError) as caught:
        of_host(tool, policy=Policy(write=[writable]))
    for part in (str(tool), f"write={writable}", f"put {str(target)!r} into read="):
        assert part in str(caught.value)
    policy = Policy(write=[writable], read=[tmp_path / "opt"])
    assert of_host(tool, policy=policy).grants == ()
    assert {str(target), str(target.parent)} & set(of_host(tool).grants)


def test_a_program_reached_through_a_writable_directory_counts(proj: Path, tmp_path: Path) -> None:
    target = program(tmp_path / "opt" / "target")
    (proj / "hop").symlink_to(target)
    (tmp_path / "tool").symlink_to("proj/hop")
    with pytest.raises(PlanError, match=str(target)):
        of_host(tmp_path / "tool", policy=Policy(write=[proj]))
    # Neither does a grant help that a run may itself have moved there.
    swap(proj / "data", target.parent)
    with pytest.raises(PlanError):
        of_host(tmp_path / "tool", policy=Policy(write=[proj], read=[proj / "data"]))
    assert str(target) in of_host(tmp_path / "tool").grants


@pytest.fixture
def base(tmp_path: Path) -> Path:
    prefix = tmp_path / "pythons" / "3.9"
    program(prefix / "bin" / "python3.9")
    file(prefix / "lib" / "python3.9" / "os.py")
    return prefix


def make_venv(place: Path, python: Path) -> Path:
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(python)
    file(place / "lib" / "python3.9" / "site-packages" / "x.py")
    file(place / "pyvenv.cfg", f"home = {python.parent}\n")
    return place / "bin" / "python"


def test_a_venv_in_a_writable_directory_brings_its_base_only_if_covered(
    proj: Path, base: Path
) -> None:
    python = make_venv(proj / ".venv", base / "bin" / "python3.9")
    with pytest.raises(PlanError, match="into read="):
        of_host(python, policy=Policy(write=[proj]))
    assert of_host(python, policy=Policy(write=[proj], read=[base])).grants == ()
    assert str(base / "bin" / "python3.9") in of_host(python).grants


def test_a_configuration_that_a_run_may_write_does_not_choose_the_base(
    tmp_path: Path, base: Path
) -> None:
    python = make_venv(tmp_path / "venv", Path(SH))
    configuration = tmp_path / "venv" / "pyvenv.cfg"
    file(configuration, f"home = {base}/bin\n")
    with pytest.raises(PlanError, match=r"pythons/3\.9|venv"):
        of_host(python, policy=Policy(write=[configuration]))
    assert str(base / "lib" / "python3.9") in of_host(python).grants


def test_a_base_that_is_reached_through_a_writable_directory_is_not_granted(
    proj: Path, tmp_path: Path, base: Path
) -> None:
    python = make_venv(tmp_path / "venv", Path(SH))
    swap(proj / "data", base)
    file(tmp_path / "venv" / "pyvenv.cfg", f"home = {proj}/data/bin\n")
    with pytest.raises(PlanError, match=str(base)):
        of_host(python, policy=Policy(write=[proj]))
    assert str(base / "lib" / "python3.9") in of_host(python).grants


def test_a_library_that_a_run_may_swap_is_not_granted(tmp_path: Path, base: Path) -> None:
    other = file(base / "private" / "os.py").parent
    library = base / "lib"
    shutil.rmtree(library / "python3.9")
    (library / "python3.9").symlink_to(other)
    (library / "python3.8").mkdir()
    python = base / "bin" / "python3.9"
    assert str(other) in of_host(python).grants
    with pytest.raises(PlanError, match=str(other)):
        of_host(python, policy=Policy(write=[library]))


def test_a_venv_whose_base_is_in_the_system_works_where_it_may_write(proj: Path) -> None:
    python = make_venv(proj / ".venv", Path("/usr/bin/env"))
    policy = Policy(write=[proj])
    assert of_host(python, policy=policy).grants == ()
    script = program(proj / "script", f"#!{python}\n")
    assert of_host(script, policy=policy).grants == ()


def test_a_program_in_a_directory_that_it_may_write_runs(tmp_path: Path) -> None:
    tool = program(tmp_path / "tool", f"#!/bin/sh\necho x > {tmp_path}/made && echo works\n")
    tmp_path.chmod(0o777)
    assert evalbox.run([tool], write=[tmp_path]).stdout == b"works\n"


# ---- a tree that changes while it is looked at -------------------------------------------


@pytest.mark.parametrize("becomes", ["nothing", "file", "loop"])
def test_a_tree_that_changes_meanwhile_is_passed_over(
    proj: Path, monkeypatch: pytest.MonkeyPatch, becomes: str
) -> None:
    (proj / "data" / "below").mkdir()
    listing = os.scandir

    def then_gone(path: str) -> object:
        found = listing(path)
        if path == str(proj) and (proj / "data" / "below").is_dir():
            shutil.rmtree(proj / "data")
            if becomes == "file":
                (proj / "data").write_text("")
            elif becomes == "loop":
                (proj / "data").symlink_to("data")
        return found

    monkeypatch.setattr(os, "scandir", then_gone)
    closed = identities._closed_below(str(proj), 4)
    assert closed in ("", str(proj / "data"))
    root = identities._Who(os.geteuid(), frozenset())
    assert identities._closed(f"{proj}/data/below/x", 4, root, root) in ("", str(proj / "data"))


def test_what_stays_is_still_looked_at(proj: Path) -> None:
    file(proj / "data" / "closed").chmod(0o600)
    assert identities._closed_below(str(proj), 4) == str(proj / "data" / "closed")
