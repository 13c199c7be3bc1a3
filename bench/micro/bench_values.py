"""Time per operation of the values: what a plan costs before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from evalbox.limits import Limits
from evalbox.plan import Plan
from evalbox.policy import Policy

Benchmark = Callable[..., Any]

FILES = {f"folder{i % 4}/file{i}.txt": b"x" * 1000 for i in range(20)}


def bench_plan_of_one_command(benchmark: Benchmark) -> None:
    assert benchmark(Plan, ["/bin/true"]).cmd == ("/bin/true",)


def bench_plan_with_twenty_files(benchmark: Benchmark) -> None:
    assert len(benchmark(Plan, ["/bin/true"], files=FILES).files) == 20


def bench_limits(benchmark: Benchmark) -> None:
    assert benchmark(Limits, wall_time=1.0).wall_time == 1.0


def bench_policy_with_digest(benchmark: Benchmark) -> None:
    assert benchmark(Policy, read=["/srv/a", "/srv/b"]).digest


def bench_plan_through_json(benchmark: Benchmark) -> None:
    plan = Plan(["/bin/true"], files=FILES)

    def there_and_back() -> Plan:
        return Plan.from_dict(json.loads(json.dumps(plan.to_dict())))

    assert benchmark(there_and_back) == plan
