"""The command line as its users call it: real processes, their output and their exit status."""
