"""What gates and transforms answer, as JSON and back.

They are `null`, `{verdict, reason?, sensitive?}` and `{replace: {changed fields}}`.

Each end fails closed: what a plugin returned and JSON cannot represent is sent as `{nonsense: what it was}`, and what
is no answer is a PluginError at the host, with the text that an inline plugin's would get. Whether the changed fields
may change is left to `policy.arguments`, `policy.model_input` and `policy.prompt_sections`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeVar

import attrs

from ally_plugins.contract.shapes import described_json
from ally_plugins.contract.values.codec import encode
from ally_plugins.contract.values.conversation import Message, ModelInput, PromptSection, ToolCall, ToolResult
from ally_plugins.contract.values.errors import PluginError
from ally_plugins.contract.values.eventjson import camel
from ally_plugins.contract.values.verdicts import Allow, Ask, Deny, Replace, Verdict, describe_answer
from ally_plugins.contract.wording import suggest

from .inputs import input_changes, input_from_changes, section_changes, sections_from_changes
from .values import call_to_wire, message_to_wire, result_to_wire

__all__ = ["replacement_from_wire", "replacement_to_wire", "verdict_from_wire", "verdict_to_wire"]

V = TypeVar("V", Message, ToolCall, ToolResult, ModelInput, tuple[PromptSection, ...])

_WRITERS: Final[dict[type, Any]] = {Message: message_to_wire, ToolCall: call_to_wire, ToolResult: result_to_wire}
_LONGEST_WORD: Final = 200  # characters of a daemon's own description of its nonsense
_EXPECTED_VERDICT: Final = "expected Allow(), Ask(reason), Deny(reason) or None"
_EXPECTED_REPLACEMENT: Final = "expected Replace(value) or None"


def verdict_to_wire(value: Any) -> dict[str, Any] | None:
    """Return what a gate returned as it is sent; anything at all may be given, so that nonsense arrives as such."""
    if value is None:
        return None
    # By exact type throughout: a subclass may be anything, and is nonsense as it would be inline.
    if type(value) is Allow:
        return {"verdict": "allow"}
    if type(value) is Ask or type(value) is Deny:
        reason = value.reason
        kind = type(value).__name__
        if type(reason) is str and not _has_surrogate(reason):
            return {"verdict": kind.lower(), "reason": reason, **_sensitivity(value)}
        if type(reason) is str:
            return {"nonsense": f"{kind} with a reason that has a lone surrogate, which no UTF-8 can say"}
        return {"nonsense": f"{kind} with a reason of the type {type(reason).__name__}"}
    return {"nonsense": describe_answer(value)}


def _sensitivity(value: Ask | Deny) -> dict[str, bool]:
    return {"sensitive": True} if type(value) is Deny and value.sensitive else {}


def verdict_from_wire(value: Any) -> Verdict | None:
    """Return the verdict that a daemon answered, None for an abstention.

    Raises PluginError for anything else; such an answer is nonsense, which denies. The reason's text is for
    `policy.verdicts.read_verdict` to check, as any other.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise PluginError(f"the gate returned {described_json(value)}; {_EXPECTED_VERDICT}")
    _refuse_nonsense(value, "gate", _EXPECTED_VERDICT)
    _refuse_unknown(value, ("verdict", "reason", "sensitive"), "the gate's answer")
    word, sensitive = value.get("verdict"), value.get("sensitive", False)
    if type(sensitive) is not bool or (sensitive and word != "deny"):
        raise PluginError(
            f"the gate's sensitive is {described_json(sensitive)}; expected true, with the verdict 'deny'"
        )
    if word == "deny":
        return Deny(value.get("reason"), sensitive=sensitive)  # type: ignore[arg-type]  # as below
    if word == "allow":
        return Allow()
    if word == "ask":
        return Ask(value.get("reason"))  # type: ignore[arg-type]  # `read_verdict` says what is wrong
    found = repr(word[:20]) if isinstance(word, str) else described_json(word)
    raise PluginError(f"the gate's verdict is {found}; expected 'allow', 'ask', 'deny', or null for the answer")


def replacement_to_wire(old: V, value: Any) -> dict[str, Any] | None:
    """Return what a transform of `old` returned as it is sent: the fields that differ; nonsense arrives as such."""
    if value is None:
        return None
    if type(value) is not Replace:
        return {"nonsense": describe_answer(value)}
    new = tuple(value.value) if type(old) is tuple and type(value.value) is list else value.value
    if type(new) is not type(old):
        return {"replace": None, "nonsense": type(new).__name__}
    what = "list of sections" if isinstance(new, tuple) else type(new).__name__
    try:
        changes = _changes(old, new)
    # A plugin may put anything into a field of a replacement: it is its nonsense, and reaches the host as that.
    except (TypeError, AttributeError):
        return {"nonsense": f"a {what} with a field that JSON cannot say"}
    for key, text in _texts(changes):
        if type(text) is str and _has_surrogate(text):  # it would arrive as another text, which nobody meant
            return {"nonsense": f"a {what} whose {key} has a lone surrogate, which no UTF-8 can say"}
    return {"replace": changes}


def _changes(old: Any, new: Any) -> dict[str, Any]:
    if isinstance(new, tuple):
        return section_changes(new)
    if isinstance(new, ModelInput):
        return input_changes(old, new, _differ)
    # As they are sent, since only what the wire can show counts as changed.
    before, after = _WRITERS[type(old)](old), _WRITERS[type(old)](new)
    return {key: after.get(key) for key in {**before, **after} if _differ(before, after, key)}


def _texts(changes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a replacement, and those of the messages and sections in it."""
    for key, value in changes.items():
        if key in {"messages", "sections"} and isinstance(value, list):
            for item in value:
                yield from item.items()
        else:
            yield key, value


def replacement_from_wire(old: V, value: Any) -> Replace[V] | None:
    """Return the replacement that a daemon answered, its fields on top of `old`'s; None for no change.

    Raises PluginError for anything else, EventError for a field that no value of this kind can hold.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise PluginError(f"the transform returned {described_json(value)}; {_EXPECTED_REPLACEMENT}")
    # Before the nonsense alone: a Replace of a wrong kind is to read as an inline plugin's would.
    if "replace" in value and "nonsense" in value:
        raise PluginError(_wrong_kind(old, _nonsense_text(value["nonsense"])))
    _refuse_nonsense(value, "transform", _EXPECTED_REPLACEMENT)
    _refuse_unknown(value, ("replace",), "the transform's answer")
    fields = value.get("replace")
    if not isinstance(fields, dict):
        raise PluginError(_wrong_kind(old, described_json(fields)))
    if isinstance(old, tuple):
        _refuse_unknown(fields, ("sections",), "the transform's `replace`")
        sections: Any = sections_from_changes(fields)
        return Replace(sections)
    names = {camel(a.name): a.name for a in attrs.fields(type(old))}
    _refuse_unknown(fields, tuple(names), "the transform's `replace`")
    if isinstance(old, ModelInput):
        request: Any = input_from_changes(old, fields)
        return Replace(request)
    changes: dict[str, Any] = {names[key]: item for key, item in fields.items()}
    changes.pop("tool_calls", None)  # of a message: only its content counts, as with an inline plugin's
    return Replace(attrs.evolve(old, **changes))


def _differ(before: dict[str, Any], after: dict[str, Any], key: str) -> bool:
    """Return whether a field was changed, be it from 1 to true, which Python calls equal."""
    old, new = before.get(key), after.get(key)
    if old is new:
        return False
    # Texts may be large, and need no encoding to be compared.
    if type(old) is str and type(new) is str:
        return old != new
    return encode(old) != encode(new)


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _refuse_nonsense(value: dict[str, Any], kind: str, expected: str) -> None:
    if "nonsense" in value:
        raise PluginError(f"the {kind} returned {_nonsense_text(value['nonsense'])}; {expected}")


def _refuse_unknown(value: dict[str, Any], valid: tuple[str, ...], what: str) -> None:
    for key in value:
        if key not in valid:
            raise PluginError(f"{what} has {key[:40]!r}, {suggest(key, valid)}")


def _wrong_kind(old: object, found: str) -> str:
    if isinstance(old, tuple):
        return f"the transform replaced the sections by {found}; use Replace((*sections, PromptSection(...)))"
    return f"the transform replaced a {type(old).__name__} by {found}; use evolve(value, field=...)"


def _nonsense_text(value: object) -> str:
    """Return a daemon's own description of its nonsense, as far as it is one line."""
    # The peer's own words: nothing in them may act on a terminal or begin a line of a log.
    if isinstance(value, str) and value.isprintable():
        return value[:_LONGEST_WORD]
    return "something else"
