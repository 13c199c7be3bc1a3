"""python -m tests.hard_places PLACE -- COMMAND [ARGUMENT...]: see __init__.py."""

from __future__ import annotations

import argparse
import sys

from .enter import CANNOT_MAKE, run
from .places import PLACES, inside


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hard_places", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the places")
    parser.add_argument("place", nargs="?")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if args.list:
        for name, place in PLACES.items():
            print(f"{name:<20}{place.summary} ({', '.join(place.who)})")
        return 0
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not args.place or not command:
        parser.error("needs a place and a command")
    try:
        return run(inside(args.place), command)
    except (ValueError, OSError) as error:
        print(f"hard_places: {error}", file=sys.stderr)
        return CANNOT_MAKE


if __name__ == "__main__":
    sys.exit(main())
