"""Output, its parts and the events: invariants, explanations, round trips."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any

import pytest

from evalbox._values import size
from evalbox.errors import PlanError, ProgramFailed
from evalbox.events import Completed, Event, SandboxId, Started, Stderr, Stdout, TimedOut
from evalbox.limits import Limits
from evalbox.output import Enforcement, Output, Status
from evalbox.usage import Usage
from value_samples import EVERY, HELD, NORMAL, USAGE, ended


def test_statuses_are_those_of_the_contract() -> None:
    names = "EXITED SIGNALED WALL_TIME CPU_TIME MEMORY_LIMIT OUTPUT_LIMIT DISK_LIMIT DENIED KILLED"
    assert [status.name for status in Status] == names.split()
    assert all(status.value == status.name.lower() for status in Status)


def test_fields_stand_in_the_order_of_the_contract() -> None:
    names = [field.name for field in dataclasses.fields(Output)]
    wanted = "status exit_code signal stdout stderr truncated usage enforcement files"
    assert " ".join(names[:9]) == wanted


def test_ok_means_exited_with_zero() -> None:
    assert NORMAL.ok
    assert not any(output.ok for output in EVERY.values())


def test_returncode_is_that_of_subprocess() -> None:
    assert NORMAL.returncode == 0
    assert EVERY[Status.EXITED].returncode == 3
    assert EVERY[Status.SIGNALED].returncode == -11
    assert EVERY[Status.WALL_TIME].returncode == -9
    assert ended(Status.KILLED, None).returncode == -9


def test_text_is_stdout_with_errors_replaced() -> None:
    assert NORMAL.text == "out\ufffd"


@pytest.mark.parametrize(
    "changes",
    [
        {"exit_code": None},
        {"signal": 9},
        {"status": Status.WALL_TIME},
        {"status": Status.SIGNALED, "exit_code": None},
        {"status": "exited"},
        {"exit_code": True},
        {"exit_code": -1},
        {"stdout": "text"},
        {"truncated": 1},
        {"usage": None},
        {"enforcement": {}},
        {"enforcement": {**HELD, "more": HELD["tcp"]}},
        {"enforcement": {**HELD, "tcp": "enforced"}},
        {"files": {"a": "text"}},
        {"limits": None},
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        dataclasses.replace(NORMAL, **changes)


def test_check_returns_itself_or_raises_with_the_last_lines_of_stderr() -> None:
    assert NORMAL.check() is NORMAL
    lines = b"".join(b"line %d\n" % number for number in range(1000))
    for output in EVERY.values():
        with pytest.raises(ProgramFailed) as caught:
            dataclasses.replace(output, stderr=lines).check()
        assert str(caught.value).startswith(output.explain())
        assert str(caught.value).endswith("line 998\nline 999")
        assert "line 900" not in str(caught.value)
        assert caught.value.output.status is output.status


def test_message_of_a_failure_is_bounded() -> None:
    with pytest.raises(ProgramFailed) as caught:
        dataclasses.replace(EVERY[Status.EXITED], stderr=b"x" * 10_000_000).check()
    assert len(str(caught.value)) < 4000


# ---- explain -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (Status.EXITED, ["by itself with 3", "stderr"]),
        (Status.SIGNALED, ["SIGSEGV", "limits.stack", "8 MiB"]),
        (Status.WALL_TIME, ["30 s", "limits.wall_time"]),
        (Status.CPU_TIME, ["2.5 s", "limits.cpu_time"]),
        (Status.MEMORY_LIMIT, ["256 MiB", "9 MiB", "limits.memory"]),
        (Status.OUTPUT_LIMIT, ["16 MiB", "limits.output"]),
        (Status.DISK_LIMIT, ["64 MiB", "limits.disk"]),
        (Status.DENIED, ["ptrace", "allow('ptrace')", "errno"]),
        (Status.KILLED, ["Executor.kill"]),
    ],
)
def test_explanation_names_cause_limit_and_remedy(status: Status, said: list[str]) -> None:
    text = dataclasses.replace(EVERY[status], limits=Limits(cpu_time=2.5)).explain()
    assert all(part in text for part in said), text
    assert "\n" not in text
    assert len(text) < 300


def test_explanation_of_a_timeout_tells_waiting_from_computing() -> None:
    waiting = ended(Status.WALL_TIME, usage=dataclasses.replace(USAGE, cpu_time=0.0))
    busy = ended(Status.WALL_TIME, usage=dataclasses.replace(USAGE, cpu_time=1.4))
    assert "waiting" in waiting.explain()
    assert "computing" in busy.explain()


QUIET = {"steal_share": 0.02, "throttled_time": 0.01}


@pytest.mark.parametrize("status", [Status.WALL_TIME, Status.CPU_TIME])
@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"steal_share": 0.35}, ["hypervisor", "35%"]),
        ({"throttled_time": 0.75}, ["quota", "0.75 s"]),
        ({"steal_share": 0.1, "throttled_time": 0.5}, ["hypervisor", " and ", "quota"]),
    ],
    ids=["steal", "quota", "both"],
)
def test_explanation_of_a_timeout_names_what_the_machine_kept_from_it(
    status: Status, kept: dict[str, float], said: list[str]
) -> None:
    text = ended(status, usage=dataclasses.replace(USAGE, **{**QUIET, **kept})).explain()
    assert all(part in text for part in said), text
    quiet = ended(status, usage=dataclasses.replace(USAGE, **QUIET)).explain()
    unknown = ended(status).explain()
    assert quiet == unknown
    assert all(part not in quiet for part in ("hypervisor", "quota"))


def test_usage_of_before_these_were_known_can_be_read() -> None:
    data = USAGE.to_dict()
    assert Usage.from_dict(data) == USAGE
    assert (data.pop("steal_share"), data.pop("throttled_time")) == (None, None)
    assert Usage.from_dict(data) == USAGE


@pytest.mark.parametrize(
    "field", [{"steal_share": 1.01}, {"steal_share": -0.1}, {"throttled_time": -1.0}], ids=str
)
def test_a_share_is_between_0_and_1_and_no_time_is_negative(field: dict[str, float]) -> None:
    with pytest.raises(PlanError, match="usage"):
        dataclasses.replace(USAGE, **field)


@pytest.mark.parametrize("number", [*range(1, 32), 34, 64, 99])
def test_every_signal_is_explained(number: int) -> None:
    assert "It died of" in ended(Status.SIGNALED, number).explain()


@pytest.mark.parametrize("status", list(Status))
def test_explanation_never_fails_whatever_the_limits_were(status: Status) -> None:
    none = Limits(**dict.fromkeys(Limits().to_dict()))
    assert dataclasses.replace(EVERY[status], limits=none, denied=None).explain()


def test_success_needs_no_advice() -> None:
    assert NORMAL.explain() == "It exited with 0."


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (1536, "1.5 KiB"), (2**30, "1 GiB")],
)
def test_size_is_for_readers(count: int, shown: str) -> None:
    assert size(count) == shown


# ---- as values ---------------------------------------------------------------


@pytest.mark.parametrize("output", [NORMAL, *EVERY.values()])
def test_round_trips(output: Output) -> None:
    output = dataclasses.replace(output, files={"a/b": b"\0\xff", "\udcff": b""})
    assert Output.from_dict(json.loads(json.dumps(output.to_dict()))) == output
    assert pickle.loads(pickle.dumps(output)) == output
    assert copy.deepcopy(output) == output
    assert hash(output) == hash(copy.deepcopy(output))


@pytest.mark.parametrize("value", [USAGE, Enforcement("partial", "watch", "no cgroup")])
def test_parts_round_trip(value: Usage | Enforcement) -> None:
    assert type(value).from_dict(json.loads(json.dumps(value.to_dict()))) == value
    assert pickle.loads(pickle.dumps(value)) == value


def test_from_dict_refuses_what_is_no_output() -> None:
    data = NORMAL.to_dict()
    bad: list[Any] = [
        None,
        {},
        {**data, "violations": []},
        {**data, "status": "exploded"},
        {**data, "stdout": "text"},
        {**data, "usage": {}},
        {**data, "enforcement": []},
        {**data, "files": {"a": "text"}},
        {key: value for key, value in data.items() if key != "truncated"},
    ]
    for item in bad:
        with pytest.raises(PlanError):
            Output.from_dict(item)
    assert Output.from_dict(data) == NORMAL


@pytest.mark.parametrize("level", ["full", "", None, True])
def test_level_of_enforcement_is_one_of_three(level: Any) -> None:
    with pytest.raises(PlanError, match="level"):
        Enforcement(level, "landlock")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Usage)])
def test_usage_is_never_negative(field: str) -> None:
    with pytest.raises(PlanError, match=field):
        dataclasses.replace(USAGE, **{field: -1})


def test_processes_may_be_unknown() -> None:
    assert dataclasses.replace(USAGE, processes=None).processes is None


# ---- events ------------------------------------------------------------------

ID = SandboxId(7)


@pytest.mark.parametrize(
    ("event", "parts"),
    [
        (Started(ID), (7,)),
        (Stdout(ID, b"x"), (7, b"x")),
        (Stderr(ID, b"x"), (7, b"x")),
        (Completed(ID, NORMAL), (7, NORMAL)),
        (TimedOut(ID, EVERY[Status.WALL_TIME]), (7, EVERY[Status.WALL_TIME])),
    ],
)
def test_events_can_be_matched_pickled_and_not_changed(
    event: Event, parts: tuple[object, ...]
) -> None:
    match event:
        case Started(number):
            found: tuple[object, ...] = (number,)
        case Stdout(number, data) | Stderr(number, data):
            found = (number, data)
        case Completed(number, output) | TimedOut(number, output):
            found = (number, output)
    assert found == parts
    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.id = SandboxId(8)  # type: ignore[misc]


def test_a_printed_output_fits_a_line() -> None:
    assert repr(NORMAL).startswith(f"<Output EXITED 0 stdout={NORMAL.stdout!r}")
    assert "\n" not in repr(NORMAL)
    assert len(repr(NORMAL)) < 200
