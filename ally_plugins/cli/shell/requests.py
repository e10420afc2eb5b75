"""The requests of a plugin, as text and as data: what the operator sees before agreeing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.granted_paths import DATA, PROJECT

from .processes import placed, process_data, process_rows, trust, unheld, way_out
from .text import columns, inert, paint, when_iso

if TYPE_CHECKING:
    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.registry import Plan
    from ally_plugins.contract.grants import Grant
    from ally_plugins.contract.manifest import GrantRequest
    from ally_plugins.policy.permissions import GrantSet

__all__ = ["changes_of", "meaning", "plan_data", "plan_lines", "record_facts", "unheld_line"]

_MEANINGS: Final = {
    "add_message:trigger_turn": "wakes an idle agent with a message",
    "add_message": "adds messages to the conversation as {topic}",
    "emit_event": "emits events under its own name",
    "get_context": "reads {topic} of the conversation",
    "gate:waive": "its yes stands in for your own answer",
    "gate:user_message": "may refuse each message of yours",
    "gate:answer": "may withhold each answer, of which you see nothing before it agrees",
    "gate:answer:sentence": "may cut each answer at the end of a sentence; you see what it agreed to until then",
    "gate:stop": "may send the agent on when it wants to end its turn, three times in a row",
    "gate": "may refuse each {topic}",
    "transform:answer": "may change each answer, of which you see nothing before that",
    "transform": "may change each {topic}",
    "tools": "offers tools to the agent",
    "actions": "offers actions to you, and to plugins that you let",
    "tasks": "runs background tasks",
    "ask": "asks you questions of its own, marked as its",
    "request_action": "has the action {topic} carried out",
    "events": "sees {topic}",
    "env": "is given your environment's {topic}",
    "network": "may open connections to the network, to anywhere",
    "run": "may start {topic}, in the same box with the same rights",
}
_FILES: Final = {
    ("read", PROJECT): "may read every file of the project",
    ("write", PROJECT): "may read, change and delete every file of the project, and add some",
    ("read", DATA): "may read every file of its own data folder",
    ("write", DATA): "may read, change and delete every file of its own data folder, and add some",
    ("read", ""): "may read {path} and every file below it",
    ("write", ""): "may read, change and delete {path} and every file below it, and add some",
}
_UNHELD: Final = "holds in the placement sandbox only: {}, it may do that and more"
_UNHELD_HERE: Final = "does not hold on this machine, whose {} does not keep it: it may do that and more"


def meaning(record: PluginRecord, grant: Grant) -> str:
    """Return what a grant lets a plugin do, in a few words."""
    if grant.kind == "events" and grant.topic in record.durable:
        return f"sees {grant.topic}, and from the journal what it missed"
    if grant.kind == "files":
        template = _FILES.get((grant.topic, grant.target)) or _FILES[grant.topic, ""]
        return template.format(path=inert(grant.target))
    if grant.text in _MEANINGS:
        return _MEANINGS[grant.text].format(topic=grant.topic)
    template = _MEANINGS.get(f"{grant.kind}:{grant.topic}") or _MEANINGS[grant.kind]
    # Topics of gates and transforms are names of hooks, which read as words; other topics are names to be typed.
    text = template.format(topic=grant.topic.replace("_", " ") if grant.kind in ("gate", "transform") else grant.topic)
    return f"{text} of {grant.target}" if grant.target else text


def plan_lines(plan: Plan) -> list[str]:
    """Return everything that enabling would agree to, nothing omitted or cut, all of it inert."""
    record = plan.record
    lines = [*_identity(plan), "", *_requests(plan), *_order(record)]
    if changes := changes_of(record):
        lines += ["", f"  {paint('changed since you agreed', bold=True)}:", *(f"    {line}" for line in changes)]
    if record.manifest.settings:
        lines += ["", "  settings:", *(f"    {line}" for line in _settings(record))]
    return [*lines, "", f"  {paint(placed(record), fg='yellow')}: it {trust(record)}", *_placing(plan)]


def _placing(plan: Plan) -> list[str]:
    """Return how a plugin that nobody has placed yet comes to where it would run, and out of there."""
    if plan.record.outside:
        return [f"  no sandbox can hold it: {inert(plan.record.outside)}"]
    return [f"  {way_out(plan.record)}"] if plan.placement == "sandbox" else []


def _identity(plan: Plan) -> list[str]:
    record = plan.record
    found = record.found
    editable = " (editable: its code may change at any time)" if found is not None and found.editable else ""
    rows = [
        ("  comes from", f"{inert(record.source)}{editable}"),
        ("  found by", inert(record.found_by) or "-"),
        ("  entry point", inert(record.entry_point) or "-"),
        ("  files", inert(found.root) if found is not None else "-"),
        *((f"  {heading}", text) for heading, text in process_rows(record, plan.grants)),
    ]
    description = inert(record.manifest.description) or "(no description)"
    return [f"{paint(inert(record.label), bold=True)}: {description}", *columns(rows)]


def _requests(plan: Plan) -> list[str]:
    record, requests = plan.record, plan.record.manifest.requests
    if not requests:
        return ["  it asks for nothing"]
    rows = [(f"    {_mark(plan, request)}", inert(request.grant.text), meaning(record, request.grant),
             f"{inert(request.reason)}{_new(plan, request)}") for request in requests]  # fmt: skip
    withheld = [request for request in requests if not plan.grants.covers(request.grant)]
    note = "; what is marked - it would not get" if withheld else ""
    lines = [f"  it asks for, each with its reason{note}:", *columns(rows)]
    narrowed = [text for text in plan.grants.texts() if text not in {request.grant.text for request in requests}]
    if narrowed:
        lines.append(f"  and would get, narrower than it asks: {inert(', '.join(narrowed))}")
    if note := unheld_line(record, plan.grants):
        lines.append(f"  {note}")
    return [*lines, *(f"  {inert(text)} cannot be granted: {inert(why)}" for text, why in sorted(plan.refused.items()))]


def unheld_line(record: PluginRecord, grants: GrantSet) -> str:
    """Return a sentence on what a plugin is granted and, placed as it is, not held to; empty without any."""
    texts = ", ".join(unheld(record, grants))
    where = _UNHELD if record.placement != "sandbox" else _UNHELD_HERE
    return f"{inert(texts)}: {where.format(record.placement)}" if texts else ""


def _order(record: PluginRecord) -> list[str]:
    """Return with whom it claims a place: what comes before a gate or transform decides what that sees."""
    manifest = record.manifest
    edges = [f"{word} {', '.join(map(inert, names))}"
             for word, names in (("before", manifest.before), ("after", manifest.after)) if names]  # fmt: skip
    return ["", f"  it comes {' and '.join(edges)}"] if edges else []


def _mark(plan: Plan, request: GrantRequest) -> str:
    return "+" if plan.grants.covers(request.grant) else "-"


def _new(plan: Plan, request: GrantRequest) -> str:
    is_new = plan.record.agreement is not None and request in plan.record.pending
    return paint("  (new)", fg="yellow") if is_new else ""


def changes_of(record: PluginRecord) -> list[str]:
    """Return what has changed since the last agreement, as lines; nothing for a new plugin."""
    agreement = record.agreement
    if agreement is None:
        return []
    lines = [f"agreed {when_iso(agreement.at) if agreement.at else 'earlier'} by {inert(agreement.by)}"]
    if agreement.distribution != record.distribution:
        lines.append(
            f"it came from {inert(agreement.distribution)!r} and now comes from {inert(record.distribution)!r}"
        )
    if agreement.version != record.version:
        lines.append(f"version {inert(agreement.version)} is now {inert(record.version)}")
    # With the files listed below, or another version, this line would only repeat that.
    elif record.has_changed_code and not record.changed_files:
        lines.append("its code has changed, its version has not")
    lines += [inert(f"file {change}") for change in record.changed_files]
    lines += [f"asks newly for {inert(request.grant.text)}" for request in record.pending]
    lines += [f"asks newly for what it missed of {inert(name)}" for name in agreement.new_durable(record.durable)]
    lines += [f"asks no more for {inert(grant.text)}" for grant in agreement.grants.difference(record.requested)]
    # The first line says when it was agreed to, which alone is no change.
    return lines if len(lines) > 1 else []


def _settings(record: PluginRecord) -> list[str]:
    rows = []
    for setting in record.manifest.settings.values():
        kind = "secret" if setting.secret else setting.kind
        need = "required" if setting.required else f"default {inert(setting.default)}"
        # A secret that is not required has no default that could be shown.
        rows.append((inert(setting.name), kind, "-" if setting.secret and not setting.required else need,
                     inert(setting.description)))  # fmt: skip
    return columns(rows)


def record_facts(record: PluginRecord) -> dict[str, Any]:
    """Return as data what a plugin is, where it comes from and how it runs, and what has changed since the consent."""
    return {
        "name": record.name,
        "state": record.state,
        "description": record.manifest.description,
        "distribution": record.distribution,
        "version": record.version,
        "entry_point": record.entry_point,
        "files": record.found.root if record.found is not None else None,
        "editable": record.found.editable if record.found is not None else False,
        **process_data(record),
        "changes": changes_of(record),
    }


def plan_data(plan: Plan) -> dict[str, Any]:
    """Return the same as `plan_lines`, as data."""
    record = plan.record
    return {
        **record_facts(record),
        "requests": [
            {
                "grant": request.grant.text,
                "meaning": meaning(record, request.grant),
                "durable": request.grant.kind == "events" and request.grant.topic in record.durable,
                "reason": request.reason,
                "granted": plan.grants.covers(request.grant),
                "new": request in record.pending,
                "refused": plan.refused.get(request.grant.text),
            }
            for request in record.manifest.requests
        ],
        "placed": plan.placement,
        "outside": record.outside,
        "unheld": unheld(record, plan.grants),
        "before": record.manifest.before,
        "after": record.manifest.after,
        "settings": [
            {
                "name": setting.name,
                "type": "secret" if setting.secret else setting.kind,
                "required": setting.required,
                "default": setting.default,
                "description": setting.description,
            }
            for setting in record.manifest.settings.values()
        ],
        "grants": plan.grants.texts(),
    }
