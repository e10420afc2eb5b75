"""What a manifest says of a daemon, and what a daemon given by code must be."""

from __future__ import annotations

import sys
from typing import Any

import attrs
import pytest

from ally_plugins import (
    ConfigError,
    Daemon,
    Grant,
    HostError,
    Manifest,
    ManifestError,
    PluginRecord,
    ProcessLimits,
    Timing,
)
from ally_plugins.catalog.decide.record import given_records

EVERYTHING = """
[daemon]
command = ["node", "-r", "./a.js", "-r", "./b.js", ""]
transport = "socket"
socket = "/tmp/{session_id}/x.sock"
talk_back = true
startup_timeout = 10
shutdown_grace = 2.5
[daemon.health]
interval = 3
timeout = 1
retries = 2
[daemon.limits]
memory_mb = 512
cpu_seconds = 60
file_mb = "none"
descriptors = 64
"""


def _problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_text(text)
    return caught.value.problems


def test_every_key_of_a_daemon_is_read_as_it_is_written() -> None:
    assert Manifest.from_text(EVERYTHING).daemon == Daemon(
        ("node", "-r", "./a.js", "-r", "./b.js", ""),
        transport="socket",
        socket="/tmp/{session_id}/x.sock",  # noqa: S108  # nobody opens it
        talks_back=True,
        limits=ProcessLimits(memory_mb=512, cpu_seconds=60, file_mb=None, descriptors=64),
        timing=Timing(startup_timeout=10, shutdown_grace=2.5, ping_interval=3, ping_timeout=1, ping_retries=2),
    )


def test_a_command_is_all_that_a_daemon_needs() -> None:
    daemon = Manifest.from_text('[daemon]\ncommand = ["node", "daemon.js"]').daemon
    assert daemon == Daemon(("node", "daemon.js"))
    assert daemon.talks_back
    assert Manifest.from_text("").daemon is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("daemon = 3", "daemon: found 3, expected a table"),
        ("[daemon]", "daemon.command: missing"),
        ("[daemon]\ncommand = []", "daemon.command: is empty"),
        ('[daemon]\ncommand = "node x"', "daemon.command: found 'node x', expected a list of texts"),
        ('[daemon]\ncommand = ["node", 3]', "daemon.command[1]: found 3, expected a text"),
        ('[daemon]\ncommand = [" "]', "daemon.command: the program is empty"),
        ('[daemon]\ncommand = ["a\\u0000b"]', "daemon.command[0]: found"),
        ('[daemon]\ncommand = ["a\\u001b[2J"]', "daemon.command[0]: found"),
        ('[daemon]\ncommand = ["../../bin/sh"]', "daemon.command: found '../../bin/sh', expected a program inside"),
        ('[daemon]\ncommand = ["bin/../../sh"]', "daemon.command: found 'bin/../../sh'"),
        ('[daemon]\ncommand = ["x"]\ntransport = "http"', "daemon.transport: found 'http'"),
        ('[daemon]\ncommand = ["x"]\ntransport = "socket"', "daemon.socket: missing"),
        ('[daemon]\ncommand = ["x"]\ntransport = "socket"\nsocket = "x.sock"', "daemon.socket: found 'x.sock'"),
        ('[daemon]\ncommand = ["x"]\nsocket = "/tmp/x"', "daemon.socket: only for the transport 'socket'"),
        ('[daemon]\ncommand = ["x"]\ntalk_back = false', "daemon.talk_back: only for the transport 'socket'"),
        ('[daemon]\ncommand = ["x"]\nstartup_timeout = 0', "daemon.startup_timeout: found 0"),
        ('[daemon]\ncommand = ["x"]\nshutdown_grace = inf', "daemon.shutdown_grace: found inf"),
        ('[daemon]\ncommand = ["x"]\nhealth = { retries = 0 }', "daemon.health.retries: found 0"),
        ('[daemon]\ncommand = ["x"]\nhealth = { intervall = 1 }', "did you mean 'interval'?"),
        (
            '[daemon]\ncommand = ["x"]\nlimits = { memory_mb = "lots" }',
            "found 'lots', expected a whole number from 1, or",
        ),
        ('[daemon]\ncommand = ["x"]\nlimits = { memory_mb = 0 }', "daemon.limits.memory_mb: found 0"),
        ('[daemon]\ncommand = ["x"]\nlimits = { memory_mb = true }', "daemon.limits.memory_mb: found true"),
        ('[daemon]\ncommand = ["x"]\ncomand = ["y"]', "daemon.comand: unknown key, did you mean 'command'?"),
    ],
)
def test_a_wrong_daemon_is_refused_with_its_path(text: str, problem: str) -> None:
    (found,) = _problems(text)
    assert problem in found


def test_every_mistake_is_named_at_once() -> None:
    text = '[daemon]\ncommand = ["../x"]\ntransport = "socket"\nsocket = "y"\nwhat = 1\n[daemon.limits]\nfile_mb = -1'
    assert len(_problems(text)) == 4


@pytest.mark.parametrize(("length", "is_fine"), [(104, True), (105, False)])
def test_a_path_of_a_socket_has_at_most_104_bytes(length: int, is_fine: bool) -> None:  # noqa: FBT001
    path = "/" + "é" * ((length - 1) // 2) + "x" * ((length - 1) % 2)
    text = f'[daemon]\ncommand = ["x"]\ntransport = "socket"\nsocket = "{path}"'
    if is_fine:
        assert Manifest.from_text(text).daemon is not None
    else:
        assert _problems(text) == ("daemon.socket: has 105 bytes, expected at most 104",)


def test_variables_are_asked_for_one_by_one() -> None:
    manifest = Manifest.from_text('[permissions]\nenv = { names = ["OPENAI_API_KEY", "LANG"], reason = "to ask" }')
    assert manifest.grants == {Grant("env", "OPENAI_API_KEY"), Grant("env", "LANG")}
    assert Grant.parse("env:LANG").text == "env:LANG"


@pytest.mark.parametrize(
    "name", ["", "*", "A B", "A=B", "1A", "ALLY_TOKEN", "ally_home", "PLUGIN_CONFIG_KEY", "é", "A" * 129]
)
def test_a_variable_that_cannot_be_asked_for_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        Grant.parse(f"env:{name}")
    assert _problems(f'[permissions]\nenv = {{ names = ["{name}"], reason = "x" }}')


def test_a_grant_of_one_variable_covers_no_other() -> None:
    assert not Grant("env", "A").covers(Grant("env", "AB"))
    assert not Grant("env", "*").covers(Grant("env", "A"))


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("node daemon.js", {}),
        ((), {}),
        (("x", 3), {}),
        (("../x",), {}),
        (("x\0",), {}),
        (("x",), {"transport": "socket"}),
        (("x",), {"transport": "http"}),
        (("x",), {"socket": "/x"}),
    ],
    ids=range(8),
)
def test_a_daemon_that_could_not_be_run_is_refused_when_it_is_made(command: Any, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the daemon cannot be run"):
        Daemon(command, **more)


@pytest.mark.parametrize("target", ["module", ":Class", "module:", ""])
def test_a_class_is_named_with_its_module(target: str) -> None:
    with pytest.raises(ConfigError, match="expected MODULE:CLASS"):
        Daemon.python(target)


def test_a_class_is_run_by_the_running_python_unless_another_is_named() -> None:
    assert Daemon.python("a.b:C").command == (sys.executable, "-m", "ally_plugins.daemon", "a.b:C")
    assert Daemon.python("a.b:C", "/opt/python").command[0] == "/opt/python"


def test_a_daemon_that_listens_talks_back_only_when_it_asks_to() -> None:
    assert not Daemon(("x",), transport="socket", socket="/tmp/x").talks_back  # noqa: S108  # nobody opens it
    assert Daemon(("x",)).talks_back


def test_a_program_with_a_slash_lies_in_the_folder_and_one_without_on_the_path() -> None:
    assert Daemon(("./bin/x", "y")).at("/p").command == ("/p/bin/x", "y")
    assert Daemon(("bin/x",)).at("/p").command == ("/p/bin/x",)
    assert Daemon(("node", "d.js")).at("/p") == Daemon(("node", "d.js"), cwd="/p")
    assert Daemon(("/bin/x",)).at("/p").command == ("/bin/x",)


def test_what_the_operator_settles_wins_over_the_manifest_and_leaves_the_rest() -> None:
    daemon = Daemon(("x",), limits=ProcessLimits(memory_mb=9), timing=Timing(ping_retries=7))
    changed = daemon.with_process({"file_mb": None, "ping_timeout": 2.0})
    assert changed.limits == attrs.evolve(daemon.limits, file_mb=None)
    assert changed.timing == attrs.evolve(daemon.timing, ping_timeout=2.0)


def test_variables_are_not_shown_with_a_daemon() -> None:
    assert "hush" not in repr(Daemon(("x",), env={"TOKEN": "hush"}))


def test_a_host_author_gives_a_daemon_by_code() -> None:
    daemon = Daemon(("node", "d.js"))
    record = PluginRecord.by_code("b", Manifest.from_text("[permissions]\nemit_event = { reason = 'x' }"))
    given = given_records({"a": daemon, "b": (daemon, record), "c": dict}, {"a": ["emit_event"]})
    assert [(each.name, each.daemon, each.placement, factory) for each, factory in given] == [
        ("a", daemon, "process", None),
        ("b", daemon, "process", None),
        ("c", None, "inline", dict),
    ]
    assert given[0][0].granted.texts() == given[1][0].granted.texts() == ("emit_event",)
    assert given[2][0].variables == ()


def test_grants_for_a_plugin_that_is_not_given_are_a_mistake() -> None:
    with pytest.raises(HostError, match="which plugins= does not name"):
        given_records({"a": Daemon(("x",))}, {"b": ["emit_event"]})
