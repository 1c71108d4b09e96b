"""How request bodies come in: so many at a time, each within its time and its size. A client that dribbles holds a place of its
own and no thread; when the places are taken, others are asked to come again."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from joyhallo.serve.settings import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
_OVERHEAD_BYTES = 1_000_000  # of a form around its files


@dataclass(frozen=True)
class Refusal:
    """What is answered instead."""

    status: int
    error: str
    retry_after_s: int | None = None


class BodyRefusedError(RuntimeError):
    """The body is not read any further."""


class Places:
    """How many uploads come in at the same time, of one client and in all. Lives in one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of: Counter[str] = Counter()

    def refusal(self, client: str) -> Refusal | None:
        """Why this client gets no place now."""
        if self._of[client] >= self._limits.uploads_per_client:
            return Refusal(503, f"{self._of[client]} of your uploads are coming in already: send this one after them", 1)
        if self._of.total() >= self._limits.uploads:
            return Refusal(503, f"{self._of.total()} uploads are coming in already: send this one in a moment", 1)
        return None

    @contextmanager
    def held(self, client: str) -> Iterator[None]:
        """One place, until the block ends."""
        self._of[client] += 1
        try:
            yield
        finally:
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]


class Body:
    """One body: `receive` gives its parts on, and stops where it is too large or too slow; `refusal` says why."""

    def __init__(self, receive: Receive, limits: Limits, most: int, *, is_empty: bool = False) -> None:
        self._receive, self._limits, self._most = receive, limits, most
        self._deadline_s = time.monotonic() + limits.upload_s
        self._size, self._is_whole = 0, is_empty
        self.refusal: Refusal | None = None

    async def receive(self) -> Message:
        """As ASGI wants it.

        Raises:
            BodyRefusedError: the body is over its limits.
        """
        if self._is_whole:  # what comes now is that the client has gone, whenever that is
            return await self._receive()
        left_s = min(self._limits.upload_idle_s, self._deadline_s - time.monotonic())
        try:
            async with asyncio.timeout(max(0.0, left_s)):  # unlike `wait_for`, it gives what is there without a pause
                message = await self._receive()
        except TimeoutError as error:
            self.refusal = Refusal(408, "the upload came in too slowly: send it again over a better connection")
            raise BodyRefusedError from error
        self._size += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._size > self._most:
            self.refusal = Refusal(413, f"more than {self._most / 1e6:g} MB came in: give smaller files")
            raise BodyRefusedError
        return message


def most_bytes(limits: Limits) -> int:
    """Of a request with files."""
    return limits.portrait_bytes + limits.speech_bytes + _OVERHEAD_BYTES
