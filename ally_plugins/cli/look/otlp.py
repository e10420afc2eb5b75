"""Records as logs in OpenTelemetry's own form (OTLP, as JSON), for its collector: no part of it has to be installed.

The attributes are those of `host.plugins.telemetry`, by which a host reports the same as it happens. What was said and
decided in words is left out unless the operator has asked for contents, as the conventions for generative AI have it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Final

import orjson

from ally_plugins import __version__
from ally_plugins.host.plugins.telemetry import CONTENT_VARIABLE, NAME
from ally_plugins.journal.values import DECISION

if TYPE_CHECKING:
    from ally_plugins.journal.values import StoredRecord

__all__ = ["requests"]

_MOST: Final = 256  # records of one line, so that a line is a request that any collector takes
_MS_TO_NS: Final = 1_000_000
_SEVERITIES: Final = {"refusal": (13, "WARN"), "crash": (17, "ERROR"), "quarantine": (17, "ERROR")}
_INFO: Final = (9, "INFO")


def requests(found: Iterable[tuple[str, StoredRecord]]) -> Iterator[dict[str, Any]]:
    """Yield records, each with its home (empty for the only one there is), as requests to export logs."""
    for home, records in groupby(found, key=lambda each: each[0]):
        about = {"service.name": "ally-plugins", "service.instance.id": home or None}
        while some := [_log(record) for _, record in islice(records, _MOST)]:
            logs = {"scope": {"name": NAME, "version": __version__}, "logRecords": some}
            yield {"resourceLogs": [{"resource": {"attributes": _attributes(about)}, "scopeLogs": [logs]}]}


def _log(record: StoredRecord) -> dict[str, Any]:
    data = record.data or {}
    number, word = _SEVERITIES.get(record.kind, _INFO)
    shows_content = os.environ.get(CONTENT_VARIABLE, "").lower() == "true"
    # Of a decision whose content was pruned, or is kept by its home, nothing is known but that there was one.
    is_known = record.kind == DECISION and record.data is not None
    decided, text = _decision(record, data) if is_known else ({}, _text(record))
    return {
        "timeUnixNano": str(record.at * _MS_TO_NS),
        "severityNumber": number,
        "severityText": word,
        "eventName": f"ally.{record.kind}",
        "body": {"stringValue": text},
        "attributes": _attributes({
            "ally.record.number": record.n,
            "ally.record.hash": record.hash,
            "ally.record.id": record.ref,
            "ally.plugin.name": record.plugin,
            "gen_ai.conversation.id": record.session_id,
            **decided,
            "ally.record.data": orjson.dumps(data).decode() if shows_content and record.data is not None else None,
        }),
    }  # fmt: skip


def _text(record: StoredRecord) -> str:
    return f"{record.kind} of {record.plugin}" if record.plugin else record.kind


def _decision(record: StoredRecord, data: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    kind, subject, verdict = (str(data.get(name)) for name in ("kind", "subject", "verdict"))
    decided_by = data.get("decided_by")
    by = [str(each) for each in decided_by] if isinstance(decided_by, list) else []
    attributes = {
        "ally.decision.id": record.ref,
        "ally.decision.kind": kind,
        "ally.decision.verdict": verdict,
        "ally.decision.subject": subject,
        "ally.decision.decided_by": by,
        "gen_ai.tool.name": subject if kind == "tool_call" else None,
    }
    names = ", ".join(by)
    return attributes, f"{kind} of {subject}: {verdict}{f' by {names}' if names else ''}"


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value is not None]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):  # before the numbers, of which it is one to Python
        return {"boolValue": value}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}  # 64 bits, which JSON's readers need not have
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": value}
