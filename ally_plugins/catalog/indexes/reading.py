"""Fetching an index: a local file, or by HTTPS from where config.toml says. This is all that the product ever fetches.

Nothing of this machine is sent but the request itself. A redirect leads to HTTPS alone, and never to a file.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import frozen

from ally_plugins.catalog.bounded_calls import BoundedCalls
from ally_plugins.catalog.home.folder import read_capped
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import AllyError, ConfigError
from ally_plugins.contract.wording import describe, is_plain_text

from .entries import Index, parse_index

__all__ = ["TIMEOUT", "FoundIndex", "address_problem", "read_index", "read_indexes"]

TIMEOUT: Final = 10.0
"""Seconds for all of one index, from the name's look-up to the last byte."""

MAX_BYTES: Final = 32 * 1024 * 1024
"""`MAX_ENTRIES` of 600 bytes each."""

_PIECE: Final = 64 * 1024
_REDIRECTS: Final = 5


@frozen
class FoundIndex:
    """An index of config.toml as it was found: what is in it, or why it could not be read."""

    name: str
    address: str
    index: Index | None = None
    problem: str = ""


def address_problem(address: str) -> str | None:
    """Return why an index cannot be there, None when it can: an absolute path, or an https URL without credentials."""
    expected = "expected an absolute path, or a URL that begins with https://"
    if address.startswith("/") or (address[1:3] == ":\\" and address[:1].isalpha()):
        return None
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError as error:
        return f"found {describe(address)}: {error}; {expected}"
    if not is_plain_text(address) or " " in address or not host:
        return f"found {describe(address)}, {expected}"
    if parts.username is not None or parts.password is not None:
        return f"has credentials in it, {expected} without any"
    # On this machine nobody is between; a mirror there has no certificate.
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return None
    return f"found {describe(address)}, {expected}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_indexes(addresses: Mapping[str, str]) -> tuple[FoundIndex, ...]:
    """Read all of these indexes, one after the other; one that cannot be read says why. Blocks, `TIMEOUT` for each."""
    found: list[FoundIndex] = []
    for name, address in addresses.items():
        try:
            found.append(FoundIndex(name, address, read_index(address)))
        except AllyError as error:
            found.append(FoundIndex(name, address, problem=str(error)))
    return tuple(found)


def read_index(address: str, *, timeout: float = TIMEOUT) -> Index:
    """Read one index. Raises ConfigError, which says what was found there. Blocks for `timeout` seconds at most."""
    if (problem := address_problem(address)) is not None:
        raise ConfigError(problem)
    try:
        # In a thread: what looks up a name takes no timeout.
        content = BoundedCalls("ally-index").run(timeout, _content, address, timeout)
    except TimeoutError:
        raise ConfigError(f"it was not there after {timeout:g} s; try again later") from None
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror or error}") from error
    if content is None:
        raise ConfigError("there is no such file")
    return parse_index(content)


def _content(address: str, timeout: float) -> bytes | None:
    if not address.startswith("http"):
        return read_capped(address, MAX_BYTES)
    return _fetched(address, timeout)


def _fetched(address: str, timeout: float) -> bytes:
    # 60 ms, and only where something is fetched.
    import urllib.error
    from http.client import HTTPException

    until = time.monotonic() + timeout
    try:
        with _opener().open(address, timeout=timeout) as answer:
            content = bytearray()
            while piece := answer.read1(_PIECE):
                content += piece
                if len(content) > MAX_BYTES:
                    raise OSError(None, f"it has more than {MAX_BYTES >> 20} MiB")
                if time.monotonic() > until:
                    raise TimeoutError
            return bytes(content)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(None, f"the server answers {error.code} {describe(str(error.reason))}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise error.reason from None
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise OSError(None, f"it cannot be fetched: {reason}") from None
    except (HTTPException, ValueError) as error:
        raise OSError(None, f"the server answers what is no HTTP: {describe(str(error))}") from None


def _opener() -> Any:
    """Return what fetches by HTTP alone: the usual opener knows files and FTP as well, and redirects lead there."""
    import urllib.request

    class SafeRedirects(urllib.request.HTTPRedirectHandler):
        max_redirections = _REDIRECTS

        @override
        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if not newurl.startswith("http") or address_problem(newurl) is not None:
                fp.close()
                raise OSError(None, f"it leads to {describe(newurl)}, expected an https URL")
            if newurl.startswith("http:") and not req.full_url.startswith("http:"):
                fp.close()
                raise OSError(None, f"it leads from https to {describe(newurl)}")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        SafeRedirects(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "ally-plugins"), ("Accept", "application/json")]
    return opener
