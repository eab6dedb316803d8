"""A TensorFlow Serving in name only, which answers as many rows as it is asked: `python -m ... PORT`.

It counts rows rather than parse them, so that it is not what the benchmark measures.
"""

from __future__ import annotations

import asyncio
import sys

import httptools
import uvloop

from tests.benchmarks.gateway.servers import METADATA, STATUS


class Echo(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._body: list[bytes] = []
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the way back."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Feeds the parser."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """A request starts."""
        self._url = b""
        self._body = []

    def on_url(self, url: bytes) -> None:
        """Part of the path."""
        self._url += url

    def on_body(self, data: bytes) -> None:
        """Part of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Answers."""
        if self._parser.get_method() == b"POST":
            # "[[1,2],[3,4]]": one bracket more than rows.
            rows = max(1, b"".join(self._body).count(b"[") - 1)
            answer = b'{"outputs":[%s]}' % b",".join([b"[206.11447143554688]"] * rows)
        elif self._url.endswith(b"/metadata"):
            answer = METADATA.encode()
        else:
            answer = STATUS.encode()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
        )


async def main(port: int) -> None:
    """Serves until it is ended."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
