"""The exceptions: their tree, their messages, and that they survive pickling."""

from __future__ import annotations

import dataclasses
import errno
import pickle

import pytest

from evalbox import errors
from evalbox.errors import (
    CommandNotFound,
    EvalboxError,
    InternalError,
    PlanError,
    ProgramFailed,
    SetupError,
    UnsupportedError,
)
from value_samples import NORMAL

FAILED = dataclasses.replace(NORMAL, exit_code=1, stderr=b"boom\n")
EVERY: list[EvalboxError] = [
    PlanError("cmd is empty"),
    UnsupportedError("udp", "Landlock ABI 7 found, 10 needed", "require=CORE - {'udp'}"),
    CommandNotFound("nope"),
    CommandNotFound(b"\xff", "no such file"),
    SetupError("landlock", errno.EPERM),
    SetupError("execve", errno.ENOEXEC, "not a program"),
    ProgramFailed(FAILED),
    InternalError("never"),
]


# Features on top of the engine add their own.
TREE = {kind for kind in EvalboxError.__subclasses__() if kind.__module__ == errors.__name__}


def test_tree_is_that_of_the_contract() -> None:
    assert issubclass(PlanError, ValueError)
    assert issubclass(CommandNotFound, FileNotFoundError)
    assert issubclass(SetupError, OSError)
    assert {type(error) for error in EVERY} == TREE


def test_docstring_draws_every_exception() -> None:
    drawn = errors.__doc__ or ""
    assert all(f" {kind.__name__}" in drawn for kind in TREE)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error: EvalboxError) -> None:
    error.id = 7
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    for name in ("id", "stage", "errno", "filename", "reason", "property", "remedy", "output"):
        assert getattr(again, name, None) == getattr(error, name, None)


def test_messages_name_operation_and_remedy() -> None:
    unsupported = UnsupportedError("udp", "Landlock ABI 7 found, 10 needed", "upgrade")
    assert str(unsupported) == (
        "cannot enforce udp: Landlock ABI 7 found, 10 needed; remedy: upgrade"
    )
    assert "landlock" in str(SetupError("landlock", errno.EPERM))
    assert "EPERM" in str(SetupError("landlock", errno.EPERM))
    assert "RLIMIT_NOFILE" in str(SetupError("slot", errno.EMFILE))
    assert "RLIMIT_NPROC" in str(SetupError("fork", errno.EAGAIN))
    assert "remedy" not in str(SetupError("identity", errno.EAGAIN, "no uid is free for a run"))
    assert str(CommandNotFound("nope")) == "nope: not found in the plan's PATH"
    assert str(ProgramFailed(FAILED)).endswith("\nboom")


def test_os_errors_keep_what_their_callers_look_at() -> None:
    missing = CommandNotFound("nope")
    assert (missing.errno, missing.filename) == (errno.ENOENT, "nope")
    setup = SetupError("seccomp", errno.EINVAL)
    assert (setup.stage, setup.errno) == ("seccomp", errno.EINVAL)
