"""The tables that every engine has, with the columns that all of them have: what is moved between two engines.

What one engine has alone stays there, such as the nodes of PostgreSQL. A row is a tuple of its columns in their order,
with the same values on every engine: booleans are 0 and 1.
"""

from dataclasses import dataclass
from enum import StrEnum

from peewee import BlobField, BooleanField, CompositeKey, Field, FloatField, IntegerField, Model

from webhookd.journal.queries import schema

MovedRow = tuple[object, ...]


class Kind(StrEnum):
    """What the values of a column are; each may also be None where the column allows it."""

    INTEGER = "integer"
    REAL = "real"
    BOOLEAN = "boolean"
    TEXT = "text"
    BLOB = "blob"


@dataclass(frozen=True, slots=True)
class Column:
    """A column by its name."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class MovedTable:
    """A table, its columns, and the columns whose values tell its rows apart."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(column.name for column in self.columns)

    def place(self, name: str) -> int:
        """Return at which place of a row a column is."""
        return self.names().index(name)

    def key_of(self, row: MovedRow) -> str:
        """Return the key of a row as a text for messages."""
        return named(self.key, [row[self.place(name)] for name in self.key])


def named(key: tuple[str, ...], values: list[object]) -> str:
    """Return the values of a key as a text for messages: `pk 17`."""
    return ", ".join(f"{name} {value!r}" for name, value in zip(key, values, strict=True))


def _kind_of(field: Field) -> Kind:
    match field:
        case IntegerField():  # AutoField too
            return Kind.INTEGER
        case FloatField():
            return Kind.REAL
        case BooleanField():
            return Kind.BOOLEAN
        case BlobField():
            return Kind.BLOB
        case _:
            return Kind.TEXT


def _table_of(model: type[Model]) -> MovedTable:
    meta = model._meta  # noqa: SLF001 - peewee's own way
    key = meta.primary_key
    assert not isinstance(key, bool)  # noqa: S101 - every table has one
    return MovedTable(
        name=meta.table_name,
        columns=tuple(Column(field.column_name, _kind_of(field)) for field in meta.sorted_fields),
        key=tuple(key.field_names) if isinstance(key, CompositeKey) else (key.column_name,),
    )


STATISTICS = MovedTable(
    name="statistics",
    columns=(
        *(Column("seconds", Kind.INTEGER), Column("at", Kind.INTEGER)),
        *(Column("subject", Kind.TEXT), Column("counts", Kind.TEXT)),
    ),
    key=("seconds", "at", "subject"),
)
MOVED_TABLES = (
    *(
        _table_of(model)
        for model in (
            *(schema.MetaTable, schema.EndpointTable, schema.EndpointStateTable, schema.SequenceTable),
            *(schema.SecretTable, schema.EventTypeTable, schema.KeyTable, schema.AuditTable, schema.ReplayTable),
            *(schema.IdempotencyTable, schema.EventTable, schema.DeliveryTable, schema.AttemptTable),
        )
    ),
    STATISTICS,
)
NUMBERED = ("events", "deliveries", "audit")
"""The tables whose last number is kept also when its row was deleted, so that no number is used again."""

NUL, NOT_UTF8 = "a NUL character", "bytes that are no UTF-8"
"""What a text may hold on SQLite, and not on PostgreSQL."""
