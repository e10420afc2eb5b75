"""`grant`, `revoke`, `shadow`, `disable` and `release`: the operator's decisions on one plugin, one at a time.

Each is recorded first; then the running hosts are notified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from ally_plugins.cli.shell.completion import grants_held, grants_requested, plugin_names
from ally_plugins.cli.shell.recorder import recorder
from ally_plugins.cli.shell.running_hosts import hosts_status, notify_hosts
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, print_json
from ally_plugins.contract.values.errors import ConsentError

if TYPE_CHECKING:
    from ally_plugins.catalog.registry import OperatorChange, Registry
    from ally_plugins.cli.shell.state import State

__all__ = ["disable", "grant", "release", "revoke", "shadow"]


@command("grant")
@click.argument("name", shell_complete=plugin_names)
@click.argument("grants", nargs=-1, required=True, metavar="GRANT...", shell_complete=grants_requested)
def grant(state: State, name: str, grants: tuple[str, ...]) -> None:
    """Grant the plugin NAME something that it asks for.

    `info` shows what it asks for; a grant may be narrower (gate:tool_call:bash).

    \b
    Example:
      ally-plugins grant loop-warner add_message:user
    """
    makes: list[Callable[[Registry], OperatorChange]] = [lambda it, text=text: it.grant(name, text) for text in grants]  # type: ignore[misc]
    _apply(state, name, makes, [f"{name} is granted {text}" for text in grants])


@command("revoke")
@click.argument("name", shell_complete=plugin_names)
@click.argument("grants", nargs=-1, required=True, metavar="GRANT...", shell_complete=grants_held)
def revoke(state: State, name: str, grants: tuple[str, ...]) -> None:
    """Take back a grant of the plugin NAME, or all of one kind (add_message).

    A gate that is revoked is gone; one that is granted and does not run denies.

    \b
    Example:
      ally-plugins revoke loop-warner add_message:user
    """
    makes: list[Callable[[Registry], OperatorChange]] = [lambda it, text=text: it.revoke(name, text) for text in grants]  # type: ignore[misc]
    _apply(state, name, makes, [f"{name} is no longer granted {text}" for text in grants])


@command("shadow")
@click.argument("name", shell_complete=plugin_names)
@click.argument("hooks", nargs=-1, metavar="[HOOK]...")
@click.option("--off", is_flag=True, help="Enforce all of them again.")
def shadow(state: State, name: str, hooks: tuple[str, ...], off: bool) -> None:  # noqa: FBT001 - click's way
    """Only watch the gates and transforms of NAME: they are asked and recorded, and nothing follows.

    HOOK narrows it to some, such as tool_call or ally_gate_message; without one, all are watched.

    \b
    Example:
      ally-plugins shadow loop-guard
      ally-plugins shadow loop-guard tool_call
      ally-plugins shadow loop-guard --off
    """
    if off and hooks:
        raise click.UsageError("--off is for all hooks; to watch others, name those without --off")
    # Written as a grant (gate:tool_call), a hook is meant all the same.
    value: bool | Sequence[str] = (not off) if not hooks else [hook.rpartition(":")[2] for hook in hooks]
    what = f"{', '.join(hooks) or 'every gate and transform'} is {'enforced again' if off else 'only watched'}"
    _apply(state, name, [lambda it: it.shadow(name, value)], [f"{name}: {what}"])


@command("disable")
@click.argument("name", shell_complete=plugin_names)
def disable(state: State, name: str) -> None:
    """Stop loading the plugin NAME. Its grants and settings stay for the next time; its gates stop denying.

    \b
    Example:
      ally-plugins disable loop-warner
    """
    _apply(state, name, [lambda it: it.disable(name)], [f"{name} is disabled"])


@command("release")
@click.argument("name", shell_complete=plugin_names)
def release(state: State, name: str) -> None:
    """Let the plugin NAME out of quarantine, and start it again where a host runs.

    \b
    Example:
      ally-plugins release loop-warner
    """
    # Before the change, which ends the state that this looks for.
    is_live = any(each.state == "quarantined" for each in hosts_status(state.home).plugin(name))
    done = [f"{name} is out of quarantine"]
    _apply(state, name, [lambda it: _release(it, name, is_live=is_live)], done, "release")


def _release(registry: Registry, name: str, *, is_live: bool) -> OperatorChange:
    """End the quarantine on disk. That of a plugin which an agent gives by code is in its host only: no error then."""
    from ally_plugins.catalog.registry import OperatorChange

    try:
        return registry.release(name)
    except ConsentError:
        if is_live:
            return OperatorChange(kind="release", plugin=name)
        registry.get(name)  # a slip is said with the nearest right name
        raise


def _apply(
    state: State,
    name: str,
    makes: Sequence[Callable[[Registry], OperatorChange]],
    lines: Sequence[str],
    method: str = "apply",
) -> None:
    """Make changes one after the other and print each, then notify the running hosts and print the effect.

    The first that fails ends it; those before it are kept, and take effect.
    """
    changes: list[OperatorChange] = []
    try:
        with recorder(state.registry) as writing:
            for make, line in zip(makes, lines, strict=True):
                changes.append(writing.change(make))
                if not state.as_json:
                    echo(line)
    # Ctrl-C too: what was recorded until then is in force, and a host that does not know it goes on as before.
    except BaseException:
        if changes:
            notify_hosts(state.home, method, name)
        raise
    effect = notify_hosts(state.home, method, name)
    if state.as_json:
        done = [{"kind": change.kind, "plugin": change.plugin, **change.data} for change in changes]
        print_json({"changes": done, "hosts": effect.data()})
    else:
        for line in effect.lines():
            echo(line)
    effect.exit()
