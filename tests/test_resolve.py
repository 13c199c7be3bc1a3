"""Programs found as the plan sees them, and how little of the host they are given."""

from __future__ import annotations

import errno
import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalbox import resolve as resolving
from evalbox.errors import CommandNotFound, SetupError
from evalbox.plan import File, Plan
from evalbox.resolve import BASE_PATH, Program, base_environment, resolve
from evalbox.resolve.needs import _loader, _program_of_env

SH = os.path.realpath("/bin/sh")


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    resolving._known.clear()
    yield
    resolving._known.clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def program(path: Path, content: str | bytes = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def of(cmd: str | Path, path: str = BASE_PATH, **fields: object) -> Program:
    return resolve(Plan([cmd], env={"PATH": path}, **fields))  # type: ignore[arg-type]


# ---- looking up ----------------------------------------------------------------------


def test_a_name_is_looked_up_in_the_plans_own_path(tmp_path: Path) -> None:
    first = program(tmp_path / "first" / "tool")
    second = program(tmp_path / "second" / "tool")
    assert of("tool", f"{first.parent}:{second.parent}").executable == str(first)
    assert of("tool", f"{second.parent}:{first.parent}").executable == str(second)


def test_without_a_path_of_its_own_the_plan_has_the_base_path() -> None:
    assert resolve(Plan(["sh"])).executable in {f"{entry}/sh" for entry in BASE_PATH.split(":")}


def test_the_path_of_the_host_is_not_searched_but_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = program(tmp_path / "bin" / "only-here")
    monkeypatch.setenv("PATH", str(tool.parent))
    with pytest.raises(CommandNotFound, match=f"the host has it as {tool}"):
        of("only-here")


def test_what_is_not_found_says_where_it_was_looked_for() -> None:
    with pytest.raises(CommandNotFound) as caught:
        of("no-such-program", "/usr/bin:/nowhere")
    assert str(caught.value) == (
        "no-such-program: not found in the plan's PATH (/usr/bin:/nowhere)"
    )


def test_a_missing_absolute_path_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(CommandNotFound, match="no such file"):
        of(tmp_path / "missing")
    with pytest.raises(CommandNotFound, match="no such file"):
        of(program(tmp_path / "file") / "below-a-file")


def test_a_dangling_link_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(CommandNotFound):
        of(tmp_path / "link")


def test_a_directory_cannot_be_executed(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is a directory") as caught:
        of(tmp_path)
    assert (caught.value.stage, caught.value.errno) == ("execve", errno.EACCES)


def test_a_file_without_the_bit_cannot_be_executed(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="chmod") as caught:
        of(program(tmp_path / "tool", mode=0o644))
    assert (caught.value.stage, caught.value.errno) == ("execve", errno.EACCES)


def test_a_fifo_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o777)
    with pytest.raises(SetupError):
        of(tmp_path / "fifo")


def test_a_loop_of_links_is_an_error_of_execve(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SetupError) as caught:
        of(tmp_path / "loop")
    assert caught.value.errno == errno.ELOOP


def test_the_search_goes_on_past_what_cannot_be_executed(tmp_path: Path) -> None:
    refused = program(tmp_path / "first" / "tool", mode=0o644)
    (tmp_path / "second" / "tool").mkdir(parents=True)
    good = program(tmp_path / "third" / "tool")
    folders = [str(refused.parent), str(tmp_path / "second")]
    assert of("tool", ":".join([*folders, str(good.parent)])).executable == str(good)
    with pytest.raises(SetupError, match=str(refused)):
        of("tool", ":".join(folders))


def test_executable_is_what_is_looked_up_when_it_is_given() -> None:
    assert resolve(Plan(["-name-", "x"], executable="sh")).executable.endswith("/sh")


def test_a_name_that_is_no_text_is_found_too(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff"
    program(Path(os.fsdecode(name)))
    assert os.fsencode(resolve(Plan([name])).executable) == name


# ---- the plan's own files --------------------------------------------------------------

SCRIPT = File("#!/bin/sh\n", executable=True)


def test_a_name_with_a_slash_may_be_one_of_the_files() -> None:
    found = of("./run", files={"run": SCRIPT})
    assert (found.executable, found.in_workspace, found.grants) == ("./run", True, ())


def test_a_name_with_a_slash_is_relative_to_cwd() -> None:
    files = {"sub/run": SCRIPT, "top": SCRIPT}
    assert of("./run", files=files, cwd="sub").executable == "./run"
    assert of("../top", files=files, cwd="sub").executable == "../top"
    with pytest.raises(CommandNotFound, match="not among the plan's files"):
        of("./top", files=files, cwd="sub")


def test_a_relative_name_never_leaves_the_workspace() -> None:
    for name in ("../bin/sh", "../../../../bin/sh", "a/../../bin/sh"):
        with pytest.raises(CommandNotFound):
            of(name)


def test_the_files_are_searched_where_path_says_so() -> None:
    files = {"bin/run": SCRIPT, "run": SCRIPT}
    assert of("run", "bin", files=files).executable == "bin/run"
    assert of("run", "/nowhere:", files=files).executable == "./run"
    with pytest.raises(CommandNotFound):
        of("run", "/nowhere", files=files)


def test_a_file_of_the_plan_that_is_not_executable_says_how_to_make_it_so() -> None:
    with pytest.raises(SetupError, match=r"File\(content, executable=True\)") as caught:
        of("./run", files={"run": "#!/bin/sh\n"})
    assert (caught.value.stage, caught.value.errno) == ("execve", errno.EACCES)


def test_a_directory_of_the_workspace_cannot_be_executed() -> None:
    with pytest.raises(SetupError, match="directory"):
        of("./bin", files={"bin/run": SCRIPT})


# ---- interpreters ----------------------------------------------------------------------


def test_the_interpreter_of_a_script_is_granted(tmp_path: Path) -> None:
    script = program(tmp_path / "script")
    assert set(of(script).grants) >= {str(script), SH}


def test_interpreters_that_are_scripts_are_followed(tmp_path: Path) -> None:
    inner = program(tmp_path / "inner", "#! /bin/sh -e\n")
    middle = program(tmp_path / "middle", f"#!{inner} x\n")
    outer = program(tmp_path / "outer", f"#!\t{middle}\n")
    assert set(of(outer).grants) >= {str(outer), str(middle), str(inner), SH}


def test_a_missing_interpreter_is_named_with_its_script(tmp_path: Path) -> None:
    script = program(tmp_path / "script", "#!/no/such/interpreter\n")
    with pytest.raises(CommandNotFound) as caught:
        of(script)
    assert str(caught.value).startswith("/no/such/interpreter: named by the #! line of ")


def test_a_script_that_interprets_itself_ends(tmp_path: Path) -> None:
    script = tmp_path / "script"
    program(script, f"#!{script}\n")
    with pytest.raises(SetupError) as caught:
        of(script)
    assert caught.value.errno == errno.ELOOP


def test_env_looks_its_program_up_in_the_plans_path(tmp_path: Path) -> None:
    tool = program(tmp_path / "bin" / "tool")
    script = program(tmp_path / "script", "#!/usr/bin/env tool\n")
    path = f"{tool.parent}:{BASE_PATH}"
    assert str(tool) in of(script, path).grants
    assert str(tool) not in of(script).grants
    # The same for a script that only the plan has, with its interpreter beside it.
    found = of("./run", path, files={"run": File("#!/usr/bin/env tool\n", executable=True)})
    assert str(tool) in found.grants


def test_env_that_names_its_own_script_ends(tmp_path: Path) -> None:
    script = program(tmp_path / "bin" / "tool", "#!/usr/bin/env tool\n")
    assert str(script) in of("tool", f"{script.parent}:{BASE_PATH}").grants


def test_what_env_cannot_find_is_left_to_env(tmp_path: Path) -> None:
    script = program(tmp_path / "script", "#!/usr/bin/env no-such-tool\n")
    assert str(script) in of(script).grants


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("python3", "python3"),
        ("python3 -u", "python3 -u"),
        ("-S python3 -u", "python3"),
        ("-Spython3", "python3"),
        ("-S -i A=1 python3", "python3"),
        ("-S 'unbalanced", ""),
        ("-vS python3", "python3"),
        ("-S -u HOME python3", "python3"),
        ("-S --ignore-environment -v -- A=1 python3", "python3"),
        ("-S - A=1 python3", "python3"),
        ("-S 'my tool' x", "my tool"),
        ("-i", ""),
        ("", ""),
        ("A=1", ""),
        # Not understood, so nothing is granted for it.
        ("-S -u HOME", ""),
        ("-S -uHOME python3", ""),
        ("-S --unset=HOME python3", ""),
        ("-S --unset HOME python3", ""),
        ("-S -C /tmp python3", ""),
        ("-S --chdir /tmp python3", ""),
        ("-S --chdir=/tmp python3", ""),
        ("-S PATH=/x python3", ""),
        ("-S -u PATH python3", ""),
        ("-S ${NAME}", ""),
        (r"-S python3\_x", ""),
        ("-S #python3", ""),
        ("--split-string=python3", ""),
    ],
)
def test_env_arguments_are_read_as_env_reads_them(argument: str, expected: str) -> None:
    assert _program_of_env(argument) == expected


def elf(loader: bytes, *, at: int = 120) -> bytes:
    """A 64-bit ELF header with one PT_INTERP entry."""
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 3, 4, at, 0, 0, len(loader), len(loader), 1)
    return head.ljust(at, b"\0") + loader


def test_the_loader_of_an_elf_program_is_granted(tmp_path: Path, home: Path) -> None:
    loader = program(tmp_path / "libc" / "lib" / "ld.so")
    tool = program(tmp_path / "opt" / "bin" / "tool", elf(os.fsencode(loader) + b"\0"))
    # A private C library: what the loader loads stands beside it.
    assert str(loader.parent) in of(tool).grants


def test_the_loader_of_the_system_comes_without_its_directory() -> None:
    grants = of(SH).grants
    assert not any(os.path.isdir(path) for path in grants)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_a_broken_elf_header_names_no_loader_outside_itself(junk: bytes, cut: int) -> None:
    assert _loader((b"\x7fELF\x02\x01" + junk)[:cut]) in ("", *_absolute(junk))
    assert _loader(elf(b"/lib/ld.so\0")) == "/lib/ld.so"
    assert _loader(elf(b"relative\0")) == ""


def _absolute(junk: bytes) -> list[str]:
    return [os.fsdecode(junk[i:j]) for i in range(len(junk)) for j in range(i, len(junk) + 1)]


# ---- installations ---------------------------------------------------------------------


def test_libraries_beside_a_program_are_granted_and_its_prefix_is_not(
    tmp_path: Path, home: Path
) -> None:
    prefix = tmp_path / "opt" / "tool"
    tool = program(prefix / "bin" / "tool")
    for name in ("lib/a.so", "share/b", "etc/secret", "data/c"):
        file(prefix / name)
    grants = of(tool).grants
    assert {str(prefix / "lib"), str(prefix / "share"), str(tool)} <= set(grants)
    assert not {str(prefix), str(prefix / "etc"), str(prefix / "data")} & set(grants)


def test_a_link_to_a_program_leads_to_its_installation(tmp_path: Path, home: Path) -> None:
    prefix = tmp_path / "opt" / "tool-1.2"
    program(prefix / "bin" / "tool")
    file(prefix / "lib" / "a.so")
    (tmp_path / "opt" / "tool").symlink_to("tool-1.2")
    link = tmp_path / "links" / "tool"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "opt" / "tool" / "bin" / "tool")
    found = of(link)
    # The name stays: programs look at it (busybox, virtual environments).
    assert found.executable == str(link)
    assert {str(prefix / "lib"), str(prefix / "bin" / "tool")} <= set(found.grants)


@pytest.mark.parametrize("place", ["bin", ".local/bin", "sbin"])
def test_a_program_in_the_home_directory_opens_none_of_it(home: Path, place: str) -> None:
    for name in (".ssh/id", "lib/a", "share/b", ".local/lib/c", ".local/share/d"):
        file(home / name)
    tool = program(home / place / "tool")
    assert set(of(tool).grants) - set(of("/bin/sh").grants) == {str(tool)}


def test_a_program_above_the_home_directory_does_not_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "lib" / "user"
    inside.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(inside))
    tool = program(tmp_path / "bin" / "tool")
    assert str(tmp_path / "lib") not in of(tool).grants


def test_a_program_in_a_directory_of_everybody_opens_none_of_it(tmp_path: Path, home: Path) -> None:
    tool = program(tmp_path / "shared" / "bin" / "tool")
    file(tmp_path / "shared" / "lib" / "other")
    (tmp_path / "shared").chmod(0o1777)
    assert str(tmp_path / "shared" / "lib") not in of(tool).grants


def test_a_library_directory_that_leads_elsewhere_is_not_granted(
    tmp_path: Path, home: Path
) -> None:
    secrets = file(tmp_path / "secrets" / "key").parent
    prefix = tmp_path / "opt" / "tool"
    tool = program(prefix / "bin" / "tool")
    (prefix / "lib").symlink_to(secrets)
    (prefix / "share").symlink_to("/")
    (prefix / "lib64").symlink_to("..")
    assert set(of(tool).grants) - set(of("/bin/sh").grants) == {str(tool)}


def test_nothing_of_the_system_is_granted_but_the_files_themselves() -> None:
    for path in of("/bin/sh").grants:
        assert stat.S_ISREG(os.stat(path).st_mode)


def test_what_is_granted_is_real_sorted_and_not_repeated_below(tmp_path: Path, home: Path) -> None:
    prefix = tmp_path / "opt"
    file(prefix / "lib" / "python3.9" / "os.py")
    grants = of(program(prefix / "bin" / "python3")).grants
    assert list(grants) == sorted(os.path.realpath(path) for path in grants)
    assert str(prefix / "lib") in grants
    assert str(prefix / "lib" / "python3.9") not in grants


# ---- Python ----------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path, home: Path) -> Path:
    """An installation of Python."""
    prefix = tmp_path / "pythons" / "3.9"
    program(prefix / "bin" / "python3.9")
    (prefix / "bin" / "python3").symlink_to("python3.9")
    file(prefix / "lib" / "python3.9" / "os.py")
    return prefix


def make_venv(place: Path, base: Path) -> Path:
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to(base / "bin" / "python3")
    file(place / "lib" / "python3.9" / "site-packages" / "x.py")
    (place / "lib64").symlink_to("lib")
    (place / "pyvenv.cfg").write_text(f"home = {base / 'bin'}\nversion = 3.9.1\n")
    return place


def test_a_virtual_environment_gets_itself_and_its_base(tmp_path: Path, base: Path) -> None:
    venv = make_venv(tmp_path / "venv", base)
    found = of(venv / "bin" / "python")
    assert found.executable == str(venv / "bin" / "python")
    wanted = (venv / "bin", venv / "lib", venv / "pyvenv.cfg", base / "lib")
    assert {str(path) for path in wanted} <= set(found.grants)
    assert str(venv) not in found.grants


def test_a_script_of_a_virtual_environment_gets_the_same(tmp_path: Path, base: Path) -> None:
    venv = make_venv(tmp_path / "venv", base)
    script = program(venv / "bin" / "tool", f"#!{venv}/bin/python\n")
    assert set(of(script).grants) >= set(of(venv / "bin" / "python").grants)


def test_no_interpreter_is_run_to_ask_it(tmp_path: Path, base: Path) -> None:
    witness = tmp_path / "was-run"
    program(base / "bin" / "python3.9", f"#!/bin/sh\ntouch {witness}\n")
    of(make_venv(tmp_path / "venv", base) / "bin" / "python")
    assert not witness.exists()


def test_a_virtual_environment_made_in_the_home_directory_does_not_open_it(
    home: Path, base: Path
) -> None:
    file(home / ".ssh" / "id")
    file(home / "lib" / "secret")
    venv = make_venv(home, base)
    grants = set(of(venv / "bin" / "python").grants)
    assert str(home / "lib" / "python3.9") in grants
    assert not {str(home), str(home / "lib"), str(home / "bin")} & grants


def test_a_home_directory_inside_a_library_does_not_open_it(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = base / "lib" / "python3.9" / "user"
    inside.mkdir()
    monkeypatch.setenv("HOME", str(inside))
    assert not [path for path in of(base / "bin" / "python3").grants if "lib/python3.9" in path]


def test_a_virtual_environment_cannot_name_any_directory_its_base(
    tmp_path: Path, base: Path
) -> None:
    secrets = file(tmp_path / "secrets" / "lib" / "python3.9" / "key").parent
    venv = make_venv(tmp_path / "venv", base)
    (venv / "pyvenv.cfg").write_text(f"home = {tmp_path}/secrets/bin\n")
    assert not [path for path in of(venv / "bin" / "python").grants if str(secrets) in path]


def test_a_broken_configuration_grants_nothing_more(tmp_path: Path, base: Path) -> None:
    venv = make_venv(tmp_path / "venv", base)
    before = of(venv / "bin" / "python").grants
    for content in (b"", b"\xff\xfe", b"home", b"home = \n", b"home = relative\n"):
        resolving._known.clear()
        (venv / "pyvenv.cfg").write_bytes(content)
        assert of(venv / "bin" / "python").grants == before


# ---- pyenv -----------------------------------------------------------------------------


@pytest.fixture
def pyenv(tmp_path: Path, home: Path) -> Path:
    root = tmp_path / "pyenv"
    for version in ("3.9.2", "3.10.1", "3.10.13"):
        program(root / "versions" / version / "bin" / "python3")
        file(root / "versions" / version / "lib" / "python3" / "os.py")
    program(root / "versions" / "3.9.2" / "bin" / "old-tool")
    for name in ("python3", "old-tool"):
        program(
            root / "shims" / name,
            "#!/usr/bin/env bash\nset -e\nprogram=x\n"
            f'exec "{root}/libexec/pyenv" exec "$program" "$@"\n',
        )
    (root / "version").write_text("3.10.13\n3.9.2\n")
    return root


def chosen(pyenv: Path, **fields: object) -> str:
    env = {"PATH": f"{pyenv}/shims:{BASE_PATH}", **fields.pop("env", {})}  # type: ignore[dict-item]
    found = resolve(Plan([fields.pop("cmd", "python3")], env=env, **fields))  # type: ignore[arg-type,list-item]
    return os.path.relpath(found.executable, pyenv / "versions")


def test_a_shim_stands_for_the_program_of_the_global_version(pyenv: Path) -> None:
    assert chosen(pyenv) == "3.10.13/bin/python3"
    assert chosen(pyenv, cmd="old-tool") == "3.9.2/bin/old-tool"
    assert chosen(pyenv, cmd=str(pyenv / "shims" / "python3")) == "3.10.13/bin/python3"


def test_a_shim_needs_neither_a_shell_nor_pyenv(pyenv: Path) -> None:
    grants = of("python3", f"{pyenv}/shims:{BASE_PATH}").grants
    assert not [path for path in grants if "shims" in path or "bash" in path]
    assert str(pyenv / "versions" / "3.10.13" / "lib") in grants
    assert not [path for path in grants if "3.9.2" in path]


def test_the_plan_chooses_the_version_as_pyenv_would(pyenv: Path) -> None:
    assert chosen(pyenv, env={"PYENV_VERSION": "3.9.2"}) == "3.9.2/bin/python3"
    assert chosen(pyenv, env={"PYENV_VERSION": "3.10"}) == "3.10.13/bin/python3"
    assert chosen(pyenv, files={".python-version": "# mine\n3.10.1\n"}) == "3.10.1/bin/python3"


def test_the_hosts_environment_does_not_choose(
    pyenv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYENV_VERSION", "3.9.2")
    assert chosen(pyenv) == "3.10.13/bin/python3"


def test_a_shim_without_its_program_says_which_version_has_it(pyenv: Path) -> None:
    (pyenv / "version").write_text("3.10.1\n")
    with pytest.raises(CommandNotFound, match=r"'PYENV_VERSION': '3\.9\.2'"):
        chosen(pyenv, cmd="old-tool")
    (pyenv / "versions" / "3.9.2" / "bin" / "old-tool").unlink()
    with pytest.raises(CommandNotFound, match="nor has any other"):
        chosen(pyenv, cmd="old-tool")


def test_the_systems_version_stands_later_in_path(pyenv: Path, tmp_path: Path) -> None:
    (pyenv / "version").unlink()
    system = program(tmp_path / "system" / "python3")
    assert of("python3", f"{pyenv}/shims:{system.parent}").executable == str(system)
    with pytest.raises(CommandNotFound, match="shim for the system's program"):
        of(pyenv / "shims" / "python3")


def test_a_program_in_a_directory_of_that_name_is_no_shim(tmp_path: Path) -> None:
    tool = program(tmp_path / "shims" / "tool", "#!/bin/sh\necho pyenv exec\n")
    assert of(tool).executable == str(tool)


# ---- never / nor a home directory ---------------------------------------------------------

_names = st.sampled_from(["bin", "lib", "share", "home", "u", "x", "lib64", "python3.9"])
_paths = st.lists(_names, min_size=1, max_size=4).map("/".join)
_links = st.one_of(_paths, st.just("/"), st.just(".."), st.just("../.."), st.just("."))


def _plant(root: Path, links: list[tuple[str, str, bool]]) -> None:
    for at, target, inside in links:
        path = root / at
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(root / target if inside else target)
        except OSError:
            continue


@settings(max_examples=150, deadline=None)
@given(
    st.lists(_paths, max_size=6),
    _paths,
    st.lists(st.tuples(_paths, _links, st.booleans()), max_size=6),
    _paths,
    st.sampled_from(["", "bin", "u"]),
)
def test_no_tree_of_links_gives_away_the_root_or_a_home(
    folders: list[str], home: str, links: list[tuple[str, str, bool]], place: str, cfg: str
) -> None:
    resolving._known.clear()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(os.path.realpath(temporary), "r")
        (root / home).mkdir(parents=True)
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
        _plant(root, links)
        try:
            tool = program(root / place / "python3")
            (root / place / "pyvenv.cfg").write_text(f"home = {root / cfg}\n")
        except OSError:
            return
        with mock.patch.dict(os.environ, {"HOME": str(root / home)}):
            grants = of(tool).grants
        real_home = os.path.realpath(root / home)
        for path in grants:
            assert path != "/"
            assert not f"{real_home}/".startswith(f"{path}/")


# ---- what is kept ------------------------------------------------------------------------


def test_a_program_that_is_replaced_is_read_again(tmp_path: Path) -> None:
    tool = program(tmp_path / "tool", "#!/bin/sh\n")
    assert SH in of(tool).grants
    program(tmp_path / "new", b"\x7fELF").rename(tool)
    assert of(tool).grants == (str(tool),)


def test_an_unchanged_program_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = program(tmp_path / "tool")
    first = of(tool)
    monkeypatch.setattr(resolving, "needs", mock.Mock(side_effect=AssertionError))
    assert of(tool) == first


def test_what_is_kept_is_looked_at_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    tool = program(tmp_path / "opt" / "bin" / "tool")
    of(tool)
    added = file(tmp_path / "opt" / "lib" / "new").parent
    monkeypatch.setattr(resolving, "KEPT", -1.0)
    assert str(added) in of(tool).grants


def test_what_is_kept_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "_MOST_KEPT", 3)
    for number in range(10):
        of(program(tmp_path / f"tool{number}"))
    assert len(resolving._known) <= 3


# ---- the environment ---------------------------------------------------------------------


def test_the_base_environment_is_five_variables() -> None:
    assert base_environment("/w/home", "/w/tmp") == {
        "PATH": BASE_PATH,
        "HOME": "/w/home",
        "TMPDIR": "/w/tmp",
        "USER": "sandbox",
        "LANG": "C.UTF-8",
    }
