"""What stands before every request: its size, where it comes from, who sends it; and the line in the log about it."""

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from joyhallo.serve.intake import Body, BodyRefusedError, Message, Places, Receive, Refusal, most_bytes
from joyhallo.serve.keys import client_of
from joyhallo.serve.settings import Limits

Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Seen = Callable[[str, int, float], None]

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "testserver")
_SHOWN = ("video", "preview", "events")
_BY_URL = "/v1/jobs/by-url"
_MOST_PLAIN_BYTES = 2_000_000
_log = logging.getLogger("joyhallo.serve")


class Guard:
    """ASGI middleware. With keys, everything below /v1 and /metrics needs one; without, only this machine is answered: a page
    of another site in a local browser is not (it would come with another host's name or from another site).
    """

    def __init__(self, app: App, limits: Limits, keys: Mapping[str, str] | None, seen: Seen) -> None:
        self.app, self.limits, self.keys, self.seen = app, limits, keys, seen
        self._places = Places(limits)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), None
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        is_empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        body = Body(receive, self.limits, self._most(headers), is_empty=is_empty)

        async def noted(message: Message) -> None:
            nonlocal status
            if body.refusal is not None and status is None:  # the routes below would word it otherwise
                return
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = await self._let_in(scope, headers, body, noted)
            if refusal is not None and status is None:
                status = refusal.status
                await _answer(send, refusal)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # never the address itself: it may hold a secret
            self.seen(route, status or 500, time.monotonic() - began)
            if route.startswith("/v1"):
                _log.info("request", extra={"method": scope["method"], "route": route, "status": status or 500})

    async def _let_in(self, scope: Message, headers: Mapping[str, str], body: Body, send: Send) -> Refusal | None:
        """Hand the request on, or say why not."""
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            return refusal
        if not _is_multipart(headers) and scope["path"] != _BY_URL:
            return await self._handed_on(scope, body, send)
        client = scope["state"]["client"]
        if client == "nobody":
            client = f"from:{(scope.get('client') or ('',))[0]}"
        full = self._places.refusal(client)
        if full is not None:
            return full
        with self._places.held(client):
            return await self._handed_on(scope, body, send)

    async def _handed_on(self, scope: Message, body: Body, send: Send) -> Refusal | None:
        try:
            await self.app(scope, body.receive, send)
        except BodyRefusedError:
            return body.refusal
        return body.refusal

    def _most(self, headers: Mapping[str, str]) -> int:
        """Bytes that a body may have: files come as multipart alone, and only those go to the disk as they come."""
        return most_bytes(self.limits) if _is_multipart(headers) else _MOST_PLAIN_BYTES

    def _refusal(self, scope: Message, headers: Mapping[str, str]) -> Refusal | None:
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return Refusal(400, "the length of the request is no number: send it again")
        if int(length) > (most := self._most(headers)):
            return Refusal(413, f"{int(length) / 1e6:.0f} MB are announced, {most / 1e6:g} are taken: give smaller files")
        path = scope["path"]
        state = scope.setdefault("state", {})
        state["client"] = "nobody"
        if self.keys is None:
            host = headers.get("host", "").rsplit(":", 1)[0] if not headers.get("host", "").endswith("]") else headers["host"]
            if host not in _LOCAL_NAMES:
                return Refusal(403, "this service answers to localhost alone: open http://127.0.0.1 with its port")
            if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
                return Refusal(403, "requests from other sites are not taken")
            state["client"] = "local"
        elif (path.startswith("/v1") or path == "/metrics") and not _is_opened_by_secret(scope):
            kind, _, key = headers.get("authorization", "").partition(" ")
            client = client_of(self.keys, key.strip()) if kind.lower() == "bearer" else None
            if client is None:
                return Refusal(401, "a key is needed: send the header Authorization: Bearer KEY")
            state["client"] = f"key:{client}"
        return None


def _is_multipart(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").lower().startswith("multipart/")


def _is_opened_by_secret(scope: Message) -> bool:
    """A player on the page can send no key: what it shows is opened by the job's secret, which the route checks."""
    parts = scope["path"].split("/")
    is_shown = len(parts) == 5 and parts[:3] == ["", "v1", "jobs"] and parts[4] in _SHOWN
    return is_shown and scope["method"] in ("GET", "HEAD") and b"secret=" in scope["query_string"]


async def _answer(send: Send, refusal: Refusal) -> None:
    body = json.dumps({"error": refusal.error}, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"connection", b"close"))  # what is left of the body is not read
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", str(refusal.retry_after_s).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
