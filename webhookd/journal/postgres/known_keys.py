"""Which nodes know a master key: each tells the ids of the keys that it has in its files (see `leases.note_keys`)."""

from peewee import Database

from webhookd.journal.queries.dialect import statements

_LACKING = """
SELECT coalesce(name, id) FROM nodes
WHERE expires_at > clock_timestamp() AND split_part(id, '.', 1) <> ? AND NOT (? = ANY(string_to_array(key_ids, ' ')))
ORDER BY name, id
"""


def nodes_without(database: Database, key_id: str, process: str) -> list[str]:
    """Return the names of the living nodes that don't know a master key; `process` does."""
    return [name for (name,) in statements(database).execute(_LACKING, (process, key_id))]
