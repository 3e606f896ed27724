"""Deterministic simulation: the real router, actors and journal under faults that one seed chooses.

`python -m tests.simulation` runs it. `driver` plays a seed as a row of lives (`life`), with what `chaos` does to them
and `receivers` answer; `watch` checks each request as it is made, `audit` what the journal says once everybody is well
again; `model` is what the checkers know by themselves, and `planted` holds the bugs that they must find.
"""
