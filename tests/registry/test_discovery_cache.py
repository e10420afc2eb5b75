from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import pytest

from ally_plugins.catalog.discovery import cache as discovery_cache
from ally_plugins.catalog.discovery.cache_rows import from_rows, to_rows
from ally_plugins.catalog.discovery.found import Discovery, Found
from ally_plugins.catalog.discovery.packages import discover
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Restarts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kit.sites import Site

GOOD = (
    'description = "good"\nrequires_host = ">=1"\n[permissions]\ntools = { reason = "to offer" }\n'
    '[settings.limit]\ntype = "integer"\ndefault = 3\n'
)


@pytest.fixture
def cache(tmp_path: Path, site: Site) -> Path:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    site.plugin("p", GOOD)
    site.plugin("broken", "descripton = 1")
    site.add("badly-named", {"Bad": "p:P"})
    site.write("e/__init__.py", "1")
    site.write("e/ally-plugin.toml", GOOD)
    site.add("e", {"e": "e:E"}, record=False)
    site.settle()
    return directory


def remember(cache: Path) -> None:
    first = discover(cache)
    assert not first.from_cache
    again = discover(cache)
    assert again.from_cache
    assert (again.found, again.problems) == (first.found, first.problems)


def test_an_answer_that_is_still_true_is_the_same_from_the_cache(cache: Path) -> None:
    remember(cache)
    assert discover(cache).found == discover().found


@pytest.mark.slow
def test_the_next_program_gets_the_answer_of_the_one_before(cache: Path, site: Site) -> None:
    look = (
        "from pathlib import Path\n"
        "from ally_plugins.catalog.discovery import cache, packages\n"
        "cache.now = lambda: 2**62\n"  # whatever else is on the path may have changed just now
        f"print(packages.discover(Path({str(cache)!r})).from_cache)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(site.path)}

    def run() -> str:
        return subprocess.run([sys.executable, "-c", look], env=env, capture_output=True, text=True, check=True).stdout

    assert [run(), run()] == ["False\n", "True\n"]


def change_manifest(site: Site) -> None:
    site.write("p/ally-plugin.toml", GOOD.replace("good", "better"))


def change_editable_code(site: Site) -> None:
    site.write("e/__init__.py", "22")


def change_record(site: Site) -> None:
    site.write("p-1.0.dist-info/RECORD", "p/__init__.py,sha256=other,1\n")


def change_entry_points(site: Site) -> None:
    site.write("p-1.0.dist-info/entry_points.txt", "[ally.plugins]\np = p:Other\n")


def add_a_distribution(site: Site) -> None:
    site.plugin("q", GOOD)


def remove_a_module(site: Site) -> None:
    (site.path / "p" / "ally-plugin.toml").unlink()


def add_a_directory_to_the_path(site: Site) -> None:
    other = type(site)(site.path.parent / "other")
    other.plugin("q", GOOD)
    sys.path.append(str(other.path))


def put_a_module_before_it(site: Site) -> None:
    other = type(site)(site.path.parent / "other")
    sys.path.insert(0, str(other.path))
    other.settle()
    discover(site.path.parent / "run")
    other.write("p.py", "")


CHANGES = [
    change_manifest,
    change_editable_code,
    change_record,
    change_entry_points,
    add_a_distribution,
    remove_a_module,
    add_a_directory_to_the_path,
    put_a_module_before_it,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_change_is_seen(cache: Path, site: Site, change: Callable[[Site], None]) -> None:
    remember(cache)
    before = discover()
    change(site)
    after = discover(cache)
    assert not after.from_cache
    assert after.found == discover().found != before.found


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"key": 1}',
        b'{"stamps": [], "answer": {}}',
        b"[" * 100_000,
        b"{" * 20_000_000,
    ],
    ids=lambda content: repr(content[:8]),
)
def test_a_broken_cache_is_as_good_as_none(cache: Path, content: bytes) -> None:
    remember(cache)
    (file,) = cache.iterdir()
    file.write_bytes(content)
    discovery = discover(cache)
    assert not discovery.from_cache
    assert discovery.get("p") is not None
    assert discover(cache).from_cache


def test_a_cache_in_which_one_byte_differs_is_not_used(cache: Path) -> None:
    remember(cache)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    for position in range(0, len(content), 97):
        file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert discovery_cache.load(cache, discovery_cache.key()) is None
        file.write_bytes(content[:position])
        assert discovery_cache.load(cache, discovery_cache.key()) is None


def test_what_changed_a_moment_ago_is_not_remembered_yet(cache: Path, site: Site) -> None:
    site.write("p/ally-plugin.toml", GOOD)
    assert not discover(cache).from_cache
    assert not discover(cache).from_cache
    assert list(cache.iterdir()) == []


def test_a_relative_entry_means_the_directory_that_one_is_in(
    cache: Path, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    os.utime(empty, (1_600_000_000, 1_600_000_000))
    sys.path[0] = ""
    monkeypatch.chdir(empty)
    discover(cache)
    assert discover(cache).from_cache
    monkeypatch.chdir(site.path)
    assert not discover(cache).from_cache


def test_caches_of_other_paths_are_kept_and_pruned(cache: Path, tmp_path: Path) -> None:
    path = list(sys.path)
    for i in range(12):
        directory = tmp_path / str(i)
        directory.mkdir()
        os.utime(directory, (1_600_000_000, 1_600_000_000))
        sys.path = [*path, str(directory)]
        discover(cache)
        assert discover(cache).from_cache
    assert len(list(cache.iterdir())) == 8


@pytest.mark.skipif(sys.platform == "win32", reason="modes mean something else there")
def test_the_cache_is_its_owners_only(cache: Path) -> None:
    remember(cache)
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("where", ["gone", "file"])
def test_a_cache_that_cannot_be_written_only_costs_time(cache: Path, tmp_path: Path, where: str) -> None:
    directory = tmp_path / where
    if where == "file":
        directory.write_text("")
    assert discover(directory).get("p") is not None
    assert list(cache.iterdir()) == []


EVERYTHING = """
description = "everything"
after = ["secret-guard"]
[events]
subscribe = ["TOOL_CALL_END", "x:*", "CONTEXT_THRESHOLD"]
durable = ["TOOL_CALL_END"]
thresholds = [33.5, 60]
[permissions]
gate = { on = ["tool_call"], tools = ["bash"], reason = "to stop it" }
tools = { reason = "to offer" }
[settings.limit]
type = "number"
default = 3.0
[settings.mode]
type = "choice"
choices = ["a", "b"]
required = true
[daemon]
command = ["node", "d.js"]
transport = "socket"
socket = "/tmp/x.sock"
health = { retries = 7 }
limits = { file_mb = "none" }
"""


def everything() -> Discovery:
    manifest = Manifest.from_text(EVERYTHING)
    assert manifest.daemon is not None
    again = attrs.evolve(manifest.daemon, env={"A": "b"}, restarts=Restarts(delay=0.5, most=3), talks_back=False)
    found = Found(name="p", manifest=manifest, daemon=again, files={"a": "1"}, problem="it is odd", editable=True)
    return Discovery((found, Found(name="q")), ("a problem",), failed={"other": "it raised"})


def test_everything_that_can_be_found_comes_back_as_it_was() -> None:
    found = everything()
    rows = orjson.loads(orjson.dumps(to_rows(found)))
    assert from_rows(rows) == attrs.evolve(found, from_cache=True)
    assert from_rows(rows, "q") == attrs.evolve(found, found=found.found[1:], from_cache=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("found",), {}),
        (("found", 0), []),
        (("found", 0, "name"), 1),
        (("found", 0, "editable"), "yes"),
        (("found", 0, "editable"), 1),
        (("found", 0, "odd"), 1),
        (("found", 0, "files"), []),
        (("found", 0, "manifest", "requests", 0), ["gate", "tool_call", ""]),
        (("found", 0, "manifest", "requests", 0), ["gate", "tool_call", "", None]),
        (("found", 0, "manifest", "subscribe"), "TOOL_CALL_END"),
        (("found", 0, "manifest", "settings", "mode", "required"), "no"),
        (("found", 0, "manifest", "settings", "mode", "kind"), None),
        (("found", 0, "daemon", "command"), "node d.js"),
        (("found", 0, "daemon", "talks_back"), 0),
        (("found", 0, "daemon", "timing", "ping_retries"), True),
        (("found", 0, "daemon", "restarts"), {"delay": 0.5}),
        (("problems",), [1]),
    ],
)
def test_rows_of_another_shape_are_as_good_as_none(path: tuple[Any, ...], value: Any) -> None:
    rows = orjson.loads(orjson.dumps(to_rows(everything())))
    place = rows
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert from_rows(rows) is None
