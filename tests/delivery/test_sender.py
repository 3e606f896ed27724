"""The bytes of a request."""

from tests.delivery.hostile import Stream, read_request, serving
from tests.delivery.out import OK, sending


async def test_the_request_is_as_the_contract_says() -> None:
    """One POST with host, the given headers in order, a length and the body's bytes: nothing else."""
    seen = []

    async def script(stream: Stream, number: int) -> None:
        seen.append(await read_request(stream))
        await stream.send_all(OK)

    async with sending() as out, serving(script) as receiver:
        outcome = await out.send(receiver.url + "?a=b", body='{"é":1}'.encode())
        authority = receiver.url.split("/")[2]
    assert outcome.remote_address == authority
    assert seen == [
        (
            f"POST /hook?a=b HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n"
            'webhook-id: evt_1\r\ncontent-length: 8\r\n\r\n{"é":1}'
        ).encode()
    ]
