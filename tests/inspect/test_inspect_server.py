"""Who is let in to the page, and who is not; and that nothing it serves can act."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ally_plugins.cli.inspect.page as page_folder

if TYPE_CHECKING:
    from .conftest import Page

FILES = sorted(
    path for path in Path(next(iter(page_folder.__path__))).iterdir() if path.suffix in {".js", ".html", ".css"}
)


def test_nothing_is_served_without_the_cookie_that_the_link_gives(page: Page) -> None:
    base = page.server.base
    for path in ("/", base, f"{base}app.js", f"{base}api/sessions", f"{base}api/rows", "/api/sessions", "/?session=x"):
        status, _, text = page.request(path)
        assert status == 403, path
        assert "the link" in text
        assert "s-recorded-1" not in text
    for cookie in ("ally_inspect=", "ally_inspect=x", f"ally_inspect={page.server.token}", "ally_inspect=\xe9", ";;=;"):
        assert page.request(f"{base}api/sessions", {"Cookie": cookie})[0] == 403
    assert page.request(f"{base}api/sessions?token={page.server.token}")[0] == 403
    assert page.request(f"{base}api/sessions", page.cookie)[0] == 200


def test_a_wrong_token_gets_no_cookie(page: Page) -> None:
    for token in ("", "x", page.server.token[:-1], page.server.cookie, "%C3%A9"):
        status, headers, _ = page.request(f"/?token={token}")
        assert status == 403
        assert headers["Set-Cookie"] is None


def test_the_link_gives_a_cookie_for_this_path_and_site_alone_and_goes_on_without_the_token(page: Page) -> None:
    status, headers, text = page.request(f"/?token={page.server.token}&session=a%22%3E%3Cb&id=s:1")
    assert status == 200
    assert headers["Set-Cookie"].split("; ")[1:] == [f"Path={page.server.base}", "HttpOnly", "SameSite=Strict"]
    assert page.server.token not in text + str(headers)
    assert f'content="0; url={page.server.base}#/a%22%3E%3Cb/s%3A1"' in text
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_a_name_that_leads_here_is_refused_with_the_cookie_too(page: Page, host: str) -> None:
    headers = {**page.cookie, "Host": host.format(port=page.server.server_port)}
    assert page.request(f"{page.server.base}api/sessions", headers)[0] == 403
    assert page.request(f"/?token={page.server.token}", headers)[0] == 403


def test_a_second_host_is_refused(page: Page) -> None:
    with socket.create_connection(("127.0.0.1", page.server.server_port), timeout=30) as connection:
        cookie = page.cookie["Cookie"]
        lines = (f"GET {page.server.base}api/sessions HTTP/1.1", f"Host: {page.host}", "Host: evil.example",
                 f"Cookie: {cookie}", "", "")  # fmt: skip
        connection.sendall("\r\n".join(lines).encode())
        assert b" 403 " in connection.recv(100)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_sites_page_asks_for_is_refused_with_the_cookie_too(page: Page, site: str) -> None:
    for mode in ("cors", "no-cors", "same-origin"):
        headers = {**page.cookie, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
        assert page.request(f"{page.server.base}api/sessions", headers)[0] == 403
    own = {**page.cookie, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert page.request(f"{page.server.base}api/sessions", own)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "<b>"])
def test_whatever_is_no_look_is_refused(page: Page, method: str) -> None:
    status, headers, text = page.request(f"{page.server.base}api/sessions", page.cookie, method=method)
    assert status == 405
    assert text in {"this page is for reading only", ""}
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_every_answer_forbids_what_is_not_its_own(page: Page) -> None:
    base = page.server.base
    for path, cookie in (
        (base, page.cookie),
        (f"{base}app.js", page.cookie),
        (f"{base}api/rows", page.cookie),
        ("/", {}),
    ):
        _, headers, _ = page.request(path, cookie)
        policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
        assert policy.pop("default-src") == "'none'"
        assert policy.pop("require-trusted-types-for") == "'script'"
        assert set(policy.values()) <= {"'self'", "'none'"}
        assert policy["script-src"] == "'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Access-Control-Allow-Origin"] is None
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "name", ["../server.py", "..%2fserver.py", "/etc/passwd", "__init__.py", "app.js/", "style.css%00"]
)
def test_no_path_leads_out_of_the_page(page: Page, name: str) -> None:
    assert page.request(f"{page.server.base}{name}", page.cookie)[0] == 404


def test_it_listens_on_loopback_alone(page: Page) -> None:
    assert page.server.socket.getsockname()[0] == "127.0.0.1"


def test_strange_requests_are_refused_and_the_page_goes_on(page: Page) -> None:
    for sent in (
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", page.server.server_port), timeout=30) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            assert b"s-recorded-1" not in connection.makefile("rb").read()
    assert page.ask("rows", count=1)["total"] > 100
    for path in (
        "rows?from=-1&count=x",
        "entry?position=99999999999999999999",
        "find?id=%00",
        f"rows?q={'x' * 2_000}",
        "nothing",
    ):
        assert page.request(f"{page.server.base}api/{path}", page.cookie)[0] in {200, 400, 404}


def test_the_page_names_no_other_address_and_makes_no_markup_of_texts() -> None:
    assert len(FILES) > 5
    for file in FILES:
        text = file.read_text()
        # The name of SVG's elements is no address that anything is fetched from.
        assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text), file.name
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser", text
        )
        assert not re.search(r"<script(?! type=\"module\" src=)| style=| on[a-z]+=\"", text), file.name


def test_more_connections_than_there_is_room_for_are_closed_and_the_others_are_served(page: Page) -> None:
    waiting = [socket.create_connection(("127.0.0.1", page.server.server_port), timeout=30) for _ in range(80)]
    closed = [connection for connection in waiting[70:] if connection.recv(1) == b""]
    assert len(closed) == 10
    for connection in waiting:
        connection.close()
