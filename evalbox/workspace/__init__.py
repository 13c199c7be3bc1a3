"""The files of a run: put there before it, brought back after it.

A workspace is a directory with three in it: `box`, where the program starts,
and `home` and `tmp` for HOME and TMPDIR. They are made once and serve one run
after the other. Everything below works on directory descriptors and never goes
through a link, whatever a program left behind; and only while no program runs.
"""

from evalbox.workspace.collect import collect
from evalbox.workspace.fill import fill

PLACES = ("box", "home", "tmp")

__all__ = ["PLACES", "collect", "fill"]
