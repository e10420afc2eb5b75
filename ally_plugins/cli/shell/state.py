"""What all commands share: the home that they work on, `--json`, and how a command is declared.

A command is declared with `command` (or `options` on a group), and its function gets the `State` first.
"""

from __future__ import annotations

from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import click

from ally_plugins.policy.looking_commands import LOOKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.catalog.registry import Registry

__all__ = ["State", "command", "options", "state_of", "with_state"]

P = ParamSpec("P")


class State:
    """The options that every command has; lives as long as one run of the program."""

    def __init__(self) -> None:
        self.app = "ally-plugins"
        self.home_path: str | None = None
        self.as_json = False

    @property
    def home(self) -> Home:
        """The app's home. Raises ConfigError when the app's name is none, or it is not known where the home is."""
        import os

        from ally_plugins.catalog.home.folder import Home, absolute_path

        if self.home_path is None:
            return Home(self.app)
        return Home(self.app, os.path.realpath(absolute_path(self.home_path, "--home")))

    @property
    def registry(self) -> Registry:
        """What is installed and agreed to in that home; what is installed may come from the cache there.

        So it is for commands that show and decide. What runs a plugin takes a `Registry` that searches again.
        """
        from ally_plugins.catalog.registry import Registry

        return Registry(self.home, remembers=True)


def state_of(ctx: click.Context) -> State:
    """Return the state of a running command, also of one that is run without the program's group."""
    # The root's: options count before the command and after it, and both have to find one State.
    state: State = ctx.find_root().ensure_object(State)
    return state


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`, `--home` and `--app`, whose values go to the State and not to the function."""
    for option in (_JSON, _HOME, _APP):
        function = option(function)
    return function


def with_state(function: Callable[Concatenate[State, P], None]) -> Callable[P, None]:
    """Give the function the State as its first argument."""

    @click.pass_context
    def run(ctx: click.Context, /, *args: P.args, **kwargs: P.kwargs) -> None:
        function(state_of(ctx), *args, **kwargs)

    # It copies the function's `__dict__` too, in which click keeps the options that were declared below.
    return update_wrapper(run, function)


def command(name: str, **settings: Any) -> Callable[[Callable[Concatenate[State, P], None]], click.Command]:
    """Declare a command with the options that all have.

    It is refused to processes of plugins and of guarded agents, before it begins, unless it is one of those that only
    look (`policy.looking_commands`); one of these that may change something calls `require_operator` before it does.
    """

    def declare(function: Callable[Concatenate[State, P], None]) -> click.Command:
        decorate: Callable[[Callable[..., Any]], click.Command] = click.command(name, **settings)
        return decorate(options(with_state(function if name in LOOKING else _for_operators(function))))

    return declare


def _for_operators(function: Callable[Concatenate[State, P], None]) -> Callable[Concatenate[State, P], None]:
    def run(state: State, /, *args: P.args, **kwargs: P.kwargs) -> None:
        from .operators import require_operator

        require_operator(state.home)
        function(state, *args, **kwargs)

    return update_wrapper(run, function)


def _keep_app(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        state_of(ctx).app = value


def _keep_home(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        state_of(ctx).home_path = value


def _keep_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    # `|=`: without the option after the command, the one before it still counts.
    state_of(ctx).as_json |= value


_APP = click.option(
    "--app",
    metavar="NAME",
    expose_value=False,
    callback=_keep_app,
    help="The app whose plugins are meant: ally-plugins.",
)
_HOME = click.option(
    "--home",
    metavar="DIR",
    expose_value=False,
    callback=_keep_home,
    help="The folder that holds the app's state, instead of ALLY_HOME.",
)
_JSON = click.option(
    "--json", is_flag=True, expose_value=False, callback=_keep_json, help="Print JSON, and nothing else, on stdout."
)
