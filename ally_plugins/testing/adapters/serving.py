"""What an adapter says that it serves, beside what plugins were given in a conversation that has everything."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.serves import SERVABLE
from ally_plugins.contract.values.conversation import PromptSection
from ally_plugins.contract.values.events import DiffPreview, Event
from ally_plugins.contract.values.verdicts import Replace

from .check import Checks
from .script import Answer, calls
from .stage import Play, Stage, expect, plugin, tool

if TYPE_CHECKING:
    from ally_plugins.contract.values.conversation import ToolCall

__all__ = ["CHECKS", "UNPROVOKED", "observe"]

CHECKS: Final = Checks()

UNPROVOKED: Final = frozenset(
    {
        "EVENTS_DROPPED",
        "PLUGIN_ACTION_REQUESTED",
        "PLUGIN_EVENT_EMITTED",
        "PLUGIN_STATE",
        "SESSION_END",
        "TASK_PROGRESS",
        "TODO_UPDATE",
    }
)
"""Events that the conversation does not provoke: the host's own, which no adapter makes, and those of tools for todos,
which not every framework has."""


@CHECKS.add("serves what it says")
async def _what_it_says(stage: Stage) -> None:
    """Check that `serves` of the driver names what plugins are given, and nothing else."""
    said = stage.driver.serves
    if said is None:
        text = f"{stage.driver.name} does not say what it serves; set `serves` of the driver to that of the adapter"
        expect(is_so=False, otherwise=text)
        return
    seen = await observe(stage)
    unprovoked = UNPROVOKED if "transform:system_prompt" in said else {*UNPROVOKED, "PROMPT_PREFIX_CHANGED"}
    unsaid, unseen = sorted(seen - said.names), sorted(said.names - seen - unprovoked)
    expect(not unsaid, f"plugins were given {', '.join(unsaid)}, which `serves` does not name")
    expect(not unseen, f"`serves` names {', '.join(unseen)}, which no plugin was given")


async def observe(stage: Stage) -> frozenset[str]:
    """Play a conversation that has everything which the driver's parts allow, and return what plugins were given.

    Cancelling stops in the middle, and stops the host.
    """
    asked: set[str] = set()
    missing = stage.driver.missing
    hooks = [info for info in HOOKS.values() if info.topic is not None]
    witness = {info.name.removeprefix("ally_"): _witness(asked, f"{info.kind}:{info.topic}") for info in hooks}

    # In the middle of a tool: the message is then delivered at the next step.
    async def speak(play: Play, _: str) -> str:
        await play.host.plugins["speaker"].instance.ally.add_message(
            "user", "the port is 8080", session_id=play.session().id
        )
        return "worked"

    setup: dict[str, Any] = {}
    if "approval" not in missing:
        setup["approve"] = _agree
    if "preview" not in missing:
        setup["preview"] = _preview
    if "compaction" not in missing:
        setup["can_compact"] = True
    think = Answer(thinking="" if "thinking" in missing else "hm", calls=calls(("c1", "work", "a")).calls)
    plugins = {"witness": plugin(**witness), "speaker": plugin(), "clock": plugin(transform_system_prompt=_tell_time)}
    done = Answer(text="done", input_tokens=600)  # of a window of 1,000, so that a threshold is passed
    async with stage.play(think, done, "done again", plugins=plugins, **setup) as play:
        work = tool("work", partial(speak, play), is_sensitive="approval" not in missing)
        play.agent = stage.driver.make(play.setup(tools=(work,), **setup))
        await play.run("first")
        if "compaction" not in missing:
            await play.session().request_action("compact", {"reason": "to see it"})
        with suppress(Exception):  # what it provokes counts, not how it ends
            await play.run("second")
        events = {event.type for event in play.events_of(Event)}
    return frozenset((asked | events) & SERVABLE)


def _witness(asked: set[str], name: str) -> Any:
    """Return a gate or transform that notes that it was called, and has no opinion."""

    async def hook(self: Any) -> None:  # noqa: ARG001
        asked.add(name)

    return hook


async def _tell_time(self: Any, sections: tuple[PromptSection, ...]) -> Replace[Any]:  # noqa: ARG001
    # Another text at each request, and not volatile: PROMPT_PREFIX_CHANGED is to be provoked.
    return Replace((*sections, PromptSection("clock", f"it is {time.monotonic_ns()}")))


async def _agree(_: Any) -> str:
    return "allow"


def _preview(call: ToolCall) -> DiffPreview:
    return DiffPreview(tool_name=call.tool_name, file_path="a.txt", new_content="b")
