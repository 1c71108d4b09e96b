"""Who may use the service: anybody on this machine, or whoever has a key."""

import hmac
import ipaddress
from collections.abc import Mapping
from pathlib import Path

from joyhallo.errors import UserError
from joyhallo.media.files import require_file

_SHORTEST = 20  # characters of a key


def read_keys(path: Path) -> dict[str, str]:
    """Keys by the name of their client, from lines "NAME KEY"; # begins a comment.

    Raises:
        UserError: the file cannot be used, a line is not of that form, a key is short, a name comes twice.
    """
    require_file(path, "file of keys", UserError)
    keys: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) != 2 or not words[0].isidentifier():
            raise UserError(f"line {number} of '{path}' is not NAME KEY: write a name without spaces, a space, the key")
        if len(words[1]) < _SHORTEST:
            raise UserError(
                f"the key of {words[0]!r} has {len(words[1])} characters: give {_SHORTEST} or more (openssl rand -hex 24)"
            )
        if words[0] in keys:
            raise UserError(f"the name {words[0]!r} comes twice in '{path}': give each client its own")
        keys[words[0]] = words[1]
    if not keys:
        raise UserError(f"there is no key in '{path}': write a line NAME KEY")
    return keys


def client_of(keys: Mapping[str, str], given: str) -> str | None:
    """The name whose key this is; every key is compared, so that the time says nothing."""
    matching = [name for name, key in keys.items() if hmac.compare_digest(key.encode(), given.encode())]
    return matching[0] if matching else None


def require_safe_address(host: str, keys: Mapping[str, str] | None) -> None:
    """Raises UserError when others could reach the service and no keys were given."""
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local and not keys:
        raise UserError(f"--host {host} lets other machines in: give --keys FILE with a line NAME KEY for each client")
