"""A page on a recorded session, served in this process, and a client that sends what a browser would, or would not."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from ally_plugins.catalog.home.folder import Home
from ally_plugins.cli.inspect.answers import Answers
from ally_plugins.cli.inspect.server import PageServer
from tests.kit.recorded_sessions import record_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


class Page:
    """A running page, and requests to it over a connection each."""

    def __init__(self, server: PageServer) -> None:
        self.server = server
        self.host = f"127.0.0.1:{server.server_port}"

    def request(
        self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
    ) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": self.host, **(headers or {})}.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()

    @property
    def cookie(self) -> dict[str, str]:
        _, headers, _ = self.request(f"/?token={self.server.token}")
        return {"Cookie": headers["Set-Cookie"].partition(";")[0]}

    def ask(self, name: str, *, code: int = 200, **asked: Any) -> Any:
        status, _, text = self.request(f"{self.server.base}api/{name}?{urlencode(asked)}", self.cookie)
        assert status == code, text
        return json.loads(text)


@contextmanager
def served(home: Home) -> Iterator[Page]:
    answers = Answers(home)
    with PageServer(0, answers.answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Page(server)
        finally:
            server.shutdown()
            thread.join()
            answers.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home("ally-plugins", tmp_path / "home")
    found.prepare()
    return found


@pytest.fixture
def record(home: Home) -> Callable[..., None]:
    """Return what records a session in the home."""
    return lambda *args, **more: record_session(home.journal_file, *args, **more)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Return a page on a session of some calls; nothing that is asked of it changes anything."""
    home = Home("ally-plugins", tmp_path_factory.mktemp("page") / "home")
    home.prepare()
    record_session(home.journal_file, events=120)
    with served(home) as running:
        yield running
