"""The access keys of a TorchServe whose token authorization is on, from the key_file.json that it writes and renews.

`{"management": {"key", "expiration time"}, "inference": {..}, "API": {"key"}}` (docs/token_authorization_api.md). Keys
expire after an hour by default and are renewed only when somebody asks TorchServe to, which rewrites the file. A key is
never part of a message, a log line or a representation.

TorchServe puts a new key into use, and the old one out of it, before it writes the file, in place and not in one step
(TokenAuthorization.java): for a moment no key that anyone knows is taken, and the file is old, empty or half there.
With 8 processes busy on 2 cores that was at most 22 ms.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from gateway.backends.errors import TORCHSERVE, TokenRefusedError, too_late
from gateway.core.errors import Cause, GatewayError

logger = logging.getLogger(__name__)

Kind = Literal["inference", "management"]
Answer = TypeVar("Answer")
Authorization = str | None

_MAX_BYTES = 65_536
_KEY = re.compile(r"[\x21-\x7e]{1,512}")
_NEVER_READ = (0, 0, 0)
# A call is sent with as many keys; the refused ones were not processed. More renewals during one call are no accident.
_MOST_KEYS = 5
# How long the file is waited for after the first refusal of the key that it has, looking at it ever less often.
_PATIENCE_S = 1.0
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.1


class NoKeys:
    """For a TorchServe whose token authorization is off."""

    async def renew(self) -> None:
        """Nothing to read."""

    async def using(self, kind: Kind, send: Callable[[Authorization], Awaitable[Answer]], timeout_s: float) -> Answer:
        """`send` without an Authorization."""
        return await send(None)


class KeyFile:
    """The keys in the file at `path`, read by a thread when first needed and again when the file has changed.

    Belongs to one event loop. A file that cannot be read, or is half written, leaves the keys that were read before.
    `patience_s` is how long after the first refusal of a key the file is waited for to have another.
    """

    def __init__(self, path: Path, patience_s: float = _PATIENCE_S) -> None:
        self._path = path
        self._patience_s = patience_s
        self._lock = asyncio.Lock()
        self._keys: dict[str, _Key] = {}
        self._refusals: dict[str, _Refusal] = {}
        self._seen = _NEVER_READ
        self._looks = 0
        self._trouble = ""
        self._told = ""

    async def renew(self) -> None:
        """Reads the file again where its time, size or inode has changed; the health watch asks for it."""
        await self._look(self._looks, only_if_changed=True)
        if self._trouble not in ("", self._told):
            # Perhaps it is being written just now.
            await asyncio.sleep(_FIRST_PAUSE_S)
            await self._look(self._looks)
        self._tell_trouble()

    async def using(self, kind: Kind, send: Callable[[Authorization], Awaitable[Answer]], timeout_s: float) -> Answer:
        """`send` with the Authorization of a kind of key; again with the file's new key where that is refused.

        Raises NOT_READY where there is no key to send, so that nothing was sent; TokenRefusedError where the key that
        is in the file now is refused, after saying in the log which file, and when the key expired; DEADLINE where the
        file is waited for when `timeout_s` is over.
        """
        until = asyncio.get_running_loop().time() + timeout_s
        key = self._keys.get(kind) or await self._first(kind)
        for _ in range(_MOST_KEYS):
            try:
                return await send(key.authorization)
            except TokenRefusedError:
                newer = await self._newer(kind, key, until)
            if newer is None:
                raise self._refused(kind, key)
            key = newer
        raise TokenRefusedError(
            f"TorchServe refused {_MOST_KEYS} {kind} keys, one after the other, each the newest of the endpoint's "
            "token_file; nothing was processed. Renew them less often"
        )

    async def _first(self, kind: Kind) -> _Key:
        await self._look(self._looks)
        self._tell_trouble()
        key = self._keys.get(kind)
        if key is None:
            raise GatewayError(
                Cause.NOT_READY,
                f"the endpoint's token_file gives no {kind} key: {self._trouble or 'it has none'}; nothing was sent",
            )
        return key

    async def _newer(self, kind: Kind, refused: _Key, until: float) -> _Key | None:
        """The key that the file has in place of a refused one, or soon has; None where it stays the same.

        However many calls wait, the file is looked at once at a time, and what one finds is all theirs.
        """
        try:
            async with asyncio.timeout_at(until):
                pauses = self._pauses(kind, refused)
                # Each look makes new objects, also where the keys are the same.
                while self._keys[kind].authorization == refused.authorization:
                    if (pause := next(pauses, None)) is None:
                        self._tell_trouble()
                        return None
                    looks = self._looks
                    await asyncio.sleep(pause)
                    await self._look(looks)
        except TimeoutError:
            raise too_late(TORCHSERVE) from None
        return self._keys[kind]

    def _pauses(self, kind: Kind, refused: _Key) -> Iterator[float]:
        """Seconds to wait before each look, as long as there is patience with this key: one look at least."""
        loop = asyncio.get_running_loop()
        refusal = self._refusals.get(kind)
        if refusal is None or refusal.authorization != refused.authorization:
            refusal = self._refusals[kind] = _Refusal(refused.authorization, loop.time() + self._patience_s)
        yield 0.0
        pause = _FIRST_PAUSE_S
        while loop.time() < refusal.patience_until:
            yield pause
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _look(self, looks: int, *, only_if_changed: bool = False) -> None:
        """Reads the file, unless that was begun since there were `looks`."""
        async with self._lock:
            if self._looks == looks:
                self._looks += 1
                await self._read(only_if_changed=only_if_changed)

    async def _read(self, *, only_if_changed: bool) -> None:
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
        refusal = self._refusals[kind]
        if not refusal.told:
            refusal.told = True
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


@dataclass(slots=True)
class _Refusal:
    """The key of a kind that was refused last, and until when, on the loop's clock, the file may yet have another."""

    authorization: str = field(repr=False)
    patience_until: float
    told: bool = False


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
