"""What stands before every request: its size, where it comes from, who sends it; and the line in the log about it."""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from joyhallo.serve.keys import client_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "testserver")
_SHOWN = ("video", "preview", "events")
_log = logging.getLogger("joyhallo.serve")


class _TooMuchError(RuntimeError):
    """The body went beyond the limit while it came in."""


class Guard:
    """ASGI middleware. With keys, everything below /v1 and /metrics needs one; without, only this machine is answered: a page
    of another site in a local browser is not (it would come with another host's name or from another site).
    """

    def __init__(
        self, app: App, max_bytes: int, keys: Mapping[str, str] | None, seen: Callable[[str, int, float], None]
    ) -> None:
        self.app, self.max_bytes, self.keys, self.seen = app, max_bytes, keys, seen

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 500
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise _TooMuchError
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._refusal(scope, headers)
        try:
            if refusal is None:
                await self.app(scope, counted, noted)
            else:
                await _answer(noted, *refusal)
        except _TooMuchError:
            await _answer(noted, 413, f"more than {self.max_bytes / 1e6:g} MB came in: give smaller files")
        finally:
            route = getattr(scope.get("route"), "path", "other")  # never the address itself: it may hold a secret
            self.seen(route, status, time.monotonic() - began)
            if route.startswith("/v1"):
                _log.info("request", extra={"method": scope["method"], "route": route, "status": status})

    def _refusal(self, scope: Message, headers: Mapping[str, str]) -> tuple[int, str] | None:
        length = headers.get("content-length", "0")
        if not length.isdigit():
            return 400, "the length of the request is no number: send it again"
        if int(length) > self.max_bytes:
            return 413, f"{int(length) / 1e6:.0f} MB are announced, {self.max_bytes / 1e6:g} are taken: give smaller files"
        path = scope["path"]
        state = scope.setdefault("state", {})
        state["client"] = "nobody"
        if self.keys is None:
            host = headers.get("host", "").rsplit(":", 1)[0] if not headers.get("host", "").endswith("]") else headers["host"]
            if host not in _LOCAL_NAMES:
                return 403, "this service answers to localhost alone: open http://127.0.0.1 with its port"
            if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
                return 403, "requests from other sites are not taken"
            state["client"] = "local"
        elif (path.startswith("/v1") or path == "/metrics") and not _is_opened_by_secret(scope):
            kind, _, key = headers.get("authorization", "").partition(" ")
            client = client_of(self.keys, key.strip()) if kind.lower() == "bearer" else None
            if client is None:
                return 401, "a key is needed: send the header Authorization: Bearer KEY"
            state["client"] = f"key:{client}"
        return None


def _is_opened_by_secret(scope: Message) -> bool:
    """A player on the page can send no key: what it shows is opened by the job's secret, which the route checks."""
    parts = scope["path"].split("/")
    is_shown = len(parts) == 5 and parts[:3] == ["", "v1", "jobs"] and parts[4] in _SHOWN
    return is_shown and scope["method"] in ("GET", "HEAD") and b"secret=" in scope["query_string"]


async def _answer(send: Send, status: int, error: str) -> None:
    body = json.dumps({"error": error}, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
