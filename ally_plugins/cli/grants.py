"""`grant`, `revoke`, `shadow`, `disable` and `release`: the operator's word on one plugin, one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from .consent import NEXT_START
from .recording import recorder
from .state import command
from .text import echo, print_json

if TYPE_CHECKING:
    from ally_plugins.registry import Change, Registry

    from .state import State

__all__ = ["disable", "grant", "release", "revoke", "shadow"]


@command("grant")
@click.argument("name")
@click.argument("grants", nargs=-1, required=True, metavar="GRANT...")
def grant(state: State, name: str, grants: tuple[str, ...]) -> None:
    """Grant the plugin NAME something that it asks for.

    `info` shows what it asks for; a grant may be narrower (gate:tool_call:bash).

    \b
    Example:
      ally-plugins grant loop-warner add_message:user
    """
    makes: list[Callable[[Registry], Change]] = [lambda it, text=text: it.grant(name, text) for text in grants]  # type: ignore[misc]
    _apply(state, makes, [f"{name} is granted {text}; {NEXT_START}" for text in grants])


@command("revoke")
@click.argument("name")
@click.argument("grants", nargs=-1, required=True, metavar="GRANT...")
def revoke(state: State, name: str, grants: tuple[str, ...]) -> None:
    """Take back a grant of the plugin NAME, or all of one kind (add_message).

    A gate that is revoked is gone; one that is granted and does not run denies.

    \b
    Example:
      ally-plugins revoke loop-warner add_message:user
    """
    makes: list[Callable[[Registry], Change]] = [lambda it, text=text: it.revoke(name, text) for text in grants]  # type: ignore[misc]
    _apply(state, makes, [f"{name} is no longer granted {text}; {NEXT_START}" for text in grants])


@command("shadow")
@click.argument("name")
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
    value: bool | Sequence[str] = (not off) if not hooks else [hook.rpartition(":")[2] for hook in hooks]
    what = f"{', '.join(hooks) or 'every gate and transform'} is {'enforced again' if off else 'only watched'}"
    _apply(state, [lambda it: it.shadow(name, value)], [f"{name}: {what}; {NEXT_START}"])


@command("disable")
@click.argument("name")
def disable(state: State, name: str) -> None:
    """Stop loading the plugin NAME. Its grants and settings stay for the next time; its gates stop denying.

    \b
    Example:
      ally-plugins disable loop-warner
    """
    _apply(state, [lambda it: it.disable(name)], [f"{name} is disabled; {NEXT_START}"])


@command("release")
@click.argument("name")
def release(state: State, name: str) -> None:
    """Let the plugin NAME out of quarantine, to try it again.

    \b
    Example:
      ally-plugins release loop-warner
    """
    _apply(state, [lambda it: it.release(name)], [f"{name} is out of quarantine; {NEXT_START}"])


def _apply(state: State, makes: Sequence[Callable[[Registry], Change]], lines: Sequence[str]) -> None:
    """Make changes one after the other and say what each did; the first that fails ends it."""
    changes = []
    with recorder(state.registry) as writing:
        for make, line in zip(makes, lines, strict=True):
            changes.append(writing.change(make))
            if not state.as_json:
                echo(line)
    if state.as_json:
        print_json({"changes": [{"kind": done.kind, "plugin": done.plugin, **done.data} for done in changes]})
