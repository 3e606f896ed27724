"""Deterministic simulation: the real sockets, router, actors and journal under faults that one seed chooses.

`python -m tests.simulation` runs it. `driver` plays a seed as a row of lives (`life`), with what `producers`, operators
(`chaos`) and `fate` do to them and `receivers` answer; `watch` checks each request as it is made, `monitor` looks at
the journal from time to time, `audit` at what it says once everybody is well again; `model` is what the checkers know
by themselves, and `planted` holds the bugs that they must find.
"""
