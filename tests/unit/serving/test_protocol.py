"""Whatever the request, its response is whole, and one piece."""

import asyncio

import pytest
import uvicorn

from pipelines_lib.serving.protocol import Protocol

LARGE = 3 * 2**20


async def app(scope, receive, send):
    """Answers with as many bytes as the path says; in two messages where it ends in a plus."""
    if scope["type"] != "http":
        return
    n, more = int(scope["path"].strip("/+")), scope["path"].endswith("+")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % n)]})
    if more:
        await send({"type": "http.response.body", "body": b"x" * (n // 2), "more_body": True})
        await asyncio.sleep(0.01)
        n -= n // 2
    await send({"type": "http.response.body", "body": b"x" * n})


async def exchange(requests, writes):
    """What comes back for the bytes `requests` until the server ends the connection; `writes` gets the size of each piece."""

    class Recorded(Protocol):
        def connection_made(self, transport):
            class Transport:
                def write(self, data):
                    writes.append(len(data))
                    transport.write(data)

                def __getattr__(self, name):
                    return getattr(transport, name)

            super().connection_made(Transport())

    config = uvicorn.Config(app, port=0, http=Recorded, log_level="warning", server_header=False, date_header=False)
    listening = config.bind_socket()
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started:
        await asyncio.sleep(0.005)
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(requests)
    answered = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    server.should_exit = True
    await serving
    return answered


def request(path, method="GET", close=False):
    return f"{method} {path} HTTP/1.1\r\nHost: here\r\n{'Connection: close' + chr(13) + chr(10) if close else ''}\r\n".encode()


@pytest.mark.parametrize(
    ("requests", "sizes", "pieces"),
    [
        ([request("/5", close=True)], [5], 1),
        ([request("/0", close=True)], [0], 1),
        ([request("/9", "HEAD", close=True)], [0], 1),
        ([request("/5"), request("/6"), request("/7", close=True)], [5, 6, 7], 3),
        ([request(f"/{LARGE}", close=True)], [LARGE], 1),
        ([request("/8+", close=True)], [8], 2),
    ],
    ids=["small", "empty", "head", "several in a row", "large", "in two parts"],
)
def test_a_response_is_whole_and_one_piece(requests, sizes, pieces):
    writes = []
    answered = asyncio.run(exchange(b"".join(requests), writes))
    heads = [part for part in answered.split(b"\r\n\r\n") if b"HTTP/1.1 200 OK" in part]
    assert len(heads) == len(sizes)
    assert answered.count(b"x") == sum(sizes)
    assert len(writes) == pieces
    assert sum(writes) == len(answered)
