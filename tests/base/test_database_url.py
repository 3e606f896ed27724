"""The URL of a database: what is read from it, what is refused, and that its password shows nowhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.base.database_url import SSL_MODES, DatabaseUrl, Host, hidden, parse

SECRET = "s3cr3t"


def host(name: str, port: int = 5432) -> Host:
    return Host(name=name, port=port)


@pytest.mark.parametrize(
    ("text", "hosts", "database", "user", "password"),
    [
        ("postgresql://hook@db.example/webhookd", [host("db.example")], "webhookd", "hook", None),
        ("POSTGRES://hook@db.example:6432/webhookd", [host("db.example", 6432)], "webhookd", "hook", None),
        ("postgresql://db.example/webhookd", [host("db.example")], "webhookd", None, None),
        ("postgresql://u:p%40%2F%3A@[::1]:1/d%20b", [host("::1", 1)], "d b", "u", "p@/:"),
        ("postgresql://u:a:b@10.0.0.1/d", [host("10.0.0.1")], "d", "u", "a:b"),
        ("postgresql://u:@a:1,b,[fe80::1]:3/d", [host("a", 1), host("b"), host("fe80::1", 3)], "d", "u", ""),
        ("postgresql://u@/d?host=/run/pg&port=5433", [host("/run/pg", 5433)], "d", "u", None),
        ("postgresql://u@%2Frun%2Fpg/d", [host("/run/pg")], "d", "u", None),
    ],
)
def test_the_parts_of_a_url(
    text: str, hosts: list[Host], database: str, user: str | None, password: str | None
) -> None:
    """A URL is read as libpq reads it."""
    url = parse(text)
    assert (url.hosts, url.database, url.user) == (tuple(hosts), database, user)
    assert (url.password and url.password.reveal()) == password or url.password is None is password
    assert (url.sslmode, url.options) == (None, {})


def test_other_parameters() -> None:
    """Certificates and options are passed on."""
    url = parse("postgresql://h/d?sslmode=require&sslrootcert=/ca.pem&options=-csearch_path%3Dhooks")
    assert url.sslmode == "require"
    assert url.options == {"sslrootcert": "/ca.pem", "options": "-csearch_path=hooks"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("mysql://u:s3cr3t@h/d", "must begin with postgresql://"),
        ("u:s3cr3t@h/d", "must begin with postgresql://"),
        ("postgresql:/u:s3cr3t@h/d", "must begin with postgresql://"),
        ("postgresql://u:s3cr3t@h", "names no database"),
        ("postgresql://u:s3cr3t@h/", "names no database"),
        ("postgresql://u:s3cr3t@/d", "names no host"),
        ("postgresql://u:s3cr3t@h,/d", "names no host"),
        ("postgresql://u@h/d?host=/run", "names its host twice"),
        ("postgresql://u@h/d?port=1", "write it after the host"),
        ("postgresql://u:s3cr3t@h:0/d", "has a port"),
        ("postgresql://u:s3cr3t@h:65536/d", "has a port"),
        ("postgresql://u:s3cr3t@h:x/d", "has a port"),
        ("postgresql://u:s3cr3t/x@h/d", "must be percent-encoded"),
        ("postgresql://u:s3cr3t?x@h/d", "must be percent-encoded"),
        ("postgresql://u:s3cr3t#x@h/d", "must be percent-encoded"),
        ("postgresql://u:s3cr3t/d", "has a port"),
        ("postgresql://u:s3cr3t%zz@h/d", "has a % without"),
        ("postgresql://u:s3cr3t%ff@h/d", "no UTF-8"),
        ("postgresql://u:s3cr3t%00@h/d", "a NUL byte"),
        ("postgresql://u:s3 cr3t@h/d", "has a space"),
        ("postgresql://u:s3cr3t@h/d\n", "has a space"),
        ("postgresql://u:s3cr3t@fe80::1/d", "without brackets"),
        ("postgresql://u:s3cr3t@[fe80::1/d", "brackets that don't"),
        ("postgresql://u:s3cr3t@[::1]5/d", "brackets that don't"),
        ("postgresql://u@h/d?password=s3cr3t", "has its password as a parameter"),
        ("postgresql://u@h/d?s3cr3t=1", "has an unknown parameter: known are host, port"),
        ("postgresql://u@h/d?sslmode", "has an unknown parameter"),
        ("postgresql://u@h/d?sslmode=", "has the parameter sslmode without"),
        ("postgresql://u@h/d?sslmode=s3cr3t", "write one of disable, allow"),
        ("postgresql://u@h/d?sslcert=a&sslcert=b", "has the parameter sslcert twice"),
    ],
)
def test_each_mistake_is_named_without_the_password(text: str, part: str) -> None:
    """The error says what is wrong, and shows no part of the URL that may be the password."""
    with pytest.raises(ValueError, match=r".") as refused:
        parse(text)
    assert part in str(refused.value)
    assert "s3" not in str(refused.value)
    assert "cr3t" not in hidden(text)


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=30), st.text("@:/?#%[]ab", max_size=8))
def test_no_password_shows(password: str, rest: str) -> None:
    """Whatever follows it, no password of six characters shows in the error, the name or the hidden URL."""
    text = f"postgresql://u:{SECRET}{password}{rest}@h/d"
    try:
        url: object = parse(text)
    except ValueError as error:
        url = error
    else:
        assert isinstance(url, DatabaseUrl)
        assert url.password is not None
        assert hidden(text) == "postgresql://u:[hidden]@h/d"
    assert SECRET not in f"{url} {url!r} {hidden(text)}"


def test_a_url_without_a_password_is_shown() -> None:
    """A URL with nothing to hide is shown as it is, and one that can't be read not at all."""
    assert hidden("postgresql://u@h/d?sslmode=require") == "postgresql://u@h/d?sslmode=require"
    assert hidden("postgresql://u:secret") == "[hidden]"
    assert str(parse("postgresql://u:secret@a,[::1]:2/d")) == "d on a:5432, [::1]:2"
    assert str(parse("postgresql://u@/d?host=/run/pg")) == "d on /run/pg"


@pytest.mark.parametrize(
    ("hosts", "said", "tls", "is_weak"),
    [
        ("db.example", None, "verify-full", False),
        ("10.0.0.1", None, "verify-full", False),
        ("localhost,db.example", None, "verify-full", False),
        ("localhost", None, "prefer", False),
        ("127.0.0.2,[::1]", None, "prefer", False),
        ("%2Frun", None, "prefer", False),
        ("127.0.0.1.example", None, "verify-full", False),
        *(("db.example", mode, mode, mode != "verify-full") for mode in SSL_MODES),
        *(("localhost", mode, mode, False) for mode in SSL_MODES),
        ("localhost,db.example", "require", "require", True),
    ],
)
def test_how_it_is_encrypted(hosts: str, said: str | None, tls: str, is_weak: bool) -> None:
    """Only the URL's own word weakens the way to another machine, and that is said."""
    url = parse(f"postgresql://u@{hosts}/d" + (f"?sslmode={said}" if said else ""))
    assert url.tls == tls
    assert (url.weakness is not None) == is_weak
    if url.weakness is not None:
        assert f"sslmode={said}" in url.weakness
        assert "db.example:5432" in url.weakness
