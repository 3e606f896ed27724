"""What commands show of a journal next to running servers, or without one: each method reads one snapshot."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from peewee import Database

from webhookd.base.secret import Secret
from webhookd.journal.queries import audit, deliveries, endpoints, events
from webhookd.journal.queries.master_key import adopt_master_key, holds_secrets

P = ParamSpec("P")
T = TypeVar("T")


def _asks(query: Callable[Concatenate[Database, P], T]) -> Callable[Concatenate["Views", P], T]:
    """Return the method that runs a query on one snapshot: it takes the query's parameters and has its docstring."""

    @wraps(query)
    def method(views: "Views", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return views.ask(lambda database: query(database, *args, **kwargs))

    return method


class Views(ABC):
    """The lists and pages of a journal; every method raises JournalError if it finds the journal damaged."""

    webhooks = _asks(endpoints.all)
    webhook_page = _asks(endpoints.page)
    webhook = _asks(endpoints.get)
    health_facts = _asks(endpoints.health_facts)
    delivery_page = _asks(deliveries.page)
    delivery = _asks(deliveries.get)
    event_page = _asks(events.page)
    event = _asks(events.get)
    audit_chain = _asks(audit.verify)
    holds_secrets = _asks(holds_secrets)

    @abstractmethod
    def ask(self, query: Callable[[Database], T]) -> T:
        """Run a query on one snapshot."""

    @abstractmethod
    def version(self) -> tuple[int, int]:
        """Return the version of the tables, and the version that this program writes."""

    @abstractmethod
    def missing_triggers(self) -> list[str]:
        """Return the names of the missing triggers among those that protect the audit log from changes."""

    def check_master_key(self, key: Secret[bytes], staged: Secret[bytes] | None = None) -> bool:
        """Return whether there are secrets, which `key` opens, or `staged` during a rotation.

        Raises MasterKeyError if it is another journal's key.
        """

        def check(database: Database) -> bool:
            if not holds_secrets(database):
                return False
            adopt_master_key(database, key, staged)
            return True

        return self.ask(check)
