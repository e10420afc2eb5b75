"""What a transform may make of the system prompt's sections: change texts, drop sections, add sections of its own.

The source of a section is set by the host: it is whoever added it. Each check raises PluginError, which names the
section, what was found and what is expected; such an answer is nonsense, and the transform counts as failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from ally_plugins.contract.values.conversation import PromptSection
from ally_plugins.contract.values.errors import PluginError, ValidationRefused
from ally_plugins.contract.values.verdicts import describe_answer

from .validation import MAX_TEXT_BYTES, check_name, find_text_problem

__all__ = ["MAX_ADDED", "check_sections", "refuse_doubles"]

MAX_ADDED: Final = 64
"""Sections, or messages, that one transform may add to one request: prompts have a dozen; a loop that adds is a bug. As
messages these would be two minutes of its budget (30 a minute)."""


def refuse_doubles(sections: Iterable[PromptSection]) -> None:
    """Raise ValueError when two of the host's own sections have one name."""
    seen: set[str] = set()
    for section in sections:
        if section.name in seen:
            raise ValueError(f"two sections are called {section.name!r}; a name is one section's")
        seen.add(section.name)


def check_sections(
    old: tuple[PromptSection, ...], new: Any, plugin: str
) -> tuple[tuple[PromptSection, ...], tuple[str, ...]]:
    """Take the sections that a plugin made of `old`; return them, with their sources, and the names of what differs.

    Raises PluginError for what is no section, two of one name, and a text or a source that a plugin may not give.
    """
    if type(new) is not tuple and type(new) is not list:
        found = type(new).__name__
        text = f"the transform replaced the sections by {found}; use Replace((*sections, PromptSection(...)))"
        raise PluginError(text)
    before = {section.name: section for section in old}
    taken: dict[str, PromptSection] = {}
    for index, section in enumerate(new):
        if type(section) is not PromptSection:
            raise PluginError(f"sections[{index}] is {describe_answer(section)}; expected a PromptSection")
        checked = _take(section, before, plugin)
        if checked.name in taken:
            raise PluginError(f"two sections are called {checked.name!r}; a name is one section's")
        taken[checked.name] = checked
    added = len(taken.keys() - before.keys())
    if added > MAX_ADDED:
        raise PluginError(f"the transform added {added} sections; expected {MAX_ADDED} at most")
    return tuple(taken.values()), _differences(before, taken)


def _take(section: PromptSection, before: dict[str, PromptSection], plugin: str) -> PromptSection:
    existing = before.get(section.name) if type(section.name) is str else None
    # The same object has not changed; most sections are handed back so.
    if existing is section:
        return section
    owner = existing.source if existing is not None else plugin
    if type(section.volatile) is not bool:
        raise PluginError(f"volatile of the section {section.name!r} is {describe_answer(section.volatile)}")
    if section.source not in {None, owner}:
        text = f"the section {section.name!r} names another source than {owner!r}; leave `source` to the host"
        raise PluginError(text)
    if existing is None:
        _check_new(section)
        return PromptSection(section.name, section.text, plugin, section.volatile)
    if section.text != existing.text:
        limit = max(MAX_TEXT_BYTES, len(existing.text.encode("utf-8", "replace")))  # the host's own may be longer
        if problem := find_text_problem(section.text, limit):
            raise PluginError(f"the text of the section {section.name!r} {problem}")
    if owner != plugin and section.volatile is not existing.volatile:
        text = f"the section {section.name!r} is not its own; only who adds a section may call it volatile"
        raise PluginError(text)
    return PromptSection(existing.name, section.text, existing.source, section.volatile)


def _check_new(section: PromptSection) -> None:
    try:
        check_name(section.name, "the name of a section")
    except ValidationRefused as refusal:  # no call was refused: the transform is at fault
        raise PluginError(str(refusal)) from None
    if problem := find_text_problem(section.text):
        raise PluginError(f"the text of the section {section.name!r} {problem}")


def _differences(before: dict[str, PromptSection], after: dict[str, PromptSection]) -> tuple[str, ...]:
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    kept = [name for name in after if name in before]
    if kept != [name for name in before if name in after]:
        changed.append("order")
    return tuple(changed)
