"""Downloads from the hub that go on where they stopped, also in another process.

huggingface_hub throws away what has arrived when a download breaks off (2.x), which is hours on a slow line. We ask the hub the
same questions it does, keep what arrives in a `.part` file named after the content, and ask for the rest alone.
"""

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import NoReturn
from urllib.parse import urljoin, urlsplit

from joyhallo.errors import UserError
from joyhallo.weights.registry import HubFile

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 30
_NUM_TRIES = 5  # in a row without a single new byte
_NUM_HOPS = 5
_TRANSIENT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


@dataclass(frozen=True)
class RemoteFile:
    """What the hub says of a file."""

    url: str  # where its bytes are: often another host
    etag: str  # changes with the content; the sha256 itself for large files
    size_bytes: int | None
    token: str | None  # for that host

    @property
    def sha256(self) -> str | None:
        return self.etag if re.fullmatch("[0-9a-f]{64}", self.etag) else None


def look_up(source: HubFile) -> RemoteFile:
    """Ask the hub, or the mirror in HF_ENDPOINT, where the file is and what it is.

    Raises:
        UserError: no connection, no such file, or terms to be accepted first; with the remedy.
    """
    from huggingface_hub import constants, get_token, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise UserError(f"{source} is not here and HF_HUB_OFFLINE is set: unset it, or {_by_hand(source)}")
    url = hf_hub_url(source.repo, source.path, revision=source.revision, endpoint=os.environ.get("HF_ENDPOINT") or None)
    token = get_token()
    try:
        for _ in range(_NUM_HOPS):
            headers, place = _head(url, token)
            if place is None or urlsplit(place).netloc != urlsplit(url).netloc:
                break
            url = place  # a renamed repository
    except urllib.error.HTTPError as error:
        _refuse(source, error)
    except _TRANSIENT as error:
        raise UserError(
            f"{source} cannot be reached ({_reason(error)}): check the connection, or {_by_hand(source)}"
        ) from error
    etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    size = headers.get("X-Linked-Size") or (headers.get("Content-Length") if place is None else None)
    return RemoteFile(place or url, etag, int(size) if size else None, token if place is None else None)


def download(source: HubFile, remote: RemoteFile, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """Bring the file into `folder`, going on from what an earlier attempt left there.

    Args:
        on_bytes: called with the number of bytes that are here.

    Returns:
        The complete `.part` file.

    Raises:
        UserError: the transfer breaks off again and again; what has arrived is kept for the next attempt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w.-]+", "--", f"{source.repo}/{source.path}")
    part = folder / f"{stem}.{remote.etag[:16] or 'unknown'}.part"
    tries = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if remote.size_bytes is not None and before >= remote.size_bytes:
            return part
        try:
            _transfer(remote, part, on_bytes)
        except _TRANSIENT as error:
            tries = 0 if part.exists() and part.stat().st_size > before else tries + 1
            if tries == _NUM_TRIES or _is_final(error):
                text = f"{source} breaks off ({_reason(error)}): run the same command again to go on, or {_by_hand(source)}"
                raise UserError(text) from error
            time.sleep(0.2 * 2**tries)
            continue
        if remote.size_bytes is None or part.stat().st_size >= remote.size_bytes:
            return part


def _transfer(remote: RemoteFile, part: Path, on_bytes: Callable[[int], None]) -> None:
    here = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={here}-"} if here else {}
    with urllib.request.urlopen(_request(remote.url, remote.token, headers), timeout=_TIMEOUT_S) as response:
        is_rest = response.status == http.HTTPStatus.PARTIAL_CONTENT
        with part.open("ab" if is_rest else "wb") as writer:
            while block := response.read(_BLOCK_BYTES):
                writer.write(block)
                on_bytes(writer.tell())


def _is_final(error: BaseException) -> bool:
    """Whether asking the same again is of no use: refusals other than "too many requests"."""
    return isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != http.HTTPStatus.TOO_MANY_REQUESTS


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _head(url: str, token: str | None) -> tuple[Message, str | None]:
    """The headers of a file, and where the hub sends us for its bytes if that is elsewhere."""
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(_request(url, token, {}, "HEAD"), timeout=_TIMEOUT_S) as response:
            return response.headers, None
    except urllib.error.HTTPError as error:
        place = error.headers.get("Location")
        if not (300 <= error.code < 400 and place):
            raise
        return error.headers, urljoin(url, place)


def _request(url: str, token: str | None, headers: dict[str, str], method: str = "GET") -> urllib.request.Request:
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url!r} is no web address: set HF_ENDPOINT to one that starts with https://")
    authorisation = {"Authorization": f"Bearer {token}"} if token else {}
    return urllib.request.Request(url, headers={"User-Agent": "joyhallo", **authorisation, **headers}, method=method)


def _refuse(source: HubFile, error: urllib.error.HTTPError) -> NoReturn:
    if error.headers.get("X-Error-Code") == "GatedRepo":
        raise UserError(f"{source} wants its terms accepted first: do that on its page, then `hf auth login`.") from error
    if error.code in (401, 403, 404):
        raise UserError(f"{source} is not there (HTTP {error.code}): {_by_hand(source)}") from error
    raise UserError(f"{source} cannot be had now (HTTP {error.code}): try again later, or {_by_hand(source)}") from error


def _by_hand(source: HubFile) -> str:
    name = source.path.rpartition("/")[2]
    return f"name a mirror in HF_ENDPOINT, or get {name} by hand and give its folder with --from or JOYHALLO_WEIGHTS."


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "reason", error)).split())[:120]
