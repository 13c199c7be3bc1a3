"""Plan, File and the flat form: what is refused when it is made, and what is not."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from evalbox._values import MAX_ARGUMENT
from evalbox.errors import PlanError
from evalbox.flat import PlanFields, plan_from_fields
from evalbox.limits import LIMIT_FIELDS, KiB, Limits, MiB
from evalbox.plan import PIPE, PLAN_FIELDS, File, Plan
from evalbox.policy import CORE, POLICY_FIELDS, Network, Policy, Syscalls
from value_samples import RICH_PLAN


def test_defaults_are_those_of_the_contract() -> None:
    plan = Plan(["true"])
    assert plan.executable is None
    assert plan.stdin == b""
    assert plan.env == {}
    assert plan.cwd == "."
    assert plan.files == {}
    assert plan.collect == ()
    assert plan.limits == Limits()
    assert plan.policy == Policy()
    assert (plan.stream, plan.hold) == (False, False)


# ---- cmd and executable ------------------------------------------------------


def test_cmd_takes_str_bytes_and_paths_and_empty_arguments() -> None:
    assert RICH_PLAN.cmd == ("./tool", b"\xff", "", "/x")
    assert Plan(("a",)).cmd == Plan(iter(["a"])).cmd == ("a",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cmd", "said"),
    [
        ("ls -l", "shlex.split"),
        (b"ls", "list of arguments"),
        (Path("/bin/ls"), "list"),
        ([], "empty"),
        ([""], "names no program"),
        ([b""], "names no program"),
        (["ls", "a\0b"], r"cmd\[1\].*NUL"),
        (["ls", b"a\0b"], r"cmd\[1\].*NUL"),
        (["ls", 3], r"cmd\[1\]"),
        (["ls", None], r"cmd\[1\]"),
        (["ls", "\ud800"], "encoded"),
        (None, "list"),
        (7, "list"),
    ],
)
def test_cmd_that_can_never_start_is_refused(cmd: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Plan(cmd)


@pytest.mark.parametrize("value", ["", b"", "a\0", 3, ["ls"]])
def test_executable_is_checked_like_a_program(value: Any) -> None:
    with pytest.raises(PlanError, match="executable"):
        Plan(["ls"], executable=value)
    assert Plan(["ls"], executable=Path("/bin/ls")).executable == "/bin/ls"
    assert Plan(["ls"], executable=b"/bin/ls").executable == b"/bin/ls"


def test_longest_argument_of_the_kernel_is_taken_and_one_byte_more_refused() -> None:
    assert MAX_ARGUMENT + 1 == 32 * 4096
    for item in ("x" * MAX_ARGUMENT, b"x" * MAX_ARGUMENT, "é" * (MAX_ARGUMENT // 2)):
        assert Plan(["true", item]).cmd[1] == item
        with pytest.raises(PlanError, match="131071"):
            Plan(["true", item + item[:2]])  # type: ignore[operator]
    value = "x" * (MAX_ARGUMENT - 2)
    assert Plan(["true"], env={"A": value}).env["A"] == value
    with pytest.raises(PlanError, match="env"):
        Plan(["true"], env={"A": value + "x"})


def test_all_arguments_together_must_fit_a_quarter_of_the_stack() -> None:
    many = ["true", *["x" * 100_000] * 15]
    assert len(Plan(many).cmd) == 16
    with pytest.raises(PlanError, match=r"limits\.stack"):
        Plan(many, limits=Limits(stack=4 * MiB))
    with pytest.raises(PlanError, match=r"limits\.stack"):
        Plan(["true", *["x"] * 300_000])
    assert len(Plan(["true", *["x"] * 300_000], limits=Limits(stack=None)).cmd) == 300_001
    assert len(Plan(["true", "x" * 100 * KiB], limits=Limits(stack=0)).cmd) == 2


# ---- stdin and env -----------------------------------------------------------


@pytest.mark.parametrize("value", ["text", None, 3, ["a"]])
def test_stdin_is_bytes_or_pipe(value: Any) -> None:
    with pytest.raises(PlanError, match="stdin must be bytes"):
        Plan(["cat"], stdin=value)


def test_stdin_is_kept_as_bytes() -> None:
    assert Plan(["cat"], stdin=PIPE).stdin is PIPE
    values: list[Any] = [b"a\0b", bytearray(b"a\0b"), memoryview(b"a\0b")]
    for value in values:
        assert Plan(["cat"], stdin=value).stdin == b"a\0b"
    assert pickle.loads(pickle.dumps(PIPE)) is PIPE
    assert repr(PIPE) == "evalbox.PIPE"


@pytest.mark.parametrize(
    "env",
    [
        {"": "x"},
        {"A=B": "x"},
        {"A\0": "x"},
        {"A": "x\0"},
        {"A": 1},
        {1: "x"},
        {b"A": "x"},
        {"A": "\ud800"},
        [("A", "x")],
        None,
    ],
)
def test_env_that_no_program_can_get_is_refused(env: Any) -> None:
    with pytest.raises(PlanError, match="env"):
        Plan(["env"], env=env)


def test_env_value_may_contain_equals_signs_and_be_empty() -> None:
    env = {"A": "x=y", "B": ""}
    assert Plan(["env"], env=env).env == env


# ---- cwd, files, collect -----------------------------------------------------

LEAVES_THE_WORKSPACE = [
    ("/etc/passwd", "relative"),
    ("../x", r"\.\."),
    ("a/../../x", r"\.\."),
    ("a/..", r"\.\."),
    ("a\0b", "NUL"),
    ("", "empty"),
    ("x" * 256, "component"),
    ("x/" * 2048 + "x", "longer"),
    (b"bytes", "str or a path"),
    (3, "str or a path"),
]


@pytest.mark.parametrize(("path", "said"), LEAVES_THE_WORKSPACE)
def test_cwd_files_and_collect_stay_in_the_workspace(path: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Plan(["ls"], cwd=path)
    with pytest.raises(PlanError, match=said):
        Plan(["ls"], files={path: b""})
    with pytest.raises(PlanError, match=said):
        Plan(["ls"], collect=[path])


def test_defect_09_a_file_name_cannot_reach_the_host() -> None:
    for path in ("../../../home/u/.bashrc", "/home/u/.bashrc", "a/../../b", Path("../b")):
        with pytest.raises(PlanError):
            Plan(["ls"], files={path: b""})
    assert set(Plan(["ls"], files={"home/u/..bashrc": b""}).files) == {"home/u/..bashrc"}


def test_paths_are_tidied() -> None:
    plan = Plan(
        ["ls"],
        cwd="./a//b/",
        files={"./a//b/c": b"", PurePosixPath("d"): b""},
        collect=["./out//*.txt", "**"],
    )
    assert plan.cwd == "a/b"
    assert list(plan.files) == ["a/b/c", "d"]
    assert plan.collect == ("out/*.txt", "**")


@pytest.mark.parametrize("path", [".", "./", "a/", "a/.", "./."])
def test_a_file_name_that_names_a_directory_is_refused(path: str) -> None:
    with pytest.raises(PlanError, match="directory"):
        Plan(["ls"], files={path: b""})


@pytest.mark.parametrize(
    ("files", "cwd"),
    [
        ({"a": b"", "a/b": b""}, "."),
        ({"a/b/c": b"", "a": b""}, "."),
        ({"a/b": b"", "a/b/c/d": b""}, "."),
        ({"a": b""}, "a"),
        ({"a": b""}, "a/b"),
    ],
)
def test_no_path_is_a_file_and_a_directory(files: dict[str, bytes], cwd: str) -> None:
    with pytest.raises(PlanError, match="file and a directory"):
        Plan(["ls"], files=files, cwd=cwd)


def test_files_beside_each_other_and_beside_cwd_are_fine() -> None:
    assert len(Plan(["ls"], files={"a/b": b"", "a/c": b"", "ab": b""}, cwd="a").files) == 3


def test_two_spellings_of_one_file_are_refused() -> None:
    with pytest.raises(PlanError, match="twice"):
        Plan(["ls"], files={"a": b"", "./a": b""})


@pytest.mark.parametrize("content", [None, 3, ["x"], "\ud800"])
def test_content_is_bytes_str_or_file(content: Any) -> None:
    with pytest.raises(PlanError, match="files"):
        Plan(["ls"], files={"a": content})
    with pytest.raises(PlanError, match="content"):
        File(content)


def test_content_is_stored_as_file() -> None:
    files = Plan(["ls"], files={"a": "é", "b": b"\0", "c": File("x", executable=True)}).files
    assert files["a"] == File("é".encode())
    assert files["b"] == File(b"\0")
    assert files["c"].executable
    assert not files["a"].executable


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", [("a", b"")]),
        ("files", None),
        ("collect", "*.txt"),
        ("collect", Path("x")),
        ("collect", 3),
        ("limits", {}),
        ("limits", None),
        ("policy", {}),
        ("stream", 1),
        ("hold", None),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(PlanError, match=field):
        Plan(["ls"], **{field: value})


def test_executable_flag_of_a_file_is_a_bool() -> None:
    with pytest.raises(PlanError, match="executable"):
        File(b"", executable=1)  # type: ignore[arg-type]


# ---- as a value --------------------------------------------------------------


def test_plan_is_frozen_down_to_its_mappings() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RICH_PLAN.cwd = "x"  # type: ignore[misc]
    for frozen in (RICH_PLAN.env, RICH_PLAN.files):
        with pytest.raises(TypeError):
            frozen["x"] = "y"  # type: ignore[index]
    env = {"A": "1"}
    plan = Plan(["env"], env=env)
    env["A"] = "2"
    assert plan.env == {"A": "1"}


def test_equal_plans_hash_alike() -> None:
    one = Plan(["a"], env={"A": "1", "B": "2"})
    two = Plan(["a"], env={"B": "2", "A": "1"})
    assert one == two
    assert len({one, two, Plan(["b"])}) == 2


@pytest.mark.parametrize("plan", [Plan(["true"]), RICH_PLAN, Plan(["cat"], stdin=PIPE)])
def test_round_trips(plan: Plan) -> None:
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert copy.deepcopy(plan) == plan
    assert dataclasses.replace(plan) == plan


def test_replace_checks_again() -> None:
    assert dataclasses.replace(RICH_PLAN, hold=False).hold is False
    with pytest.raises(PlanError):
        dataclasses.replace(RICH_PLAN, cwd="/")


def test_json_written_by_hand_may_be_short() -> None:
    data = {"cmd": ["cat"], "files": {"a": {"content": "text"}}, "policy": {"read": ["/srv"]}}
    assert Plan.from_dict(data) == Plan(["cat"], files={"a": "text"}, policy=Policy(read=["/srv"]))


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"cmd": "ls"},
        {"cmd": [3]},
        {"cmd": [{"base64": "!"}]},
        {"cmd": [{"base64": 3}]},
        {"cmd": [{"base46": ""}]},
        {"cmd": ["ls"], "stdn": {}},
        {"cmd": ["ls"], "stdin": "text"},
        {"cmd": ["ls"], "stdin": {"pipe": 1}},
        {"cmd": ["ls"], "stdin": {"pipe": True, "base64": ""}},
        {"cmd": ["ls"], "files": {"a": "text"}},
        {"cmd": ["ls"], "files": {"a": {}}},
        {"cmd": ["ls"], "files": {"a": {"content": "", "mode": 1}}},
        {"cmd": ["ls"], "files": []},
        {"cmd": ["ls"], "limits": None},
        {"cmd": ["ls"], "policy": []},
        {"cmd": ["ls"], 3: 4},
    ],
)
def test_from_dict_refuses_what_is_no_plan(data: Any) -> None:
    with pytest.raises(PlanError):
        Plan.from_dict(data)


def test_from_dict_names_the_nearest_key() -> None:
    with pytest.raises(PlanError, match="did you mean 'stdin'"):
        Plan.from_dict({"cmd": ["ls"], "stdn": {}})


# ---- the flat form -----------------------------------------------------------


def test_flat_fields_go_where_they_belong() -> None:
    plan = plan_from_fields(
        ["cat"], stdin=b"x", timeout=2, memory=MiB, read=["/srv"], network=Network.host()
    )
    assert plan == Plan(
        ["cat"],
        stdin=b"x",
        limits=Limits(wall_time=2, memory=MiB),
        policy=Policy(read=["/srv"], network=Network.host()),
    )
    assert plan_from_fields(["cat"]) == Plan(["cat"])
    assert plan_from_fields(["cat"], timeout=None).limits.wall_time is None
    assert plan_from_fields(["cat"], wall_time=1).limits.wall_time == 1


def test_whole_values_may_be_given_instead() -> None:
    limits, policy = Limits(memory=1), Policy(system=False)
    plan = plan_from_fields(["cat"], limits=limits, policy=policy)
    assert (plan.limits, plan.policy) == (limits, policy)
    assert plan_from_fields(["cat"], limits=limits, read=["/a"]).policy.read == ("/a",)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"policy": Policy(), "read": ["/a"]}, "policy= and read="),
        ({"policy": Policy(), "read": [], "system": True}, "read, system="),
        ({"limits": Limits(), "timeout": 1}, "limits= and"),
        ({"limits": Limits(), "memory": 1}, "limits= and memory="),
        ({"timeout": 1, "wall_time": 1}, "same limit"),
        ({"timout": 1}, "did you mean 'timeout'"),
        ({"shell": True}, "unknown field 'shell'"),
        ({"memory": -1}, "memory"),
        ({"require": ["x"]}, "require"),
    ],
)
def test_fields_that_contradict_or_do_not_exist_are_refused(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(PlanError, match=said):
        plan_from_fields(["cat"], **fields)


def test_flat_fields_are_those_of_plan_policy_and_limits_and_none_twice() -> None:
    wanted = [*PLAN_FIELDS, *POLICY_FIELDS, *LIMIT_FIELDS]
    assert len(set(wanted)) == len(wanted)
    assert set(PlanFields.__optional_keys__) == {*wanted, "timeout"} - {"cmd"}


def test_every_policy_field_can_be_given_flat() -> None:
    flat: dict[str, Any] = {
        "read": ["/r"],
        "write": ["/w"],
        "network": Network.host(),
        "syscalls": Syscalls().deny("bpf"),
        "isolation": "process",
        "require": CORE - {"udp"},
        "on_denied": "kill",
        "system": False,
    }
    assert set(flat) == set(POLICY_FIELDS)
    assert plan_from_fields(["x"], **flat).policy == Policy(**flat)
