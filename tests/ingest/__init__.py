"""The ingest socket."""
