"""`serve`: the one host behind the hooks of a person's coding agents, which the first hook starts."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import TYPE_CHECKING, Final

import click

from ally_plugins.cli.shell.exits import DONE, exit_code_of
from ally_plugins.cli.shell.operators import require_operator
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, inert, print_json
from ally_plugins.contract.values.errors import AllyError, ConfigError

if TYPE_CHECKING:
    from ally_plugins.adapters.coding.serving.hook_socket import HookSocket
    from ally_plugins.cli.shell.state import State
    from ally_plugins.runtime.processes.launcher import Launcher

__all__ = ["serve"]

_LOOK: Final = 5.0  # seconds between two looks at whether it is idle

REFUSING: Final = 5.0
"""Seconds in which hooks are told why no host could be started, before the next one tries again."""


@command("serve")
@click.option(
    "--idle",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="MINUTES",
    help="End when no hook came for so long, and no tool of an agent runs.",
)
def serve(state: State, idle: float) -> None:
    """Stand behind the hooks of your coding agents, for all of your projects.

    The first hook of an agent that `connect` has connected starts it where none runs, and it ends by itself; run it
    by hand to see what it says. One takes the hooks of a home at a time: another one ends at once, with code 0. On
    SIGTERM it answers what it was asked, and ends.

    \b
    Example:
      ally-plugins serve
    """
    from ally_plugins.adapters.coding.serving.hook_socket import HookSocket
    from ally_plugins.catalog.home.folder import PLUGINS_VARIABLE

    home = state.home
    if os.environ.get(PLUGINS_VARIABLE):
        # A hook starts it without: with it, an agent's own host would leave plugins out.
        require_operator(home)
    hook_socket = HookSocket(home)
    if not hook_socket.open():
        _say(state, "another host takes the hooks already", takes_hooks=False)
        return
    gc.disable()  # of what is made in a start nothing is garbage, and looking takes a tenth of it
    try:
        code = asyncio.run(_serve(state, hook_socket, idle * 60))
    finally:
        gc.enable()
        hook_socket.close()
    click.get_current_context().exit(code)


async def _serve(state: State, hook_socket: HookSocket, idle: float) -> int:
    from ally_plugins.host.daemons.early_start import start_early

    launcher = start_early(state.home)  # before what takes as long to be imported
    try:
        return await _serve_with(state, hook_socket, idle, launcher)
    finally:
        if launcher is not None:
            await launcher.close()


async def _serve_with(state: State, hook_socket: HookSocket, idle: float, launcher: Launcher | None) -> int:
    from ally_plugins.adapters.coding.client.client_files import find_change
    from ally_plugins.adapters.coding.serving.conversations import Conversations
    from ally_plugins.adapters.coding.serving.server import HookServer
    from ally_plugins.host.host import Host

    try:
        if change := find_change(state.home):
            raise ConfigError(change)
        async with Host(state.app, home=state.home, protect=True, launcher=launcher) as host:
            conversations = Conversations(host)
            server = HookServer(hook_socket, conversations)
            await server.start()
            gc.enable()
            _say(state, f"takes hooks for {state.home.path}", takes_hooks=True)
            try:
                while not server.is_idle(idle):
                    await asyncio.sleep(min(_LOOK, idle))
                    await conversations.close_silent()
            finally:
                await server.stop()
    except AllyError as error:
        await _refuse(hook_socket, error)
        echo(f"ally-plugins: {inert(error)}", to_stderr=True)
        return exit_code_of(error)
    return DONE


async def _refuse(hook_socket: HookSocket, why: AllyError) -> None:
    """Tell the hooks that wait for a host why there is none, for a moment."""
    from ally_plugins.adapters.coding.serving.conversations import NoConversations
    from ally_plugins.adapters.coding.serving.server import HookServer

    server = HookServer(hook_socket, NoConversations(f"no host could be started: {why}"))
    await server.start()
    await asyncio.sleep(REFUSING)
    await server.stop()


def _say(state: State, text: str, *, takes_hooks: bool) -> None:
    if state.as_json:
        print_json({"home": str(state.home.path), "takes_hooks": takes_hooks})
    else:
        echo(inert(text))
