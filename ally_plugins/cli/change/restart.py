"""`restart`: stop one plugin and start it again, in every running host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.exits import DONE, REFUSED
from ally_plugins.cli.shell.running_hosts import RESTART_TIMEOUT, Effect, notify_hosts
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, print_json
from ally_plugins.contract.values.errors import NotFoundRefused

if TYPE_CHECKING:
    from ally_plugins.cli.shell.state import State
    from ally_plugins.host.control.client import HostAnswer

__all__ = ["restart"]

_NOT_THERE: Final = "this host has no plugin"
"""How the error begins of a host that does not have the plugin: answers carry a text and no code."""


@command("restart")
@click.argument("name", shell_complete=plugin_names)
def restart(state: State, name: str) -> None:
    """Stop the plugin NAME and start it again, in every running host of this home.

    It starts with what is settled and installed now: its settings, and for a daemon its program. The code of a plugin
    that runs inside the agent's process stays what it is until the agent starts anew. The old one is stopped when the
    new one is known to be fit, and goes on when it is not; the gates deny between the two.

    \b
    Example:
      ally-plugins restart loop-warner
    """
    effect = notify_hosts(state.home, "restart", name, RESTART_TIMEOUT)
    answers = [each for each in effect.answers if not each.error.startswith(_NOT_THERE)]
    if not answers:
        if effect.answers:  # else nothing can be said of a plugin that a host gives by code
            state.registry.get(name)  # a slip is said with the nearest right name
        hosts = "no host runs" if not effect.answers else "no running host has it"
        raise NotFoundRefused(f"{name!r} cannot be restarted: {hosts}; to see what runs: ally-plugins hosts")
    if state.as_json:
        print_json({"plugin": name, "hosts": Effect(answers).data()})
    else:
        for each in answers:
            echo(_line(name, each))
    click.get_current_context().exit(DONE if all(_is_running(each) for each in answers) else REFUSED)


def _is_running(answer: HostAnswer) -> bool:
    return answer.result is not None and answer.result.get("state") == "running"


def _line(name: str, answer: HostAnswer) -> str:
    host = f"host {answer.host.pid}"
    if answer.result is None:
        return f"{host}: {inert(answer.error)}"
    state, reason = answer.result.get("state", ""), answer.result.get("reason", "")
    return f"{host}: {name} was restarted and is {inert(state)}{f': {inert(reason)}' if reason else ''}"
