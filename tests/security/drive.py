"""Runs attacks as whoever this process is; a JSON object per line of stdout.

    PYTHONPATH=.:tests python3 -m security.drive --caller user --tier process F1.read

The first kind of line is {"tier": ..., "missing": reason, "levels": {property: level}}
for each tier, the second a Result.
"""

from __future__ import annotations

import argparse
import json
import resource
from dataclasses import asdict
from pathlib import Path

import evalbox
from evalbox import _host
from evalbox._host import namespaces
from evalbox._host.cgroups import NO_CGROUPS
from evalbox._launch import launcher
from security import base
from security.base import CALLERS, TIERS
from security.catalogue import IDS
from security.engine import look_at, run_attacks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--caller", choices=CALLERS, required=True)
    parser.add_argument("--tier", action="append", choices=TIERS)
    parser.add_argument("--launcher", type=Path, help="another program than evalbox/_launcher")
    parser.add_argument("--without-cgroups", action="store_true", help="as where there are none")
    parser.add_argument("--warm", action="store_true", help="from a template where it can be")
    parser.add_argument("ids", nargs="*", help="all without any")
    asked = parser.parse_args()
    if asked.launcher:
        namespaces.PROGRAM = launcher.PROGRAM = asked.launcher
    if asked.without_cgroups:
        _host.find = lambda: NO_CGROUPS
    if asked.warm:
        base.warm = evalbox.Warm(["ctypes", "json"])
    # As on a host where crashes are dumped.
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    for tier in asked.tier or TIERS:
        found = look_at(tier)
        print(json.dumps(found), flush=True)
        if not found["missing"]:
            for result in run_attacks(asked.ids or IDS, tier, asked.caller):
                print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
