"""Crash points: the real server is killed at a stage, checked on disk, started again, and judged by its receivers.

A crash is visible in two places only: on disk and on the network. The product marks each stage after which one of them
differs (`webhookd/base/stages.py`), from a batch that is written and not committed to a copy that is named and whose
directory is not synced. `points.py` is the table. A point is a path of stages, at the last of which the process kills
itself, with the outcome that is expected and the check of it. For example, `event.written, batch.committed` is the
commit of the first event after the check has armed the point. Within a commit and a checkpoint, a path names writes to
a file, such as `write webhookd.db-wal`. A stage that the process does not reach fails the check.

    points.py    the table
    events.py, changes.py, files.py
                 the checks: what is done until the process dies, and what must hold on disk and after the next start
    site.py      what a check works with: server, receivers, journal
    launcher.py  runs `webhookd serve`, `backup`, `restore` or `rotate-master-key`, and kills it; marks of the product
                 are audit events of the interpreter, and writes are seen by a file system in front of SQLite's own
    play.py      plays points, several at once, each in its own directory
    planted.py   faults that the checks must find

After each death the journal's pages, references and audit log are checked before anything is started again. A killed
process leaves all that it has written, synced or not, so a sync makes no difference here; tests/powercut shows what a
power cut takes. Points whose files and answers are the same are one point: nothing of an open transaction is on disk,
whichever of its rows are written, and what a commit has left is the same until the next write or answer.

The tests of every change play the first point of most phases and plant one fault; the slow tests play and plant all.
"""
