"""How a daemon of the SDK begins, and in how many ways it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ally_plugins import RefusedError
from ally_plugins.wire.codes import read_error
from ally_plugins.wire.messages import ErrorResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    Start = Callable[..., Any]


def test_a_daemon_says_what_the_class_implements_and_offers(spawn: Start) -> None:
    host = spawn("Everything")
    answer = host.initialize()
    hooks = {hook["name"]: hook for hook in answer["hooks"]}
    assert answer["protocol"] == "1"
    assert hooks["ally_tool_call_end"] == {"name": "ally_tool_call_end", "arguments": ["event"], "placement": "first"}
    assert hooks["ally_gate_tool_call"] == {"name": "ally_gate_tool_call", "arguments": ["call"]}
    assert hooks["ally_transform_tool_output"]["arguments"] == ["result"]
    assert hooks["ally_transform_tool_output"]["placement"] == "last"
    assert answer["events"] == ["TOOL_CALL_END"]
    look, tidy = answer["tools"][0], answer["actions"][0]
    assert (look["name"], look["description"], look["timeout"]) == ("look", "Look at a path.", 7)
    assert look["visible_to"] == ["coder"]
    assert look["schema"]["required"] == ["path"]
    assert (tidy["name"], tidy["agent"]) == ("tidy", True)
    assert host.ask("start") is None
    assert host.shutdown() == 0


def test_what_a_daemon_says_of_itself_is_what_the_host_reads(spawn: Start) -> None:
    from ally_plugins.wire.methods import read_initialize_result

    read = read_initialize_result(spawn("Everything").initialize())
    assert [offer.name for offer in read.tools] == ["look"]
    assert {offer.name for offer in read.hooks} >= {"ally_start", "ally_gate_tool_call"}


def test_a_plugin_that_hears_everything_names_no_types(spawn: Start) -> None:
    assert "events" not in spawn("Hears").initialize()


def test_a_plugin_without_observers_wants_no_events(spawn: Start) -> None:
    assert spawn("Judges").initialize()["events"] == []


@pytest.mark.slow
def test_the_name_on_the_command_line_is_told(spawn: Start) -> None:
    assert spawn("Plain", "--name", "other").initialize()["name"] == "other"
    assert "name" not in spawn("Plain").initialize()


def test_a_script_that_ends_with_run_is_a_daemon(spawn: Start, tmp_path: Path) -> None:
    script = tmp_path / "daemon.py"
    script.write_text("from ally_plugins.daemon import run\nfrom sdk_plugins import Tools\nrun(Tools)\n")
    host = spawn("", argv=[sys.executable, str(script)])
    host.initialize()
    assert host.ask("call_tool", name="echo", arguments={"text": "hello"}) == "hello"
    assert host.shutdown() == 0


def test_settings_data_dir_and_capabilities_are_those_of_initialize(daemon: Start, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "of-it"
    host = daemon("Calls", told={"settings": {"limit": 3}, "data_dir": str(folder)})
    told = host.ask("call_tool", name="told", arguments={})
    assert told == {"name": "under-test", "settings": {"limit": 3}, "data_dir": str(folder)}
    assert folder.is_dir()
    assert host.ask("call_tool", name="supports", arguments={}) == [True, False]


def test_without_a_data_dir_asking_for_it_is_an_error_in_words(daemon: Start) -> None:
    assert "no state directory" in daemon("Calls").ask("call_tool", name="told", arguments={})["data_dir"]


@pytest.mark.parametrize(
    ("plugin", "kind"),
    [
        ("FailsToBuild", "ValueError"),
        ("ExitsWhenBuilt", "SystemExit"),
        ("Missing", "AttributeError"),
        ("no_such_module:Class", "ModuleNotFoundError"),
    ],
)
def test_a_plugin_that_cannot_be_built_is_an_error_without_its_text_and_code_1(
    spawn: Start, plugin: str, kind: str
) -> None:
    host = spawn(plugin)
    answer = host.initialize()
    assert isinstance(answer, ErrorResponse)
    assert (answer.code, answer.message, answer.data["type"]) == (-32603, "internal error", kind)
    assert host.exit_code() == 1
    assert "Traceback" in host.stderr
    assert "a secret" not in host.raw.decode()


@pytest.mark.parametrize(
    ("plugin", "code", "text"),
    [
        ("WrongHook", -32000, "did you mean 'ally_tool_call_end'?"),
        ("WrongArgument", -32000, "did you mean 'event'?"),
        ("WrongTool", -32602, "'no good name'"),
        ("", -32000, "MODULE:CLASS"),
    ],
)
def test_what_the_contract_does_not_allow_is_answered_in_our_words(
    spawn: Start, plugin: str, code: int, text: str
) -> None:
    host = spawn(plugin)
    answer = host.initialize()
    assert isinstance(answer, ErrorResponse)
    assert answer.code == code
    assert isinstance(read_error(answer.code, answer.message, answer.data), RefusedError)
    assert text in answer.message
    assert host.exit_code() == 1


def test_an_unknown_version_is_refused_in_a_sentence_that_names_both(spawn: Start) -> None:
    host = spawn("Plain")
    answer = host.initialize(protocol="9", protocols=["9", "8"])
    assert isinstance(answer, ErrorResponse)
    assert answer.code == -32014
    assert "'9'" in answer.message
    assert "'1'" in answer.message
    assert host.exit_code() == 1


def test_nothing_is_answered_before_initialize_and_that_comes_once(spawn: Start) -> None:
    host = spawn("Plain")
    early = host.ask("ping")
    assert isinstance(early, ErrorResponse)
    assert early.code == -32013
    host.emit("TOOL_CALL_END", tool_name="too early")
    host.initialize()
    again = host.initialize()
    assert isinstance(again, ErrorResponse)
    assert again.code == -32013
    assert host.ask("ping") == "pong"
    assert host.shutdown() == 0


@pytest.mark.parametrize(
    "wrong",
    [{"plugin": 3}, {"settings": []}, {"deadlines": {"gate": "soon"}}, {"deadlines": {"gate": 0}}, {"protocols": [1]}],
)
def test_a_wrong_field_of_initialize_is_an_error_and_code_1(spawn: Start, wrong: dict[str, Any]) -> None:
    host = spawn("Plain")
    answer = host.initialize(**wrong)
    assert isinstance(answer, ErrorResponse)
    assert host.exit_code() == 1


def test_calls_while_the_plugin_is_built_are_refused(daemon: Start) -> None:
    told = daemon("CallsWhenBuilt").ask("call_tool", name="tell", arguments={})
    assert told.startswith("UnavailableRefused: ")
    assert "ally_start" in told


@pytest.mark.slow
def test_a_start_that_fails_is_answered_with_its_type_and_stop_is_not_called(spawn: Start) -> None:
    host = spawn("FailsToStart")
    host.initialize()
    answer = host.ask("start")
    assert isinstance(answer, ErrorResponse)
    assert (answer.code, answer.data["type"]) == (-32603, "ValueError")
    assert host.shutdown() == 0
    assert "a secret" in host.stderr
    assert "must not be called" not in host.stderr


def test_the_command_line_is_explained() -> None:
    command = [sys.executable, "-m", "ally_plugins.daemon"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "MODULE:CLASS" in done.stderr


def test_a_daemon_imports_nothing_of_the_hosts_side(spawn: Start, tmp_path: Path) -> None:
    script = tmp_path / "daemon.py"
    script.write_text(
        "import sys\n"
        "from ally_plugins import tool\n"
        "from ally_plugins.daemon import run\n"
        "class Tells:\n"
        "    def __init__(self, ally): ...\n"
        "    @tool\n"
        "    async def modules(self) -> list:\n"
        "        return sorted(sys.modules)\n"
        "run(Tells)\n"
    )
    host = spawn("", argv=[sys.executable, str(script)])
    host.initialize()
    modules = set(host.ask("call_tool", name="modules", arguments={}))
    ours = {name.removeprefix("ally_plugins.") for name in modules if name.startswith("ally_plugins.")}
    rooms = ("adapters", "catalog", "cli", "contract.manifest", "host", "journal", "replay", "testing")
    assert [name for name in ours if name.startswith((*rooms, "runtime.processes"))] == []
    lanes = {name.removeprefix("runtime.lanes.") for name in ours if name.startswith("runtime.lanes.")}
    # What runs hooks, and no more.
    assert lanes == {"first_step", "jobs", "marks", "outbound", "requests", "runner", "teardown", "thread", "watchdog"}
    assert modules.isdisjoint({"cattrs", "jsonschema", "click", "rich", "sqlite3", "tomlkit"})


def test_secret_settings_that_the_host_names_hide_themselves(daemon: Start) -> None:
    told = {"settings": {"key": "hunter2", "limit": 3}, "secrets": ["key", "limit", "nothing"]}
    host = daemon("Secretive", told=told)
    assert host.ask("call_tool", name="show", arguments={}) == "{'key': '[secret]', 'limit': 3} hunter2"
    assert host.ask("call_tool", name="leak", arguments={}) == ["ValidationRefused", "ValidationRefused"]


@pytest.mark.slow
def test_where_the_loop_cannot_watch_a_descriptor_threads_read_and_write_it(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    told = b'{"protocol":"1","protocols":["1"],"plugin":"p","host":{}}'
    lines.write_bytes(
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":' + told + b"}\n"
        b'{"jsonrpc":"2.0","id":2,"method":"call_tool","params":{"name":"echo","arguments":{"text":"by threads"}}}\n'
        b'{"jsonrpc":"2.0","id":3,"method":"ping"}\n'
    )
    command = [sys.executable, "-m", "ally_plugins.daemon", "sdk_plugins:Tools"]
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    with lines.open("rb") as stdin:  # no loop watches a plain file
        done = subprocess.run(command, stdin=stdin, capture_output=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b'"result":"by threads"' in done.stdout
    assert b'"result":"pong"' in done.stdout
