"""The summary of a replay as plain text: a few lines, however long the recordings are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ally_plugins.cli.shell.text import columns, counted_noun, inert, preview

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ally_plugins.replay.report import PluginCounts, ReplayReport

__all__ = ["counted", "summary_lines"]

_SHOWN = 10
"""Pending messages and broken lines that are listed; with --json all that the report kept."""


def summary_lines(report: ReplayReport) -> list[str]:
    """Return the report as lines for people; everything in it that strangers wrote is inert."""
    return columns(list(_rows(report)))


def _rows(report: ReplayReport) -> Iterator[tuple[str, str]]:
    for session in report.sessions:
        yield "session", f"{inert(session.recorded_id)} from {inert(session.file)} ({session.format})"
        yield "", f"in the journal: {session.session_id}"
    rate = f"{report.elapsed_s:.2f} s, {report.events_per_s:,.0f} a second"
    yield "events", f"{report.events.total():,} in {rate}" + (" (interrupted)" if report.is_interrupted else "")
    yield "", counted(report.events)
    for name, counts in sorted(report.plugins.items()):
        yield f"plugin {inert(name)}", _plugin(counts)
    if not report.plugins:
        yield "plugins", "none is enabled; to see what is installed: ally-plugins list"
    if report.decisions:
        denied, asked = report.decisions["deny"], report.decisions["ask"]
        yield "gates", f"{report.decisions['allow']} allowed, {denied} would be denied, {asked} would ask the person"
    for message in report.pending[:_SHOWN]:
        yield "pending", f"at the end, {message.id} of {inert(message.plugin)}: {preview(message.content, 80)}"
    if report.skipped:
        yield "skipped", f"{report.skipped.total():,} records: {counted(report.skipped)}"
    if report.not_kept:
        why = "so that plugins were shown their length in their place (journal.content)"
        yield "not kept", f"{report.not_kept:,} texts were not recorded, {why}"
    yield from _troubles(report)


def _plugin(counts: PluginCounts) -> str:
    text = f"{counts.delivered:,} delivered, {counted_noun(counts.messages, 'message')}, {counts.emitted:,} emitted"
    if counts.dropped:
        text += f", {counts.dropped:,} dropped"
    if counts.refused:
        text += f"; refused: {counted(counts.refused)}"
    if counts.crashes:
        text += f"; crashed {counted_noun(counts.crashes, 'time')}"
    if counts.prompt_changes:
        text += f"; would change what requests begin with {counts.prompt_changes:,} times"
        text += f" ({counts.uncached_tokens:,} cached tokens)" if counts.uncached_tokens else ""
    return text if counts.state in {"running", "stopped"} else f"{text}; {counts.state}: {inert(counts.reason)}"


def _troubles(report: ReplayReport) -> Iterator[tuple[str, str]]:
    if report.broken_lines:
        yield "broken", f"{report.broken_lines:,} lines"
        for one in report.broken[:_SHOWN]:
            yield "", f"{inert(one.file)}:{one.number}: {preview(one.reason, 100)}"
    if report.lost_records:
        yield "lost", f"{report.lost_records:,} records could not be written to the journal"


def counted(counts: Mapping[str, int]) -> str:
    """Return counts as one line, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{inert(name)} {count:,}" for name, count in ordered)
