"""Makes attempts and judges them; for one caller, the one that this process is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import evalbox
from evalbox.policy import PROPERTIES
from security import batch
from security.base import (
    ATTACKS,
    PYTHON,
    Attack,
    Context,
    Fields,
    Result,
    Verdict,
    answer_of,
    make_context,
    nothing,
)
from security.world import World

# In flight at once: enough to keep two processors busy.
_AT_ONCE = 4


def look_at(tier: str) -> dict[str, Any]:
    """Why this caller has no such tier here, or what a run in it reports."""
    try:
        # A limit for each property, so that none counts as granted.
        plan = evalbox.Plan(
            ["true"],
            policy=evalbox.Policy(isolation=tier, require=()),  # type: ignore[arg-type]
            limits=evalbox.Limits(cpu_time=60),
        )
        found = evalbox.Executor.run(plan).enforcement
    except evalbox.UnsupportedError as error:
        return {"tier": tier, "missing": str(error), "levels": {}}
    levels = {name: found[name].level for name in PROPERTIES}
    return {"tier": tier, "missing": "", "levels": levels}


# Answers of ordinary processes are the same in every tier.
_controls: dict[str, str] = {}


def run_attacks(ids: Iterable[str], tier: str, caller: str) -> Iterator[Result]:
    """A result for each; nothing of the attempts is left afterwards."""
    chosen = [ATTACKS[name] for name in ids]
    with World() as world:
        applicable = []
        for item in chosen:
            context = make_context(item.id, tier, caller, world.base, world)
            if reason := item.why_not(context):
                yield _not_applicable(item, context, reason)
            else:
                applicable.append(_Attempt(item, context))
        yield from _all_programs([a for a in applicable if a.attack.function is None])
        for attempt in applicable:
            if attempt.attack.function is not None:
                yield _run_function(attempt)


@dataclass
class _Attempt:
    attack: Attack
    context: Context
    control: str = ""
    began: float = 0.0
    spent: float = 0.0

    def judged(self, answer: str) -> Result:
        spent = self.spent + time.monotonic() - self.began
        return replace(judge(self.attack, self.context, answer, self.control), seconds=spent)


def _not_applicable(item: Attack, context: Context, reason: str) -> Result:
    return Result(
        id=item.id,
        caller=context.caller,
        tier=context.tier,
        verdict=Verdict.NOT_APPLICABLE,
        answer="",
        control="",
        reason=reason,
    )


# ---- programs --------------------------------------------------------------------------------


def _all_programs(attempts: list[_Attempt]) -> Iterator[Result]:
    """Controls one by one, then several attempts at a time through one executor."""
    _make_controls_together(attempts)
    for attempt in attempts:
        attempt.began = time.monotonic()
        attempt.control = _answer(partial(_control, attempt), attempt.context)
        attempt.spent = time.monotonic() - attempt.began
    blocked = dict(_blocked_together(attempts))
    yield from blocked.values()
    waiting = [attempt for attempt in attempts[::-1] if attempt.attack.id not in blocked]
    live: dict[int, _Attempt] = {}
    with evalbox.Executor() as executor:
        while waiting or live:
            while waiting and len(live) < _AT_ONCE:
                attempt = waiting.pop()
                attempt.began = time.monotonic()
                try:
                    live[executor.spawn(_plan(attempt))] = attempt
                except Exception as error:  # noqa: BLE001  # as in _answer
                    yield _not_run(attempt, error)
            yield from _ended(executor, live)


def _ended(executor: evalbox.Executor, live: dict[int, _Attempt]) -> Iterator[Result]:
    try:
        events = executor.poll()
    except evalbox.SetupError as error:
        yield _not_run(live.pop(getattr(error, "id", -1)), error)
        return
    for event in events:
        if isinstance(event, evalbox.Completed | evalbox.TimedOut):
            yield _judged(live.pop(event.id), event.output)


def _not_run(attempt: _Attempt, error: Exception) -> Result:
    """An error of ours is neither a success nor what blocks an attack."""
    return attempt.judged(f"raised {error!r}")


def _control(attempt: _Attempt, _: Context) -> str:
    item = attempt.attack
    if item.control is not None:
        return _make_control(attempt)
    if item.id not in _controls:
        _controls[item.id] = _make_control(attempt)
    return _controls[item.id]


def _make_control(attempt: _Attempt) -> str:
    item, context = attempt.attack, attempt.context
    given = {**item.given(context), **item.control_given(context)}
    if item.control is None:
        answer = context.act_outside(item.act, given)
    else:
        fields = {**item.fields(context), **item.control(context)}
        answer = context.act_inside(item.act, given, **fields)
    answer = _with_harm(item, context, answer)
    context.fill()
    return answer


def _plan(attempt: _Attempt) -> evalbox.Plan:
    item, context = attempt.attack, attempt.context
    command = context.command(item.act, item.given(context))
    return context.plan(command, **item.fields(context))


def _judged(attempt: _Attempt, output: evalbox.Output) -> Result:
    attempt.context.enforcement = output.enforcement
    answer = _with_harm(attempt.attack, attempt.context, answer_of(output))
    return attempt.judged(answer)


def _with_harm(item: Attack, context: Context, answer: str) -> str:
    if item.harm is None:
        return answer
    if item.harm(context):
        return "OK"
    # It believes that it succeeded, and nothing happened.
    return "unharmed" if answer in item.reached else answer


# ---- several programs in one, where batch.py says so -----------------------------------------


def _make_controls_together(attempts: list[_Attempt]) -> None:
    """Those that reach what they mean to."""
    due = [a for a in attempts if a.attack.control is None and a.attack.id not in _controls]
    for group in batch.groups(_with_acts(due, lambda item: item.control_given)):
        acts = [act for _, act in group]
        stdout = _output_of_process(batch.command(PYTHON, acts), group[0][0].context.scratch)
        for number, told in batch.answers(stdout).items():
            item, context = group[number][0].attack, group[number][0].context
            answer = _with_harm(item, context, told)
            if answer in item.reached:
                _controls[item.id] = answer
        for attempt, _ in group:
            attempt.context.fill()


def _blocked_together(attempts: list[_Attempt]) -> Iterator[tuple[str, Result]]:
    """Those of an ordinary policy that meet what is to block them."""
    ordinary = [a for a in attempts if a.attack.fields is nothing]
    for group in batch.groups(_with_acts(ordinary, lambda _: nothing)):
        command = batch.command(PYTHON, [act for _, act in group])
        began = time.monotonic()
        try:
            output = group[0][0].context.run(command, wall_time=batch.PATIENCE)
        except evalbox.EvalboxError:
            continue  # each alone then says what is the matter
        told = batch.answers(output.stdout)
        for number, (attempt, _) in enumerate(group):
            attempt.began, attempt.context.enforcement = began, output.enforcement
            answer = _with_harm(attempt.attack, attempt.context, told.get(number, ""))
            if answer in attempt.attack.blocked:
                yield attempt.attack.id, attempt.judged(answer)
            else:
                attempt.context.fill()


def _with_acts(
    attempts: list[_Attempt], more: Callable[[Attack], Callable[[Context], Fields]]
) -> list[tuple[_Attempt, batch.Act]]:
    """Each with what its program is given; not those for which that cannot be made."""
    found = []
    for attempt in filter(lambda a: batch.suits(a.attack.act), attempts):
        item, context = attempt.attack, attempt.context
        with suppress(Exception):
            given = {**item.given(context), **more(item)(context)}
            found.append((attempt, (item.act, context.names(given))))
    return found


def _output_of_process(command: list[str], cwd: Path) -> bytes:
    try:
        return subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=batch.PATIENCE
        ).stdout
    except subprocess.TimeoutExpired as error:
        return error.stdout or b""


# ---- functions -------------------------------------------------------------------------------


def _run_function(attempt: _Attempt) -> Result:
    item, context = attempt.attack, attempt.context
    assert item.function is not None
    assert item.control is not None
    attempt.began = time.monotonic()
    attempt.control = _answer(item.control, context)
    context.fill()
    context.enforcement = {}
    return attempt.judged(_answer(item.function, context))


def _answer(function: Callable[[Context], str], context: Context) -> str:
    """One attack that breaks is a failure of its own, and not the end of the others."""
    try:
        return function(context)
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"


# ---- judging ---------------------------------------------------------------------------------


def judge(item: Attack, context: Context, answer: str, control: str) -> Result:
    """Blocked, allowed or not applicable, and what is wrong with that."""
    level, reason = _reported(item, context)
    verdict, failure = Verdict.BLOCKED, ""
    if answer in item.reached:
        verdict = Verdict.ALLOWED
        if level in ("", "enforced"):
            failure = f"it succeeds although {item.property or 'this'} is enforced"
    elif control not in item.reached and item.privileged:
        verdict = Verdict.NOT_APPLICABLE
        reason = f"the caller itself meets {control}: it takes {item.privileged}"
    elif answer not in item.blocked:
        failure = f"it meets {answer!r}: neither a success nor one of {sorted(item.blocked)}"
    if item.property is not None and not level:
        failure = failure or f"no run says how {item.property} was held"
    if control not in item.reached and not item.privileged:
        failure = failure or f"its control meets {control!r}, so it proves nothing"
    return Result(
        id=item.id,
        caller=context.caller,
        tier=context.tier,
        verdict=verdict,
        answer=answer,
        control=control,
        level=level,
        reason=reason,
        failure=failure,
    )


def _reported(item: Attack, context: Context) -> tuple[str, str]:
    """Level and reason of its property in the run that was attacked."""
    if item.property is None or not context.enforcement:
        return "", ""
    found = context.enforcement[item.property]
    # What a policy itself grants is no break when it is made use of.
    if found.mechanism == "granted":
        return "granted", "the policy of the attack grants it, and nothing else holds it"
    return found.level, found.reason
