"""The ingest socket: producers write events, one JSON line each, and read a result for each, in the same order."""

from webhookd.ingest.server import EventTicket, IngestServer, Publisher

__all__ = ["EventTicket", "IngestServer", "Publisher"]
