"""The local socket: events in, one JSON line each; results out, in the order of the lines."""

from webhookd.ingest.listener import bind_unix
from webhookd.ingest.server import IngestServer, Publisher, Ticket

__all__ = ["IngestServer", "Publisher", "Ticket", "bind_unix"]
