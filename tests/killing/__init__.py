"""The real process killed under load, again and again: see `python -m tests.killing --help` and docs/reliability.md."""
