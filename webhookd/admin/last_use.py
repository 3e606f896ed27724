"""Saves when API keys were last used: noted in memory at each request, and written together every minute."""

import trio

from webhookd.admin.auth import KeyRing
from webhookd.base.errors import Rejected
from webhookd.journal import Store, finished

SAVE_SECONDS = 60.0


async def save_uses(ring: KeyRing, store: Store) -> None:
    """Write the last uses every minute until canceled, and once more at the end.

    On a full disk the last use of a key is lost until the key is used again.
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
        # Not awaited: the journal's writer ends later, and writes what was submitted.
        uses = ring.take_uses()
        if uses:
            store.keys.note_uses(uses)
