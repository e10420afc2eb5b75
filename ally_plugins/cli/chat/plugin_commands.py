"""The chat's commands about plugins: listing, enabling, disabling, and the tags `+name` and `-name`.

Consent is the same as in `ally-plugins enable`: all requests of a plugin are shown first, and the consent is recorded
before it takes effect.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from ally_plugins.catalog.registry import Registry
from ally_plugins.cli.shell.recorder import recorder
from ally_plugins.cli.shell.requests import plan_lines
from ally_plugins.cli.shell.running_hosts import notify_hosts
from ally_plugins.cli.shell.text import inert, paint

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.catalog.registry import OperatorChange

    from .dialogue import Dialogue

__all__ = ["disable", "enable", "plugin_rows", "switch"]

_TAG: Final = re.compile(r"[+-][a-z0-9_][a-z0-9_-]*")
_COLOURS: Final = {
    "running": "green",
    "enabled": "green",
    "failed": "red",
    "quarantined": "red",
    "disabled": "bright_black",
}


async def plugin_rows(chat: Dialogue) -> list[tuple[str, ...]]:
    """Return the plugins as rows: name, state, what it is for or why it is not running.

    Raises ConfigError and ConsentError for files that cannot be read. Cancelling leaves the search to its thread.
    """
    host = chat.opened.host
    # A search reads the metadata of every distribution, some 20 ms; events go on meanwhile.
    records = await asyncio.to_thread(lambda: Registry(chat.opened.options.home).load())
    rows: list[tuple[str, ...]] = []
    for record in records:
        live = host.plugins.get(record.name)
        state: str = live.state if live is not None else record.state
        reason = live.reason if live is not None else record.reason
        if live is not None and not host.services.activations.is_active(record.name, chat.opened.session.id):
            state = f"off, +{record.name} turns it on"
        about = reason or record.manifest.description
        rows.append((f"  {inert(record.label)}", paint(inert(state), fg=_COLOURS.get(state, "yellow")), inert(about)))
    return rows


async def enable(chat: Dialogue, name: str) -> None:
    """Show the requests of a plugin, ask the person, and have it started. Raises AllyError.

    Cancelling during the question enables nothing; after it, the change may be made all the same.
    """
    if not name:
        chat.screen.error("expected the name of a plugin: /enable NAME; /plugins shows them")
        return
    registry = Registry(chat.opened.options.home)
    plan = await asyncio.to_thread(lambda: registry.plan(registry.qualified_name(name)))
    chat.screen.painted(plan_lines(plan))
    if not chat.input.is_terminal:
        chat.screen.error(f"{name!r} is not enabled: consent needs a person; ally-plugins enable {name} --yes")
        return
    if await chat.ask(f"Agree, and enable {inert(name)}?", ("no", "yes")) != "yes":
        chat.screen.note(f"{name} is not enabled")
        return
    await _change(chat, registry, plan.record.name, lambda it: it.enable(plan, "person"), f"{name} is enabled")


async def disable(chat: Dialogue, name: str) -> None:
    """Disable a plugin, here and in every other host of this home. Raises AllyError.

    After cancelling, the change may be made all the same.
    """
    if not name:
        chat.screen.error("expected the name of a plugin: /disable NAME; /plugins shows them")
        return
    registry = Registry(chat.opened.options.home)
    await _change(chat, registry, name, lambda it: it.disable(name), f"{name} is disabled")


async def _change(
    chat: Dialogue, registry: Registry, name: str, make: Callable[[Registry], OperatorChange], done: str
) -> None:
    """Record a change and notify the hosts; in a thread, since this program's own host answers on the loop."""

    def write() -> list[str]:
        with recorder(registry) as writing:
            writing.change(make)
        return notify_hosts(registry.home, "apply", name).lines()

    lines = await asyncio.to_thread(write)
    chat.screen.note(done)
    for line in lines:
        chat.screen.note(line)


def switch(chat: Dialogue, text: str) -> bool:
    """Apply a message that is nothing but `+name` and `-name`; return whether it was one."""
    words = text.split()
    plugins = chat.opened.host.plugins
    # Only names of plugins: a message may well begin with a dash, as a list does.
    if not words or not all(_TAG.fullmatch(word) and word[1:] in plugins for word in words):
        return False
    host, session = chat.opened.host, chat.opened.session
    host.services.receive_person_message(session.id, text, session.ring.head)
    for word in words:
        name = word[1:]
        is_active = host.services.activations.is_active(name, session.id)
        if is_active == (word[0] == "+"):
            chat.screen.note(f"{name} is {'on' if is_active else 'off'} in this session")
        else:
            chat.screen.note(f"{name} is on in every session; /disable {name} stops it")
    return True
