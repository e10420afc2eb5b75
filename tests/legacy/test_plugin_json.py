# ruff: noqa: S108 - these paths are only read, and are what such manifests have
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.bridges.code_ally import limits as numbers
from ally_plugins.bridges.code_ally.manifest import MAX_PLUGIN_JSON_BYTES, read_plugin_json
from ally_plugins.contract.grants import Grant
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.process_spec import Restarts
from ally_plugins.contract.values.errors import ManifestError

if TYPE_CHECKING:
    from ally_plugins.bridges.code_ally.manifest import CodeAllyPlugin


def read(table: Any) -> CodeAllyPlugin:
    return read_plugin_json(json.dumps(table).encode(), "/plugins/it")


def problems_of(table: Any) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        read(table)
    return caught.value.problems


def only_problem(table: Any) -> str:
    (problem,) = problems_of(table)
    return problem


def tool(**more: Any) -> dict[str, Any]:
    return {"name": "it", "description": "does it", "command": "run"} | more


def plugin(**more: Any) -> dict[str, Any]:
    return {"name": "me", "version": "1", "description": "it", "tools": [tool()]} | more


def background(**more: Any) -> dict[str, Any]:
    table = {
        "enabled": True,
        "command": "python3",
        "communication": {"type": "socket", "path": "/tmp/x.sock"},
        "events": ["TODO_UPDATE"],
    }
    return {**table, **more}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"name"',
        b"\xff\xfe{}",
        b'{"name": NaN}',
        b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
        b"{" + b" " * MAX_PLUGIN_JSON_BYTES + b"}",
        b'{"name": "\\ud800"}',
    ],
)
def test_what_is_no_json_object_is_refused_whole(content: bytes) -> None:
    with pytest.raises(ManifestError) as caught:
        read_plugin_json(content, "/plugins/it")
    assert len(caught.value.problems) == 1
    assert "/plugins/it" in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from(
    ["name", "version", "tools", "background", "config", "dependencies", "permissions", "runtime", "activationMode",
     "command", "args", "schema", "type", "properties", "communication", "events", "health", "healthcheck", "path"]
)  # fmt: skip


@pytest.mark.slow
@given(
    st.recursive(
        JSON, lambda inner: st.dictionaries(KEYS, inner, max_size=8) | st.lists(inner, max_size=3), max_leaves=30
    ).map(lambda value: value if isinstance(value, dict) else {"tools": value})
)
def test_any_object_is_read_or_refused_with_problems_and_nothing_else(table: dict[str, Any]) -> None:
    try:
        found = read(table)
    except ManifestError as error:
        problems = error.problems
    else:
        problems = (found.as_manifest().description or "fine",)
    assert problems


def test_a_full_manifest_is_read_as_it_is_written(full: dict[str, Any]) -> None:
    found = read(full)
    assert (found.name, found.version, found.author) == ("conversation-monitor", "1.0.0", "somebody")
    assert found.description == "counts what happens\nand says so"
    assert (found.runtime, found.activation) == ("python3", "tagged")
    assert found.dependencies is not None
    assert found.dependencies.file == "requirements.txt"
    assert found.dependencies.install_command == "pip install -r requirements.txt"
    stats, reverse = found.tools
    assert (stats.kind, stats.method, stats.timeout) == ("background_rpc", "get_stats", 30.0)
    assert stats.requires_confirmation
    assert found.confirmations == {"get-conversation-stats"}
    assert (reverse.kind, reverse.command) == ("executable", "python3")
    assert reverse.args == ("reverse.py", "reverse.py", "")
    assert reverse.timeout == 90.0
    assert reverse.usage_guidance == "Use it\nwhen a text has to be turned around."
    assert (reverse.visible_to, reverse.display_name, reverse.subtext) == (("agent",), "Reverse", "{a} + {b}")
    assert found.background is not None
    assert found.background.events == ("TOOL_CALL_START", "TOOL_CALL_END")
    assert found.background.health.interval == 10.0
    assert found.background.health.timeout == 2.0
    assert found.background.health.retries == 5
    assert (found.background.startup_timeout, found.background.grace) == (10.0, 2.5)
    assert found.warnings == ()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_of_byte_order_is_passed_over(full: dict[str, Any], encoding: str) -> None:
    full["description"] = "zählt"
    content = json.dumps(full, indent=2, ensure_ascii=False).encode(encoding)
    assert read_plugin_json(content, "/it").description == "zählt"


def test_settings_keep_their_types_and_secrets(full: dict[str, Any]) -> None:
    settings = read(full).settings
    assert {name: (each.kind, each.default) for name, each in settings.items()} == {
        "api_key": ("string", None),
        "limit": ("integer", 3),
        "factor": ("number", 2.0),
        "loud": ("boolean", False),
        "mode": ("choice", "slow"),
    }
    assert settings["api_key"].secret
    assert settings["api_key"].required
    assert settings["mode"].choices == ("fast", "slow")


def test_every_mistake_is_named_at_once_with_its_field() -> None:
    problems = problems_of(
        {
            "activationMode": "sometimes",
            "tools": [
                {"type": "background_rpc", "name": "one", "description": "x"},
                {"type": "executable", "name": "two", "description": "x", "schema": []},
                {"command": "x", "name": "three", "timeout": -1, "description": "x"},
                {"command": "x", "name": "four", "schema": {"properties": {"a": {}, "b": {"type": "text"}}}},
                {"command": "x", "name": "three"},
                "nonsense",
            ],
            "background": {
                "enabled": True,
                "communication": {"type": "tcp", "path": "relative.sock"},
                "events": ["TOOL_CALL_END", "KEY_PRESSED"],
                "healthcheck": {"interval": 0, "timeout": "5", "retries": 0},
                "startup_timeout": 0,
                "shutdown_grace_period": -5,
            },
        }
    )  # fmt: skip
    assert {problem.split(": ")[0] for problem in problems} == {
        "name",
        "version",
        "activationMode",
        "tools[0].method",
        "tools[1].command",
        "tools[1].schema",
        "tools[2].timeout",
        "tools[3].schema.properties.a.type",
        "tools[3].schema.properties.b.type",
        "tools[4].name",
        "tools[5]",
        "background.command",
        "background.communication.type",
        "background.communication.path",
        "background.events",
        "background.healthcheck.interval",
        "background.healthcheck.timeout",
        "background.healthcheck.retries",
        "background.startup_timeout",
        "background.shutdown_grace_period",
    }


@pytest.mark.parametrize("name", ["", "Me", "-me", "+me", "a b", "me\n", "ü", "host", "none", 7, ["me"], "a" * 129])
def test_a_name_that_is_malformed_is_named(name: Any) -> None:
    assert only_problem(plugin(name=name)).startswith("name: ")


@pytest.mark.parametrize("name", ["a", "a-b_c9", "_x", "0", "a" * 128])
def test_a_name_of_the_allowed_characters_is_taken(name: str) -> None:
    assert read(plugin(name=name)).name == name


@pytest.mark.parametrize("version", [None, "", "  ", 1.0])
def test_a_version_is_required(version: Any) -> None:
    assert only_problem(plugin(version=version)).startswith("version: ")


@pytest.mark.parametrize("more", [{"tools": []}, {"tools": None}, {"tools": [], "background": background(events=[])}])
def test_a_plugin_without_tools_and_events_is_refused(more: dict[str, Any]) -> None:
    assert only_problem(plugin(**more)).startswith("tools: there are no tools and no background events")


def test_a_daemon_that_only_listens_needs_no_tools() -> None:
    found = read(plugin(tools=[], background=background()))
    assert found.tools == ()
    assert found.as_manifest().subscribe == ("TODO_UPDATE",)


def test_a_method_needs_a_daemon_that_is_enabled() -> None:
    rpc = tool(type="background_rpc", method="go")
    assert only_problem(plugin(tools=[rpc])).startswith("tools[0].type: 'background_rpc' needs a daemon")
    off = background(enabled=False)
    assert "background.enabled" in only_problem(plugin(tools=[rpc], background=off))
    del off["enabled"]
    assert "background.enabled" in only_problem(plugin(tools=[rpc], background=off))
    assert read(plugin(tools=[rpc], background=background())).tools[0].method == "go"


@pytest.mark.parametrize(
    ("communication", "field"),
    [
        (None, "background.communication"),
        ("socket", "background.communication"),
        ({"path": "/tmp/x"}, "background.communication.type"),
        ({"type": "stdio", "path": "/tmp/x"}, "background.communication.type"),
        ({"type": "socket"}, "background.communication.path"),
        ({"type": "socket", "path": ""}, "background.communication.path"),
        ({"type": "socket", "path": "tmp/x"}, "background.communication.path"),
        ({"type": "socket", "path": "/tmp/\u001b[2J"}, "background.communication.path"),
        ({"type": "socket", "path": "/tmp/" + "x" * 100}, "background.communication.path"),
        ({"type": "socket", "path": "/tmp/" + "ü" * 60}, "background.communication.path"),
        ({"type": "socket", "path": 7}, "background.communication.path"),
    ],
)
def test_a_socket_that_cannot_be_is_named(communication: Any, field: str) -> None:
    assert only_problem(plugin(background=background(communication=communication))).startswith(f"{field}: ")


def test_a_path_of_104_characters_is_the_longest() -> None:
    path = "/tmp/" + "x" * 99
    assert len(path) == numbers.LONGEST_SOCKET_PATH == 104
    found = read(plugin(background=background(communication={"type": "socket", "path": path})))
    assert found.background is not None
    assert found.background.socket == path
    longer = background(communication={"type": "socket", "path": path + "x"})
    assert "has 105 characters, expected at most 104" in only_problem(plugin(background=longer))


def test_the_session_in_a_path_is_filled_in_with_safe_characters() -> None:
    table = background(communication={"type": "socket", "path": "/tmp/me-{session_id}.sock"})
    found = read(plugin(background=table)).background
    assert found is not None
    assert found.socket_path("s-1") == "/tmp/me-s-1.sock"
    assert found.socket_path("../../etc/x") == "/tmp/me-______etc_x.sock"
    with pytest.raises(ManifestError, match="expected at most 104"):
        found.socket_path("x" * 100)


def test_unapproved_events_are_named_beside_all_approved_ones() -> None:
    problem = only_problem(plugin(background=background(events=["TODO_UPDATE", "SESSION_START", "*"])))
    assert problem.startswith("background.events: found 'SESSION_START', '*'")
    assert all(event in problem for event in numbers.APPROVED_EVENTS)


@pytest.mark.parametrize("schema", [[], "object", {"type": "string"}, {"type": "array", "items": {}}, {"a": 1}])
def test_a_schema_that_is_no_object_is_refused(schema: Any) -> None:
    assert only_problem(plugin(tools=[tool(schema=schema)])).startswith("tools[0].schema")


@pytest.mark.parametrize(
    "kind", ["string", "number", "integer", "boolean", "array", "object", "null", ["string", "null"]]
)
def test_every_type_of_json_schema_is_known(kind: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"type": kind, "description": "x"}}}
    assert read(plugin(tools=[tool(schema=schema)])).warnings == ()


def test_a_required_flag_in_a_property_becomes_a_name_in_the_list() -> None:
    schema = {"properties": {"a": {"type": "string", "required": True}, "b": {"type": "string", "required": False}}}
    found = read(plugin(tools=[tool(schema=schema)])).tools[0].schema
    assert found == {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "required": ("a",),
    }


def test_what_is_missing_for_people_is_a_warning_only() -> None:
    bare = {
        "name": "me",
        "version": "1",
        "tools": [{"name": "t", "command": "x", "schema": {"properties": {"a": {"type": "string"}}}}],
    }
    found = read(bare)
    assert [warning.split(": ")[0] for warning in found.warnings] == [
        "description",
        "tools[0].description",
        "tools[0].schema.properties.a.description",
    ]


def test_an_unknown_key_is_a_warning_that_names_the_nearest() -> None:
    (warning,) = read(plugin(activation_mode="tagged")).warnings
    assert warning == "activation_mode: unknown key, did you mean 'activationMode'?"


def test_keys_of_packages_are_no_warning() -> None:
    assert read(plugin(license="MIT", homepage="x", author={"name": "me"}, keywords=[])).warnings == ()


def test_what_is_null_counts_as_absent() -> None:
    properties = {"a": None, "b": {"type": None, "choices": ["x"], "default": None}}
    nothing = dict.fromkeys(["runtime", "author", "dependencies", "activationMode", "permissions"])
    found = read(
        plugin(background={"enabled": None}, config={"schema": None, "properties": properties}, license=None, **nothing)
    )
    assert (found.background, list(found.settings)) == (None, ["b"])
    assert found.settings["b"].kind == "choice"
    assert found.activation == "always"


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (plugin(version=None), "version: missing, expected a text such as '1.0.0'"),
        (plugin(tools=[tool(args=[None])]), "tools[0].args[0]: found null, expected a text without zero bytes"),
        (plugin(tools=[tool(args="x")]), "tools[0].args: found 'x', expected a list of texts"),
        (plugin(tools=[tool(args=["a\0b"])]), "tools[0].args[0]: found 'a\\x00b', expected a text without zero bytes"),
        (plugin(tools={"it": {}}), "tools: found an object, expected a list of objects"),
        (plugin(tools=[tool(timeout=True)]), "tools[0].timeout: found true, expected a number above 0"),
        (
            plugin(tools=[tool(requiresConfirmation="no")]),
            "tools[0].requiresConfirmation: found 'no', expected true or",
        ),
        (
            plugin(tools=[tool(requiresConfirmation=1)]),
            "tools[0].requiresConfirmation: found 1, expected true or false",
        ),
        (plugin(background=background(enabled="yes")), "background.enabled: found 'yes', expected true or false"),
        (plugin(config={"schema": []}), "config.schema: found a list, expected an object"),
        (plugin(description="a\x1b[2J"), "description: found 'a\\x1b[2J', expected a text without control characters"),
        (plugin(permissions=[]), 'permissions: found a list, expected an object such as {"add_message"'),
    ],
)
def test_a_value_of_another_kind_is_a_problem_and_never_coerced(table: Any, problem: str) -> None:
    assert only_problem(table).startswith(problem)


def test_a_daemon_that_is_not_enabled_may_say_anything() -> None:
    found = read(plugin(background={"enabled": False, "command": 7, "odd": 1}))
    assert (found.background, found.warnings) == (None, ())


# --- the deprecated forms ---


def test_one_tool_at_the_top_level_has_the_plugins_name() -> None:
    table = plugin(command="python3", args=["x.py"], timeout=1500, schema={"type": "object", "properties": {}})
    del table["tools"]
    found = read(table)
    (only,) = found.tools
    assert (only.name, only.kind, only.command, only.args, only.timeout) == (
        "me",
        "executable",
        "python3",
        ("x.py",),
        1.5,
    )
    assert [warning.split(": ")[0] for warning in found.warnings] == ["command"]
    assert "deprecated" in found.warnings[0]


def test_a_command_beside_a_list_of_tools_is_left_alone() -> None:
    found = read(plugin(command="python3", args=["x.py"]))
    assert [each.name for each in found.tools] == ["it"]
    assert "left alone" in found.warnings[0]


def test_a_tool_without_a_type_is_a_program() -> None:
    assert read(plugin()).tools[0].kind == "executable"
    assert "background_rpc" in only_problem(plugin(tools=[{"name": "t", "description": "x", "method": "go"}]))


def test_the_older_health_is_in_seconds() -> None:
    found = read(plugin(background=background(health={"interval": 20, "timeout": 4}))).background
    assert found is not None
    assert (found.health.interval, found.health.timeout, found.health.retries) == (20.0, 4.0, 3)
    both = read(plugin(background=background(health={"interval": "20", "odd": 1}, healthcheck={"interval": 1000})))
    assert both.background is not None
    assert both.background.health.interval == 1.0
    assert "healthcheck" in both.warnings[0]


def test_settings_without_an_inner_schema_are_read_and_encrypted_ones_are_secret() -> None:
    found = read(
        plugin(config={"type": "object", "properties": {"key": {"encrypted": True}, "n": {"type": "integer"}}})
    )
    assert found.settings["key"].secret
    assert found.settings["key"].kind == "string"
    assert found.settings["n"].kind == "integer"
    assert "deprecated" in found.warnings[0]


def test_settings_that_cannot_be_are_named() -> None:
    properties = {"a b": {"type": "string"}, "x": {"type": "text"}, "c": {"type": "choice"}, "k": {}, "K": {}}
    assert {
        problem.split(": ")[0] for problem in problems_of(plugin(config={"schema": {"properties": properties}}))
    } == {
        "config.schema.properties",
        "config.schema.properties.x.type",
        "config.schema.properties.c.choices",
        "config.schema.properties.K",
    }


def test_a_default_that_does_not_fit_is_left_out_with_a_warning() -> None:
    properties = {
        "n": {"type": "integer", "default": "3"},
        "s": {"secret": True, "default": "hunter2"},
        "e": {"secret": True, "default": ""},
    }
    found = read(plugin(config={"schema": {"properties": properties}}))
    assert [each.default for each in found.settings.values()] == [None, None, None]
    assert [warning.split(": ")[0] for warning in found.warnings] == [
        "config.schema.properties.n.default",
        "config.schema.properties.s.default",
    ]
    assert "hunter2" not in "".join(found.warnings)


def test_a_secret_that_is_no_text_is_kept_as_one() -> None:
    found = read(plugin(config={"schema": {"properties": {"pin": {"type": "integer", "secret": True}}}}))
    assert found.settings["pin"].kind == "string"
    assert found.settings["pin"].secret


# --- in our own words ---


def test_events_and_tools_are_requests_with_reasons(full: dict[str, Any]) -> None:
    manifest = read(full).as_manifest()
    assert manifest.subscribe == ("TOOL_CALL_START", "TOOL_CALL_END")
    assert manifest.grants == {
        Grant("events", "TOOL_CALL_START"),
        Grant("events", "TOOL_CALL_END"),
        Grant("tools"),
    }
    assert all(request.reason for request in manifest.requests)
    assert "reverse" in manifest.requests[-1].reason
    assert manifest.description == "counts what happens and says so"
    assert set(manifest.settings) == {"api_key", "limit", "factor", "loud", "mode"}


def test_permissions_may_ask_for_more_in_the_words_of_our_manifest() -> None:
    permissions = {"add_message": {"roles": ["user"], "reason": "to warn"}, "tools": {"reason": "to help"}}
    found = read(plugin(permissions=permissions))
    assert found.talks_back()
    manifest = found.as_manifest()
    assert manifest.grants == {Grant("tools"), Grant("add_message", "user")}
    assert {request.grant.text: request.reason for request in manifest.requests} == {
        "tools": "to help",
        "add_message:user": "to warn",
    }


def test_permissions_that_are_wrong_are_named_with_their_path() -> None:
    assert problems_of(plugin(permissions={"add_messages": {"reason": "x"}, "gate": {"on": ["tool_call"]}})) == (
        "permissions.gate.reason: missing, expected a text",
        "permissions.add_messages: unknown key, did you mean 'add_message'?",
    )
    assert only_problem(plugin(permissions=["add_message"])).startswith("permissions: ")


def test_a_manifest_of_ours_beside_it_may_ask_for_more(full: dict[str, Any]) -> None:
    beside = Manifest.from_text(
        """
        description = "ours"
        after = ["secret-guard"]
        [events]
        subscribe = ["SESSION_START", "TOOL_CALL_END"]
        durable = ["TOOL_CALL_END"]
        [permissions]
        emit_event = { reason = "to tell others" }
        [settings.limit]
        type = "integer"
        default = 9
        """
    )
    found = read(full)
    assert not found.talks_back()
    assert found.talks_back(beside)
    manifest = found.as_manifest(beside)
    assert manifest.subscribe == ("TOOL_CALL_START", "TOOL_CALL_END", "SESSION_START")
    assert manifest.durable == ("TOOL_CALL_END",)
    assert manifest.description == "ours"
    assert manifest.after == ("secret-guard",)
    assert Grant("emit_event") in manifest.grants
    assert manifest.settings["limit"].default == 9
    assert "api_key" in manifest.settings


def test_a_daemon_is_one_that_listens_with_code_allys_times(full: dict[str, Any]) -> None:
    daemon = read(full).as_daemon()
    assert daemon is not None
    assert daemon.command == ("python3", "daemon.py")
    assert (daemon.transport, daemon.socket) == ("socket", "/tmp/ally-conversation-monitor.sock")
    assert daemon.restarts == Restarts(delay=numbers.RESTART_DELAY, most=numbers.MAX_RESTARTS)
    assert not daemon.talks_back
    assert daemon.cwd == "/plugins/it"
    assert daemon.timing.startup_timeout == 10.0
    assert daemon.timing.shutdown_grace == 2.5
    assert (daemon.timing.ping_interval, daemon.timing.ping_timeout, daemon.timing.ping_retries) == (10.0, 2.0, 5)
    assert read(full).as_manifest().daemon == daemon
    own = read(full).as_daemon(command=("/env/python", "daemon.py"), env={"A": "b"}, talks_back=True)
    assert own is not None
    assert (own.command, own.env, own.talks_back) == (("/env/python", "daemon.py"), {"A": "b"}, True)


def test_a_plugin_of_programs_has_no_daemon() -> None:
    assert read(plugin()).as_daemon() is None
    assert read(plugin()).as_manifest().daemon is None


@pytest.mark.parametrize("command", ["../evil", "bin/../../evil", " "])
def test_a_program_outside_of_the_folder_is_refused(command: str) -> None:
    assert only_problem(plugin(tools=[tool(command=command)])).startswith("tools[0].command: ")
    assert only_problem(plugin(background=background(command=command))).startswith("background.command: ")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x"])
def test_files_and_folders_outside_of_the_plugins_own_are_refused(path: str) -> None:
    assert only_problem(plugin(dependencies={"file": path})).startswith("dependencies.file: ")
    assert only_problem(plugin(tools=[tool(cwd=path)])).startswith("tools[0].cwd: ")


def test_dependencies_without_a_runtime_are_a_warning() -> None:
    (warning,) = read(plugin(dependencies={"file": "requirements.txt"})).warnings
    assert warning.startswith("dependencies: there is no runtime")
