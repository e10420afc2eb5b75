"""What discovery has found, as the rows of its cache and back."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from attrs import asdict, astuple

from ally_plugins.contract.grants import Grant
from ally_plugins.contract.manifest import Manifest, Request
from ally_plugins.contract.process_spec import Daemon, ProcessLimits, Timing
from ally_plugins.contract.settings import Setting

from .found import Discovery, Found

__all__ = ["freeze", "thaw"]


def freeze(discovery: Discovery) -> dict[str, Any]:
    """Return it as plain values, for JSON."""
    found = [_row_of_found(found) for found in discovery.found]
    return {"found": found, "problems": discovery.problems}


def _row_of_found(found: Found) -> dict[str, Any]:
    daemon = asdict(found.daemon) if found.daemon is not None else None
    return asdict(found, recurse=False) | {"manifest": _row_of(found.manifest), "daemon": daemon}


def _row_of(manifest: Manifest | None) -> dict[str, Any] | None:
    if manifest is None:
        return None
    requests = [(*astuple(request.grant), request.reason) for request in manifest.requests]
    settings = [asdict(setting) for setting in manifest.settings.values()]
    daemon = asdict(manifest.daemon) if manifest.daemon is not None else None
    return asdict(manifest, recurse=False) | {"requests": requests, "settings": settings, "daemon": daemon}


def thaw(remembered: dict[str, Any], about: str | None = None) -> Discovery:
    """Build what `freeze` took apart, or of that the plugin `about`.

    It was checked when it was read, and the cache is known to be whole.
    """
    rows: list[dict[str, Any]] = [
        row | {"manifest": _manifest_of(row["manifest"]), "daemon": _daemon_of(row["daemon"])}
        for row in remembered["found"]
        if about in {None, row["name"]}
    ]
    return Discovery(tuple(Found(**row) for row in rows), tuple(remembered["problems"]), from_cache=True)


def _manifest_of(row: dict[str, Any] | None) -> Manifest | None:
    if row is None:
        return None
    lists: dict[str, Any] = {key: tuple(row[key]) for key in ("before", "after", "subscribe", "durable")}
    requests = tuple(Request(Grant(kind, topic, target), reason) for kind, topic, target, reason in row["requests"])
    rows: list[dict[str, Any]] = [one | {"choices": tuple(one["choices"])} for one in row["settings"]]
    by_name = MappingProxyType({one["name"]: Setting(**one) for one in rows})
    daemon = _daemon_of(row["daemon"])
    whole: dict[str, Any] = row | lists | {"requests": requests, "settings": by_name, "daemon": daemon}
    return Manifest(**whole)


def _daemon_of(row: dict[str, Any] | None) -> Daemon | None:
    if row is None:
        return None
    whole: dict[str, Any] = row | {"limits": ProcessLimits(**row["limits"]), "timing": Timing(**row["timing"])}
    return Daemon(**whole)
