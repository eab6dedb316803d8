"""gRPC for the generator: gRPC's own threads do the work, greenlets await it.

gRPC's gevent mode hands every call under way to a thread of a small pool and collapses at hundreds of them; here no
thread waits for a call. It needs a process whose standard library gevent has not patched (see `worker.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import grpc
from gevent import get_hub
from gevent.event import AsyncResult

from loadtests.clients import CHANNEL_OPTIONS, grpc_reply
from loadtests.replies import Reply


class Mailbox:
    """Brings what other threads have to the greenlets that await it. One for each process."""

    def __init__(self) -> None:
        self._arrived: deque[tuple[AsyncResult, float]] = deque()
        self._watcher = get_hub().loop.async_()
        self._watcher.start(self._deliver)

    def put(self, awaited: AsyncResult, ended: float) -> None:
        """From any thread: it ended at `ended`."""
        self._arrived.append((awaited, ended))
        self._watcher.send()

    def _deliver(self) -> None:
        while self._arrived:
            awaited, ended = self._arrived.popleft()
            awaited.set(ended)


class ThreadedGrpcClient:
    """Unary gRPC over a channel of its own, with raw bytes; any number of greenlets may call at once."""

    def __init__(
        self, mailbox: Mailbox, address: str, method: str, metadata: Mapping[str, str], *, timeout: float
    ) -> None:
        self._mailbox, self._timeout = mailbox, timeout
        self._metadata = tuple(metadata.items())
        target = urlsplit(address if "//" in address else f"//{address}").netloc
        self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._call: Any = self._channel.unary_unary(method)
        self.opened = 1  # gRPC reconnects by itself and does not tell

    def prepared(self, body: bytes) -> bytes:
        """The serialised message itself."""
        return body

    def send(self, request: bytes) -> Reply:
        """One call; its time ends when gRPC's thread has the reply. The first one's includes the set-up."""
        awaited = AsyncResult()
        started = time.perf_counter()
        call = self._call.future(request, timeout=self._timeout, metadata=self._metadata)
        call.add_done_callback(lambda _: self._mailbox.put(awaited, time.perf_counter()))
        try:
            ended = awaited.get()
        except BaseException:
            call.cancel()
            raise
        return grpc_reply(call, ended - started)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()
