"""A request to the model as plugins' transforms leave it: its prompt, its messages and the settings that are data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ally_plugins.contract.tools.schemas import thaw
from ally_plugins.contract.values.conversation import Message, ModelInput, PromptSection
from ally_plugins.contract.values.errors import EventError, GateRefused
from ally_plugins.contract.values.frozen import freeze
from ally_plugins.contract.values.shown import shown_data

if TYPE_CHECKING:
    from .run import AgentRun

__all__ = ["changed_prompt", "changed_request"]


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
    run: AgentRun, model: str | None, messages: tuple[Message, ...], settings: Mapping[str, Any] | None
) -> tuple[tuple[Message, ...] | None, dict[str, Any] | None]:
    """Return what plugins made of the messages and of the settings of one request, each None where it stays.

    Call it where `session.wants("model_request")`. Settings that are objects of the host author's (a time-out, a
    client) are not shown, and stay. Raises GateRefused where a transform blocks, and for data that cannot be shown.
    Cancelling cancels the hook that runs; the model must not be asked then.
    """
    given, session = settings or {}, run.live.session
    shown = {name: value for name, value in given.items() if _is_shown(name, value)}
    before = ModelInput(model, messages, freeze(shown))
    made = await session.own_loop.run(session.transform_model_request(before))
    hidden = {name: value for name, value in given.items() if name not in shown}
    return (
        # None and not the same again: the framework's own objects stay, with what plugins are not shown.
        made.messages if made.messages != before.messages else None,
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
