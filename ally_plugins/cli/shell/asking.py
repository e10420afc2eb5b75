"""Asking the person, and taking no for an answer when nobody is there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from ally_plugins.contract.values.errors import ConfigError, ConsentError

from .text import echo, is_person_there

if TYPE_CHECKING:
    from .state import State

__all__ = ["LONGEST_SECRET", "confirm", "read_secret"]

LONGEST_SECRET: Final = 64 * 1024
"""Characters of one secret; a private key with its chain has 10,000."""


def confirm(state: State, question: str, *, is_agreed: bool, without_person: str) -> bool:
    """Ask a question, whose answer is no unless it is yes. `is_agreed` is `--yes`.

    With --json the question goes to stderr. Raises ConsentError, with `without_person`, when nobody can be asked.
    """
    if is_agreed:
        return True
    if not is_person_there():
        raise ConsentError(without_person)
    click.echo(f"{question} [y/N] ", nl=False, err=state.as_json)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # the terminal was closed, or Ctrl-D
        echo(to_stderr=state.as_json)
    return answer.strip().lower() in {"y", "yes"}


def read_secret(state: State, name: str) -> str:
    """Ask for a secret without showing it; without a terminal, read it from standard input, without its last newline.

    Raises ConfigError when there is none.
    """
    if is_person_there():
        text = click.prompt(f"{name} (not shown)", hide_input=True, default="", show_default=False, err=state.as_json)
    else:
        text = sys.stdin.read(LONGEST_SECRET + 2).removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigError(f"no value for {name!r}, expected it at the prompt or on standard input")
    if len(text) > LONGEST_SECRET:
        raise ConfigError(f"the value for {name!r} has more than {LONGEST_SECRET} characters")
    return str(text)
