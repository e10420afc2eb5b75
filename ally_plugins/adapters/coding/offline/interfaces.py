"""The four interfaces to models that coding agents speak: what a request holds, and a turn as each of them streams it.

Pure. Which turn it is follows from how many calls a request holds already, so that a request that comes twice is
answered twice the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from attrs import frozen

__all__ = ["INTERFACES", "Interface", "Said", "interface_of"]

_USAGE: Final = {"input_tokens": 10, "output_tokens": 1}


@frozen
class Said:
    """What the model says in one turn: a text, or a call of a tool."""

    text: str = ""
    tool: str = ""
    arguments: Mapping[str, Any] = {}
    call_id: str = ""
    namespace: str = ""
    """The group of tools that the tool stands in, for an interface that has them."""


class Interface(Protocol):
    """One interface; `path` is in the addresses of its requests."""

    path: str

    def tools(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Return the tools that a request offers, by name, each with its namespace or an empty text."""
        ...

    def calls(self, body: Mapping[str, Any]) -> list[str]:
        """Return the names of the tools that the model has called so far, in order."""
        ...

    def results(self, body: Mapping[str, Any]) -> list[str]:
        """Return what the model was given back for each call, in order."""
        ...

    def events(self, body: Mapping[str, Any], said: Said) -> Iterator[Mapping[str, Any] | str]:
        """Yield the events of a turn; a text stands for itself."""
        ...

    def whole(self, body: Mapping[str, Any], said: Said) -> Mapping[str, Any]:
        """Return a turn in one piece."""
        ...


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Messages:
    """Anthropic's Messages, of Claude Code."""

    path = "/messages"

    def tools(self, body: Mapping[str, Any]) -> dict[str, str]:
        return {str(tool.get("name")): "" for tool in _objects(body.get("tools"))}

    def _parts(self, body: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
        contents = [each.get("content") for each in _objects(body.get("messages"))]
        return [part for content in contents for part in _objects(content) if part.get("type") == kind]

    def calls(self, body: Mapping[str, Any]) -> list[str]:
        return [str(part.get("name")) for part in self._parts(body, "tool_use")]

    def results(self, body: Mapping[str, Any]) -> list[str]:
        return [_text(part.get("content")) for part in self._parts(body, "tool_result")]

    def _block(self, said: Said) -> dict[str, Any]:
        if not said.tool:
            return {"type": "text", "text": said.text}
        return {"type": "tool_use", "id": f"toolu_{said.call_id}", "name": said.tool, "input": dict(said.arguments)}

    def whole(self, body: Mapping[str, Any], said: Said) -> Mapping[str, Any]:
        return {
            "id": f"msg_{said.call_id or 'text'}", "type": "message", "role": "assistant", "model": body.get("model"),
            "content": [self._block(said)], "stop_reason": "tool_use" if said.tool else "end_turn",
            "stop_sequence": None, "usage": _USAGE,
        }  # fmt: skip

    def events(self, body: Mapping[str, Any], said: Said) -> Iterator[Mapping[str, Any]]:
        whole, block = self.whole(body, said), self._block(said)
        yield {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}
        if said.tool:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(dict(said.arguments))}
        else:
            start, delta = {**block, "text": ""}, {"type": "text_delta", "text": said.text}
        yield {"type": "content_block_start", "index": 0, "content_block": start}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
        yield {"type": "content_block_stop", "index": 0}
        end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        yield {"type": "message_delta", "delta": end, "usage": {"output_tokens": 1}}
        yield {"type": "message_stop"}


class _Responses:
    """OpenAI's Responses, of Codex."""

    path = "/responses"

    def tools(self, body: Mapping[str, Any]) -> dict[str, str]:
        found: dict[str, str] = {}
        for tool in _objects(body.get("tools")):
            if tool.get("type") == "namespace":
                found |= {str(inner.get("name")): str(tool.get("name")) for inner in _objects(tool.get("tools"))}
            else:
                found[str(tool.get("name") or tool.get("type"))] = ""
        return found

    def _items(self, body: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
        return [item for item in _objects(body.get("input")) if item.get("type") == kind]

    def calls(self, body: Mapping[str, Any]) -> list[str]:
        return [str(item.get("name")) for item in self._items(body, "function_call")]

    def results(self, body: Mapping[str, Any]) -> list[str]:
        return [_text(item.get("output")) for item in self._items(body, "function_call_output")]

    def _item(self, said: Said) -> dict[str, Any]:
        if not said.tool:
            content = [{"type": "output_text", "text": said.text, "annotations": []}]
            return {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": content}
        group = {"namespace": said.namespace} if said.namespace else {}
        return {
            "type": "function_call", "id": f"fc_{said.call_id}", "call_id": said.call_id, "name": said.tool,
            "arguments": json.dumps(dict(said.arguments)), "status": "completed", **group,
        }  # fmt: skip

    def whole(self, body: Mapping[str, Any], said: Said) -> Mapping[str, Any]:  # noqa: ARG002 - as the others
        usage = {**_USAGE, "input_tokens_details": {"cached_tokens": 0}, "total_tokens": 11,
                 "output_tokens_details": {"reasoning_tokens": 0}}  # fmt: skip
        head = {"id": f"resp_{said.call_id or 'text'}", "object": "response", "status": "completed"}
        return {**head, "output": [self._item(said)], "usage": usage}

    def events(self, body: Mapping[str, Any], said: Said) -> Iterator[Mapping[str, Any]]:
        whole, item = self.whole(body, said), self._item(said)
        yield {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}}
        yield {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}}
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}
        yield {"type": "response.completed", "response": whole}


class _Chat:
    """OpenAI's Chat Completions, of Copilot CLI, opencode, pi and Goose."""

    path = "/chat/completions"

    def tools(self, body: Mapping[str, Any]) -> dict[str, str]:
        return {str(tool["function"].get("name")): "" for tool in _objects(body.get("tools")) if "function" in tool}

    def calls(self, body: Mapping[str, Any]) -> list[str]:
        made = [call for each in _objects(body.get("messages")) for call in _objects(each.get("tool_calls"))]
        return [str(call["function"]["name"]) for call in made]

    def results(self, body: Mapping[str, Any]) -> list[str]:
        return [_text(each.get("content")) for each in _objects(body.get("messages")) if each.get("role") == "tool"]

    def _message(self, said: Said) -> dict[str, Any]:
        if not said.tool:
            return {"role": "assistant", "content": said.text}
        function = {"name": said.tool, "arguments": json.dumps(dict(said.arguments))}
        return {"role": "assistant", "content": None,
                "tool_calls": [{"index": 0, "id": said.call_id, "type": "function", "function": function}]}  # fmt: skip

    def _head(self, body: Mapping[str, Any], said: Said, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{said.call_id or 'text'}", "created": 1, "model": body.get("model"), "object": kind}

    def whole(self, body: Mapping[str, Any], said: Said) -> Mapping[str, Any]:
        usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
        choice = {"index": 0, "message": self._message(said), "finish_reason": "tool_calls" if said.tool else "stop"}
        return {**self._head(body, said, "chat.completion"), "choices": [choice], "usage": usage}

    def events(self, body: Mapping[str, Any], said: Said) -> Iterator[Mapping[str, Any] | str]:
        head = self._head(body, said, "chat.completion.chunk")
        yield {**head, "choices": [{"index": 0, "delta": self._message(said), "finish_reason": None}]}
        reason = "tool_calls" if said.tool else "stop"
        yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        yield {**head, "choices": [], "usage": self.whole(body, said)["usage"]}
        yield "[DONE]"


class _Gemini:
    """Google's generateContent, of Gemini CLI."""

    path = "enerateContent"

    def tools(self, body: Mapping[str, Any]) -> dict[str, str]:
        groups = [_objects(tool.get("functionDeclarations")) for tool in _objects(body.get("tools"))]
        return {str(each.get("name")): "" for group in groups for each in group}

    def _parts(self, body: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
        parts = [part for each in _objects(body.get("contents")) for part in _objects(each.get("parts"))]
        return [part[kind] for part in parts if isinstance(part.get(kind), dict)]

    def calls(self, body: Mapping[str, Any]) -> list[str]:
        return [str(call.get("name")) for call in self._parts(body, "functionCall")]

    def results(self, body: Mapping[str, Any]) -> list[str]:
        return [_text(each.get("response")) for each in self._parts(body, "functionResponse")]

    def whole(self, body: Mapping[str, Any], said: Said) -> Mapping[str, Any]:  # noqa: ARG002 - as the others
        part: dict[str, Any] = {"text": said.text}
        if said.tool:
            part = {"functionCall": {"name": said.tool, "args": dict(said.arguments), "id": said.call_id}}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 1, "totalTokenCount": 11}
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "scripted"}

    def events(self, body: Mapping[str, Any], said: Said) -> Iterator[Mapping[str, Any]]:
        yield self.whole(body, said)


INTERFACES: Final[tuple[Interface, ...]] = (_Messages(), _Responses(), _Chat(), _Gemini())


def interface_of(path: str) -> Interface | None:
    """Return the interface that a request's address, without its query, is of."""
    return next((each for each in INTERFACES if each.path in path and "count" not in path.lower()), None)
