"""The local socket."""
