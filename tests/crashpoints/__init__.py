"""Crash points: the real server process killed at named points of what it does, started again, and judged.

`points.py` is the table: each point's name, where it is, and the outcome that is expected. `launcher.py` runs `webhookd
serve`, `backup`, `restore` and `rotate-master-key` in child processes, on real files and sockets, forked from a process
that has everything imported. `arming.py` wraps one function from outside, so that the process kills itself before or
after its nth call; points within a commit or a checkpoint are in a SQLite file system in front of the real one, at a
write, a sync or a truncation. The product has no switch for it. A point that isn't reached, or whose function is gone,
has failed. `planted.py` holds faults that the checks must catch, and say what is wrong.

After each death the journal's pages, references and audit log are checked before anything is started again. A killed
process leaves behind what it has written, synced or not: what a power cut takes is not shown here (tests/powercut).
The tests of every change play the first point of most phases and plant one fault; the slow ones play and plant all.
"""
