"""A caller in a hard place: looks around, runs something, attacks, and reports.

Started by `visit`; what it reports is one JSON object. An attack is tried in a
sandbox and, as its control, in an ordinary process of the same caller.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import evalbox
import probe
import proc
from probe import Attack

_OUTSIDE = Path(__file__).parents[2]
READ = Attack("read a file", f"opened('{_OUTSIDE}/pyproject.toml')")
WITHOUT_DIRECTORY = (
    READ,
    Attack("list a directory", f"os.listdir('{_OUTSIDE}/docs')"),
    Attack("signal the caller", "os.kill(WITNESS, 0)"),
    Attack("limit the caller", "call('prlimit64', WITNESS, 7, 0, AT)"),
    Attack("tcp socket", "socket.socket().close()"),
    Attack("udp socket", "socket.socket(type=socket.SOCK_DGRAM).close()"),
    Attack("unix socket", "socket.socket(socket.AF_UNIX).close()"),
)
IN_DIRECTORY = (
    Attack("write a file", "opened(f'{D}/secret', os.O_WRONLY)"),
    Attack("make a file", "opened(f'{D}/new', os.O_WRONLY | os.O_CREAT)"),
    Attack("remove a file", "os.unlink(f'{D}/secret')"),
    Attack("truncate a file", "os.truncate(f'{D}/secret', 0)"),
)


def main() -> None:
    isolation = sys.argv[1] if len(sys.argv) > 1 else "auto"
    report_fd = int(os.environ.pop("HARD_PLACES_REPORT"))
    report = _report(evalbox.Policy(isolation=isolation))
    with os.fdopen(report_fd, "w") as file:
        json.dump(report, file)


def _report(policy: evalbox.Policy) -> dict[str, Any]:
    before = _there()
    with evalbox.Executor() as executor:
        report = {"run": _try_run(executor, policy)}
        if "error" not in report["run"]:
            report |= _attack(executor, policy)
            report["survivors"] = _survivors(executor, policy)
    after = _there()
    report["left"] = {name: sorted(after[name] - before[name]) for name in before}
    return report


def _try_run(executor: evalbox.Executor, policy: evalbox.Policy) -> dict[str, Any]:
    try:
        output = executor.run(evalbox.Plan(["sh", "-c", "echo $((6 * 7))"], policy=policy))
    except evalbox.EvalboxError as error:
        return {"error": type(error).__name__, "text": str(error)}
    held = {name: (item.level, item.mechanism) for name, item in output.enforcement.items()}
    told = (output.explain(), output.stderr.decode())
    return {"ok": output.ok, "text": output.text.strip(), "held": held, "told": told}


# ---- attacks ---------------------------------------------------------------------


def _attack(executor: evalbox.Executor, policy: evalbox.Policy) -> dict[str, Any]:
    def confined(command: list[str]) -> str:
        output = executor.run(evalbox.Plan(command, policy=policy))
        assert output.ok, (output.explain(), output.stderr.decode())
        return output.text

    def free(command: list[str]) -> str:
        pipes = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, **pipes
        ).stdout

    return {"attacks": _seen_by(confined), "controls": _seen_by(free)}


def _seen_by(run: Callable[[list[str]], str]) -> dict[str, str]:
    with probe.witness() as witness, _directory() as outside:
        attacks = WITHOUT_DIRECTORY if outside is None else WITHOUT_DIRECTORY + IN_DIRECTORY
        if outside is not None:
            probe._fill(outside, attacks)
        names = {"WITNESS": witness.pid}
        argument = probe._argument(attacks, outside or Path("/nonexistent"), names)
        return probe._seen(run([sys.executable, "-c", probe._PRELUDE, argument]))


@contextmanager
def _directory() -> Iterator[Path | None]:
    """A directory that every uid may change, outside of sandboxes; None where there is none."""
    places = _writable()
    if not places:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="outside-", dir=places[0]))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _survivors(executor: evalbox.Executor, policy: evalbox.Policy) -> list[int]:
    """Daemons of a run that are alive after it."""
    mark = proc.mark()
    daemon = f"setsid sh -c 'echo >> up; exec sleep {mark}' &"
    script = f"touch up; {daemon} {daemon} while [ $(wc -l < up) -lt 2 ]; do :; done"
    plan = evalbox.Plan(["sh", "-c", script], policy=policy, limits=evalbox.Limits(processes=50))
    assert executor.run(plan).ok
    return proc.marked(mark)


# ---- what is left ------------------------------------------------------------------


def _there() -> dict[str, set[str]]:
    """Directories of evalbox, processes, mounts and own descriptors."""
    folders = {f"{place}/{name}" for place in _writable() for name in os.listdir(place)}
    if not os.path.exists("/proc/self"):
        return {"folders": folders}
    return {
        "folders": {name for name in folders if "/evalbox-" in name},
        "processes": {name for name in os.listdir("/proc") if name.isdigit()},
        "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "descriptors": {f"{fd} {what}" for fd, what in proc.open_descriptors().items()},
    }


def _writable() -> list[str]:
    wanted = dict.fromkeys((os.environ.get("TMPDIR", "/tmp"), "/tmp", "/var/tmp", "/dev/shm"))
    return [path for path in wanted if os.access(path, os.W_OK | os.X_OK)]


if __name__ == "__main__":
    main()
