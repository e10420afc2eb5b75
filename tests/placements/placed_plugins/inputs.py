"""Plugins that change what the model is asked: the system prompt's sections, messages and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ally_plugins import Message, ModelInput, PromptSection, Replace, evolve, hookimpl

from .hooks import Plain, act

Sections = tuple[PromptSection, ...]


def _text(text: Any) -> Callable[[Sections, PromptSection], Any]:
    """Change the text of the first section."""
    return lambda sections, _: (evolve(sections[0], text=text), *sections[1:])


def _own(**changes: Any) -> Callable[[Sections, PromptSection], Any]:
    """Add a section, changed so."""
    return lambda sections, own: (*sections, evolve(own, **changes))


_SECTIONS: dict[str, Callable[[Sections, PromptSection], Any]] = {
    "claim": _own(source="other"),
    "steal": lambda sections, own: (evolve(sections[0], source=own.name), *sections[1:]),
    "twice": lambda sections, own: (*sections, own, own),
    "empty": _text(""),
    "control": _text("a\x00b"),
    "surrogate": _text("a\ud800b"),
    "number": _text(5),
    "long": _own(text="x" * 65_537),
    "name": _own(name="no name\n"),
    "text": lambda *_: "you help",
    "items": lambda sections, _: ("you help", *sections[1:]),
    "many": lambda sections, own: (*sections, *(evolve(own, name=f"n{i}") for i in range(65))),
    "volatile": _own(volatile=True),
    "maybe": _own(volatile="maybe"),
    "drop": lambda sections, _: sections[1:],
    "swap": lambda sections, _: sections[::-1],
    "unstamped": lambda sections, _: [PromptSection(each.name, each.text) for each in sections],
}


def _insert(request: ModelInput, after: str, new: Message) -> list[Message]:
    places = [message.id for message in request.messages]
    return [*request.messages[: places.index(after) + 1], new, *request.messages[places.index(after) + 1 :]]


def _new(which: str, own: Message, request: ModelInput) -> Message:
    changes: dict[str, dict[str, Any]] = {
        "": {},
        "role": {"role": "tool"},
        "calls": {"tool_calls": request.messages[1].tool_calls},
        "answers": {"tool_call_id": "c1"},
        "empty": {"content": ""},
        "long": {"content": "x" * 65_537},
        "secret": {"id": "p1"},
        "volatile": {"volatile": True},
        "forged": {"metadata": {"sourcePlugin": "other", "note": 1}, "private": True, "id": "mine"},
    }
    return evolve(own, **changes[which])


_CHANGED: dict[str, dict[str, Any]] = {
    "redact": {"content": "***"},
    "number": {"content": 5},
    "surrogate": {"content": "a\ud800b"},
    "colour": {"content": "\x1b[1mred"},
    "forge": {"content": "***", "role": "user", "metadata": {"a": 1}, "tool_call_id": "c9"},
}

_MESSAGES: dict[str, Callable[[ModelInput, str, Message], Any]] = {
    "none": lambda *_: (),
    "items": lambda *_: ["hello"],
    "drop": lambda request, ids, _: [each for each in request.messages if each.id not in ids.split()],
    "swap": lambda request, *_: [request.messages[1], request.messages[0], *request.messages[2:]],
    "double": lambda request, *_: [*request.messages, request.messages[-1]],
    "last": lambda request, _, own: [*request.messages, evolve(own, role="assistant")],
    "between": _insert,
    "add": lambda request, which, own: [*request.messages, _new(which, own, request)],
    "many": lambda request, _, own: [*request.messages, *[own] * 65],
    "text": lambda request, which, _: [
        evolve(each, **_CHANGED[which]) if each.id == "t1" else each for each in request.messages
    ],
}


class ChangesInput(Plain):
    """Both transforms of the model's input; the text of the first section, or the setting `how`, says how."""

    @hookimpl
    async def ally_transform_system_prompt(self, sections: Any) -> Any:
        self.seen.append(["system_prompt", repr(sections), self.ally.session])
        own = PromptSection(self.ally.name, f"of {self.ally.name}")
        change = _SECTIONS.get(sections[0].text)
        if change is not None:
            return Replace(change(sections, own))
        act(sections[0].text)
        return Replace((*sections, own))

    @hookimpl
    def ally_transform_model_request(self, request: Any) -> Any:
        self.seen.append(["model_request", repr(request), self.ally.session])
        how, _, which = str(request.settings.get("how", "")).partition(" ")
        if how in _MESSAGES:
            own = Message(role="user", content=f"of {self.ally.name}")
            return Replace(evolve(request, messages=_MESSAGES[how](request, which, own)))
        match how:
            case "model":
                return Replace(evolve(request, model="other"))
            case "off":
                return Replace(evolve(request, settings={}))
            case "settings":
                settings = {"how": "settings", "temperature": 0.5, self.ally.name: [1, None], "both": self.ally.name}
                return Replace(evolve(request, settings=settings))
            case "nonsense":
                return Replace({"messages": []})
            case _:
                return act(how)
