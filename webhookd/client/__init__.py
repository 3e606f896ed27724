"""For producers: submit events through the server's socket or over HTTP, so that a restart of it loses none.

`Client` blocks and may be shared by threads; `webhookd.client.aio.AsyncClient` is the same for trio and asyncio. Both
are shells around one state machine, `outbox`, which does no I/O.
"""

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import PublishResult
from webhookd.client.blocking import Client
from webhookd.client.events import Event
from webhookd.client.outbox import ServerUnavailable

__all__ = ["Client", "ErrorCode", "Event", "PublishResult", "Rejected", "ServerUnavailable"]
