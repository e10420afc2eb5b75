"""`completion`: the script that lets a shell complete commands, options, names of plugins and grants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import echo, print_json
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from ally_plugins.cli.shell.state import State

__all__ = ["completion"]

_SHELLS: Final = ("bash", "zsh", "fish")
_PROGRAM: Final = "ally-plugins"
_VARIABLE: Final = "_ALLY_PLUGINS_COMPLETE"
"""The variable that click derives from the program's name, and by which it knows that a shell asks."""

_BEFORE: Final = {
    "bash": "# Grants have a colon, at which bash would take a word apart.\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//:}\n"
}


@command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(state: State, shell: str) -> None:
    """Print the script with which SHELL completes commands, options, names of plugins, grants and settings.

    For bash (4.4 or newer) and zsh, evaluate it in ~/.bashrc or ~/.zshrc; for fish, save it in its folder.

    \b
    Example:
      ally-plugins completion bash
      eval "$(ally-plugins completion zsh)"
      ally-plugins completion fish > ~/.config/fish/completions/ally-plugins.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:  # a version of click without it
        raise ConfigError(f"click knows no completion for {shell!r}, expected one of {', '.join(_SHELLS)}")
    root = click.get_current_context().find_root().command
    script = _BEFORE.get(shell, "") + kind(root, {}, _PROGRAM, _VARIABLE).source()
    if state.as_json:
        print_json({"shell": shell, "script": script})
    else:
        echo(script)
