"""What a receiver can do to its sender: scripts, and certificates that nobody should trust."""

import datetime as dt
import ssl
import tempfile
import warnings
from functools import cache

import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.delivery.hostile import Script, Stream, delivered, left, read_request, reset, saying
from tests.delivery.out import CA, OK, server_context

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
FORGED = b"HTTP/1.1 500 Forged\r\ncontent-length: 0\r\n\r\n"


def closing(*parts: bytes) -> Script:
    """Return a script that says this and closes."""
    return saying(*parts)


def resetting(first: bytes, *, asks: bool = True) -> Script:
    """Return a script that says this and resets the connection."""

    async def script(stream: Stream, number: int) -> None:
        if asks:
            await read_request(stream)
        await stream.send_all(first)
        await delivered(stream)
        reset(stream)

    return script


def early(answer: bytes, *, then_reset: bool) -> Script:
    """Return a script that answers before it has read the request's body."""

    async def script(stream: Stream, number: int) -> None:
        await stream.receive_some(10)
        await stream.send_all(answer)
        await delivered(stream)
        if then_reset:
            reset(stream)

    return script


def raw(*parts: bytes, pause: float = 0.0, holds: bool = False) -> Script:
    """Return a script that says this without being asked, and then closes, or stays."""

    async def script(stream: Stream, number: int) -> None:
        await stream.receive_some(10_000)
        for part in parts:
            await stream.send_all(part)
            await trio.sleep(pause)
        if holds:
            await trio.sleep_forever()

    return script


def keeping(*, then: str) -> Script:
    """Return a script that answers one request a connection and then does something to the idle connection."""

    async def script(stream: Stream, number: int) -> None:
        await read_request(stream)
        match then:
            case "smuggle":
                await stream.send_all(OK + FORGED)
            case "smuggle in a second piece":
                await stream.send_all(OK)
                await stream.send_all(FORGED)
            case _:
                await stream.send_all(OK)
        await delivered(stream)
        match then:
            case "close":
                return
            case "reset":
                reset(stream)
                return
            case "send bytes":
                await stream.send_all(bytes(8))
            case "send an answer":
                await stream.send_all(FORGED)
            case _:
                pass
        await stream.receive_some(65_536)
        if then == "reset when asked":
            reset(stream)
        elif then == "answer in part when asked":
            await stream.send_all(b"HTTP/1.1 2")

    return script


async def never_shakes_hands(stream: Stream, number: int) -> None:
    await trio.sleep_forever()


async def ends_tls_in_the_open(stream: Stream, number: int) -> None:
    """Answer half over TLS, then write clear bytes into the encrypted stream."""
    assert isinstance(stream, trio.SSLStream)
    await read_request(stream)
    await stream.send_all(HEAD + b"content-length: 1000\r\n\r\nabc")
    await stream.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    await left(stream)


async def vanishes_from_tls(stream: Stream, number: int) -> None:
    """Answer until the end of the stream, and end it without TLS's goodbye."""
    assert isinstance(stream, trio.SSLStream)
    await read_request(stream)
    await stream.send_all(HEAD + b"content-length: 1000\r\n\r\nabc")
    await stream.transport_stream.aclose()


async def smuggles_in_a_second_record(stream: Stream, number: int) -> None:
    """Send an answer and another one behind it, in two records of TLS that arrive as one piece of TCP."""
    assert isinstance(stream, trio.SSLStream)
    await read_request(stream)
    await stream.send_all(OK[:5])  # and the tickets that trio has held back
    stream._ssl_object.write(OK[5:])
    stream._ssl_object.write(FORGED)
    await stream.transport_stream.send_all(stream._outgoing.read())
    await stream.receive_some(65_536)


async def answers_with_its_handshake(stream: Stream, number: int) -> None:
    """Send an answer in the same piece as the end of the handshake, which is the server's in TLS 1.2; then wait."""
    context = server_context("127.0.0.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    is_done = False
    while not is_done:
        try:
            tls.do_handshake()
            is_done = True
        except ssl.SSLWantReadError:
            await stream.send_all(outgoing.read())
            incoming.write(await stream.receive_some(65_536))
    tls.write(OK)
    await stream.send_all(outgoing.read())
    await trio.sleep_forever()


async def wants_a_certificate(stream: Stream, number: int) -> None:
    """Shake hands, which fails; leave TLS's alert the time to arrive before the connection is torn down."""
    assert isinstance(stream, trio.SSLStream)
    try:
        await stream.do_handshake()
        await read_request(stream)
    except trio.BrokenResourceError:
        await stream.transport_stream.send_all(stream._outgoing.read())  # trio keeps the alert to itself
        await delivered(stream)


@cache
def good() -> ssl.SSLContext:
    return server_context("127.0.0.1")


@cache
def with_tickets_without_end() -> ssl.SSLContext:
    context = server_context("127.0.0.1")
    context.num_tickets = 1000
    return context


@cache
def of_another_host() -> ssl.SSLContext:
    return server_context("127.0.0.2", "receiver.example.com")


@cache
def of_another_authority() -> ssl.SSLContext:
    return server_context("127.0.0.1", authority=trustme.CA())


def _dated(begins: dt.datetime | None, ends: dt.datetime) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    CA.issue_cert("127.0.0.1", not_before=begins, not_after=ends).configure_cert(context)
    return context


@cache
def expired() -> ssl.SSLContext:
    return _dated(None, dt.datetime(2020, 1, 1, tzinfo=dt.UTC))


@cache
def not_yet_valid() -> ssl.SSLContext:
    begins = dt.datetime(2990, 1, 1, tzinfo=dt.UTC)
    return _dated(begins, begins + dt.timedelta(days=1))


@cache
def self_signed() -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)
    return context


@cache
def tls_1_0() -> ssl.SSLContext:
    context = server_context("127.0.0.1")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is old, which is the point
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    return context


@cache
def wanting_a_certificate(version: ssl.TLSVersion) -> ssl.SSLContext:
    context = server_context("127.0.0.1")
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    CA.configure_trust(context)
    return context
