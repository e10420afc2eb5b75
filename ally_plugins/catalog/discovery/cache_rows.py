"""What discovery has found, as the rows of its cache and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from ally_plugins.contract.grants import Grant
from ally_plugins.contract.manifest import Manifest, Request
from ally_plugins.contract.process_spec import Daemon, ProcessLimits, Restarts, Timing
from ally_plugins.contract.settings import Setting
from ally_plugins.contract.shapes import (
    ANY,
    STRICT,
    TEXT,
    Mistakes,
    Shape,
    Table,
    WrongShape,
    keys_of,
    named,
    object_of,
    several,
)

from .found import Discovery, Found

__all__ = ["freeze", "thaw"]


def freeze(discovery: Discovery) -> dict[str, Any]:
    """Return it as plain values, for JSON; without what is as in the class, which is most of it."""
    return attrs.asdict(
        discovery,
        filter=lambda field, value: value != field.default,
        value_serializer=lambda _, __, value: _plain(value),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):  # attrs looks into no other mapping than a dict
        return dict(value)
    if isinstance(value, tuple) and value and isinstance(value[0], Request):  # most of all that there is
        return [(*attrs.astuple(request.grant), request.reason) for request in value]
    return value


def thaw(remembered: dict[str, Any], about: str | None = None) -> Discovery | None:
    """Build what `freeze` took apart, or of that the plugin `about`; None for what it did not make.

    What the words mean was checked when it was read, and the cache is known to be whole.
    """
    rows = remembered.get("found", ())
    wanted = rows if about is None else [row for row in rows if row.get("name") == about]
    try:
        discovery: Discovery = _DISCOVERY.read({**remembered, "found": wanted, "from_cache": True}, "", STRICT)
    except WrongShape:
        return None
    return discovery


def _row(cls: type[Any], **shapes: Shape) -> Shape:
    """Return the shape of the row that a class became."""
    return object_of(Table(keys_of(cls, **shapes), cls, takes_null=False))


def _read_request(value: list[Any], path: str, mistakes: Mistakes) -> Any:
    if len(value) != _COLUMNS or not all(type(each) is str for each in value):
        return mistakes.wrong(path, value, "kind, topic, target and reason")
    return Request(Grant(*value[:3]), value[3])


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
_FOUND: Final = _row(Found, plugin=ANY, manifest=_MANIFEST, daemon=_DAEMON, bridge=ANY)
_DISCOVERY: Final = _row(Discovery, found=several(_FOUND))
