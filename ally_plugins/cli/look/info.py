"""`info`: everything about one plugin on one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.journal_rows import reading_of, record_data, summary
from ally_plugins.cli.shell.processes import placed, process_rows, trust, unheld
from ally_plugins.cli.shell.requests import changes_of, meaning, record_facts, unheld_line
from ally_plugins.cli.shell.running_hosts import hosts_status, offers_of
from ally_plugins.cli.shell.setting_rows import setting_rows, shown_settings
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import columns, echo, inert, paint, preview, print_json, when, when_iso
from ally_plugins.contract.values.errors import AllyError

from .hook_rows import hook_facts, hook_lines
from .list import paint_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.cli.shell.state import State
    from ally_plugins.journal.values import StoredRecord

__all__ = ["info"]

_TROUBLE: Final = ("crash", "refusal", "quarantine", "prompt_prefix")
_STATE: Final = "plugin_state"
_SHOWN: Final = 10
"""Recent records; `audit --plugin` has them all."""


@command("info")
@click.argument("name", shell_complete=plugin_names)
def info(state: State, name: str) -> None:
    """Show all about the plugin NAME: origin, requests and what is granted, hooks, settings, order, recent trouble.

    Of each hook: how often it was called as far as that is recorded, when last, and what it answered then.

    With hosts running, also how it is there, and which tools and actions it offers to whom.

    \b
    Example:
      ally-plugins info loop-warner
    """
    registry = state.registry
    record = registry.get(name)
    order = _order(record, registry.load())
    trouble = _trouble(state.home, record.name)
    hooks = hook_facts(state.home, record)
    live, offers = hosts_status(state.home), offers_of(state.home, record.name)
    if state.as_json:
        more = {"settings": shown_settings(registry, record), "live": live.data(record.name), "offers": offers}
        more |= {"hooks": hooks}
        print_json(_data(record, order, trouble) | more)
        return
    for line in (*_head(record), *_requests(record)):
        echo(line)
    _section("hooks", hook_lines(hooks))
    _section("now", live.lines(record.name))
    _section("offers", _offer_lines(offers))
    _section("settings", setting_rows(registry, record))
    _section("order", order["lines"])
    _section("changed since you agreed", changes_of(record))
    _section("recent trouble", [_trouble_line(each) for each in trouble])
    echo()
    echo(f"  {paint(placed(record), fg='yellow')}: it {trust(record)}")


def _section(title: str, lines: Sequence[str]) -> None:
    if lines:
        echo(f"\n  {paint(title, bold=True)}")
        for line in lines:
            echo(f"    {line}")


def _offer_lines(offers: Sequence[Mapping[str, Any]]) -> list[str]:
    return columns([_offer_row(each) for each in offers])


def _offer_row(offer: Mapping[str, Any]) -> tuple[str, ...]:
    is_tool, to_agent = offer.get("kind") == "tool", bool(offer.get("agent"))
    whom = "to the agent" if is_tool else "to you and the agent" if to_agent else "to you"
    return inert(offer.get("kind")), inert(offer.get("name")), whom, preview(offer.get("description", ""))


def _head(record: PluginRecord) -> list[str]:
    config, agreement = record.config, record.agreement
    agreed = (
        f"{when_iso(agreement.at)} by {inert(agreement.by)} {inert(agreement.version)}".rstrip()
        if agreement
        else "never"
    )
    rows = [
        ("  state", f"{paint_state(record.state)}{': ' if record.reason else ''}{inert(record.reason)}"),
        ("  comes from", inert(record.source)),
        ("  found by", inert(record.found_by) or "-"),
        ("  entry point", inert(record.entry_point) or "-"),
        ("  files", inert(record.found.root if record.found else "") or "-"),
        *((f"  {heading}", text) for heading, text in process_rows(record)),
        ("  needs host API", inert(record.manifest.requires_host) or "any"),
        ("  agreed", inert(agreed)),
        ("  on error", f"gates {config.gate_on_error}, transforms {config.transform_on_error}"),
        ("  shadow", _shadow(config.shadow)),
        ("  mandatory", "yes" if config.mandatory else "no"),
    ]
    description = inert(record.manifest.description) or "(no description)"
    return [f"{paint(inert(record.label), bold=True)}: {description}", *columns(rows)]


def _shadow(value: bool | frozenset[str]) -> str:  # noqa: FBT001 - a value here
    return ("yes" if value else "no") if isinstance(value, bool) else ", ".join(sorted(value))


def _requests(record: PluginRecord) -> list[str]:
    rows = [
        (f"    {'granted' if _is_granted(record, i) else 'not granted'}", inert(request.grant.text),
         meaning(record, request.grant), inert(request.reason))
        for i, request in enumerate(record.manifest.requests)
    ]  # fmt: skip
    narrower = [text for text in record.granted.texts() if text not in {request[1].strip() for request in rows}]
    more = [f"    and has been granted: {inert(', '.join(narrower))}"] if narrower else []
    if note := unheld_line(record, record.granted):
        more.append(f"    {note}")
    return ["", f"  {paint('asks for', bold=True)}", *(columns(rows) or ["    nothing"]), *more]


def _is_granted(record: PluginRecord, index: int) -> bool:
    return record.granted.covers(record.manifest.requests[index].grant)


def _order(record: PluginRecord, records: Sequence[PluginRecord]) -> dict[str, Any]:
    """Return the declared edges, and the neighbours among the enabled plugins."""
    from ally_plugins.policy.ordering import Orderable, order

    manifest = record.manifest
    # This record whether enabled or not, and never another of its name: `order` takes each name once.
    compared = [
        each for each in records if each.label == record.label or (each.is_enabled and each.name != record.name)
    ]
    try:
        names = order(Orderable(each.name, each.manifest.before, each.manifest.after, each.config.mandatory)
                      for each in compared)  # fmt: skip
    except AllyError as error:
        return {"before": manifest.before, "after": manifest.after, "order": [], "lines": [inert(error)]}
    at = names.index(record.name)
    lines = [f"declares {word} {', '.join(map(inert, others))}"
             for word, others in (("before", manifest.before), ("after", manifest.after)) if others]  # fmt: skip
    if len(names) > 1:
        previous = f"after {names[at - 1]}" if at else "first"
        following = f"before {names[at + 1]}" if at + 1 < len(names) else "last"
        lines.append(
            f"comes {previous}, {following}" if at and at + 1 < len(names) else f"comes {previous} and {following}"
        )
    return {"before": manifest.before, "after": manifest.after, "order": names, "lines": lines}


def _trouble(home: Home, name: str) -> list[StoredRecord]:
    with reading_of(home) as reading:
        if reading is None:
            return []
        # Each kind by itself: among all records of a busy plugin, the last ten would hardly be trouble.
        found = [each for kind in _TROUBLE for each in reading.last_records(_SHOWN, plugin=name, kind=kind)]
        # All of these: after a failure come some for each start since.
        states = [each for each in reading.records(plugin=name, kind=_STATE)
                  if (each.data or {}).get("state") in _BAD_STATES]  # fmt: skip
    return sorted([*found, *states[-_SHOWN:]], key=lambda each: each.n)[-_SHOWN:]


_BAD_STATES: Final = ("failed", "quarantined")


def _trouble_line(record: StoredRecord) -> str:
    return f"{when(record.at)}  {record.kind}  {summary(record)}"


def _data(record: PluginRecord, order: dict[str, Any], trouble: Sequence[StoredRecord]) -> dict[str, Any]:
    manifest, config, agreement = record.manifest, record.config, record.agreement
    return {
        **record_facts(record),
        "reason": record.reason,
        "requires_host": manifest.requires_host,
        "agreed": {"at": agreement.at, "by": agreement.by, "version": agreement.version} if agreement else None,
        "requests": [
            {
                "grant": each.grant.text,
                "meaning": meaning(record, each.grant),
                "reason": each.reason,
                "granted": _is_granted(record, i),
            }
            for i, each in enumerate(manifest.requests)
        ],
        "grants": record.granted.texts(),
        "unheld": unheld(record),
        "subscribe": manifest.subscribe,
        "durable": manifest.durable,
        "thresholds": manifest.thresholds,
        "order": {key: value for key, value in order.items() if key != "lines"},
        "shadow": config.shadow,
        "mandatory": config.mandatory,
        "on_error": {"gate": config.gate_on_error, "transform": config.transform_on_error},
        "warnings": record.warnings,
        "trouble": [record_data(each) for each in trouble],
    }
