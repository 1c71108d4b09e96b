"""Files by address, for jobs that name one instead of sending it: only from hosts that the one who runs the service allowed.

What is fetched for others must not reach what only this machine can reach. So every address that a name stands for is looked at
before the connection is made, and the connection is made to that very address: a name that changes its mind in between (DNS
rebinding) gains nothing. Proxies of the environment are not used.
"""

import errno
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import BinaryIO
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from joyhallo._version import __version__
from joyhallo.errors import UserError
from joyhallo.serve.settings import Limits

_PORTS = {"http": 80, "https": 443}
_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_SILENT_S = 15.0  # without a byte
_BLOCK = 1 << 18
_PLAIN = "/:@!$&'()*+,;=~-._%"  # what a path or query may hold as it is
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_OWN_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of the disk here, not of the other side


class FetchError(UserError):
    """A file cannot be fetched from where the client says."""


@dataclass(frozen=True)
class AllowedHost:
    """An entry of --allow-urls: hosts by name, or a network by its addresses."""

    ports: tuple[int, ...]
    pattern: str = ""  # "files.example.org", "*.example.org", "*"
    network: _Network | None = None


def read_allowed(words: Sequence[str]) -> tuple[AllowedHost, ...]:
    """Entries from HOST, HOST:PORT, *.DOMAIN, * (any public host), ADDRESS, ADDRESS:PORT or NETWORK/BITS.

    Raises:
        UserError: one of them is none of these.
    """
    return tuple(_entry(word) for word in words)


def _entry(word: str) -> AllowedHost:
    usual = tuple(_PORTS.values())
    try:
        return AllowedHost(usual, network=ipaddress.ip_network(word))
    except ValueError:
        pass
    try:
        parts = urlsplit(f"//{word}")
        name, port = parts.hostname, parts.port
    except ValueError:
        name = port = None
    if not name or any(sign in word for sign in "/?#@ "):
        raise UserError(f"--allow-urls {word!r} is no host: give HOST, HOST:PORT, *.DOMAIN, an address or *")
    ports = usual if port is None else (port,)
    try:
        return AllowedHost(ports, network=ipaddress.ip_network(name))
    except ValueError:
        return AllowedHost(ports, name.rstrip("."))


class Fetcher:
    """Fetches from allowed hosts, within the limits of an upload."""

    def __init__(self, allowed: Sequence[AllowedHost], limits: Limits) -> None:
        self._allowed, self._limits = tuple(allowed), limits

    def fetch(self, url: str, file: BinaryIO, name: str, most_bytes: int) -> None:
        """Write what is at `url` into `file`; `name` is what messages call it.

        Raises:
            FetchError: not allowed, not there, too large or too slow.
        """
        deadline = time.monotonic() + self._limits.fetch_s
        where = self._split(url, name)
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                location = self._get(where, file, name, most_bytes, deadline)
                if location is None:
                    return
                there = self._split(urljoin(where.geturl(), location), name)
                if there.hostname != where.hostname or (where.scheme, there.scheme) == ("https", "http"):
                    raise FetchError(f"the address of the {name} sends on to another host: give the address it ends at")
                where = there
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, UserError) or getattr(error, "errno", None) in _OWN_FAULTS:
                raise
            if time.monotonic() >= deadline:
                raise FetchError(self._slow(name)) from error
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise FetchError(f"the {name} cannot be fetched from {where.hostname} ({reason}): check its address") from error
        raise FetchError(f"the address of the {name} sends on more than {_MOST_REDIRECTS} times: give the one it ends at")

    def _slow(self, name: str) -> str:
        return f"fetching the {name} took more than {self._limits.fetch_s:g} s: send it with the request instead"

    def _split(self, url: str, name: str) -> SplitResult:
        """The parts of an address whose host and port are allowed by name."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
        except ValueError as error:
            raise FetchError(
                f"the address of the {name} cannot be used: give http:// or https://, a host and a path"
            ) from error
        if not host or port is None or parts.scheme not in _PORTS or parts.username is not None:
            raise FetchError(f"the address of the {name} cannot be used: give http:// or https://, a host and a path")
        if not any(port in entry.ports and _covers(entry, host) for entry in self._allowed):
            raise FetchError(f"files of {host} port {port} are not fetched here: send the {name} with the request instead")
        return parts

    def _get(self, where: SplitResult, file: BinaryIO, name: str, most_bytes: int, deadline: float) -> str | None:
        """One request; where it sends on to, if it does."""
        host, port = str(where.hostname), where.port or _PORTS[where.scheme]
        target = quote(where.path or "/", safe=_PLAIN) + (f"?{quote(where.query, safe=_PLAIN + '?')}" if where.query else "")
        with _connected(self._checked(host, port, name), where, deadline) as connection:
            connection.request("GET", target, headers={"User-Agent": f"joyhallo/{__version__}", "Accept-Encoding": "identity"})
            answer = connection.getresponse()
            if answer.status in _REDIRECTS and answer.headers.get("Location"):
                return answer.headers["Location"]
            if answer.status != 200:
                raise FetchError(f"{host} answered {answer.status} instead of giving the {name}: check its address")
            announced, size = answer.length, 0
            while block := answer.read1(_BLOCK):
                size += len(block)
                if size > most_bytes or (announced or 0) > most_bytes:
                    raise FetchError(f"the {name} has more than {most_bytes / 1e6:g} MB: give a smaller one")
                file.write(block)
            if time.monotonic() >= deadline:
                raise FetchError(self._slow(name))
            if announced not in (None, size):
                raise FetchError(f"{host} broke off in the middle of the {name}: try again")
        file.seek(0)
        return None

    def _checked(self, host: str, port: int, name: str) -> str:
        """An address of the host that may be connected to; all that it has are looked at."""
        found = [each[4][0] for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        for address in found:
            seen = ipaddress.ip_address(str(address).split("%")[0])
            if not (is_public(seen) or any(port in e.ports and e.network and seen in e.network for e in self._allowed)):
                raise FetchError(
                    f"{host} is not on the public internet, and not allowed here: send the {name} with the request"
                )
        return str(found[0])


def _covers(entry: AllowedHost, host: str) -> bool:
    """Whether an entry lets a host of that name be asked for; its addresses are another matter."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bool(entry.pattern) and fnmatchcase(host.rstrip("."), entry.pattern)
    return entry.pattern == "*" or (entry.network is not None and address in entry.network)


def is_public(address: _Address) -> bool:
    """Whether an address is one of the internet, also where it stands for another one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is not None:
            return is_public(inner)
        if address in ipaddress.ip_network("64:ff9b::/96"):  # a translator's: the last four bytes are the address
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _GLOBAL_UNICAST:  # the rest is local, or stands for an IPv4 address in yet another way
            return False
    return address.is_global and not address.is_multicast


@contextmanager
def _connected(address: str, where: SplitResult, deadline: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to that address and no other, which ends at the deadline whatever the other side does."""
    host, port = str(where.hostname), where.port or _PORTS[where.scheme]
    connection = http.client.HTTPConnection(host, port)
    connection.default_port = _PORTS[where.scheme]
    left_s = max(0.01, deadline - time.monotonic())
    sockets = [socket.create_connection((address, port), timeout=min(_SILENT_S, left_s))]
    ending = threading.Timer(left_s, lambda: _shut(sockets[-1]))
    ending.start()
    try:
        if where.scheme == "https":
            context = ssl.create_default_context()
            sockets.append(context.wrap_socket(sockets[0], server_hostname=host, do_handshake_on_connect=False))
            sockets[-1].do_handshake()  # type: ignore[attr-defined]
        connection.sock = sockets[-1]
        yield connection
    finally:
        ending.cancel()
        connection.close()
        for each in sockets:
            each.close()


def _shut(connected: socket.socket) -> None:
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already
        return
