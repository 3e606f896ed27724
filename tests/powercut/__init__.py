"""Start the server on the files that a power cut could leave: `python -m tests.powercut --help`.

A run is two lives of one server on one journal: in an empty directory (even seeds) or on a journal of the oldest
version (odd seeds). Events are submitted and delivered, a backup is made and the master key is rotated; the server is
killed, started again, and stopped by SIGTERM. The write-ahead log is checkpointed every 60 pages instead of every
4,000, except in each fourth seed. `trace.py` reads what strace recorded; replayed to its end, the trace must give the
files that the server left, byte for byte.

`disk.py` models the disk. Everything that was written to a file before a sync began is on disk when that sync has
ended. Of later writes and truncations, any part may be there: all, nothing, a torn last write, later writes without
earlier ones, any choice of pages of 4096 or sectors of 512 bytes. A sector is written completely or not at all. A file
that grew may have its new size without the bytes. In a directory, the changes of names that its sync covers are there,
and of the later ones the first few; syncing a file does not sync its name. Files and directories are independent. The
model has no disk that loses what it reported as synced.

`cuts.py` opens states at every change of a name, at every sync of a start, and right after an answer, after a request,
before a sync and elsewhere: only what was synced, all that was written, and three random states. `promise.py` checks
for each state:
- the start succeeds, and completes an interrupted upgrade or rotation of the master key;
- every acknowledged event and webhook is there with its bytes and deliveries, the delivery of every request that was
  sent is there, and in strict order every attempt except the last is recorded;
- `integrity_check`, references, sequences, attempt counts and the audit chain are intact;
- a finished backup is complete, and so is every file with the name of a backup; if the tables have been upgraded, the
  copy from before the upgrade is complete.
"""
