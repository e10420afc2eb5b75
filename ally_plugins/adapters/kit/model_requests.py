"""A request to the model as plugins' transforms leave it: its prompt, its messages and the settings that are data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.tools.recorded_calls import refuse_cut_calls
from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import Message, ModelInput, PromptSection
from ally_plugins.contract.values.errors import EventError, GateRefused
from ally_plugins.contract.values.frozen import freeze
from ally_plugins.contract.values.inert import for_model
from ally_plugins.contract.values.shown import shown_data

from .weaving import shown, woven

if TYPE_CHECKING:
    from .run import AgentRun
    from .weaving import ShownItem, WovenItem

__all__ = ["changed_blocks", "changed_instructions", "changed_prompt", "changed_request"]

_SECTION: Final = "instructions-"
"""How the names of an agent's own sections begin, in every framework; a number follows."""


async def changed_instructions(run: AgentRun, text: str | None) -> tuple[str | None, tuple[Message, ...]]:
    """Return a prompt that is one text as plugins left it, and what is volatile; see `changed_prompt`.

    Without a plugin that takes part it is the same text.
    """
    before = [{"text": text}] if text else []
    made, tail = await changed_blocks(run, before)
    return (text, tail) if made is before else ("\n\n".join(block["text"] for block in made) or None, tail)


async def changed_blocks(
    run: AgentRun, blocks: list[dict[str, Any]], like: Mapping[str, Any] | None = None
) -> tuple[list[dict[str, Any]], tuple[Message, ...]]:
    """Return a prompt's blocks as plugins left them, and what is volatile; see `changed_prompt`.

    Each block with a `text` is a section. What is none (the end of what a provider caches) stays behind the text that
    it follows. A section that plugins added is a block `like` the one that is given, with its text. Where nothing has
    changed it is the same list.
    """
    if not run.wants("system_prompt"):
        return blocks, ()
    own: dict[str, list[dict[str, Any]]] = {"": []}
    for block in blocks:
        name = f"{_SECTION}{len(own)}" if isinstance(block.get("text"), str) else [*own][-1]
        own.setdefault(name, []).append(block)
    made = own.pop("")
    before = tuple(PromptSection(name, group[0]["text"]) for name, group in own.items())
    after, tail = await changed_prompt(run, before)
    if after == before:
        return blocks, tail
    for section in after:
        if (group := own.pop(section.name, None)) is not None:
            made += [{**group[0], "text": section.text}, *group[1:]]
        else:
            made.append({**(like or {}), "text": for_model(section.text)})
    # What followed a text that plugins took away is still the host author's.
    return [*made, *(block for group in own.values() for block in group[1:])], tail


async def changed_prompt(
    run: AgentRun, sections: tuple[PromptSection, ...]
) -> tuple[tuple[PromptSection, ...], tuple[Message, ...]]:
    """Return the sections of the system prompt as plugins left them, and what is volatile as messages.

    Call it where `session.wants("system_prompt")`. Send these messages behind all others of this one request, and keep
    them in no history: a provider's cache holds the rest. Raises GateRefused where a transform blocks.
    Cancelling cancels the hook that runs; the model must not be asked then.
    """
    session = run.live.session
    made = await session.own_loop.run(session.transform_system_prompt(sections, moves_volatile=True))
    stable = tuple(section for section in made if not section.volatile)
    return stable, tuple(section.as_message() for section in made if section.volatile)


async def changed_request(
    run: AgentRun, model: str | None, items: Iterable[ShownItem], settings: Mapping[str, Any] | None
) -> tuple[list[WovenItem] | None, dict[str, Any] | None]:
    """Return what plugins made of the items and of the settings of one request, each None where it stays.

    Call it where `session.wants("model_request")`. `items` are the framework's, each with the message that it is; for
    the way back see `weaving`. Settings that are objects of the host author's (a time-out, a client) are not shown, and
    stay. Raises GateRefused where a transform blocks, for a call that is too large to be shown, and for other data that
    cannot be. Cancelling cancels the hook that runs; the model must not be asked then.
    """
    given, session, items = settings or {}, run.live.session, list(shown(items, run.live.id))
    messages = tuple(message for _, message in items if message is not None)
    refuse_cut_calls(messages)
    plain = {name: value for name, value in given.items() if _is_shown(name, value)}
    before = ModelInput(model, messages, freeze(plain))
    made = await session.own_loop.run(session.transform_model_request(before))
    hidden = {name: value for name, value in given.items() if name not in plain}
    return (
        # None and not the same again: the framework's own objects stay, with what plugins are not shown.
        list(woven(items, made.messages)) if made.messages != messages else None,
        {**hidden, **thaw(made.settings)} if made.settings != before.settings else None,  # a plugin may add some
    )


def _is_shown(name: str, value: Any) -> bool:
    if not isinstance(value, (str, int, float, list, tuple, dict, type(None))):
        return False
    try:
        shown_data(value)
    except EventError as error:
        text = f"the request cannot be shown to plugins: the setting {name!r} has {error}"
        raise GateRefused(text, plugin=None) from None
    return True
