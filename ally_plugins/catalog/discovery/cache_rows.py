"""What discovery has found, as the rows of its cache and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from ally_plugins.contract.grants import Grant
from ally_plugins.contract.manifest import GrantRequest, Manifest
from ally_plugins.contract.process_spec import Daemon, ProcessLimits, Restarts, Timing
from ally_plugins.contract.settings import Setting
from ally_plugins.contract.shapes import ANY, STRICT, TEXT, Mistakes, Shape, WrongShape, named, several
from ally_plugins.contract.tables import Table, keys_of, object_of

from .found import Discovery, Found

__all__ = ["from_rows", "to_rows"]


def to_rows(discovery: Discovery) -> dict[str, Any]:
    """Return a discovery as plain values, for JSON, without fields that have their default: those are most."""
    return attrs.asdict(
        discovery,
        filter=lambda field, value: value != field.default,
        value_serializer=lambda _, __, value: _plain(value),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):  # attrs looks into no other mapping than a dict
        return dict(value)
    if isinstance(value, tuple) and value and isinstance(value[0], GrantRequest):  # most of the rows, so the shortest
        return [(*attrs.astuple(request.grant), request.reason) for request in value]
    return value


def from_rows(remembered: dict[str, Any], about: str | None = None) -> Discovery | None:
    """Return the discovery that `to_rows` made these rows of; None for rows that it did not make.

    With `about`, only the plugin of that name. Manifests are not validated again: they were when they were read, and
    a damaged cache does not get here.
    """
    rows = remembered.get("found", ())
    kept = rows if about is None else [row for row in rows if row.get("name") == about]
    try:
        discovery: Discovery = _DISCOVERY.read({**remembered, "found": kept, "from_cache": True}, "", STRICT)
    except WrongShape:
        return None
    return discovery


def _row(cls: type[Any], **shapes: Shape) -> Shape:
    """Return the shape of the row that a class became."""
    # Null is a value here, and not absent: a limit that is None is off, and its default is a number.
    return object_of(Table(keys_of(cls, **shapes), cls, takes_null=False))


def _read_request(value: list[Any], path: str, mistakes: Mistakes) -> Any:
    if len(value) != _COLUMNS or not all(type(each) is str for each in value):
        return mistakes.wrong(path, value, "kind, topic, target and reason")
    return GrantRequest(Grant(*value[:3]), value[3])


_COLUMNS: Final = 4
_REQUEST: Final = Shape((list,), "a list of texts", {"type": "array"}, _read_request)
_DAEMON: Final = _row(Daemon, transport=TEXT, limits=_row(ProcessLimits), timing=_row(Timing), restarts=_row(Restarts))
_MANIFEST: Final = _row(
    Manifest,
    requests=several(_REQUEST),
    settings=named(_row(Setting, kind=TEXT, default=ANY)),
    daemon=_DAEMON,
    activation=TEXT,
)
# A class of a source's own and a bridge are in no row: only packages are remembered, which have neither.
_FOUND: Final = _row(Found, plugin=ANY, manifest=_MANIFEST, daemon=_DAEMON, bridge=ANY)
_DISCOVERY: Final = _row(Discovery, found=several(_FOUND))
