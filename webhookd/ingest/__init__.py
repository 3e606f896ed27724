"""The local socket: events in, one JSON line each; results out, in the order of the lines."""

from webhookd.ingest.listener import bind_unix
from webhookd.ingest.server import EventTicket, IngestServer, Publisher

__all__ = ["EventTicket", "IngestServer", "Publisher", "bind_unix"]
