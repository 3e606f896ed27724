"""Crash points: the real server process killed at named points of what it does, started again, and judged.

`points.py` is the table: each point's name, where it is, and the outcome that is expected. `launcher.py` starts the
real command line in a child process with one point armed, `arming.py` is how; the product has no switch for it. A point
that isn't reached, or whose function is gone, has failed. `planted.py` holds faults that the checks must catch.
"""
