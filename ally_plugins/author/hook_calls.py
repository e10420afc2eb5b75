"""One call of a hook in the plugins of a host, and what came of it, for `hooks test`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.values.errors import GateRefused
from ally_plugins.contract.values.eventjson import event_data, event_from_params
from ally_plugins.contract.values.events import EVENT_TYPES, Event, PluginEvent
from ally_plugins.replay.daemon_waits import wait_for_calls
from ally_plugins.runtime.lanes.dispatch import HookCall
from ally_plugins.wire.values import (
    call_from_wire,
    call_to_wire,
    message_from_wire,
    message_to_wire,
    model_input_from_wire,
    model_input_to_wire,
    request_from_wire,
    request_to_wire,
    result_from_wire,
    result_to_wire,
    sections_from_wire,
    sections_to_wire,
    stop_from_wire,
    stop_to_wire,
)

from .samples import sample_events

if TYPE_CHECKING:
    from ally_plugins.contract.hookspecs import HookInfo
    from ally_plugins.host.host import Host
    from ally_plugins.host.sessions.session import Session
    from ally_plugins.policy.verdicts import Vote

__all__ = ["call_hook"]

_CALL: Final = {"toolName": "bash", "arguments": {"command": "ls -la"}, "callId": "c1"}
_MESSAGE: Final = {"role": "user", "content": "hello", "id": "m1"}
_ANSWER: Final = {"role": "assistant", "content": "Done: the tests pass.", "id": "m2"}
_SAMPLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "tool_call": {"call": _CALL},
    "tool_input": {"call": _CALL},
    "tool_output": {"call": _CALL, "result": {"success": True, "output": "three files"}},
    "permission": {"request": {"requestId": "r1", "toolName": "bash", "arguments": {"command": "ls -la"}}},
    "message": {"message": _MESSAGE},
    "user_message": {"message": _MESSAGE},
    "plugin_message": {"message": _MESSAGE},
    "answer": {"message": _ANSWER},
    "stop": {"stop": {"reason": "stop", "answer": "done"}},
    "system_prompt": {"sections": [{"name": "identity", "text": "You are a careful assistant."}]},
    "model_request": {"request": {"model": "model", "messages": [_MESSAGE], "settings": {}}},
}
_READERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "call": call_from_wire, "result": result_from_wire, "message": message_from_wire, "stop": stop_from_wire,
    "sections": sections_from_wire,
}  # fmt: skip
_OTHER: Final = "other"
"""The plugin whose message a gate or a transform of messages is shown."""


async def call_hook(host: Host, info: HookInfo, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Start the host, call one hook with a payload or a sample, and return what came of it, as JSON values.

    Raises EventError for a payload that is not the hook's, and what `Host.start` raises. Cancelling stops the host.
    """
    events: list[Event] = []
    host.stream.subscribe("*", events.append)
    async with host:
        session = host.session()
        await host.services.settle(session.id)
        await _settle(host, session)
        before = len(events)
        result = await (_observe if info.kind == "observe" else _ask)(host, session, info, given)
        await _settle(host, session)
        await host.journal.flush()
        failures = [
            f"{record.plugin}: {(record.data or {}).get('hook', '')} {(record.data or {}).get('error', '')}"
            for record in host.journal.reader.records(kind="crash")
        ]
        failures += [f"{plugin.name} is {plugin.state}: {plugin.reason}" for plugin in host.plugins.values()
                     if not plugin.is_running]  # fmt: skip
        messages = [
            {"plugin": each.plugin, "role": each.message.role, "content": each.message.content}
            for each in session.inbox.all()
        ]
    emitted = [each for each in events[before:] if isinstance(each, PluginEvent)]
    return {
        "hook": info.name,
        "kind": info.kind,
        "verdict": None,
        "reason": "",
        "value": None,
        **result,
        "messages": messages,
        "events": [{"plugin": each.event_type.partition(":")[0], "type": each.event_type} for each in emitted],
        "failures": failures,
    }


async def _settle(host: Host, session: Session) -> None:
    await session.drained()
    await wait_for_calls(host)


async def _observe(host: Host, session: Session, info: HookInfo, given: Mapping[str, Any] | None) -> dict[str, Any]:
    event = _event(info, given)
    heard = [plugin.name for plugin in host.plugins.values() if plugin.is_running and _hears(plugin, info, event)]
    session.emit(event)
    await session.drained()
    return {
        "payload": event_data(event),
        "answers": [{"plugin": name, "answer": "received it", "reason": "", "ms": None} for name in heard],
    }


def _hears(plugin: Any, info: HookInfo, event: Event) -> bool:
    return plugin.grants.receives(event.type) and bool({info.name, "ally_event"}.intersection(plugin.implementations))


def _event(info: HookInfo, given: Mapping[str, Any] | None) -> Event:
    event_type = info.event_type if info.event_type in EVENT_TYPES else "TOOL_CALL_END"
    if given is None:
        same = [event for event in sample_events() if event.type == event_type]
        return same[1] if len(same) > 1 else same[0]  # the least, the usual, the odd
    params = {"event_type": event_type, "event_data": dict(given), "seq": 1, "timestamp": 0, "session_id": "s1",
              "origin": []}  # fmt: skip
    event = event_from_params(params)
    assert event is not None  # noqa: S101 - its type is known
    return event


async def _ask(host: Host, session: Session, info: HookInfo, given: Mapping[str, Any] | None) -> dict[str, Any]:
    topic = str(info.topic)
    payload = dict(given) if given is not None else dict(_SAMPLES[topic])
    of_request = model_input_from_wire if topic == "model_request" else request_from_wire
    reader: Mapping[str, Callable[[Any, str], Any]] = {**_READERS, "request": of_request}
    values: dict[str, Any] = {name: reader[name](value, name) for name, value in payload.items() if name in reader}
    missing = [name for name in _SAMPLES[topic] if name not in values]
    if missing:
        from ally_plugins.contract.values.errors import EventError

        raise EventError(f"the payload of {info.name!r} lacks {missing[0]!r}", path=missing[0])
    call = values.get("call")
    question = HookCall(hook=info.name, session_id=session.id, tool=call.tool_name if call is not None else None)
    asked = [plugin.name for plugin in host.services.dispatcher.participants(question)]
    return {"payload": payload, **await _answered(session, info, values, asked)}


async def _answered(session: Session, info: HookInfo, values: Mapping[str, Any], asked: list[str]) -> dict[str, Any]:
    if info.kind == "gate":
        ask: Mapping[str, Callable[..., Awaitable[Any]]] = {
            "message": lambda message: session.gates.gate_message(message, _OTHER, ()),
            "tool_call": session.gate_tool_call, "permission": session.gate_permission,
            "user_message": session.gate_user_message, "answer": session.gate_answer, "stop": session.gate_stop,
        }  # fmt: skip
        ruling = await ask[str(info.topic)](*values.values())
        votes = [
            {"plugin": vote.plugin, "answer": _word(vote.verdict), "ms": vote.elapsed_ms,
             "reason": _reason(vote)}
            for vote in ruling.votes
        ]  # fmt: skip
        return {"verdict": _word(ruling.verdict), "reason": ruling.reason, "answers": votes}
    before = _written(info, values)
    try:
        after = _written(info, await _transformed(session, info, values))
    except GateRefused as refusal:
        return {"verdict": "deny", "reason": str(refusal), "answers": _rows(asked, "was asked")}
    return {"value": after, "answers": _rows(asked, "was asked" if after == before else "was asked, and it is changed")}


def _reason(vote: Vote) -> str:
    return getattr(vote.verdict, "reason", "") if vote.cause == "verdict" else f"{vote.cause} {vote.detail}".rstrip()


def _rows(plugins: list[str], answer: str) -> list[dict[str, Any]]:
    return [{"plugin": name, "answer": answer, "reason": "", "ms": None} for name in plugins]


async def _transformed(session: Session, info: HookInfo, values: Mapping[str, Any]) -> dict[str, Any]:
    run: Mapping[str, tuple[str, Callable[..., Awaitable[Any]]]] = {
        "tool_input": ("call", session.transform_tool_input),
        "tool_output": ("result", session.transform_tool_output),
        "user_message": ("message", session.transform_user_message),
        "answer": ("message", session.transform_answer),
        "system_prompt": ("sections", session.transform_system_prompt),
        "model_request": ("request", session.transform_model_request),
    }
    if info.topic == "plugin_message":
        done = await session.gates.transform_plugin_message(values["message"], _OTHER, ())
        if done.blocked_by is not None:
            raise GateRefused(done.reason, plugin=done.blocked_by)
        return {**values, "message": done.value}
    name, transform = run[str(info.topic)]
    return {**values, name: await transform(*values.values())}


def _written(info: HookInfo, values: Mapping[str, Any]) -> dict[str, Any]:
    write: Mapping[str, Callable[[Any], Any]] = {
        "call": call_to_wire, "result": result_to_wire, "message": message_to_wire, "stop": stop_to_wire,
        "sections": sections_to_wire,
        "request": model_input_to_wire if info.topic == "model_request" else request_to_wire,
    }  # fmt: skip
    return {name: write[name](value) for name, value in values.items()}


def _word(verdict: Any) -> str:
    return "abstains" if verdict is None else type(verdict).__name__.lower()
