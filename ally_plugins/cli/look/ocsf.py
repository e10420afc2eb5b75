"""Decisions and refusals as detection findings of the Open Cybersecurity Schema Framework, for who collects those."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ally_plugins import __version__

if TYPE_CHECKING:
    from ally_plugins.journal.values import StoredRecord

__all__ = ["KINDS", "finding"]

KINDS: Final = ("decision", "refusal")
"""The kinds of records that are findings. The rest is history, and no event of security."""

_SCHEMA: Final = "1.5.0"
_CLASS: Final = 2004  # Detection Finding, of the category Findings
_CREATED: Final = 1
_SEVERITIES: Final = {"allow": (1, "Informational"), "unknown": (0, "Unknown")}
_LOW: Final = (2, "Low")
_SUCCESS: Final = 1  # the guard did what it is there for; its verdict is the disposition
_UNKNOWN, _ALLOWED, _BLOCKED, _OTHER = 0, 1, 2, 99
_DISPOSITIONS: Final = {"allow": (_ALLOWED, "Allowed"), "deny": (_BLOCKED, "Blocked"), "unknown": (_UNKNOWN, "Unknown")}
_ACTIONS: Final = {"allow": 1, "deny": 2, "unknown": 0}  # what the control did, of the profile security_control


def finding(home: str, record: StoredRecord) -> dict[str, Any]:
    """Return a record as a finding. What the schema has no place for stands under `unmapped`, as it was recorded.

    The verdict of a decision whose content was pruned, or is kept by its home, is "unknown".
    """
    data = record.data or {}
    is_decision = record.kind == "decision"
    verdict = str(data.get("verdict", "unknown")) if is_decision else "deny"
    disposition, word = _DISPOSITIONS.get(verdict, (_OTHER, verdict))
    severity, grade = _SEVERITIES.get(verdict, _LOW)
    if record.data is None:
        what = f"a {record.kind} whose content is not here"
    else:
        what = f"{data.get('kind')} of {data.get('subject')}" if is_decision else str(data.get("what", "a call"))
    reason = data.get("reason") or data.get("error") or ""
    # Of a fleet's homes each has a record 1, and a journal that was begun anew has it again.
    uid = f"{home}/{record.ref or record.n}" if home else str(record.ref or record.n)
    plugins = data.get("decided_by") or ([record.plugin] if record.plugin else [])
    return {
        "activity_id": _CREATED,
        "activity_name": "Create",
        "category_uid": _CLASS // 1000,
        "category_name": "Findings",
        "class_uid": _CLASS,
        "class_name": "Detection Finding",
        "type_uid": _CLASS * 100 + _CREATED,
        "time": record.at,
        "severity_id": severity,
        "severity": grade,
        "status_id": _SUCCESS,
        "action_id": _ACTIONS.get(verdict, _OTHER),
        "disposition_id": disposition,
        "disposition": word,
        "message": f"{what}: {verdict}{f', {reason}' if reason else ''}",
        "finding_info": {
            "uid": uid,
            "title": f"{what}: {verdict}",
            "desc": str(reason),
            "created_time": record.at,
            "types": [record.kind],
            "data_sources": [str(each) for each in plugins],
        },
        "metadata": {
            "version": _SCHEMA,
            "profiles": ["security_control"],
            "uid": f"{uid}@{record.hash}",
            "sequence": record.n,
            "tenant_uid": home or None,
            "correlation_uid": record.session_id,
            "product": {"name": "ally-plugins", "vendor_name": "ally-plugins", "version": __version__},
        },
        "unmapped": {"kind": record.kind, "plugin": record.plugin, "session_id": record.session_id, "data": data},
    }
