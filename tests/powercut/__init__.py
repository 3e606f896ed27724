"""What a power cut may leave of the journal: `python -m tests.powercut --help`.

A run is two lives of one server on one journal: an empty directory (even seeds) or a journal of the oldest version
(odd). Events come in and are delivered, a backup is made and the master key rotated; the server is killed, started
again, and ended by SIGTERM. The log is checkpointed every 60 pages instead of every 4,000, but for each fourth seed.
`trace.py` reads what strace recorded; played to its end, it must give the files that the server left, byte for byte.

`disk.py` is the disk. Of a file, what was written before a sync began is there once that sync has ended; of what was
written or cut off since, any part may be there: all, nothing, a torn last write, later writes without earlier ones, any
choice of pages of 4096 or sectors of 512 bytes. A sector is there whole or not at all. A grown file may have its size
without its bytes. Of a directory, the changes of names that its sync covers are there, and the first so many of those
since; syncing a file doesn't sync its name. Files and directories don't wait for each other. A disk that loses what it
reported as synced is not played.

`cuts.py` opens states at every change of a name, at every sync of a start, and right after an answer, after a request,
before a sync and elsewhere: what was synced alone, all that was written, and three by chance. `promise.py` checks each:
- the start succeeds; an upgrade or a master key rotation that was cut off is completed;
- every acknowledged event and webhook is there as it was acknowledged, and every request that had left is recorded; in
  strict order every attempt but the last is;
- `integrity_check`, references, sequences, attempt counts and the audit chain hold;
- a finished backup is whole, and so is every file under a backup's name; the copy from before an upgrade is whole
  whenever the tables are new.
"""
