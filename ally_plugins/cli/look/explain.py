"""`explain`: everything that led to one message, decision, event, action or task, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.fleet_records import fleet_options, fleet_records
from ally_plugins.cli.shell.journal_rows import reading_of, record_data, record_row, summary
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import columns, echo_pages, inert, paint, preview, print_json, when
from ally_plugins.contract.values.errors import NotFoundRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ally_plugins.cli.shell.state import State
    from ally_plugins.fleet.store import FleetStore
    from ally_plugins.journal.explanation import Explanation, RecordSource
    from ally_plugins.journal.reader import JournalReader
    from ally_plugins.journal.receipts import Received
    from ally_plugins.journal.values import StoredEvent, StoredMessage, StoredRecord

__all__ = ["explain", "explain_lines", "explanation_data", "received_data"]

_EXPECTED: Final = "expected a message (m-...), decision (d-...), action (a-...), task (t-...) or event (SESSION:SEQ)"
_MANY_EVENTS: Final = 200_000
"""Events of a session that are searched for those of one tool call; some 0.2 s."""


@command("explain")
@click.argument("id_", metavar="ID")
@fleet_options
def explain(state: State, id_: str, fleet_place: str | None, fleet_home: str | None) -> None:
    """Say in one sentence why ID is there, then show everything that led to it.

    That is the events, the chain of plugins, the permission, the votes, and what became of it.

    ID is a message (m-...), a decision (d-...), an action (a-...), a task (t-...) or an event (SESSION:SEQ), as `audit`
    shows them. With --fleet it is looked for at all homes; where several have it, --fleet-home says which is meant.

    \b
    Example:
      ally-plugins explain m-5f0c9a1b2d-7
      ally-plugins explain s-5f0c9a1b2d-1:12
      ally-plugins explain d-5f0c9a1b2d-3 --fleet fleet.db
    """
    from ally_plugins.journal import explanation

    with fleet_records(fleet_place, fleet_home) as store:
        if store is not None:
            _explain_of_fleet(state, store, id_, fleet_home)
            return
    with reading_of(state.home) as reading:
        found = explanation.explain(reading, id_) if reading is not None else None
        if reading is None or found is None:
            raise NotFoundRefused(
                f"the journal knows nothing of {id_!r}; {_EXPECTED}, as `ally-plugins audit` shows them"
            )
        calls = _events_of_call(reading, found)
    if state.as_json:
        print_json(_data(found, calls))
        return
    echo_pages(_lines(found, calls))


def _explain_of_fleet(state: State, store: FleetStore, id_: str, home: str | None) -> None:
    """Print what led to something at the one home that has it.

    Raises NotFoundRefused where none has it, or its content stayed there, UsageError where several have it.
    """
    from ally_plugins.fleet.readings import chains_with
    from ally_plugins.journal import explanation

    chains = chains_with(store, id_, home)
    if not chains:
        who = "no home of the fleet" if home is None else f"the home {home!r}"
        text = f"{who} has sent anything of {id_!r}" if home is None else f"{who} has sent nothing of {id_!r}"
        raise NotFoundRefused(f"{text}; {_EXPECTED}, as `ally-plugins audit --fleet` shows them")
    if len(chains) > 1:
        names = ", ".join(each.home for each in chains)
        raise click.UsageError(f"{len(chains)} homes have {id_!r}: {names}; say which is meant with --fleet-home NAME")
    [reading] = chains
    try:
        found = explanation.explain(reading, id_)
        calls = _events_of_call(reading, found) if found is not None else []
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # by another version, or by who means harm
        raise NotFoundRefused(f"what {reading.home!r} has sent of {id_!r} cannot be read: {error}") from error
    if found is None or not _has_content(found):
        why_not = "its level in fleet.toml keeps that there, or it was pruned"
        text = f"{reading.home!r} has sent {id_!r} without its content: {why_not}"
        raise NotFoundRefused(f"{text}; ask on that machine: ally-plugins explain {id_}")
    if state.as_json:
        print_json({"home": reading.home, **_data(found, calls)})
        return
    echo_pages([f"at {inert(reading.home)}: {line}" if not number else line
                for number, line in enumerate(_lines(found, calls))])  # fmt: skip


def _has_content(found: Explanation) -> bool:
    if found.message is not None:
        return found.message.body is not None
    return found.event is not None or (found.record is not None and found.record.data is not None)


def explain_lines(reading: JournalReader, id_: str, session_id: str) -> list[str] | None:
    """Return what led to one thing of a session as lines for people, None when the journal does not have it."""
    from ally_plugins.journal import explanation

    found = explanation.explain(reading, id_, session_id=session_id)
    return list(_lines(found, _events_of_call(reading, found))) if found is not None else None


def explanation_data(reading: JournalReader, id_: str, session_id: str) -> dict[str, Any] | None:
    """Return what led to one thing of a session as JSON values, None when the journal does not have it."""
    from ally_plugins.journal import explanation

    found = explanation.explain(reading, id_, session_id=session_id)
    return _data(found, _events_of_call(reading, found)) if found is not None else None


def _events_of_call(reading: RecordSource, found: Explanation) -> list[StoredEvent]:
    """Return the events of the tool call that a decision is about; its cause is the call and no event."""
    record = found.record
    call_id = (record.data or {}).get("cause") if record is not None else None
    if record is None or record.session_id is None or not isinstance(call_id, str) or found.causes:
        return []
    events = []
    for number, event in enumerate(reading.events(record.session_id)):
        if number > _MANY_EVENTS:
            break
        # The bytes are searched first: reading the JSON of every event of a session would take many times as long.
        if call_id.encode() in event.written and event.value().get("call_id") == call_id:
            events.append(event)
    return events


def _lines(found: Explanation, calls: list[StoredEvent]) -> Iterator[str]:
    yield why(found)
    yield ""
    yield from _thing(found)
    if chain := _chain(found):
        yield from _part("chain of plugins", [" > ".join(map(inert, chain))])
    yield from _part("what led here", columns([_event_row(event) for event in (*found.causes, *calls)]))
    yield from _part("permission", _permission(found))
    yield from _part("decisions", [line for record in _decisions(found) for line in _decision(record)])
    yield from _part("who received it", columns(list(_received(found))))
    others = [record for record in found.related if record.kind != "decision"]
    yield from _part("what else names it", columns([record_row(record) for record in others]))


def why(found: Explanation) -> str:
    """Return in one inert sentence why it is there, or came out as it did."""
    if found.message is not None:
        return inert(_why_message(found, found.message))
    record = found.record
    if record is not None and record.kind == "decision" and record.data is not None:
        return inert(_why_decision(record.data))
    if record is not None:
        who = f"{record.plugin}: " if record.plugin else ""
        content = f", {summary(record)}" if record.data is not None else ", whose content was pruned"
        return inert(f"{who}{record.kind.replace('_', ' ')}{content}{_after(found)}.")
    event = found.event
    by = "what plugins led to" if event is not None and event.origin else "the agent or the host"
    return inert(f"{event.type if event is not None else 'It'} was emitted by {by}{_after(found)}.")


def _why_message(found: Explanation, message: StoredMessage) -> str:
    permission = (message.body or {}).get("permission")
    allowed = f", which {permission} allows" if permission else ""
    became = "waits to be delivered" if message.state == "pending" else f"was {message.state.replace('_', ' ')}"
    return f"{message.plugin} added this message{_after(found)}{allowed}; it {became}."


def _after(found: Explanation) -> str:
    """Return what made a plugin act, as the end of a sentence; empty where nothing is recorded of that."""
    if not found.causes:
        return ""
    cause = found.causes[-1]
    value = cause.value()
    data = value.get("event_data", value) if isinstance(value, dict) else {}
    tool = data.get("tool_name") or data.get("toolName") if isinstance(data, dict) else None
    return f" after {cause.type}{f' of {tool}' if isinstance(tool, str) else ''}"


def _why_decision(data: dict[str, Any]) -> str:
    what, verdict = f"{data.get('kind')} of {data.get('subject')}", data.get("verdict")
    by = ", ".join(map(str, data.get("decided_by") or ())) or "the host"
    votes = [vote for vote in data.get("votes") or () if isinstance(vote, dict)]
    reason = f": {data['reason']}" if data.get("reason") else ""
    if verdict == "deny":
        failed = [
            vote for vote in votes if vote.get("verdict") == "deny" and not _is_answer(vote) and not vote.get("shadow")
        ]
        how = f", since {failed[0].get('plugin')} gave no answer ({failed[0].get('cause')})" if failed else ""
        return f"{what} was denied by {by}{how}{reason}".rstrip(".") + "."
    if verdict == "ask":
        return f"{what} was put to the person by {by}{reason}".rstrip(".") + "."
    shadows = sum(bool(vote.get("shadow")) and vote.get("verdict") == "deny" for vote in votes)
    only_watched = f"; {shadows} that only watch would have denied it" if shadows else ""
    asked = f"{len(votes)} gate{'' if len(votes) == 1 else 's'} had nothing against it"
    return f"{what} was allowed, since {by + ' said so' if data.get('decided_by') else asked}{only_watched}."


def _is_answer(vote: dict[str, Any]) -> bool:
    return vote.get("cause") in {None, "", "verdict"}


def _part(title: str, lines: Iterable[str]) -> Iterator[str]:
    shown = list(lines)
    if shown:
        yield ""
        yield paint(title, bold=True)
        yield from (f"  {line}" for line in shown)


def _thing(found: Explanation) -> Iterator[str]:
    if found.message is not None:
        yield from _message(found.message)
    elif found.record is not None:
        record = found.record
        who = f" of {inert(record.plugin)}" if record.plugin else ""
        yield paint(f"{inert(record.kind)} {inert(found.id)}{who}", bold=True)
        yield f"  {summary(record)}"
        yield f"  recorded {when(record.at)} as record {record.n}, session {inert(record.session_id or '-')}"
    elif found.event is not None:
        event = found.event
        yield paint(f"event {inert(found.id)}: {inert(event.type)}", bold=True)
        yield f"  {inert(event.body.decode('utf-8', 'replace'))}"
        yield f"  emitted {when(event.at)}, in record {event.n}"


def _message(message: StoredMessage) -> Iterator[str]:
    yield paint(f"message {inert(message.id)} of {inert(message.plugin)}", bold=True)
    content = "(its content was pruned)" if message.body is None else str(message.body.get("content", ""))
    for line in content.splitlines() or [""]:
        yield f"  | {inert(line)}"
    wakes = ", wakes the agent" if message.trigger_turn else ""
    how = f"role {message.role}, {message.deliver_as}{wakes}, " if message.body is not None else ""
    yield f"  {inert(how)}session {inert(message.session_id)}"
    yield f"  accepted {when(message.accepted_at)} as record {message.n}"
    since = f" {when(message.settled_at)}" if message.settled_at is not None else ""
    yield f"  {message.state.replace('_', ' ')}{since}"


def _chain(found: Explanation) -> list[str]:
    """Return the plugins that led here, the first first."""
    if found.message is not None:
        metadata = (found.message.body or {}).get("metadata") or {}
        return [str(name) for name in metadata.get("origin", (found.message.plugin,))]
    if found.record is not None:
        return [str(name) for name in (found.record.data or {}).get("origin") or ()]
    return found.event.origin.split(">") if found.event is not None and found.event.origin else []


def _permission(found: Explanation) -> Iterator[str]:
    body = found.message.body if found.message is not None else None
    used = (body or {}).get("permission")
    if used is not None:
        yield f"used: {inert(used)}"
    for record in found.permissions:
        yield f"{when(record.at)}  {inert(record.kind)}  {summary(record)}"


def _decisions(found: Explanation) -> Iterator[StoredRecord]:
    if found.record is not None and found.record.kind == "decision":
        yield found.record
    yield from (record for record in found.related if record.kind == "decision")


def _decision(record: StoredRecord) -> Iterator[str]:
    data = record.data or {}
    yield f"{when(record.at)}  {summary(record)}"
    yield from (f"    {line}" for line in _decided_on(data.get("decided_on")))
    rows = [_vote(vote) for vote in data.get("votes", ()) if isinstance(vote, dict)]
    yield from (f"    {line}" for line in columns(rows))


def _decided_on(kept: Any) -> Iterator[str]:
    """Yield the value that was decided on, or what is kept of it."""
    if not isinstance(kept, dict):
        return
    for name, title in (("value", "decided on"), ("shape", "its shape"), ("unshown", "it cannot be shown")):
        if name in kept:
            yield inert(f"{title}: {preview(kept[name] if isinstance(kept[name], str) else _json(kept[name]), 4000)}")
    if kept.get("sensitive"):
        yield inert(f"sensitive, so not kept; digest of salt and JSON: {kept.get('digest')}, salt {kept.get('salt')}")
    elif "sha256" in kept:
        yield inert(f"shortened: it had {kept.get('bytes')} bytes of JSON, sha256 {kept['sha256']}")


def _vote(vote: dict[str, Any]) -> tuple[str, ...]:
    shadow = " (shadow: not enforced)" if vote.get("shadow") else ""
    cause = vote.get("cause")
    why = f"[{cause}] " if cause not in {None, "", "verdict"} else ""
    reason = vote.get("reason") or vote.get("detail") or ""
    return (inert(vote.get("plugin")), inert(vote.get("verdict")), f"{vote.get('elapsed_ms', 0)} ms",
            f"{inert(why)}{inert(reason)}{shadow}")  # fmt: skip


def _event_row(event: StoredEvent) -> tuple[str, ...]:
    value = event.value()
    data = value.get("event_data", value) if isinstance(value, dict) else value
    chain = f"  ({inert(event.origin)})" if event.origin else ""
    return (inert(event.id), when(event.at), inert(event.type) + chain, preview(_json(data), 200))


def _json(data: Any) -> str:
    import json

    return json.dumps(data, ensure_ascii=False)


def _data(found: Explanation, calls: list[StoredEvent]) -> dict[str, Any]:
    import attrs

    message = found.message
    return {
        "id": found.id,
        "why": why(found),
        "message": attrs.asdict(message, filter=_is_shown) if message is not None else None,
        "record": record_data(found.record) if found.record is not None else None,
        "event": _event_data(found.event) if found.event is not None else None,
        "origin": _chain(found),
        "causes": [_event_data(event) for event in (*found.causes, *calls)],
        "permissions": [record_data(record) for record in found.permissions],
        "decisions": [record_data(record) for record in _decisions(found)],
        "related": [record_data(record) for record in found.related if record.kind != "decision"],
        "received": received_data(found.received),
    }


def received_data(received: Iterable[tuple[str, Received]]) -> list[dict[str, Any]]:
    """Return which plugins were given an event, as JSON values: `ms` is what the `together` events took, all of them.

    A process is sent an event, and says later what it took: `ms` is None for one that has not.
    """
    found = [(plugin, each) for plugin, each in received]
    told = {plugin for plugin, each in found if each.seconds is not None}
    return [
        {"plugin": plugin, "hook": each.hook, "together": each.together,
         "ms": None if each.seconds is None else round(each.seconds * 1000, 3)}
        for plugin, each in found if each.seconds is not None or plugin not in told
    ]  # fmt: skip


def _received(found: Explanation) -> Iterator[tuple[str, ...]]:
    for each in received_data(found.received):
        together = f", together with {each['together'] - 1} others" if each["together"] > 1 else ""
        took = "sent to its process" if each["ms"] is None else f"{each['ms']:g} ms"
        yield inert(each["plugin"]), inert(each["hook"] or "-"), f"{took}{together}"


def _is_shown(attribute: Any, _: object) -> bool:
    # It recognises a message that is sent twice, and means nothing to a reader.
    return bool(attribute.name != "fingerprint")


def _event_data(event: StoredEvent) -> dict[str, Any]:
    return {"id": event.id, "at": event.at, "type": event.type, "origin": event.origin, "event": event.value()}
