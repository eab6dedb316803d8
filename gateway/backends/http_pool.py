"""The HTTP way to a model server: a pool of HTTP/1.1 connections.

A call is bounded in time by its deadline and in size by the reply cap; no redirect is followed, no proxy used, no
cookie kept, nothing inflated, and no POST sent twice.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from gateway.backends.channel import CONNECT_TIMEOUT_S, MAX_REPLY_BYTES
from gateway.backends.errors import bad_reply, translated
from gateway.core.errors import Cause, GatewayError

# Shorter than any model server keeps an idle connection, so that it is we who close it.
_KEEPALIVE_S = 15.0
_CONNECTIONS = 256
# aiohttp writes larger bodies in pieces, and only from a file object.
_ONE_WRITE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A complete HTTP answer; `headers` ignores case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> bool:
        """Whether the answer calls itself JSON."""
        return "json" in self.headers.get("Content-Type", "")


class HttpPool:
    """Pooled HTTP/1.1 connections to one model server. Construct it on the event loop that uses it."""

    def __init__(
        self, *, server: str, max_reply_bytes: int = MAX_REPLY_BYTES, connect_timeout_s: float = CONNECT_TIMEOUT_S
    ) -> None:
        self._server = server
        self._max_reply_bytes = max_reply_bytes
        self._connect_timeout_s = connect_timeout_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=_KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "twinserve"},
            auto_decompress=False,
            trust_env=False,
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        body: bytes | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpReply:
        """The answer, whatever its status; raises GatewayError where none comes, or one over the cap.

        `url` is sent as it is: names in its path come percent-encoded.
        """
        with translated(self._server):
            if self._session.closed:
                raise GatewayError(Cause.UPSTREAM_UNREACHABLE, f"the connections to {self._server} are closed")
            try:
                async with self._session.request(
                    method,
                    URL(url, encoded=True),
                    data=io.BytesIO(body) if body is not None and len(body) > _ONE_WRITE else body,
                    headers={**({"Content-Type": content_type} if content_type else {}), **(headers or {})},
                    allow_redirects=False,
                    timeout=self._timeout(timeout_s),
                ) as response:
                    return HttpReply(response.status, response.headers, await self._read(response))
            except aiohttp.ConnectionTimeoutError as exc:
                if timeout_s <= self._connect_timeout_s:
                    raise TimeoutError from exc
                raise

    async def close(self) -> None:
        """Closes every connection; calls in flight fail with UPSTREAM_LOST, later ones with UPSTREAM_UNREACHABLE."""
        await self._session.close()

    def _timeout(self, timeout_s: float) -> aiohttp.ClientTimeout:
        # aiohttp rounds timeouts over its threshold up to whole seconds; a deadline is exact.
        return aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._connect_timeout_s, ceil_threshold=float("inf"))

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body; leaving early drops the connection, since the rest of the answer is still on it."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise bad_reply(self._server, "a content encoding that was not asked for")
        size = response.content_length
        if size is not None and size <= self._max_reply_bytes:
            return await response.read()
        parts: list[bytes] = []
        left = self._max_reply_bytes if size is None else 0
        async for part in response.content.iter_any():
            left -= len(part)
            if left < 0:
                raise bad_reply(self._server, f"more than {self._max_reply_bytes} bytes")
            parts.append(part)
        return b"".join(parts)
