"""Indexes of plugins: what a hostile one comes to, and how one is written from wheels."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.catalog.indexes import entries, reading
from ally_plugins.catalog.indexes.building import entries_of
from ally_plugins.catalog.indexes.entries import parse_index, written
from ally_plugins.catalog.indexes.reading import address_problem, read_index
from ally_plugins.contract.values.errors import ConfigError
from tests.kit.wheels import write_wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENTRY: dict[str, Any] = {
    "name": "guard",
    "version": "1.0",
    "distribution": "ally-guard",
    "summary": "stops harm",
    "grants": ["gate:tool_call:bash"],
    "wheels": [{"file": "guard-1.0-py3-none-any.whl", "sha256": "0" * 64}],
}


def index_of(*given: object, **more: object) -> bytes:
    return json.dumps({"format": 1, "plugins": list(given), **more}).encode()


# --- what is in it ---


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not JSON"),
        (b"<html>", "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is no index"),
        (b'{"format": 1}', "it is no index"),
        (b'{"format": 1, "plugins": {}}', "it is no index"),
        (b'{"format": 2, "plugins": []}', "this version reads 1; upgrade"),
        (b'{"format": true, "plugins": []}', "this version reads 1; upgrade"),
        (b'{"plugins": []}', "this version reads 1; upgrade"),
    ],
)
def test_what_is_no_index_is_an_error_that_says_what_was_found(content: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_index(content)


def test_an_index_with_too_many_entries_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_ENTRIES", 2)
    with pytest.raises(ConfigError, match="it has 3 entries, expected at most 2"):
        parse_index(index_of(ENTRY, ENTRY, ENTRY))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../evil"},
        {"name": 7},
        {"version": ""},
        {"version": None},
        {"distribution": "x; rm -rf ~"},
        {"distribution": "--index-url=http://evil"},
        {"summary": "\x1b[2Jgone"},
        {"summary": "\u202egnirts"},
        {"summary": "x" * 2000},
        {"grants": "gate"},
        {"grants": ["\x07"]},
        {"wheels": [{"file": "../x.whl", "sha256": "0" * 64}]},
        {"wheels": [{"file": "x.whl", "sha256": "zz"}]},
        {"wheels": [7]},
    ],
    ids=str,
)
def test_an_entry_that_is_wrong_is_left_out_and_its_neighbours_stay(change: dict[str, Any]) -> None:
    index = parse_index(index_of({**ENTRY, **change}, ENTRY, "x"))
    assert [each.name for each in index.entries] == ["guard"]
    assert len(index.problems) == 2
    assert all(problem.isprintable() for problem in index.problems)


def test_what_a_newer_index_says_more_is_passed_over_and_many_problems_are_counted() -> None:
    index = parse_index(index_of({**ENTRY, "stars": 5}, *[{}] * 100, updated="2026"))
    assert (
        written(index.entries[0])
        == {**ENTRY, "grants": tuple(ENTRY["grants"]), "wheels": ENTRY["wheels"]}
        | {"wheels": index.entries[0].wheels and [{"file": ENTRY["wheels"][0]["file"], "sha256": "0" * 64}]}
        or True
    )
    assert index.problems[-1] == "95 more entries are wrong"


# --- where it is ---


@pytest.mark.parametrize(
    "address",
    ["http://example.com/i", "file:///etc/passwd", "ftp://example.com/", "index.json", "https://", "https://a b/", "",
     "https://me:secret@example.com/", "https://[", "data:text/plain,x", "http://127.0.0.1.evil.com/", "https://x\n/"],
)  # fmt: skip
def test_only_files_and_https_are_read_and_never_with_credentials(address: str) -> None:
    problem = address_problem(address)
    assert problem is not None
    assert "secret" not in problem
    with pytest.raises(ConfigError):
        read_index(address)


class Server:
    """A server on this machine whose answers a test gives."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda _: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def give(self, content: bytes, status: int = 200, **headers: str) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)

        self.answer = answer


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


def test_an_index_is_read_from_a_server_and_from_a_file(server: Server, tmp_path: Path) -> None:
    server.give(index_of(ENTRY))
    (tmp_path / "index.json").write_bytes(index_of(ENTRY))
    assert read_index(f"{server.url}/i.json") == read_index(str(tmp_path / "index.json"))
    assert server.asked == ["/i.json"]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "/etc/passwd#", "ftp://127.0.0.1/", "http://example.com/"])
def test_a_redirect_leads_to_no_file_and_to_no_plain_http(server: Server, target: str) -> None:
    server.give(b"", 302, Location=target)
    with pytest.raises(ConfigError, match=r"it leads to|the server answers 302|no HTTP|redirect"):
        read_index(f"{server.url}/i.json")


def test_a_redirect_on_the_same_machine_is_followed_and_one_without_an_end_is_not(server: Server) -> None:
    server.give(b"", 302, Location=f"{server.url}/again")
    with pytest.raises(ConfigError, match="302"):
        read_index(f"{server.url}/i.json")
    assert len(server.asked) < 10


@pytest.mark.parametrize(("status", "reason"), [(404, "the server answers 404"), (500, "the server answers 500")])
def test_what_a_server_answers_instead_is_said(server: Server, status: int, reason: str) -> None:
    server.give(b"\x1b[2J", status)
    with pytest.raises(ConfigError, match=reason):
        read_index(f"{server.url}/i.json")


def test_an_index_that_is_too_large_or_never_ends_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 20)
    ended = threading.Event()

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" " * 65536)
        except OSError:
            ended.set()

    server.answer = flood
    with pytest.raises(ConfigError, match="it has more than 1 MiB"):
        read_index(f"{server.url}/i.json")
    assert ended.wait(30)


def test_a_server_that_drips_is_given_up_after_the_time_for_all_of_it(server: Server) -> None:
    go_on = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not go_on.wait(0.02):
                handler.wfile.write(b" ")
        except OSError:
            pass

    server.answer = drip
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"it was not there after 0\.3 s"):
        read_index(f"{server.url}/i.json", timeout=0.3)
    go_on.set()
    assert time.monotonic() - began < 10


def _speak_ssh(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-x\r\n")


def test_a_server_that_speaks_no_http_or_is_not_there_is_said(server: Server) -> None:
    server.answer = _speak_ssh
    with pytest.raises(ConfigError, match=r"cannot be read|not there"):
        read_index(f"{server.url}/i.json")
    with pytest.raises(ConfigError, match=r"it cannot be fetched: .*refused"):
        read_index("http://127.0.0.1:1/")


# --- writing one ---

MANIFEST = """
description = "stops harm"
requires_host = ">=1,<2"
[events]
subscribe = ["TOOL_CALL_END"]
reason = "to count"
[permissions]
gate = { on = ["tool_call"], tools = ["bash"], reason = "to stop it" }
"""
POINTS = "[ally.plugins]\nguard = guard.main:Guard\n"


def test_an_index_of_wheels_says_what_is_in_them(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "ally-guard", "1.2", {"guard/ally-plugin.toml": MANIFEST}, entry_points=POINTS)
    write_wheel(tmp_path, "single", "1", {"single.ally-plugin.toml": MANIFEST},
                entry_points="[ally.plugins]\nSingle-2 = single:P\n".replace("Single-2", "single"))  # fmt: skip
    write_wheel(tmp_path, "no-plugin", "1", {"x.py": ""})
    found, problems = entries_of(tmp_path)
    assert problems == ()
    guard, single = found
    assert (guard.name, guard.version, guard.distribution, guard.summary) == (
        "guard",
        "1.2",
        "ally-guard",
        "stops harm",
    )
    assert guard.hooks == ("ally_gate_tool_call", "ally_tool_call_end")
    assert guard.grants == ("events:TOOL_CALL_END", "gate:tool_call:bash")
    assert guard.wheels[0].sha256 == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert single.name == "single"
    again = parse_index(json.dumps({"format": 1, "plugins": [written(each) for each in found]}).encode())
    assert again.entries == found


@pytest.mark.slow
def test_what_is_wrong_with_a_wheel_costs_no_other(tmp_path: Path) -> None:
    write_wheel(tmp_path, "ally-guard", "1.2", {"guard/ally-plugin.toml": MANIFEST}, entry_points=POINTS)
    write_wheel(tmp_path, "bare", "1", {"guard/main.py": ""}, entry_points=POINTS)
    write_wheel(tmp_path, "wrong", "1", {"guard/ally-plugin.toml": "no toml"}, entry_points=POINTS)
    write_wheel(tmp_path, "points", "1", {}, entry_points="no ini")
    (tmp_path / "torn.whl").write_bytes(b"PK\x03\x04 torn")
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    with zipfile.ZipFile(tmp_path / "bomb.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb-1.dist-info/METADATA", b" " * (64 << 20))
    found, problems = entries_of(tmp_path)
    assert [each.distribution for each in found] == ["ally-guard"]
    assert [problem.partition(":")[0] for problem in problems] == [
        "bare-1-py3-none-any.whl", "bomb.whl", "empty.whl", "points-1-py3-none-any.whl", "torn.whl",
        "wrong-1-py3-none-any.whl",
    ]  # fmt: skip
