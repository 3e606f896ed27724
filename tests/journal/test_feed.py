"""The feed of committed changes: who gets which of them."""

from webhookd.journal import EventTypeAdded, EventTypeRemoved, Feed


def test_each_follower_gets_each_change_of_its_kind() -> None:
    """A second follower of a kind doesn't replace the first one, and none gets changes of another kind."""
    feed = Feed()
    first: list[str] = []
    second: list[str] = []
    feed.follow(EventTypeAdded, lambda added: first.append(added.name))
    feed.announce(EventTypeAdded("a"))
    feed.follow(EventTypeAdded, lambda added: second.append(added.name))
    feed.announce(EventTypeAdded("b"))
    feed.announce(EventTypeRemoved("a"))
    assert (first, second) == (["a", "b"], ["b"])
