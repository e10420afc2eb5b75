"""`allow` and `pause`: what the person decides in a terminal of their own about what was denied to a coding agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.running_hosts import ANSWER_TIMEOUT
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, print_json
from ally_plugins.cli.shell.times import parse_age
from ally_plugins.contract.values.errors import ConfigError, NotFoundRefused
from ally_plugins.host.control.client import call_all, hosts_of

from .connect import AGENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.state import State

__all__ = ["allow", "pause"]

_LONGEST_MS: Final = 8 * 3_600_000
"""The longest pause, which the host holds to as well."""


@command("allow")
@click.argument("id_", metavar="ID")
def allow(state: State, id_: str) -> None:
    """Let one call of a coding agent run that was denied: exactly that call, once, within ten minutes.

    ID is the decision's, which the agent shows beside the reason. Which call it is shows `explain ID`. The agent has to
    make it again, with the same arguments in the same project. It is recorded. An agent cannot run this.

    \b
    Example:
      ally-plugins allow d-5f0c9a1b2d-7
    """
    found = _ask(state.home, "allow", {"decision": id_}, f"{id_!r:.80} cannot be allowed")
    if state.as_json:
        print_json(found)
        return
    minutes = round(found["seconds"] / 60)
    what = f"{inert(found['tool'])} of {inert(found['agent'])}"
    echo(f"{what} runs once as it was denied, when the agent tries it again within {minutes} minutes")


@command("pause")
@click.argument("agent", type=click.Choice(AGENTS))
@click.argument("duration", required=False, metavar="[DURATION]")
@click.option("--off", is_flag=True, help="End the pause.")
def pause(state: State, agent: str, duration: str | None, off: bool) -> None:  # noqa: FBT001 - click's way
    """Have the gates of a coding agent's calls decide nothing for DURATION, such as 15m; 8h at most.

    They are asked and recorded. What redacts goes on, and so does the host's own gate, which keeps the agent from its
    guard. It ends with the host. An agent cannot run this.

    \b
    Example:
      ally-plugins pause claude 15m
      ally-plugins pause claude --off
    """
    if off == (duration is not None):
        raise click.UsageError("for how long? expected a length of time such as 15m, or --off")
    ms = parse_age(duration) if duration is not None else 0
    if ms > _LONGEST_MS or (duration is not None and ms == 0):
        raise ConfigError(f"{duration!r} is no time to pause for; expected 1s to 8h", path="DURATION")
    found = _ask(state.home, "pause", {"agent": agent, "seconds": ms / 1000}, f"{agent} cannot be paused")
    if state.as_json:
        print_json(found)
    else:
        echo(f"{agent}: its gates decide again" if off else f"{agent}: its gates decide nothing for {duration}")


def _ask(home: Home, method: str, params: Mapping[str, Any], refused: str) -> Mapping[str, Any]:
    """Return the answer of the host that takes the agent's hooks. Raises NotFoundRefused with what all say else."""
    answers = call_all(hosts, method, params, ANSWER_TIMEOUT) if (hosts := hosts_of(home)) else []
    found = next((each.result for each in answers if each.result is not None), None)
    if found is not None:
        return found
    why = "; ".join(dict.fromkeys(inert(each.error) for each in answers)) or "no host takes hooks of agents now"
    raise NotFoundRefused(f"{refused}: {why}")
