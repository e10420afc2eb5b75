"""The commands of a fleet, as an operator uses them, and what they refuse."""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.fleet.batches import Held
from ally_plugins.fleet.connection import FleetError, connected
from ally_plugins.fleet.credentials import read_credentials
from ally_plugins.fleet.proofs import Certificate
from ally_plugins.fleet.server import Listen, init
from ally_plugins.fleet.store import open_store
from ally_plugins.journal.audit import Problem
from ally_plugins.journal.chain import Head
from ally_plugins.journal.values import ChainedRecord
from tests.kit.commands import PROGRAM, run_command
from tests.kit.fleets import tls_at
from tests.kit.waiting import go, wait_until

from .conftest import write

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.journal.journal import Journal
    from tests.kit.fleets import Server


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home of one laptop, in which `journal` lies."""
    monkeypatch.setenv("ALLY_HOME", str(tmp_path))
    return tmp_path


def run_json(*args: str, code: int = 0) -> Any:
    """Run a command and return what it printed as JSON."""
    return json.loads(run_command("fleet", *args, "--json", code=code).stdout)


# --- init ---


def test_each_home_has_a_key_of_its_own_that_nobody_else_may_read_and_keeps_it_when_homes_are_added(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "fleet"
    first = run_json("init", str(folder), "laptop", "build-1")
    assert [file.rpartition("/")[2] for file in first["new"]] == ["collector.toml", "laptop.toml", "build-1.toml"]
    seeds = {name: read_credentials(folder / f"{name}.toml").seed for name in ("collector", "laptop", "build-1")}
    assert len(set(seeds.values())) == 3
    for file in folder.glob("*"):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    text = (folder / "server.conf").read_text()
    assert not any(seed in text for seed in seeds.values())
    assert run_json("init", str(folder), "laptop", "build-2")["new"] == [str(folder / "build-2.toml")]
    assert {name: read_credentials(folder / f"{name}.toml").seed for name in seeds} == seeds
    assert (folder / "server.conf").read_text().count("nkey") == 4


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("Laptop",), "found 'Laptop', expected a name of at most 63 lower-case letters"),
        (("a.b",), "found 'a.b', expected a name"),
        (("*",), "found '*', expected a name"),
        (("collector",), "'collector' is the name of who collects"),
        (("laptop", "--listen", "0.0.0.0:4222"), "a server at '0.0.0.0' is reached over a network"),
        (("laptop", "--listen", "nats.example:4222"), "give --tls-cert and --tls-key"),
        (("laptop", "--listen", "127.0.0.1"), "expected HOST:PORT, found '127.0.0.1'"),
        (("laptop", "--listen", "127.0.0.1:70000"), "expected HOST:PORT"),
        (("laptop", "--tls-cert", "c.pem"), "--tls-cert and --tls-key belong together"),
        ((), "name a home, or a worker with --worker"),
        (("--worker", "worker-1"), "expected NAME=PLUGIN,..., found 'worker-1'"),
        (("--worker", "Worker=p"), "found 'Worker', expected a name"),
        (("--worker", "worker-1=*"), "found '*', expected the name of a plugin"),
        (("--worker", "worker-1=p,a.b"), "found 'a.b', expected the name of a plugin"),
        (("--worker", "worker-1=p,>"), "found '>', expected the name of a plugin"),
        (("--worker", "collector=p"), "'collector' is the name of who collects"),
        (("laptop", "--worker", "laptop=p"), "'laptop' is a home; choose another name for the worker"),
    ],
)
def test_init_says_what_is_wrong_and_changes_nothing(tmp_path: Path, args: tuple[str, ...], expected: str) -> None:
    folder = tmp_path / "fleet"
    assert expected in run_command("fleet", "init", str(folder), *args, code=2).stderr
    assert not folder.exists()


def test_a_worker_keeps_its_key_when_it_is_to_serve_others_and_no_home_takes_its_name(tmp_path: Path) -> None:
    folder = str(tmp_path / "fleet")
    run_json("init", folder, "laptop", "--worker", "worker-1=p")
    before = read_credentials(tmp_path / "fleet" / "worker-1.toml")
    authority = (tmp_path / "fleet" / "authority.seed").read_text()
    assert stat.S_IMODE((tmp_path / "fleet" / "authority.seed").stat().st_mode) & 0o077 == 0
    run_json("init", folder, "--worker", "worker-1=q")
    after = read_credentials(tmp_path / "fleet" / "worker-1.toml")
    assert (after.seed, after.authority) == (before.seed, before.authority)
    assert Certificate.read(before.certificate).plugins == ("p",)
    assert Certificate.read(after.certificate).plugins == ("q",)
    Certificate.read(after.certificate).check(after.authority or "")
    assert (tmp_path / "fleet" / "authority.seed").read_text() == authority
    assert authority.strip() not in "".join(file.read_text() for file in (tmp_path / "fleet").glob("*.*[lf]"))
    refused = run_command("fleet", "init", folder, "worker-1", code=2).stderr
    assert "'worker-1' is a worker; choose another name for the home" in refused


@pytest.mark.parametrize(
    ("who", "plugin", "expected"),
    [
        ("laptop", "loop-guard", "'laptop' is no worker"),
        ("worker-1", "loop-guard", "'loop-guard' is waiting for consent"),
        ("worker-1", "no-such", "no-such"),
    ],
)
def test_serve_says_what_is_wrong_before_it_connects(tmp_path: Path, who: str, plugin: str, expected: str) -> None:
    run_json("init", str(tmp_path / "fleet"), "laptop", "--worker", "worker-1=p")
    shown = run_command("fleet", "serve", plugin, "--credentials", str(tmp_path / "fleet" / f"{who}.toml"), code=2)
    assert expected in shown.stderr


@pytest.mark.slow
def test_a_worker_serves_only_what_it_was_named_for(tmp_path: Path) -> None:
    run_json("init", str(tmp_path / "fleet"), "laptop", "--worker", "worker-1=p")
    run_command("enable", "secret-guard", "--yes")
    file = str(tmp_path / "fleet" / "worker-1.toml")
    shown = run_command("fleet", "serve", "secret-guard", "--credentials", file, code=2).stderr
    assert "'worker-1' may not serve 'secret-guard'; `fleet init` has named p" in shown
    run_command("place", "secret-guard", "inline")
    shown = run_command("fleet", "serve", "secret-guard", "--credentials", file, code=2).stderr
    assert "'secret-guard' is placed inline here, expected a process: ally-plugins place secret-guard sandbox" in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "server: missing"),
        ("server = 1", "server: found 1, expected"),
        ("nonsense", "is not TOML"),
        ('server = "nats://fleet.example:4222"\nname = "a"\nseed = "S"', "expected tls:// for a server that is not on"),
        ('server = "http://127.0.0.1"\nname = "a"\nseed = "S"', "expected an address such as tls://"),
        ('server = "nats://127.0.0.1:99999"\nname = "a"\nseed = "S"', "expected an address such as tls://"),
        ('server = "nats://127.0.0.1"\nname = ">"\nseed = "S"', "name: found '>'"),
        ('server = "nats://127.0.0.1"\nname = "a"\nseed = "S"\nlevel = "al"', "level: found 'al'"),
        ('server = "nats://127.0.0.1"\nname = "a"\nseed = "S"\nsede = "S"', "sede: unknown key"),
    ],
)
def test_a_credentials_file_that_is_wrong_is_refused_with_what_was_found(home: Path, text: str, expected: str) -> None:
    (home / "fleet.toml").write_text(text)
    assert expected in run_command("fleet", "publish", code=2).stderr


def test_a_missing_credentials_file_is_named_with_the_way_to_get_it(home: Path) -> None:
    shown = run_command("fleet", "publish", code=2).stderr
    assert str(home / "fleet.toml") in shown
    assert "fleet init" in shown


def test_a_seed_that_is_none_is_an_error_of_the_file_and_no_crash(tmp_path: Path) -> None:
    init(tmp_path / "fleet", ["laptop"], Listen())
    file = tmp_path / "fleet" / "laptop.toml"
    file.write_text(file.read_text().replace('seed = "S', 'seed = "T'))
    with pytest.raises(ConfigError, match="the seed of 'laptop' is none"):
        init(tmp_path / "fleet", ["other"], Listen())


# --- the whole way ---


@pytest.mark.slow
def test_what_a_home_records_is_seen_by_whoever_asks_for_the_fleet(
    server: Server, journal: Journal, home: Path, tmp_path: Path
) -> None:
    collected = str(tmp_path / "fleet.db")
    credentials = str(server.folder / "collector.toml")
    first = run_json("collect", credentials, "--into", collected, "--once")
    assert [(each["home"], each["seen_at"]) for each in first["homes"]] == [("build-1", None), ("laptop", None)]
    write(journal, 0, 30)
    shutil.copy(server.folder / "laptop.toml", home / "fleet.toml")
    assert run_json("publish", "--once") == {"name": "laptop", "record": 30}
    assert run_json("publish", "--once") == {"name": "laptop", "record": None}
    [_, shown] = run_json("collect", credentials, "--into", collected, "--once")["homes"]
    assert (shown["home"], shown["record"], shown["findings"], shown["silent"]) == ("laptop", 30, 0, False)
    rows = run_command("audit", "--fleet", collected, "--plugin", "writer", "--limit", "2", "--json").stdout
    assert [(row["home"], row["n"]) for row in map(json.loads, rows.splitlines())] == [("laptop", 29), ("laptop", 30)]
    assert "laptop" in run_command("audit", "--fleet", collected).stdout
    assert run_command("audit", "--fleet", collected, "--kind", "decision").stdout == ""


@pytest.mark.slow
def test_how_long_the_server_keeps_records_is_settled_once(server: Server, tmp_path: Path) -> None:
    credentials, place = str(server.folder / "collector.toml"), str(tmp_path / "fleet.db")
    common = ("fleet", "collect", credentials, "--into", place, "--once")
    assert "replicas > 1 not supported" in run_command(*common, "--replicas", "3", code=1).stderr
    run_command(*common, "--keep", "7")
    run_command(*common, "--keep", "7", "--replicas", "1")
    run_command(*common)
    refused = run_command(*common, "--keep", "3", code=1).stderr
    assert "is there already and keeps records for 604800 s on 1 machines" in refused


def test_a_home_that_is_silent_is_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "fleet.db"), create=True) as store:
        store.note_alive("laptop", 3, time.time_ns() // 1_000_000)
        store.note_alive("build-1", 3, 1, events={"p": "no worker has asked"})
        store.expect(["attic"])
    place = str(tmp_path / "fleet.db")
    shown = run_json("status", place, code=1)
    assert {each["home"]: each["silent"] for each in shown["homes"]} == {
        "attic": True,
        "build-1": True,
        "laptop": False,
    }
    lines = run_command("fleet", "status", place, code=1).stdout.splitlines()
    assert "never heard" in lines[0]
    assert "silent 1970-01-01" in lines[1]
    assert "3 behind" in lines[1]
    assert lines[3:] == ["events: build-1: p: no worker has asked"]


def test_a_home_that_was_retired_is_no_fault_any_more_and_the_record_says_why(tmp_path: Path) -> None:
    place = str(tmp_path / "fleet.db")
    with open_store(place, create=True) as store:
        store.note_alive("laptop", 3, store.now_ms())
        store.note_alive("build-1", 3, 1)
        store.add_findings("build-1", "c", [Problem("altered", 1, "record 1 was altered")], 1)
    run_command("fleet", "status", place, code=1)
    assert (
        "no home 'build' in the fleet, did you mean 'build-1'"
        in run_command("fleet", "retire", place, "build", code=2).stderr
    )
    assert "build-1 is retired" in run_command("fleet", "retire", place, "build-1", "--why", "it was sold").stdout
    text = run_command("fleet", "status", place).stdout
    assert "it was sold" in text
    assert "wrong: build-1: record 1 was altered" in text
    run_command("fleet", "retire", place, "build-1", "--back")
    run_command("fleet", "status", place, code=1)


def test_old_records_are_removed_where_the_operator_says_so(tmp_path: Path) -> None:
    place = str(tmp_path / "fleet.db")
    with open_store(place, create=True) as store:
        digest = bytes(32)
        records = [ChainedRecord(1, 1, "note", "p", None, None, None, digest, digest, b"{}")]
        store.add("laptop", Head(1, digest, "c"), records, 1)
    asked = ("fleet", "prune", place, "--older-than")
    assert "nothing is removed" in run_command(*asked, "90d", code=1).stderr
    assert "is in the future" in run_command(*asked, "2099-01-01", "--yes", code=2).stderr
    assert run_command(*asked, "90d", "--yes").stdout == "laptop: 1 records are removed\n"
    assert run_json("prune", place, "--older-than", "90d", "--yes")["removed"] == {}
    assert (
        "cannot be opened" in run_command("fleet", "prune", str(tmp_path / "none.db"), *asked[3:], "90d", code=2).stderr
    )


@pytest.mark.slow
def test_a_collector_that_is_ended_as_services_are_says_nothing_and_has_not_failed(
    server: Server, tmp_path: Path
) -> None:
    credentials, place = str(server.folder / "collector.toml"), tmp_path / "fleet.db"
    command = [*PROGRAM, "fleet", "collect", credentials, "--into", str(place)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def has_begun() -> bool:
        if not place.exists():
            return False
        with contextlib.suppress(ConfigError), open_store(str(place)) as store:
            return bool(store.homes())
        return False

    wait_until(has_begun)
    process.terminate()
    assert process.communicate() == (b"", b"")
    assert process.returncode == 0


def test_what_each_home_holds_is_shown_and_one_that_holds_something_else_is_named(tmp_path: Path) -> None:
    place, now = str(tmp_path / "fleet.db"), time.time_ns() // 1_000_000
    with open_store(place, create=True) as store:
        store.note_alive("build-1", 3, now, Held("a" * 64, "b" * 64, "1.2"))
        store.note_alive("build-1", 3, now)  # it has not found out anew
        store.note_alive("laptop", 3, now, Held("c" * 64, "", "1.2"))
        store.note_alive("old", 3, now)
    shown = {each["home"]: each for each in run_json("status", place)["homes"]}
    assert shown["build-1"]["holds"] == {"plugins": "a" * 64, "policy": "b" * 64, "version": "1.2"}
    assert shown["old"]["holds"] is None
    text = run_command("fleet", "status", place, "--plugins", "A" * 12, "--policy", "b" * 64, code=1).stdout
    rows = {row.split()[0]: " ".join(row.split()) for row in text.splitlines()}
    assert f"plugins {'a' * 12} policy {'b' * 12}" in rows["build-1"]
    assert f"other plugins {'c' * 12} other no policy" in rows["laptop"]
    assert "other plugins ? other policy ?" in rows["old"]
    found = run_json("status", place, "--plugins", "a" * 12, code=1)["homes"]
    assert {each["home"]: each["differs"] for each in found} == {
        "build-1": [],
        "laptop": ["plugins"],
        "old": ["plugins"],
    }
    for wrong in ("a" * 11, "z" * 12):
        assert "expected 12 to 64 hex digits" in run_command("fleet", "status", place, "--policy", wrong, code=2).stderr


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be opened"),
        (b"", "expected a file of `fleet collect`"),
        (b"x" * 5000, "cannot be read as records"),
    ],
)
def test_a_file_that_is_no_fleets_is_refused(tmp_path: Path, content: bytes | None, expected: str) -> None:
    file = tmp_path / "fleet.db"
    if content is not None:
        file.write_bytes(content)
    assert expected in run_command("fleet", "status", str(file), code=2).stderr


@pytest.mark.slow
def test_over_tls_a_server_whose_certificate_is_not_known_is_not_talked_to(server: Server, tmp_path: Path) -> None:
    for file in server.folder.glob("*.toml"):
        file.unlink()
    server.kill()
    init(server.folder, ["laptop"], tls_at(tmp_path, "127.0.0.1", server.port))
    server.start()
    who = server.who("laptop")
    assert who.server.startswith("tls://")

    async def main() -> None:
        async with connected(who) as client:
            assert client.is_connected
        with pytest.raises(FleetError, match="certificate verify failed"):
            async with connected(type(who)(who.server, who.name, who.seed)):
                raise AssertionError

    go(main())
