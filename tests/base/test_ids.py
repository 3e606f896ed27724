"""Ids: a prefix and a ULID, which sorts by its millisecond and is unique."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.base.ids import IdFactory, Prefix, is_id

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@pytest.mark.parametrize(
    ("milliseconds", "characters"), [(0, "0000000000"), (1_469_918_176_385, "01ARYZ6S41"), (2**48 - 1, "7ZZZZZZZZZ")]
)
def test_the_time_is_written_as_the_ulid_specification_has_it(milliseconds: int, characters: str) -> None:
    """The first ten characters are the milliseconds in Crockford's base 32: ULID's own example, and both ends."""
    made = IdFactory(lambda: milliseconds / 1000, bytes).new(Prefix.EVENT)
    assert made == f"evt_{characters}{'0' * 16}"


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=20, unique=True))
def test_ids_sort_by_their_time(moments: list[int]) -> None:
    """Whatever the random part is, an older id is a smaller text."""
    clock = iter(sorted(moments))
    ids = IdFactory(lambda: next(clock) / 1000)
    made = [ids.new(Prefix.DELIVERY) for _ in moments]
    assert made == sorted(made)


def test_no_id_is_made_twice() -> None:
    """In one millisecond a hundred thousand ids are different; each is accepted by `is_id` and has no dot."""
    ids = IdFactory(lambda: 1.0)
    made = {ids.new(Prefix.ATTEMPT) for _ in range(100_000)}
    assert len(made) == 100_000
    assert all(re.fullmatch(f"att_[{CROCKFORD}]{{26}}", each) for each in made)
    assert all(is_id(Prefix.ATTEMPT, each) for each in made)
