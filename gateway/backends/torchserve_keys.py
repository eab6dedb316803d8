"""The access keys of a TorchServe whose token authorization is on, from the key_file.json that it writes and renews.

`{"management": {"key", "expiration time"}, "inference": {..}, "API": {"key"}}` (docs/token_authorization_api.md). Keys
expire after an hour by default and are renewed only when somebody asks TorchServe to, which rewrites the file. A key is
never part of a message, a log line or a representation.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from gateway.backends.errors import TokenRefusedError
from gateway.core.errors import Cause, GatewayError

logger = logging.getLogger(__name__)

Kind = Literal["inference", "management"]
Answer = TypeVar("Answer")
Authorization = str | None

_MAX_BYTES = 65_536
_KEY = re.compile(r"[\x21-\x7e]{1,512}")
_NEVER_READ = (0, 0, 0)
# More renewals than this during one call are no accident.
_MOST_KEYS = 3
# TorchServe takes a new key into use a moment before it writes it, in place, into the file (TokenAuthorization.java).
_PAUSES_S = (0.0, 0.02, 0.05, 0.1, 0.2)


class NoKeys:
    """For a TorchServe whose token authorization is off."""

    async def renew(self) -> None:
        """Nothing to read."""

    async def using(self, kind: Kind, send: Callable[[Authorization], Awaitable[Answer]]) -> Answer:
        """`send` without an Authorization."""
        return await send(None)


class KeyFile:
    """The keys in the file at `path`, read by a thread when first needed and again when the file has changed.

    Belongs to one event loop. A file that cannot be read, or is half written, leaves the keys that were read before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = asyncio.Lock()
        self._keys: dict[str, _Key] = {}
        self._seen = _NEVER_READ
        self._trouble = ""
        self._told = ""
        self._reported: _Key | None = None

    async def renew(self) -> None:
        """Reads the file again where its time, size or inode has changed; the health watch asks for it."""
        async with self._lock:
            await self._read(only_if_changed=True)
            self._tell_trouble()

    async def using(self, kind: Kind, send: Callable[[Authorization], Awaitable[Answer]]) -> Answer:
        """`send` with the Authorization of a kind of key; again with the file's new key where that is refused.

        Raises NOT_READY where there is no key to send, so that nothing was sent; TokenRefusedError where the key that
        is in the file now is refused, after saying in the log which file, and when the key expired.
        """
        key = self._keys.get(kind) or await self._first(kind)
        for _ in range(_MOST_KEYS):
            try:
                return await send(key.authorization)
            except TokenRefusedError:
                newer = await self._newer(kind, key)
            if newer is None:
                break
            key = newer
        raise self._refused(kind, key)

    async def _first(self, kind: Kind) -> _Key:
        async with self._lock:
            if kind not in self._keys:
                await self._read()
                self._tell_trouble()
        key = self._keys.get(kind)
        if key is None:
            raise GatewayError(
                Cause.NOT_READY,
                f"the endpoint's token_file gives no {kind} key: {self._trouble or 'it has none'}; nothing was sent",
            )
        return key

    async def _newer(self, kind: Kind, refused: _Key) -> _Key | None:
        """The key that the file has in place of a refused one, or soon has; None where it stays the same.

        A key that was reported as refused already is not waited for.
        """
        async with self._lock:
            # Where it is another object, another call has read the file meanwhile.
            if self._keys.get(kind) is refused:
                known = self._reported is not None and self._reported.authorization == refused.authorization
                for pause in _PAUSES_S[:1] if known else _PAUSES_S:
                    await asyncio.sleep(pause)
                    await self._read()
                    if self._keys[kind].authorization != refused.authorization:
                        break
                self._tell_trouble()
            key = self._keys.get(kind)
        return None if key is None or key.authorization == refused.authorization else key

    async def _read(self, *, only_if_changed: bool = False) -> None:
        try:
            seen, text = await asyncio.to_thread(_read_file, self._path, self._seen if only_if_changed else _NEVER_READ)
            keys = {} if text is None else _parsed(text)
        except (OSError, ValueError) as exc:
            self._trouble = exc.strerror or "cannot be read" if isinstance(exc, OSError) else str(exc)
            return
        self._trouble = ""
        if text is None:
            return
        if self._keys and _authorizations(keys) != _authorizations(self._keys):
            logger.info("token_file %s: it has new keys", self._path)
        self._seen, self._keys = seen, keys

    def _tell_trouble(self) -> None:
        if self._trouble not in ("", self._told):
            logger.warning("token_file %s: %s", self._path, self._trouble)
        self._told = self._trouble

    def _refused(self, kind: Kind, key: _Key) -> TokenRefusedError:
        if self._reported is None or self._reported.authorization != key.authorization:
            self._reported = key
            logger.error(
                "TorchServe refuses the %s key in token_file %s, which %s; renew it with GET /token, or restart",
                kind,
                self._path,
                f"expired or expires at {key.expires}" if key.expires else "states no expiration time",
            )
        return TokenRefusedError(
            f"TorchServe refuses the {kind} key in the endpoint's token_file, which was read again; renew it there"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Key:
    """The Authorization that one key makes, and when it expires in TorchServe's words."""

    authorization: str = field(repr=False)
    expires: str


def _authorizations(keys: Mapping[str, _Key]) -> dict[str, str]:
    return {kind: key.authorization for kind, key in keys.items()}


def _read_file(path: Path, seen: tuple[int, int, int]) -> tuple[tuple[int, int, int], bytes | None]:
    """The file's time, size and inode, and its text, None where those are `seen`; raises OSError, ValueError.

    Blocks, so that a thread runs it.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        now = (status.st_mtime_ns, status.st_size, status.st_ino)
        if now == seen:
            return now, None
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES} bytes; expected TorchServe's key_file.json")
    return now, text


def _parsed(text: bytes) -> dict[str, _Key]:
    """The keys by their kind; raises ValueError, whose text has nothing of the file's content."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not JSON; expected TorchServe's key_file.json") from None
    keys = {}
    for kind in ("inference", "management"):
        entry = document.get(kind) if isinstance(document, dict) else None
        key = entry.get("key") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"it has no '{kind}' with a 'key'; expected TorchServe's key_file.json")
        expires = str(entry.get("expiration time", ""))[:64]
        keys[kind] = _Key(f"Bearer {key}", "".join(char for char in expires if char.isprintable()))
    return keys
