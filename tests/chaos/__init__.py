"""Random SIGKILLs at random moments under load, and nothing else is hurt and nothing is left.

    make chaos KILLS=10000

`drive` is the subreaper of everything: it starts hosts, kills programs, inits,
launchers and hosts below it (`victims`), and looks for what is left (`remains`).
A `host` is a process with an Executor that keeps runs of all `kinds` going and writes
down how each ended. `judge` holds what was written against what was killed.
"""
