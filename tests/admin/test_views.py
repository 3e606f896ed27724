"""Documents of the API are made of rows: fields of the same names, times as ISO-8601, and fields of their own."""

from dataclasses import dataclass

import pytest

from webhookd.admin.schemas import KeyView, ReplayView
from webhookd.admin.views import shown
from webhookd.base.models import ReplayStatus, Role


@dataclass
class Row:
    id: str = "key_1"
    role: Role = Role.VIEWER
    name: str = "desk"
    organization_id: str | None = None
    key_hash: bytes = b"secret"
    created_at: float = 1_736_937_000.25
    expires_at: float | None = None


def test_a_document_has_the_fields_of_its_row() -> None:
    """Times are ISO-8601 or null, own fields are taken as they are, and nothing else of the row is shown."""
    assert shown(KeyView, Row(), last_used_at="never") == KeyView(
        id="key_1",
        role=Role.VIEWER,
        name="desk",
        organization_id=None,
        expires_at=None,
        last_used_at="never",
        created_at="2025-01-15T10:30:00.250Z",
    )


def test_own_fields_replace_those_of_the_row() -> None:
    """A view may show a field of the row in another way."""
    view = shown(KeyView, Row(), last_used_at=None, name="front desk", created_at="long ago")
    assert (view.name, view.created_at) == ("front desk", "long ago")


def test_a_field_that_is_missing_or_unknown_is_an_error() -> None:
    """Neither a field that the row lacks nor one that the document lacks is left out silently."""
    with pytest.raises(AttributeError, match="last_used_at"):
        shown(KeyView, Row())
    with pytest.raises(TypeError, match="colour"):
        shown(KeyView, Row(), last_used_at=None, colour="blue")
    with pytest.raises(AttributeError, match="matched"):
        shown(ReplayView, Row(), status=ReplayStatus.DONE)
