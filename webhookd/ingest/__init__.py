"""The ingest socket: producers write events, one JSON line each, and read a result for each, in the same order."""

from webhookd.ingest.connection import EventTicket, Publisher
from webhookd.ingest.server import IngestServer

__all__ = ["EventTicket", "IngestServer", "Publisher"]
