"""When API keys were used last: kept in memory with each request, and written together now and then."""

import trio

from webhookd.admin.auth import KeyRing
from webhookd.base.errors import Rejected
from webhookd.journal import Store, finished

SAVE_SECONDS = 60.0


async def save_uses(ring: KeyRing, store: Store) -> None:
    """Write the last uses, at most once a minute and once more at the end, until canceled.

    Where the disk has no room they are lost to the journal until the key is used again.
    """
    try:
        while True:
            await trio.sleep(SAVE_SECONDS)
            uses = ring.take_uses()
            if uses:
                try:
                    await finished(store.keys.note_uses(uses))
                except Rejected:
                    continue
    finally:
        # Only submitted: the writer outlives this and puts what it has on disk before it ends.
        uses = ring.take_uses()
        if uses:
            store.keys.note_uses(uses)
