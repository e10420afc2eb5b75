"""The page's server: on loopback, for whoever has the link, and for reading only.

The link's token is exchanged for a cookie that scripts cannot read, that no other site's page makes the browser send,
and that is meant for a path which changes with each start: cookies do not know of ports, and another server of this
machine would get one for all paths. What comes under another name than that of loopback, or from another site's page,
is refused whatever it brings: a name of theirs may lead here (DNS rebinding).
"""

from __future__ import annotations

import hmac
import secrets
import threading
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

import orjson

from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import AllyError, ConfigError, JournalError, NotFoundRefused

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

__all__ = ["LOOPBACK", "PageServer"]

LOOPBACK: Final = "127.0.0.1"
_COOKIE: Final = "ally_inspect"
_MOST: Final = 64  # connections at once; a browser opens six. Whoever has no token shall not fill the memory either
_IDLE_S: Final = 30.0  # after which a connection that sends nothing is closed
_LONGEST: Final = 8_192  # characters of a path: a filter has some hundred
_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS: Final = {
    # Nothing from elsewhere, nothing inline, and no text becomes markup even where the page's code went wrong.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ENTERED: Final = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={base}{place}">'
    '<link rel="icon" href="{base}icon.svg"><title>ally-plugins</title>'
)
"""Not a redirection: where the link was on a page of another site, or in a file, the browser would follow it without
the cookie that came with it. It takes the link's place in the history."""


class PageServer(ThreadingHTTPServer):
    """Serves from its making until `server_close`. `answer` gets the name of a request and its parameters."""

    daemon_threads = True
    request_queue_size = _MOST  # of five, as the base has it, a browser alone would fill
    block_on_close = False  # a browser's connections stay open until it closes them

    def __init__(self, port: int, answer: Callable[[str, Mapping[str, str]], dict[str, Any]]) -> None:
        """Listen. Raises OSError where the port is taken; 0 is any that is free."""
        self.token: Final = secrets.token_urlsafe(32)
        self.cookie: Final = secrets.token_urlsafe(32)
        """Another one than the link's, so that neither gives the other away."""
        self.base: Final = f"/{secrets.token_urlsafe(12)}/"
        self.answer: Final = answer
        self.page: Final = _page()
        self._room: Final = threading.BoundedSemaphore(_MOST)
        super().__init__((LOOPBACK, port), _Handler)
        self.names: Final = frozenset(f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost"))

    @property
    def link(self) -> str:
        """The address that lets its holder in."""
        return f"http://{LOOPBACK}:{self.server_port}/?token={self.token}"

    @override
    def server_bind(self) -> None:
        """Bind to loopback."""
        # The base class would look its own name up, which may ask the network.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    @override
    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """Take a connection, unless there are too many."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    @override
    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a connection that broke."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride] - it is only made by one
    protocol_version = "HTTP/1.1"
    server_version = "ally-plugins"
    sys_version = ""
    timeout = _IDLE_S

    def do_GET(self) -> None:
        """Answer a request."""
        if (problem := self._problem()) is not None:
            self._send(*problem)
            return
        url = urlsplit(self.path)
        asked = dict(parse_qsl(url.query, keep_blank_values=True, max_num_fields=20))
        if url.path == "/" and "token" in asked:
            self._enter(asked)
        elif not self._is_known() or not url.path.startswith(self.server.base):
            # The same for a wrong cookie and a wrong path: there is nothing to try out.
            text = "this page needs the link that `ally-plugins inspect` has printed, or opened; open that link again"
            self._send(HTTPStatus.FORBIDDEN, text)
        else:
            self._serve(url.path.removeprefix(self.server.base), asked)

    def _problem(self) -> tuple[HTTPStatus, str] | None:
        """Return why a request is refused whatever cookie it has."""
        if len(self.path) > _LONGEST:
            return HTTPStatus.REQUEST_URI_TOO_LONG, "the address is too long"
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0] not in self.server.names:
            return HTTPStatus.FORBIDDEN, f"this page is at {LOOPBACK} only, and not at another name that leads here"
        site, mode = self.headers.get("Sec-Fetch-Site"), self.headers.get("Sec-Fetch-Mode")
        # `none`: somebody has typed it. A link elsewhere may lead to the page, and nothing elsewhere reads it.
        if site not in {None, "same-origin", "none"} and mode != "navigate":
            return HTTPStatus.FORBIDDEN, "another site's page has asked for this"
        return None

    def _is_known(self) -> bool:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(_COOKIE)
        except CookieError:
            return False
        return cookie is not None and _equal(cookie.value, self.server.cookie)

    def _enter(self, asked: Mapping[str, str]) -> None:
        if not _equal(asked["token"], self.server.token):
            self._send(HTTPStatus.FORBIDDEN, "the link is not that of this start of `ally-plugins inspect`")
            return
        base = self.server.base
        names = [quote(asked[name], safe="") for name in ("session", "id") if asked.get(name)]
        place = f"#/{'/'.join(names)}" if names else ""
        cookie = f"{_COOKIE}={self.server.cookie}; Path={base}; HttpOnly; SameSite=Strict"
        self._send(HTTPStatus.OK, _ENTERED.format(base=base, place=place), _TYPES["html"], {"Set-Cookie": cookie})

    def _serve(self, path: str, asked: Mapping[str, str]) -> None:
        if path.startswith("api/"):
            status, answer = self._answer(path.removeprefix("api/"), asked)
            self._send(status, orjson.dumps(answer, default=_plain), "application/json")
            return
        name = path or "index.html"
        content = self.server.page.get(name)
        if content is None:
            self._send(HTTPStatus.NOT_FOUND, "there is no such page")
        else:
            self._send(HTTPStatus.OK, content, _TYPES[name.rpartition(".")[2]])

    def _answer(self, name: str, asked: Mapping[str, str]) -> tuple[HTTPStatus, dict[str, Any]]:
        try:
            return HTTPStatus.OK, self.server.answer(name, asked)
        except ConfigError as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except NotFoundRefused as error:
            return HTTPStatus.NOT_FOUND, {"error": str(error)}
        except JournalError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)}
        except AllyError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - a record of another version, or damaged: the page goes on
            return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"}

    def _send(
        self,
        status: HTTPStatus,
        content: bytes | str,
        type_: str = "text/plain; charset=utf-8",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {
            **_HEADERS,
            **(headers or {}),
            "Content-Type": type_,
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        if status != HTTPStatus.OK:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    @override
    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - the base's
        """Refuse what is no GET, or no HTTP: as a text, which repeats nothing of it."""
        is_other = code == HTTPStatus.NOT_IMPLEMENTED
        self.close_connection = True
        text = "this page is for reading only" if is_other else "this is no request"
        self._send(HTTPStatus.METHOD_NOT_ALLOWED if is_other else HTTPStatus(code), text)

    @override
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's
        """Log nothing: the terminal belongs to the person, and a link is in the first request."""


def _equal(given: str, expected: str) -> bool:
    # In a time that does not tell how much of it is right; of bytes, since other letters than ASCII raise.
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _plain(value: Any) -> Any:
    """Return what `orjson` does not know as what it knows."""
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def _page() -> dict[str, bytes]:
    """Return the files of the page by name. They are read once: nothing in a request becomes a path."""
    folder = files("ally_plugins.cli.inspect").joinpath("page")
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name.rpartition(".")[2] in _TYPES}
