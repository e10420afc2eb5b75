from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from ally_plugins.bridges.code_ally.manifest import read_plugin_json
from ally_plugins.bridges.code_ally.settingkeys import config_environment
from ally_plugins.bridges.code_ally.tools import MARGIN, fill_subtext, tool_handlers
from ally_plugins.contract.tools.declared import make_spec
from ally_plugins.contract.values.errors import ArgumentsError
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.host.sockets.link import SocketLink

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from ally_plugins.bridges.code_ally.manifest import CodeAllyPlugin
    from ally_plugins.contract.programs import Program, Ran
    from ally_plugins.contract.values.conversation import ToolResult


class At:
    """The place of a plugin whose daemon is at the other end of a link, or nowhere."""

    name, python, settings, home = "it", "", FrozenDict(), None

    def __init__(self, link: SocketLink | None, state: str) -> None:
        self.link, self.state = link, state

    @property
    def can_call(self) -> bool:
        return self.link is not None

    async def call(self, method: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        assert self.link is not None
        return await self.link.call(method, arguments, timeout)

    async def offer_tool(self, *_: object) -> None: ...

    def ask_before(self, _: Collection[str]) -> None: ...

    async def run(self, _: Program) -> Ran:
        raise AssertionError


NOWHERE = At(None, "never started")


def plugin_with(full: dict[str, Any], **more: Any) -> CodeAllyPlugin:
    return read_plugin_json(json.dumps(full | more).encode(), "/plugins/it")


def call(
    plugin: CodeAllyPlugin,
    link: SocketLink | None,
    state: str = "never started",
    arguments: dict[str, Any] | None = None,
) -> ToolResult:
    handler, _ = tool_handlers(plugin, At(link, state))[0]

    async def main() -> ToolResult:
        return await handler(**(arguments or {}))

    return asyncio.run(main())


def result_of(start_daemon: Callable[..., Any], full: dict[str, Any], value: str) -> ToolResult:
    daemon = start_daemon(f"def answer(request): return {value}")
    return call(plugin_with(full), SocketLink("it", daemon.path))


def test_a_tool_calls_its_method_with_the_arguments(start_daemon: Callable[..., Any], full: dict[str, Any]) -> None:
    daemon = start_daemon("def answer(request): return {'data': [request['method'], request['params']]}")
    result = call(plugin_with(full), SocketLink("it", daemon.path), arguments={"a": 1, "plugin": "x", "self": "y"})
    assert result.success
    assert result.data == ("get_stats", {"a": 1, "plugin": "x", "self": "y"})


def test_the_message_of_a_result_is_the_output_and_its_data_the_data(
    start_daemon: Callable[..., Any], full: dict[str, Any]
) -> None:
    both = result_of(start_daemon, full, "{'message': 'three', 'data': {'n': 3}}")
    assert (both.output, both.data) == ("three", {"n": 3})
    whole = result_of(start_daemon, full, "{'message': 'three', 'n': 3}")
    assert (whole.output, whole.data) == ("three", {"message": "three", "n": 3})
    odd = result_of(start_daemon, full, "{'message': 3}")
    assert (odd.output, odd.data) == ('{"message":3}', {"message": 3})


def test_a_result_that_is_no_object_is_wrapped(start_daemon: Callable[..., Any], full: dict[str, Any]) -> None:
    for value, output in (("'hello'", "hello"), ("[1, 2]", "[1,2]"), ("7", "7"), ("False", "false")):
        result = result_of(start_daemon, full, value)
        assert result.success
        assert result.output == output
        assert json.loads(json.dumps(result.data)) == {"result": json.loads(json.dumps(eval(value)))}  # noqa: S307


def test_a_result_that_says_it_failed_has_failed(start_daemon: Callable[..., Any], full: dict[str, Any]) -> None:
    result = result_of(start_daemon, full, "{'success': False, 'error': 'no such thing'}")
    assert (result.success, result.error) == (False, "no such thing")


def test_an_error_answer_is_a_failure_and_no_crash(start_daemon: Callable[..., Any], full: dict[str, Any]) -> None:
    daemon = start_daemon("def answer(request): return None")
    result = call(plugin_with(full), SocketLink("it", daemon.path))
    assert not result.success
    assert result.error == "'get_stats' of 'it' failed: Method not found: get_stats (code -32601)"


def test_a_daemon_that_was_never_started_or_does_not_run_is_named_with_its_state(full: dict[str, Any]) -> None:
    never = call(plugin_with(full), None)
    assert never.error == (
        "'get-conversation-stats' cannot run: the daemon of 'conversation-monitor' was never started; "
        "try: ally-plugins restart conversation-monitor"
    )
    for state in ("starting", "backoff", "failed", "quarantined"):
        assert f"the daemon of 'conversation-monitor' is {state}; try:" in (
            call(plugin_with(full), None, state).error or ""
        )


def test_a_description_is_what_the_bus_takes(full: dict[str, Any]) -> None:
    tools = tool_handlers(plugin_with(full), NOWHERE)
    stats, reverse = [make_spec("tool", handler, **described) for handler, described in tools]
    assert (stats.name, reverse.name) == ("get-conversation-stats", "reverse")
    assert reverse.description == "turns a text around\n\nUse it\nwhen a text has to be turned around."
    assert reverse.visible_to == ("agent",)
    assert reverse.timeout == 90.0 + MARGIN
    assert stats.timeout == 30.0 + MARGIN
    assert reverse.schema["properties"]["a"]["type"] == "string"
    assert stats.is_async


def test_a_description_that_is_too_long_with_its_guidance_is_cut(full: dict[str, Any]) -> None:
    full["tools"][1] |= {"description": "a" * 8_000, "usageGuidance": "b" * 8_000}
    handler, described = tool_handlers(plugin_with(full), NOWHERE)[1]
    spec = make_spec("tool", handler, **described)
    assert len(spec.description) == 8_192
    assert spec.description.endswith("b...")


def test_a_program_without_a_launcher_says_so(full: dict[str, Any]) -> None:
    handler = tool_handlers(plugin_with(full), NOWHERE)[1][0]

    async def main() -> ToolResult:
        return await handler(a="x")

    assert "starts no processes" in (asyncio.run(main()).error or "")


def test_a_subtext_is_filled_with_the_arguments_and_nothing_else() -> None:
    assert fill_subtext("{a} + {b}", {"a": 1, "b": "x"}) == "1 + x"
    assert fill_subtext("{a} + {b.__class__} {", {"a": "{b}"}) == "{b} + {b.__class__} {"


def test_settings_are_variables_in_upper_case(full: dict[str, Any]) -> None:
    settings = plugin_with(full).settings
    assert config_environment(settings, {"api_key": "s3cret", "loud": True, "limit": 0}) == {
        "PLUGIN_CONFIG_API_KEY": "s3cret",
        "PLUGIN_CONFIG_LIMIT": "0",
        "PLUGIN_CONFIG_FACTOR": "2",
        "PLUGIN_CONFIG_LOUD": "true",
        "PLUGIN_CONFIG_MODE": "slow",
    }
    assert config_environment(settings, {"factor": 0.5})["PLUGIN_CONFIG_FACTOR"] == "0.5"
    assert "PLUGIN_CONFIG_API_KEY" not in config_environment(settings, {})
    assert config_environment({}, {"unknown": 1}) == {}


def test_arguments_are_checked_against_the_schema_before_anything_runs(full: dict[str, Any]) -> None:
    from ally_plugins.policy.arguments import ArgumentChecker

    handler, described = tool_handlers(plugin_with(full), NOWHERE)[1]
    checker = ArgumentChecker(make_spec("tool", handler, **described))
    checker.check({"a": "x", "more": 1})
    try:
        checker.check({"a": 7})
    except ArgumentsError as error:
        problem = str(error)
    else:
        problem = ""
    assert "a" in problem
