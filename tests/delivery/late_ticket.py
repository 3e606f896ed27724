"""A TLS 1.3 server that sends a session ticket when it is told to. OpenSSL's servers send theirs with the handshake.

OpenSSL makes the handshake and decrypts. What the server sends after it is encrypted here (RFC 8446, sections 5.2, 5.3
and 7.3), with the traffic secret that OpenSSL has written to a key log.
"""

import ssl
from pathlib import Path

import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.delivery.hostile import Stream
from tests.delivery.out import server_context

_HANDSHAKE, _DATA = 22, 23  # types of records
_NEW_SESSION_TICKET = 4  # a type of handshake messages
_TAG_BYTES = 16


class LateTicketServer:
    """The server's side of one connection; `log` is a file that doesn't exist yet."""

    def __init__(self, stream: Stream, log: Path) -> None:
        context = server_context("127.0.0.1")
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.keylog_filename = str(log)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._stream = stream
        self._log = log
        self._key = self._iv = b""
        self._sent = 0

    async def shake_hands(self) -> None:
        is_done = False
        while not is_done:
            try:
                self._tls.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                await self._stream.send_all(self._outgoing.read())
                await self._receive()
        assert self._tls.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
        [secret] = [
            bytes.fromhex(line.split()[2])
            for line in self._log.read_text().splitlines()
            if line.startswith("SERVER_TRAFFIC_SECRET_0 ")
        ]
        self._key, self._iv = _expanded(secret, b"key", 32), _expanded(secret, b"iv", 12)

    async def read_until(self, end: bytes) -> None:
        data = b""
        while not data.endswith(end):
            try:
                data += self._tls.read(65_536)
            except ssl.SSLWantReadError:
                await self._receive()

    async def send(self, data: bytes) -> None:
        await self._send_record(_DATA, data)

    async def send_ticket(self) -> None:
        lifetime, age_add, nonce, ticket, extensions = bytes((0, 0, 14, 16)), bytes(4), b"\x00", bytes(32), bytes(2)
        message = lifetime + age_add + bytes((len(nonce),)) + nonce + len(ticket).to_bytes(2) + ticket + extensions
        await self._send_record(_HANDSHAKE, bytes((_NEW_SESSION_TICKET,)) + len(message).to_bytes(3) + message)

    async def _send_record(self, kind: int, content: bytes) -> None:
        plain = content + bytes((kind,))
        header = b"\x17\x03\x03" + (len(plain) + _TAG_BYTES).to_bytes(2)
        nonce = (int.from_bytes(self._iv) ^ self._sent).to_bytes(12)
        self._sent += 1
        await self._stream.send_all(header + AESGCM(self._key).encrypt(nonce, plain, header))

    async def _receive(self) -> None:
        received = await self._stream.receive_some(65_536)
        if not received:
            raise trio.BrokenResourceError
        self._incoming.write(received)


def _expanded(secret: bytes, label: bytes, length: int) -> bytes:
    """Return HKDF-Expand-Label of RFC 8446, section 7.1, with an empty context."""
    label = b"tls13 " + label
    info = length.to_bytes(2) + bytes((len(label),)) + label + b"\x00"
    return HKDFExpand(SHA384(), length, info).derive(secret)
