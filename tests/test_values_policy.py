"""Policy, Network and Syscalls: what they accept, what they mean, their digest."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evalbox.errors import PlanError
from evalbox.policy import ALL, CORE, PROPERTIES, Network, Policy, Syscalls

RICH = Policy(
    read=["/usr/share", Path("/etc/hosts")],
    write=["/srv/data/"],
    network=Network.host(),
    syscalls=Syscalls().allow("ptrace").deny("unlink"),
    isolation="process",
    require=CORE - {"udp"},
    on_denied="kill",
    system=False,
)


def test_core_and_all_are_those_of_the_contract() -> None:
    assert {
        *("fs_read", "fs_write", "signals", "ptrace", "prlimit", "unix_path", "unix_abstract"),
        *("tcp", "udp", "output", "wall_time", "tree_kill"),
    } == CORE
    assert {"fs_metadata", "proc_view", "processes", "memory", "cpu", "disk"} == ALL - CORE
    assert frozenset(PROPERTIES) == ALL
    assert len(PROPERTIES) == len(ALL)
    assert CORE < ALL
    assert type(CORE) is frozenset


def test_defaults_are_those_of_the_contract() -> None:
    policy = Policy()
    assert (policy.read, policy.write) == ((), ())
    assert policy.network == Network.none()
    assert policy.syscalls == Syscalls()
    assert (policy.isolation, policy.on_denied, policy.system) == ("auto", "errno", True)
    assert policy.require == CORE


# ---- paths -------------------------------------------------------------------


@pytest.mark.parametrize("field", ["read", "write"])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("relative", "absolute"),
        ("", "empty"),
        ("/a\0b", "NUL"),
        ("/" + "x" * 256, "component"),
        ("/" + "x/" * 2048, "longer"),
        (b"/bytes", "str or a path"),
        (3, "str or a path"),
        ("/\ud800", "encoded"),
    ],
)
def test_paths_that_can_never_work_are_refused(field: str, path: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Policy(**dict[str, Any]({field: [path]}))


@pytest.mark.parametrize("field", ["read", "write"])
def test_one_path_instead_of_a_list_is_refused_with_the_remedy(field: str) -> None:
    wrong: list[Any] = ["/srv", Path("/srv"), b"/srv"]
    for path in wrong:
        with pytest.raises(PlanError, match=r"write \["):
            Policy(**{field: path})
    with pytest.raises(PlanError, match="list"):
        Policy(**dict[str, Any]({field: 3}))


def test_paths_are_tidied_but_dot_dot_is_left_to_the_kernel() -> None:
    policy = Policy(read=["//a//b/./c/", "/a/../b", "/"], write=(Path("/w"),))
    assert policy.read == ("/", "/a/../b", "/a/b/c")
    assert policy.write == ("/w",)
    assert Policy(read=["/" + "x" * 255]).read == ("/" + "x" * 255,)


def test_order_and_repeats_of_grants_mean_nothing() -> None:
    one = Policy(read=["/a", "/b", "/a"], require=["udp", "tcp"])
    two = Policy(read=["/b", "/a/"], require={"tcp", "udp"})
    assert one == two
    assert hash(one) == hash(two)
    assert one.digest == two.digest


# ---- choices -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("require", ["fs_reed"], "did you mean 'fs_read'"),
        ("require", ["zzzzzz"], "known are"),
        ("require", "fs_read", "list"),
        ("require", [3], "property"),
        ("isolation", "proces", "did you mean 'process'"),
        ("isolation", None, "isolation"),
        ("on_denied", "die", "on_denied"),
        ("on_denied", ["kill"], "on_denied"),
        ("network", "host", "must be a Network"),
        ("network", None, "must be a Network"),
        ("syscalls", ["ptrace"], "must be a Syscalls"),
        ("system", 1, "True or False"),
    ],
)
def test_wrong_choice_is_refused_and_the_error_helps(field: str, value: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Policy(**{field: value})


def test_network_is_none_or_host() -> None:
    assert Network.none().mode == "none"
    assert Network.host().mode == "host"
    assert Network.none() != Network.host()
    with pytest.raises(PlanError, match="network mode"):
        Network("hots")  # type: ignore[arg-type]


# ---- system calls ------------------------------------------------------------


def test_allow_and_deny_return_new_values() -> None:
    base = Syscalls()
    more = base.allow("ptrace", "bpf").deny("unlink")
    assert base == Syscalls()
    assert more.allowed == {"ptrace", "bpf"}
    assert more.denied == {"unlink"}


def test_last_call_for_a_name_wins() -> None:
    assert Syscalls().allow("ptrace").deny("ptrace") == Syscalls(denied=frozenset({"ptrace"}))
    assert Syscalls().deny("ptrace").allow("ptrace") == Syscalls(allowed=frozenset({"ptrace"}))


@pytest.mark.parametrize("call", ["allow", "deny"])
def test_unknown_system_call_is_refused_with_the_nearest(call: str) -> None:
    with pytest.raises(PlanError, match=r"did you mean .*'openat'"):
        getattr(Syscalls(), call)("opnat")
    for junk in ("", "read\0", "\ud800", 3, None, ["read"]):
        with pytest.raises(PlanError):
            getattr(Syscalls(), call)(junk)
    assert getattr(Syscalls(), call)("openat") != Syscalls()


def test_execve_cannot_be_denied() -> None:
    with pytest.raises(PlanError, match="execve"):
        Syscalls().deny("execve")
    assert Syscalls().deny("execveat").denied == {"execveat"}


def test_a_name_cannot_be_allowed_and_denied_at_once() -> None:
    with pytest.raises(PlanError, match="both"):
        Syscalls(allowed=frozenset({"bpf"}), denied=frozenset({"bpf"}))


# ---- as a value --------------------------------------------------------------


def test_policy_is_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RICH.system = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        Policy(["/a"])  # type: ignore[call-arg]
    changed = dataclasses.replace(RICH, system=True)
    assert changed != RICH
    assert changed.digest != RICH.digest
    assert dataclasses.replace(changed, system=False) == RICH


@pytest.mark.parametrize("policy", [Policy(), RICH, Policy(read=["/\udcff"])])
def test_round_trips(policy: Policy) -> None:
    again = Policy.from_dict(json.loads(json.dumps(policy.to_dict())))
    assert again == policy
    assert again.digest == policy.digest
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert copy.deepcopy(policy).digest == policy.digest
    assert Policy.from_dict({}) == Policy()


@pytest.mark.parametrize("value", [Network.host(), Syscalls().allow("bpf").deny("unlink")])
def test_parts_round_trip(value: Network | Syscalls) -> None:
    assert type(value).from_dict(json.loads(json.dumps(value.to_dict()))) == value
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize(
    "data",
    [
        {"raed": []},
        {"read": "/a"},
        {"network": "host"},
        {"network": {"mode": "x"}},
        {"network": {"mode": ["x"]}},
        {"syscalls": {"allow": []}},
        {"digest": "0"},
        None,
        [],
    ],
)
def test_from_dict_refuses_what_is_no_policy(data: Any) -> None:
    with pytest.raises(PlanError):
        Policy.from_dict(data)


def test_every_field_changes_the_digest() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"read": ["/a"]},
        {"write": ["/a"]},
        {"network": Network.host()},
        {"syscalls": Syscalls().allow("bpf")},
        {"syscalls": Syscalls().deny("bpf")},
        {"isolation": "process"},
        {"require": ALL},
        {"on_denied": "kill"},
        {"system": False},
    ]
    assert len({Policy(**change).digest for change in changes}) == len(changes)


def test_digest_is_the_same_in_another_process() -> None:
    # Another hash seed, so no set's order may leak into the digest.
    code = "import evalbox.policy as p; print(p.Policy(read=['/b', '/a']).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {Policy(read=["/a", "/b"]).digest}
