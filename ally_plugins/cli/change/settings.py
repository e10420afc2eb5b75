"""`config`: a plugin's settings, typed; secrets are read from a prompt, never shown and never from the command line."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from ally_plugins.cli.shell.completion import plugin_names, setting_keys, settings_to_assign
from ally_plugins.cli.shell.questions import read_secret
from ally_plugins.cli.shell.recorder import Recorder, recorder
from ally_plugins.cli.shell.running_hosts import hosts_status
from ally_plugins.cli.shell.setting_rows import setting_rows, shown_settings
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, print_json
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.registry import OperatorChange, Registry
    from ally_plugins.cli.shell.state import State

__all__ = ["config"]


@command("config")
@click.argument("name", shell_complete=plugin_names)
@click.argument("assignment", required=False, metavar="[KEY=VALUE]", shell_complete=settings_to_assign)
@click.option(
    "--unset", metavar="KEY", shell_complete=setting_keys, help="Take a setting back; its default holds again."
)
def config(state: State, name: str, assignment: str | None, unset: str | None) -> None:
    """Show the settings of the plugin NAME, or change one.

    Values are checked against the type that the manifest gives. A secret is named without its value: it is asked for at
    a hidden prompt, or read from standard input, and kept in the system's keyring or a file that only you can read.

    \b
    Example:
      ally-plugins config loop-warner
      ally-plugins config loop-warner limit=5
      ally-plugins config loop-warner token
      ally-plugins config loop-warner --unset limit
    """
    if assignment is not None and unset is not None:
        raise click.UsageError("KEY=VALUE and --unset exclude each other")
    registry = state.registry
    record = registry.get(name)
    if assignment is None and unset is None:
        _show(state, registry, record)
        return
    key, text = (unset or "", None) if unset is not None else _assigned(state, record, assignment or "")
    with recorder(registry) as writing:
        change = _set(writing, record, key, text)
    _report(state, change)


def _assigned(state: State, record: PluginRecord, assignment: str) -> tuple[str, str]:
    """Return key and value; a secret's is read from a prompt. The text after `=` is in no error: it may be a secret."""
    key, equals, text = assignment.partition("=")
    setting = record.manifest.settings.get(key)
    command_line = f"ally-plugins config {record.name} {key}"
    if setting is not None and setting.secret:
        if equals:
            raise ConfigError(
                f"{key!r} is a secret, and a command line is seen by others; name it without a value: {command_line}"
            )
        return key, read_secret(state, key)
    # Another name without a value is left to the registry, whose error has the nearest right one.
    if not equals and (setting is not None or not record.manifest.settings):
        raise ConfigError(f"no value for {key!r}, expected KEY=VALUE: {command_line}=VALUE")
    return key, text


def _set(writing: Recorder, record: PluginRecord, key: str, text: str | None) -> OperatorChange:
    setting = record.manifest.settings.get(key)
    is_secret = setting is not None and setting.secret
    undoing = partial(_undoing_secret, writing.registry, record.name, key) if is_secret else None
    return writing.change(lambda it: it.set_setting(record.name, key, text), undoing)


def _undoing_secret(registry: Registry, plugin: str, key: str) -> Callable[[], None]:
    """Return a function that restores a secret as it is now: the recorder restores files, and not a keyring."""
    before = registry.secrets.get(plugin, key)

    def undo() -> None:
        if before is None:
            registry.secrets.delete(plugin, key)
        else:
            registry.secrets.set(plugin, key, before)

    return undo


def _report(state: State, change: OperatorChange) -> None:
    if state.as_json:
        print_json({"plugin": change.plugin, **change.data})
        return
    verb = "is not set any more" if change.data["is_removed"] else "is set"
    name = change.plugin
    # Where no host runs, a restart would be refused.
    again = f": ally-plugins restart {name}" if hosts_status(state.home).hosts else ""
    echo(f"{name}: {change.data['key']} {verb}; it is read when the plugin starts{again}")


def _show(state: State, registry: Registry, record: PluginRecord) -> None:
    if state.as_json:
        print_json({"plugin": record.name, "settings": shown_settings(registry, record)})
        return
    for line in setting_rows(registry, record) or [f"{record.name} has no settings"]:
        echo(line)
