"""A plugin's question to the person, as whoever puts it to them gets it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from attrs import frozen

__all__ = ["AskPerson", "PluginQuestion"]


@frozen
class PluginQuestion:
    """What a plugin asks the person. The answer is one of `choices`; any other is none.

    `text` and `choices` are made safe to show: inert, without the plugin's secrets, and each line of the text behind
    the plugin's mark, so that none can pass for the host's own words.
    """

    id: str
    plugin: str
    session_id: str
    text: str
    choices: tuple[str, ...]


AskPerson: TypeAlias = Callable[[PluginQuestion], Awaitable[str]]
"""Puts a question to the person and returns the choice. It is cancelled when the question is withdrawn: take it away.

What it raises, and what is none of the choices, is no answer."""
