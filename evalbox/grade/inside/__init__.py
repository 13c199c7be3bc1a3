"""What runs inside the sandbox: two processes, one verdict.

    host ──stdin──▶ judge ──calls──▶ subject       the sample runs here and only here
    host ◀─stdout── judge ◀─answers─ subject

The judge runs the test of the problem. It forks the subject before it has read
the test and the secret that a verdict must begin with, so neither was ever in
the memory in which the sample runs. `candidate(...)` in the test asks the
subject; arguments and results cross by value, as plain data. A sample therefore
cannot patch, delete or read the test, no method of an object that it returns
runs beside the test, and nothing that it prints or exits with is a verdict. All
it can do is to answer calls; every other way of ending is a failure.

What this relies on: the sample cannot trace the judge, read its memory or open
its descriptors. seccomp refuses the calls for it, and `judge.hide_memory` closes
/proc/<pid>/mem and /proc/<pid>/fd, which rules about paths do not.

These modules import only what the interpreter has built in, so that a run starts
fast, and nothing of evalbox but each other. They run on the interpreter that the
samples get: Python 3.10 or newer.
"""
