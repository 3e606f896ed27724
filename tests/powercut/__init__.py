"""What a power cut may leave of the journal: see `python -m tests.powercut --help` and docs/reliability.md."""
