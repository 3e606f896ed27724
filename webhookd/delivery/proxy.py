"""The way out through an egress proxy: httpx's own transport, bounded like ours.

The proxy resolves and dials, so the policy checks the URL and its literal address alone.
"""

import ssl

import httpx
import trio

from webhookd.delivery.egress import BlockedError, EgressPolicy
from webhookd.delivery.transport import Exchanged, Headers, Progress, TooLateError, TransportError
from webhookd.delivery.wire import KEPT_BODY_BYTES, MAX_RESPONSE_BYTES
from webhookd.errors import ConfigError
from webhookd.models import DeliveryError

_MAX_CONNECTIONS = 512


class ProxyTransport:
    """Sends requests through the proxy of `egress.proxy`; ConfigError where that is no proxy's URL."""

    def __init__(
        self, proxy: str, policy: EgressPolicy, ssl_context: ssl.SSLContext, *, connect_timeout_seconds: float
    ) -> None:
        self._policy = policy
        self._timeout = httpx.Timeout(None, connect=connect_timeout_seconds).as_dict()
        try:
            self._transport = httpx.AsyncHTTPTransport(
                verify=ssl_context,
                trust_env=False,
                proxy=httpx.Proxy(proxy),
                limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, keepalive_expiry=30.0),
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise ConfigError(f"egress.proxy: {error}; write a URL such as http://proxy.example:3128") from error

    @property
    def idle_connections(self) -> int:
        """How many connections wait for their next request, as far as is known: httpx doesn't say."""
        return 0

    async def exchange(
        self,
        endpoint_id: str,  # noqa: ARG002 - the connections lead to the proxy, whoever uses them
        url: str,
        headers: Headers,
        body: bytes,
        progress: Progress,
    ) -> Exchanged:
        """Send one POST and return its response; TransportError for everything that keeps it from coming."""
        try:
            target = self._policy.parse(url)
        except BlockedError as error:
            raise TransportError(DeliveryError.BLOCKED, str(error)) from error
        progress.doing = "waiting for the proxy's answer"
        request = httpx.Request(
            "POST",
            f"{target.scheme}://{target.authority}{target.raw}",
            headers=list(headers),
            content=body,
            extensions={"timeout": self._timeout},
        )
        try:
            with trio.CancelScope(deadline=progress.deadline):
                response = await self._transport.handle_async_request(request)
                try:
                    return await _read(response)
                finally:
                    await response.aclose()
        except httpx.TimeoutException as error:
            raise TransportError(DeliveryError.TIMEOUT, "connecting through the proxy took too long") from error
        except (httpx.ConnectError, httpx.ProxyError) as error:
            code = DeliveryError.TLS if _is_tls(error) else DeliveryError.CONNECT
            raise TransportError(code, f"through the proxy: {_reason(error)}") from error
        except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
            raise TransportError(DeliveryError.PROTOCOL, f"through the proxy: {_reason(error)}") from error
        raise TooLateError

    def cut_off_late(self, now: float) -> None:
        """Do nothing: each exchange has a scope of its own."""

    async def forget(self, endpoint_id: str) -> None:
        """Do nothing: the connections lead to the proxy."""

    def close_idle(self, before: float) -> None:
        """Do nothing: httpx closes idle connections itself."""

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.aclose()


async def _read(response: httpx.Response) -> Exchanged:
    body = bytearray()
    read = sum(len(name) + len(value) + 4 for name, value in response.headers.raw)
    is_truncated = False
    # Leaving the loop would leave httpx's nested generators behind; being canceled inside them unwinds them all.
    with trio.CancelScope() as reading:
        async for chunk in response.aiter_raw():
            read += len(chunk)
            wanted = KEPT_BODY_BYTES - len(body)
            body += chunk[:wanted]
            is_truncated = is_truncated or len(chunk) > wanted
            if read >= MAX_RESPONSE_BYTES:
                is_truncated = True
                reading.cancel()
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw)
    return Exchanged(status=response.status_code, headers=headers, body=bytes(body), is_truncated=is_truncated)


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
