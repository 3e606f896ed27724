"""The API without a process or a socket: the ASGI application on the router and journal of a world."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.world import World, steady, world
from webhookd.admin.app import create_app
from webhookd.admin.auth import KeyRing
from webhookd.admin.guard import LOCAL_ADMIN
from webhookd.admin.lifecycle import Readiness
from webhookd.admin.prometheus import Exporter
from webhookd.admin.services import Services
from webhookd.admin.tokens import TokenKeys
from webhookd.base.secret import Secret
from webhookd.config import JwtConfig
from webhookd.crypto.key_file import KeyPlace
from webhookd.delivery import custom_headers
from webhookd.jobs.attempt_follower import AttemptFollower
from webhookd.jobs.backup import BackupJob
from webhookd.jobs.key_rotation import Rotator
from webhookd.jobs.statistics import SavedStatistics
from webhookd.journal import InlineRunner, Runner
from webhookd.observe.footprint import PROCESS, Footprints
from webhookd.observe.loop_watch import Stalls

ISSUER, AUDIENCE = "https://app.example/", "webhookd"
ORGANIZATION_CLAIM = "org"
OWN_UID = 4711


class Ready:
    """A server that accepts work."""

    def readiness(self) -> tuple[Readiness, tuple[str, ...]]:
        return Readiness.OK, ()


class NoConnections:
    """A sender that opens none."""

    idle_connections = opened = reused = 0


class NoProducers:
    """An ingest socket without producers."""

    connections = 0


class NoLog:
    """A log that drops no line."""

    dropped = 0


class Signer:
    """The application's own sign-in: makes valid and invalid tokens."""

    def __init__(self) -> None:
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.pem = self._private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def token(self, **claims: object) -> str:
        """Return a token; a claim of None is left out."""
        return jwt.encode(full_claims(**claims), self._private, algorithm="RS256")

    def confused(self, **claims: object) -> str:
        """Return a token that is signed with the public key as if it were a shared secret."""
        return by_hand({"alg": "HS256"}, full_claims(**claims), self.pem)


def full_claims(**claims: object) -> dict[str, object]:
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": int(time.time()) + 600,
        "sub": "ada",
        "role": "admin",
        ORGANIZATION_CLAIM: "*",
    }
    return {name: value for name, value in (usual | claims).items() if value is not None}


def by_hand(header: Mapping[str, object], claims: Mapping[str, object], secret: bytes | None) -> str:
    """Return a token that no library would make: with this header, and an HMAC or no signature at all."""
    content = f"{segment(json.dumps(header).encode())}.{segment(json.dumps(claims).encode())}"
    signature = b"" if secret is None else hmac.digest(secret, content.encode(), hashlib.sha256)
    return f"{content}.{segment(signature)}"


def segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


class Api:
    """The application; `ask` sends a request with credentials."""

    def __init__(self, w: World, services: Services, signer: Signer) -> None:
        self.world = w
        self.services = services
        self.signer = signer
        self.app = create_app(services)
        self._clients = {
            uid: httpx.AsyncClient(transport=httpx.ASGITransport(self._scoped(uid)), base_url="http://api")
            for uid in (None, OWN_UID)
        }

    async def ask(
        self,
        method: str,
        path: str,
        credentials: str | None,
        *,
        body: object = None,
        content: bytes | None = None,
        uid: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request with these credentials; `uid` is the peer's uid on a control socket.

        Its body is `body` as JSON, or the bytes of `content`.
        """
        authorization = {} if credentials is None else {"authorization": f"Bearer {credentials}"}
        sent = {**authorization, **(headers or {})}
        return await self._clients[uid].request(method, path, headers=sent, json=body, content=content)

    def client(self, uid: int | None = None) -> httpx.AsyncClient:
        """Return a client of the TCP port, or of a control socket's caller `uid`."""
        return self._clients[uid]

    async def stream(self, path: str, credentials: str, lines: AsyncIterator[bytes]) -> bytes:
        """Send lines as they come, and return the lines of the answer."""
        headers = {"authorization": f"Bearer {credentials}", "content-type": "application/x-ndjson"}
        return (await self._clients[None].post(path, headers=headers, content=lines)).content

    async def key(self, role: str, **fields: object) -> tuple[str, str]:
        """Create a key over the control socket; return its id and its text."""
        made = await self.ask("POST", "/api/keys", None, body={"role": role, **fields}, uid=OWN_UID)
        assert made.status_code == 201, made.text
        return made.json()["id"], made.json()["key"]

    def _scoped(self, uid: int | None) -> Any:
        async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
            state = {} if uid is None else {LOCAL_ADMIN: uid}
            await self.app(scope | {"state": state}, receive, send)  # type: ignore[arg-type]  # httpx has its own types

        return application


@asynccontextmanager
async def api_in_process(
    path: Path, signer: Signer, *, writes: Runner | None = None, process: Path = PROCESS
) -> AsyncIterator[Api]:
    """Run the application in virtual time until the block ends.

    `writes` runs the journal's writes; `process` is where /proc would have the process.
    """
    async with world(path, config=steady(), writes=writes) as w:
        yield await api_of(w, path, signer, process=process)


async def api_of(w: World, path: Path, signer: Signer, *, process: Path = PROCESS) -> Api:
    """Return the application on a world that runs; its files are in the directory `path`."""
    pem = path / "jwt.pem"
    pem.write_bytes(signer.pem)
    config = JwtConfig(issuer=ISSUER, audience=AUDIENCE, organization_claim=ORGANIZATION_CLAIM, public_key_file=pem)
    place = KeyPlace(path=path / "master.key", is_credential=False, chosen_by="the test")
    place.stage(Secret(bytes(32)))  # the world's own
    place.next_path.rename(place.path)
    rotator = Rotator(w.journal, place, await w.journal.master_key.adopt(place.load()))
    stalls = Stalls()
    footprints = Footprints(w.journal.path, InlineRunner().run, process)
    services = Services(
        router=w.router,
        store=w.journal,
        lifecycle=Ready(),
        keys=KeyRing(feed=w.journal.feed, is_current=lambda: w.journal.is_current),
        tokens=TokenKeys(config, ("jwt.public_key_file", pem)),
        vault=w.vault,
        rotator=rotator,
        backup_job=BackupJob(w.journal),
        clock=w.clock,
        ids=w.ids,
        config=w.config,
        measures=w.measures,
        metrics=Exporter(
            w.measures,
            store=w.journal,
            router=w.router,
            connections=NoConnections(),
            lifecycle=Ready(),
            ingest=NoProducers(),
            log=NoLog(),
            stalls=stalls,
            footprints=footprints,
            clock=w.clock,
            max_in_flight=w.config.delivery.max_in_flight,
        ),
        statistics=SavedStatistics(w.measures.statistics, w.journal, w.clock),
        attempts=AttemptFollower(w.journal.deliveries.recent_attempts, w.router.recent),
        stalls=stalls,
        footprints=footprints,
        check_url=any_url,
        check_headers=custom_headers.check,
    )
    return Api(w, services, signer)


async def any_url(_: str) -> None:
    """Refuse no URL: nothing is dialed here."""
