"""For producers: submit events over the server's socket or HTTP, without loss if the server restarts.

`Client` blocks and may be shared by threads; `webhookd.client.aio.AsyncClient` is the same for trio and asyncio. Both
do the I/O for one state machine, `outbox`.
"""

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import PublishResult
from webhookd.client.blocking import Client
from webhookd.client.events import Event
from webhookd.client.outbox import ServerUnavailable

__all__ = ["Client", "ErrorCode", "Event", "PublishResult", "Rejected", "ServerUnavailable"]
