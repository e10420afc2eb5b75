"""One or more of every event, tool call and model input: the least that each may hold, what is usual, and what is odd.

All values are fixed, so that a check that feeds them twice can compare what came of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs

from ally_plugins.contract.values.conversation import Message, ModelInput, PromptSection, ToolCall
from ally_plugins.contract.values.events import EVENT_TYPES, ContextThreshold, Event, PluginEvent
from ally_plugins.contract.values.frozen import freeze_mapping

__all__ = ["LARGE_TEXT", "sample_calls", "sample_events", "sample_inputs", "sample_prompts"]

LARGE_TEXT: Final = "The quick brown fox jumps over 13 lazy dogs; key=value, path=/usr/lib/python3/x.py\n" * 3_000
"""A quarter of a megabyte, as a long build log has."""

_ODD: Final = "ünïcödé \u202e \U0001f600 'quoted' \"twice\" {braces} %s \\n\ttab"

_USUAL: Final[dict[str, dict[str, Any]]] = {
    "tool_name": {"usual": "bash", "odd": _ODD},
    "arguments": {"usual": {"command": "ls -la"}, "odd": {_ODD: [None, True, 0, -1.5, {"deep": [[[["x"]]]]}]}},
    "result": {"usual": {"success": False, "error": "no such file"}, "odd": {"": [{}, [], None]}},
    "context_usage": {"usual": 76.0, "odd": 100.0},
    "threshold": {"usual": 75.0, "odd": 90.0},
    "todos": {
        "usual": ({"id": "1", "task": "write tests", "status": "pending"},),
        "odd": ({}, "no mapping", None, {"id": 7, "task": None, "status": "unheard of"}),
    },
    "message": {"usual": {"role": "user", "content": "hello"}, "odd": {"content": None}},
    "data": {"usual": {"n": 1}, "odd": {"x": [None]}},
    "tools": {"usual": ({"toolName": "bash", "arguments": {}},), "odd": ("no mapping",)},
    "ranges": {"usual": ((3, 9),), "odd": ()},
    "decided_by": {"usual": ("other",), "odd": ()},
    "options": {"usual": ("allow", "deny"), "odd": (None, 3)},
    "event_type": {"usual": "other:news", "odd": "other:news"},
    "plugin_name": {"usual": "other", "odd": "other"},
}
_TEXTS: Final = {"usual": "some text", "odd": _ODD}
_NUMBERS: Final = {"usual": 3, "odd": 10**12}
_ENVELOPE: Final = frozenset({"call_id", "agent_id", "parent_id", "turn_id", "extra"})


def sample_events() -> Iterator[Event]:
    """Yield events of every type, three each: the least, the usual, the odd; and a short session with a loop in it."""
    for kind in EVENT_TYPES.values():
        yield _make(kind, None)
        yield _make(kind, "usual", call_id="c1")
        yield _make(kind, "odd", agent_id=_ODD, parent_id="p1")
    yield PluginEvent(event_type="other:news", data=freeze_mapping({"n": 1}))
    yield from _loop()


def _loop() -> Iterator[Event]:
    """Yield the same failing call, six times, and a context that fills up."""
    start, end, usage = (EVENT_TYPES[name] for name in ("TOOL_CALL_START", "TOOL_CALL_END", "CONTEXT_USAGE_UPDATE"))
    for i in range(6):
        fields: Any = {"tool_name": "bash", "call_id": f"loop{i}"}
        yield start(arguments=freeze_mapping({"command": "pytest"}), **fields)  # type: ignore[call-arg]
        yield end(success=False, error="exit code 4", **fields)  # type: ignore[call-arg]
        yield usage(context_usage=40.0 + 10 * i)  # type: ignore[call-arg]


def sample_calls() -> Iterator[ToolCall]:
    """Yield tool calls: without arguments, the usual, nested, large and odd ones."""
    yield ToolCall("bash")
    yield ToolCall("bash", freeze_mapping({"command": "pytest"}), "g1")
    yield ToolCall("write", freeze_mapping({"file_path": "/tmp/x", "content": LARGE_TEXT}), "g2", "a1")  # noqa: S108
    yield ToolCall("search", freeze_mapping({"queries": [{"text": _ODD, "tags": [[], {}, None]}], "n": 10**12}), "g3")
    yield ToolCall(_ODD, freeze_mapping({"": "", _ODD: [True, False, None, 0.1]}), _ODD, _ODD)


def sample_prompts() -> Iterator[tuple[PromptSection, ...]]:
    """Yield system prompts: the usual, with another plugin's section, a large and an odd one."""
    yield (PromptSection("identity", "You are a careful assistant."),)
    yield PromptSection("identity", "You help."), PromptSection("notes", "Tests live in tests/.", "other")
    yield PromptSection(_ODD, _ODD), PromptSection("large", LARGE_TEXT), PromptSection("empty", "")


def sample_inputs() -> Iterator[ModelInput]:
    """Yield what a model may be asked: nothing, a question, a step after parallel tool calls, large and odd texts."""
    yield ModelInput()
    yield ModelInput("model", (Message(role="user", content="hello", id="u1"),), freeze_mapping({"temperature": 0.5}))
    first, second, *_ = sample_calls()
    calls: Any = (attrs.evolve(first, call_id="g0"), second)
    yield ModelInput(
        "model",
        (
            Message(role="user", content=_ODD, id="u1"),
            Message(role="assistant", content="", id="a1", tool_calls=calls),
            Message(role="tool", content=LARGE_TEXT, id="t1", tool_call_id="g0"),
            Message(role="tool", content="", id="t2", tool_call_id="g1"),
            Message(role="user", content="go on", id="u2", metadata={"sourcePlugin": "other"}),
        ),
        freeze_mapping({"max_tokens": 10, "stop": [_ODD], "extra": {"deep": [None]}}),
    )


def _make(kind: type[Event], flavour: str | None, **envelope: Any) -> Event:
    given: dict[str, Any] = {}
    for each in attrs.fields(kind):
        is_needed = each.default is attrs.NOTHING
        is_of_one = kind is ContextThreshold and each.name == "plugin_name"  # that one alone would receive it
        if each.init and each.name not in _ENVELOPE and not is_of_one and (flavour is not None or is_needed):
            given[each.name] = _value(each, flavour or "usual")
    return kind(**given, **envelope)


def _value(each: Any, flavour: str) -> Any:
    kind = str(each.type)
    if (usual := _USUAL.get(each.name)) is not None and ("str" not in kind or isinstance(usual[flavour], str)):
        return usual[flavour]
    if "bool" in kind:
        return flavour == "odd"
    if "int" in kind or "float" in kind:
        return _NUMBERS[flavour]
    return _TEXTS[flavour] if "str" in kind or "Any" in kind else None
