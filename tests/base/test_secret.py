"""A secret's value is not shown by accident."""

import copy
import json
import pickle
import traceback

import msgspec
import pytest

from webhookd.base.models import Credentials
from webhookd.base.secret import Secret

TEXT = "hunter2-is-not-a-password"


@pytest.mark.parametrize("secret", [Secret(TEXT), Secret(TEXT.encode())], ids=["text", "bytes"])
def test_no_way_of_printing_shows_it(secret: Secret[str] | Secret[bytes]) -> None:
    """repr, str, every kind of formatting, and a containing structure give a placeholder; `reveal` gives the value."""
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{secret:>40}", "%s" % secret, [secret]):  # noqa: UP031 - the old way too
        assert TEXT not in str(shown)
        assert "hidden" in str(shown)
    assert secret.reveal() in {TEXT, TEXT.encode()}


def test_a_structure_and_a_traceback_show_none() -> None:
    """Credentials are printed without their values, also in a traceback with local variables."""
    own = Credentials(
        secret=Secret(TEXT),
        previous_secret=Secret(TEXT),
        previous_expires_at=1.0,
        ed25519_secret=Secret(TEXT),
        headers=(("X-Token", Secret(TEXT)),),
    )
    assert TEXT not in repr(own)
    try:
        fail(own)
    except ValueError as error:
        told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "X-Token" in told
    assert TEXT not in told


def fail(own: Credentials) -> None:
    secret = own.secret
    raise ValueError(own, secret)


def test_nothing_encodes_it() -> None:
    """JSON, MessagePack, plain objects, pickle and copies are refused."""
    for encode in (msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins, json.dumps):
        with pytest.raises(TypeError):
            encode({"secret": Secret(TEXT)})
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="can't be pickled"):
            pickle.dumps(Secret(TEXT), protocol)
    with pytest.raises(TypeError):
        copy.deepcopy(Secret(TEXT))
    assert TEXT not in json.dumps({"secret": Secret(TEXT)}, default=repr)


def test_it_equals_secrets_alone() -> None:
    """Two secrets of the same value are equal, also beyond ASCII; a plain value never is, and there is no hash."""
    assert Secret(TEXT) == Secret(TEXT)
    assert Secret("ü\ud800") == Secret("ü\ud800")
    assert Secret(TEXT) != Secret(TEXT + "x")
    assert Secret(TEXT) != TEXT
    assert Secret(b"") != b""
    with pytest.raises(TypeError):
        hash(Secret(TEXT))
