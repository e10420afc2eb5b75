"""`call`: one tool of one plugin, in a host of its own in which no other plugin runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.recorder import now_ms
from ally_plugins.cli.shell.signals import run
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, paint, print_json
from ally_plugins.contract.values.errors import ConfigError, ConsentError, PluginLoadError
from ally_plugins.contract.values.ids import bare_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.cli.shell.state import State
    from ally_plugins.contract.values.conversation import Message, ToolResult
    from ally_plugins.host.host import Host

__all__ = ["call"]

_MAX_CHARACTERS: Final = 16 * 1024 * 1024


@command("call")
@click.argument("name", shell_complete=plugin_names)
@click.argument("tool")
@click.option(
    "--args", "arguments", metavar="JSON", default="{}", help="The arguments as a JSON object; - reads stdin."
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Wait less long than the tool itself allows.")
def call(state: State, name: str, tool: str, arguments: str, timeout: float | None) -> None:
    """Call TOOL of the plugin NAME and print what it returns.

    The plugin has to be enabled; it runs by itself, with its own grants and settings, in a new session. The arguments
    are checked against the tool's schema. In a sandbox it sees of the project what it was granted; that is the folder
    in which the command runs. The exit code is 1 when the tool fails.

    \b
    Example:
      ally-plugins call conversation-monitor get_stats
      ally-plugins call notes find --args '{"text": "disk"}' --json
    """
    from ally_plugins.cli.shell.plain_logs import plain_logs

    # `not >`, which refuses NaN too.
    if timeout is not None and not timeout > 0:
        raise click.BadParameter("expected seconds above 0", param_hint="--timeout")
    given = _parsed(arguments)
    with plain_logs(errors_of=bare_name(name)):
        result, messages = run(_call(state, name, tool, given, timeout))
    _print(state, result, messages)
    if not result.success:
        raise click.exceptions.Exit(REFUSED)


def _parsed(text: str) -> dict[str, Any]:
    from ally_plugins.contract.values.codec import LongInteger, decode

    given = (sys.stdin.read(_MAX_CHARACTERS) if text == "-" else text).removeprefix("\ufeff")  # PowerShell's pipes
    try:
        value = decode(given)
    except LongInteger as error:
        raise ConfigError(f"--args cannot be passed on: {error}", path="--args") from None
    except ValueError as error:
        raise ConfigError(f"--args is not JSON: {error}", path="--args") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--args is {type(value).__name__}, expected a JSON object such as '{{\"limit\": 3}}'")
    return value


async def _call(
    state: State,
    name: str,
    tool: str,
    arguments: Mapping[str, Any],
    timeout: float | None,
) -> tuple[ToolResult, tuple[Message, ...]]:
    from ally_plugins.journal.values import Record
    from ally_plugins.policy.decided_values import decided_value

    async with _host(state, name) as host:
        plugin = host.plugins[bare_name(name)]
        if not plugin.is_running:
            raise PluginLoadError(f"{name!r} is {plugin.state}: {plugin.reason}", plugin=plugin.name)
        session = host.session(project=Path.cwd())
        await host.services.settle(session.id)  # only then its tools are known, where it has a process for each project
        called_with = decided_value(plugin.secrets.masked_value(arguments), salt=None)
        data = {"tool": tool, "arguments": called_with}
        # Before the call: it is in the journal even if the tool ends this program. Masked, since it stays there.
        await host.journal.append(Record("tool_call", now_ms(), plugin.name, session.id, None, data))
        result = await host.call_tool(tool, arguments, plugin=plugin.name, session_id=session.id, timeout=timeout)
        # Messages that the tool has added are delivered at a safe point only, and nobody else will come to one here.
        return result, await session.safe_point("turn_end")


def _host(state: State, name: str) -> Host:
    """Return a host that loads one plugin only. Raises ConsentError when that one may not run."""
    from ally_plugins.catalog.registry import Registry
    from ally_plugins.contract.values.compat import override
    from ally_plugins.host.host import Host

    class OnePlugin(Registry):
        @override
        def load(self) -> tuple[PluginRecord, ...]:
            return tuple(each for each in super().load() if each.name == record.name)

        @override
        def load_one(self, name: str) -> PluginRecord | None:
            return super().load_one(name) if name == record.name else None

    record = state.registry.get(name)
    if not record.is_enabled:
        raise ConsentError(f"{name!r} cannot be called, it is {record.state}: {record.reason}")
    host = Host(state.app, home=state.home)
    # Both ways of loading are narrowed: the host's start, and its reading of one plugin after a change.
    host.registry = OnePlugin(state.home)
    return host


def _print(state: State, result: ToolResult, messages: tuple[Message, ...]) -> None:
    if state.as_json:
        print_json({
            "success": result.success,
            "output": result.output,
            "error": result.error,
            "data": result.data,
            "messages": [{"id": each.id, "role": each.role, "content": each.content} for each in messages],
        })  # fmt: skip
        return
    if result.output:
        echo(inert(result.output, keep_lines=True))
    if result.error:
        echo(f"the tool failed: {inert(result.error, keep_lines=True)}", to_stderr=True)
    for each in messages:
        echo(paint(f"it added a message ({each.role}): {inert(each.content)}", dim=True), to_stderr=True)
