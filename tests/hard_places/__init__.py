"""Hard places, reproduced: where evalbox has to hold what it promises or to say so.

    python -m tests.hard_places docker-root -- evalbox doctor
    python -m tests.hard_places --list
"""
