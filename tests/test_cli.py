"""The command line as a shell sees it: real processes, exit codes, streams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evalbox.output import Output, Status
from evalbox.policy import ALL
from proc import children

EVALBOX = [sys.executable, "-m", "evalbox"]


def run(
    *arguments: str | Path, stdin: bytes = b"", **options: object
) -> subprocess.CompletedProcess[bytes]:
    command = [*EVALBOX, "run", *map(os.fspath, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


def shell(script: str, *options: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return run(*options, "--", "sh", "-c", script, stdin=stdin)


# ---- exit codes ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "script", "code"),
    [
        ((), "exit 0", 0),
        ((), "exit 3", 3),
        ((), "exit 125", 125),
        ((), "kill -SEGV $$", 128 + 11),
        ((), "kill -KILL $$", 128 + 9),
        (("--timeout", "0.2"), "sleep 60", 124),
        (("--cpu", "0.1"), "while :; do :; done", 124),
        (("--output", "1K"), "yes", 153),
        (("--disk", "64K"), "head -c 1M /dev/zero > file; sleep 60", 153),
    ],
)
def test_exit_codes_tell_how_it_ended(options: tuple[str, ...], script: str, code: int) -> None:
    assert shell(script, *options).returncode == code


def test_the_memory_limit_is_137() -> None:
    eater = "x = bytearray(300_000_000)\nimport time\ntime.sleep(60)"
    assert run("--memory", "64M", "--", "python3", "-c", eater).returncode == 137


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--", "no-such-program"), 127, "no-such-program"),
        (("--", "/etc/passwd"), 126, "not executable"),
        (("--", "/usr"), 126, "directory"),
        (("--read", "/no/such/path", "--", "true"), 125, "/no/such/path"),
        (("--isolation", "chroot", "--", "true"), 125, "chroot"),
        ((), 125, "no command"),
        (("--",), 125, "no command"),
        (("--memory", "lots", "--", "true"), 125, "lots"),
        (("--timeout", "-1", "--", "true"), 125, "negative"),
        (("--env", "NAME", "--", "true"), 125, "NAME=VALUE"),
        (("--file", "/no/such/file", "--", "true"), 125, "/no/such/file"),
        (("--file", "/etc/passwd:a", "--file", "/etc/group:a", "--", "true"), 125, "twice"),
        # What an unset variable of a script leaves; as a path it would be the whole directory.
        (("--read", "", "--", "true"), 125, "empty"),
        (("--write", "", "--", "true"), 125, "empty"),
        (("--time", "5", "--", "true"), 125, "--time"),
        (("--nonsense", "--", "true"), 125, "see evalbox run --help"),
        (("--timeout", "5s", "--", "true"), 125, "write seconds, for example 5"),
        (("--cpu", "1m", "--", "true"), 125, "write seconds, for example 5"),
        (("--processes", "few", "--", "true"), 125, "write a whole number"),
    ],
)
def test_what_cannot_be_started_is_told_on_stderr(
    arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert told in done.stderr.decode()


WITHOUT_NAMESPACES = """
import evalbox._host as here, sys
here.namespaces = lambda *_: here.Namespaces("forbidden here", "allow them")
from evalbox.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("tier", ["namespace", "process", "auto"])
def test_a_tier_that_is_not_there_is_told_on_stderr(tier: str) -> None:
    command = [sys.executable, "-c", WITHOUT_NAMESPACES, "run", "--isolation", tier, "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True)
    if tier == "namespace":
        assert done.returncode == 125
        assert "forbidden here" in done.stderr
        assert "allow them" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_no_command_at_all_is_a_usage_error() -> None:
    done = subprocess.run(EVALBOX, capture_output=True)
    assert (done.returncode, done.stdout) == (125, b"")


def test_the_separator_may_be_left_out() -> None:
    assert run("echo", "--timeout").stdout == b"--timeout\n"


# ---- streams -------------------------------------------------------------------


def test_streams_are_passed_through_byte_by_byte() -> None:
    every = bytes(range(256)) * 4000
    done = shell("cat; echo oops >&2", stdin=every)
    assert (done.stdout, done.stderr, done.returncode) == (every, b"oops\n", 0)


def test_input_and_output_are_live() -> None:
    command = [*EVALBOX, "run", "--", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        for line in (b"one\n", b"two\n"):
            # The answer comes while the input is still open.
            os.write(process.stdin.fileno(), line)
            assert os.read(process.stdout.fileno(), 100) == line
        process.stdin.close()
        assert process.wait() == 0


def test_input_that_is_not_read_does_not_keep_the_run() -> None:
    assert shell("exec true", stdin=b"x" * 5_000_000).returncode == 0


@pytest.mark.parametrize("redirection", ["<&-", "</dev/null"])
def test_without_input_the_program_sees_its_end(redirection: str) -> None:
    line = f"{sys.executable} -m evalbox run -- cat {redirection}"
    done = subprocess.run(line, shell=True, capture_output=True)
    assert (done.stdout, done.returncode) == (b"", 0)


def test_a_reader_that_leaves_ends_the_run_quietly() -> None:
    command = [*EVALBOX, "run", "--output", "1G", "--", "yes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


def with_stdin_at(file: Path, script: str) -> int:
    """Runs a script with this file as stdin; how far in it evalbox has read."""
    command = [*EVALBOX, "run", "--", "sh", "-c", script]
    with file.open("rb") as stdin:
        subprocess.run(command, stdin=stdin, stdout=subprocess.DEVNULL, check=True)
        return os.lseek(stdin.fileno(), 0, os.SEEK_CUR)


def test_input_is_read_no_faster_than_the_program_takes_it(tmp_path: Path) -> None:
    size = 8_000_000
    file = tmp_path / "input"
    with file.open("wb") as made:
        made.truncate(size)
    # Each piece of output is a round in which there was input to read, too.
    assert with_stdin_at(file, f"head -c {size} /dev/zero") < 1_000_000
    assert with_stdin_at(file, "cat") == size


@pytest.mark.parametrize(
    ("redirection", "printed"),
    [
        ("<&-", "out\nerr\n"),
        (">&-", "err\n"),
        ("2>&-", "out\n"),
        ("<&- >&- 2>&-", ""),
    ],
)
def test_a_missing_descriptor_is_dev_null(redirection: str, printed: str) -> None:
    line = f"{sys.executable} -m evalbox run -- sh -c 'cat; echo out; echo err >&2' {redirection}"
    done = subprocess.run(["sh", "-c", f"exec 2>&1; {line}"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, printed)


def test_a_message_without_stderr_is_not_written_to_stdout() -> None:
    line = f"{sys.executable} -m evalbox run -- no-such-program"
    for redirection in ("2>&-", "2>/dev/full"):
        done = subprocess.run(f"{line} {redirection}", shell=True, capture_output=True)
        assert (done.returncode, done.stdout) == (127, b"")


@pytest.mark.parametrize(
    "arguments", [("run", "--", "echo"), ("run", "--json", "--", "true"), ("doctor",), ("--help",)]
)
def test_output_that_cannot_be_written_is_told(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*EVALBOX, *arguments], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 125
    assert done.stderr.decode().splitlines()[-1].endswith("No space left on device")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("run", "--json", "--", "true"), ("doctor",), ("--help",)])
def test_results_that_nobody_reads_are_no_traceback(arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run([*EVALBOX, *arguments], stdout=gone, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


# ---- options -------------------------------------------------------------------


def test_env_file_read_and_write_reach_the_program(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "in").write_text("granted\n")
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho tool\n")
    tool.chmod(0o755)
    plain = tmp_path / "plain"
    plain.write_text("plain\n")
    granted = ("--read", shared, "--env", "A=1=2", "--file", tool, "--file", f"{plain}:sub/b")
    script = f'./tool; cat sub/b {shared}/in; echo "$A"; ls'
    done = run(*granted, "--", "sh", "-c", script)
    assert done.stdout.decode().split() == ["tool", "plain", "granted", "1=2", "sub", "tool"]
    assert run("--", "cat", shared / "in").returncode != 0
    write = f"echo new > {shared}/out"
    assert run("--read", shared, "--", "sh", "-c", write).returncode != 0
    assert run("--write", shared, "--", "sh", "-c", write).returncode == 0
    assert (shared / "out").read_text() == "new\n"


def test_relative_grants_are_below_the_callers_directory(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("here\n")
    done = run("--read", "in", "--", "cat", tmp_path / "in", cwd=tmp_path)
    assert done.stdout == b"here\n"


@pytest.mark.root
def test_processes_limits_forks() -> None:
    script = "for i in 1 2 3 4 5 6; do sleep 1 & done; wait"
    assert b"fork" in shell(script, "--processes", "3").stderr
    assert shell("true & wait", "--processes", "3").returncode == 0


def test_json_is_one_object_and_nothing_else() -> None:
    done = shell("echo out; echo err >&2; exit 3", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 3
    assert told.pop("schema_version") == 1
    assert "exited by itself with 3" in told.pop("explanation")
    output = Output.from_dict(told)
    assert (output.status, output.stdout, output.stderr) == (Status.EXITED, b"out\n", b"err\n")
    assert set(output.enforcement) == ALL
    assert done.stderr == b""


def test_json_of_what_could_not_start_names_the_error() -> None:
    done = run("--json", "--", "no-such-program")
    told = json.loads(done.stdout)
    assert (done.returncode, told["error"]["type"]) == (127, "CommandNotFound")


def test_explain_says_why_and_what_to_change() -> None:
    assert shell("exit 3").stderr == b""
    assert b"exited by itself with 3" in shell("exit 3", "--explain").stderr
    # What evalbox itself ended is always told.
    assert b"limits.output" in shell("yes", "--output", "10").stderr


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("./add.py", "./add.py is a file here, copy it in: --file add.py\n"),
        ("add.py", "copy it in: --file add.py, and write ./add.py\n"),
        ("sub/b c", "copy it in: --file 'sub/b c:sub/b c'\n"),
    ],
)
def test_a_program_that_was_not_copied_in_comes_with_the_option(
    command: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("add.py", "sub/b c"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    done = run("--json", "--", command, cwd=tmp_path)
    assert done.returncode == 127
    assert done.stderr.decode().endswith(hint)
    assert "copy it in" not in run("--", command).stderr.decode()


def test_explain_names_the_files_that_were_not_copied_in(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "b.txt").write_text("b\n")
    words = ("--explain", "--file", "b.txt", "--", "cat", "./a.txt", "b.txt", "/etc/shadow", "no")
    told = run(*words, cwd=tmp_path).stderr.decode().splitlines()
    hints = [line for line in told if "copy it in" in line]
    assert hints == [
        "evalbox: ./a.txt is a file here and not in the sandbox, copy it in: --file a.txt"
    ]
    # Neither when it was not asked for, nor when the program did without the file.
    assert "copy it in" not in run("--", "cat", "a.txt", cwd=tmp_path).stderr.decode()
    assert "copy it in" not in run("--explain", "--", "echo", "a.txt", cwd=tmp_path).stderr.decode()


# ---- signals -------------------------------------------------------------------


def marked(mark: str) -> list[int]:
    """Processes with this word in their command line, ours and evalbox's left out."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if words[:1] == [b"sleep"] and mark.encode() in words:
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_whole_tree_first(number: signal.Signals, code: int) -> None:
    mark = f"{1000 + os.getpid() % 1000}.{int(number)}"
    script = f"setsid sleep {mark} & echo ready; sleep {mark}"
    command = [*EVALBOX, "run", "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 30
        while len(marked(mark)) < 2:
            assert time.monotonic() < deadline
        process.send_signal(number)
        assert process.wait(60) == code
        assert marked(mark) == []


def test_ctrl_c_keeps_what_was_graded_so_far(tmp_path: Path) -> None:
    mark = f"{3000 + os.getpid() % 1000}"
    problem = {
        "task_id": "Small/0",
        "prompt": "def add(a, b):\n",
        "entry_point": "add",
        "canonical_solution": "    return a + b\n",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    }
    stalls = f"    import subprocess\n    subprocess.run(['sleep', '{mark}'])\n"
    completions = ("    return a + b\n", stalls, "    return 3\n")
    samples = [{"task_id": "Small/0", "completion": text} for text in completions]
    (tmp_path / "problems").write_text(json.dumps(problem))
    (tmp_path / "samples").write_text("\n".join(map(json.dumps, samples)))
    words = ("problems", "samples", "-j", "1", "--timeout", "100", "--json", "--report", "r.html")
    with subprocess.Popen(
        [*EVALBOX, "grade", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        deadline = time.monotonic() + 60
        # One at a time: when the second has begun, the first has its verdict.
        while not marked(mark):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    told = json.loads(out)
    assert (process.returncode, told["partial"], told["counts"]) == (130, True, {"passed": 1})
    assert b"interrupted after 1 of 3 samples" in err
    assert "Partial: interrupted after 1 of 3 samples" in (tmp_path / "r.html").read_text()
    assert marked(mark) == []


def test_a_run_that_is_killed_from_outside_is_137() -> None:
    command = [*EVALBOX, "run", "--", "sh", "-c", "echo ready; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        for launcher in children(process.pid):
            for init in children(launcher):
                os.kill(init, signal.SIGKILL)
        assert process.wait(60) == 137
