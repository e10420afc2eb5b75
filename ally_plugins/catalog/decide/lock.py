"""What one machine has and agreed to, as a value that another one is compared with; and in what they differ. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import orjson
from attrs import field, frozen

from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.policy.permissions import Grant, GrantSet

if TYPE_CHECKING:
    from .record import PluginRecord

__all__ = [
    "OF_THE_MACHINE",
    "Difference",
    "LockedPlugin",
    "config_changes",
    "differences",
    "locked_plugin",
    "revision_of",
]

OF_THE_MACHINE: Final = ("interpreter", "environment")
"""Keys of `[plugins.NAME]` that name places of one machine: they are neither locked nor changed."""

_STRICTER: Final = {
    "shadow": (True, False), "mandatory": (False, True), "placement": ("inline", "process", "sandbox"),
    "consent": ("requests", "files"), "sandbox": ("best", "require"),
}  # fmt: skip
"""Values of keys from the loosest to the strictest. A change to a stricter one waits for nobody; any other change does,
as does one of a key that is not here: it may be what a guard goes by."""


@frozen(kw_only=True)
class LockedPlugin:
    """One plugin of one machine. `code` is the digest of its files, `config` its table of `config.toml` as written.

    `config` is without secrets, and without what names places of the machine.
    """

    name: str
    origin: str = "package"
    distribution: str = ""
    version: str = ""
    code: str = ""
    requests: tuple[str, ...] = ()
    agreed: tuple[str, ...] | None = None
    """The requests that were agreed to; None where nobody has agreed, or to other code than is there."""
    config: Mapping[str, Any] = field(default=FrozenDict(), repr=False)

    @property
    def is_enabled(self) -> bool:
        """Whether it is loaded there."""
        return bool(self.config.get("enabled"))


@frozen
class Difference:
    """One thing in which this machine is not as the other: of which plugin, what it is there and here.

    `key` is `code`, or a key of `[plugins.NAME]`. `loosens` says that to make it as there waits for consent.
    """

    plugin: str
    key: str
    there: str
    here: str
    loosens: bool = True


def locked_plugin(record: PluginRecord, table: Mapping[str, Any], code: str) -> LockedPlugin:
    """Return a plugin of this machine; `table` is its table of `config.toml` as written, `code` its files' digest."""
    secret = {name for name, setting in record.manifest.settings.items() if setting.secret}
    config = {key: value for key, value in table.items() if key not in OF_THE_MACHINE}
    if "settings" in config:
        config["settings"] = {key: value for key, value in config["settings"].items() if key not in secret}
    return LockedPlugin(
        name=record.name,
        origin=record.origin or "package",
        distribution=record.distribution,
        version=record.version,
        code=code,
        requests=record.requested.texts(),
        agreed=record.agreement.requests if record.agreement is not None and not record.has_changed_code else None,
        config=config,
    )


def revision_of(plugins: Mapping[str, LockedPlugin]) -> str:
    """Return a digest of all that is enabled: the files, what was agreed to, the configuration as written.

    Machines of which one was made like the other have the same; what is installed and not enabled does not count.
    """
    held = {name: [each.code, each.agreed, each.config] for name, each in plugins.items() if each.is_enabled}
    return sha256(orjson.dumps(held, default=_as_json, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _as_json(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def differences(there: Mapping[str, LockedPlugin], here: Mapping[str, LockedPlugin]) -> tuple[Difference, ...]:
    """Return in what `here` is not as `there`, plugin by plugin."""
    found: list[Difference] = []
    for name in sorted({*there, *here}):
        found += _of_plugin(name, there.get(name), here.get(name))
    return tuple(found)


def _of_plugin(name: str, there: LockedPlugin | None, here: LockedPlugin | None) -> Iterator[Difference]:
    if there is None:
        # One that is there and does nothing is no difference: installing enables nothing.
        if here is not None and here.is_enabled:
            yield Difference(name, "enabled", "not in the lock", "enabled")
        return
    if here is None or not here.code:
        yield Difference(name, "code", _source(there), "not installed")
    elif here.code != there.code:
        same = " (other files)" if _source(there) == _source(here) else ""
        yield Difference(name, "code", _source(there), _source(here) + same)
    are_enabled = there.is_enabled and here is not None and here.is_enabled
    if are_enabled and here is not None and there.agreed is not None and here.agreed != there.agreed:
        yield Difference(name, "agreed", "agreed to", "not agreed to")
    mine = here.config if here is not None else {}
    for key in sorted({*there.config, *mine}):
        if there.config.get(key) != mine.get(key):
            yield from _of_key(name, key, there.config.get(key), mine.get(key))


def _of_key(name: str, key: str, there: Any, here: Any) -> Iterator[Difference]:
    if key == "grants":
        wanted, held = GrantSet.of(there or ()), GrantSet.of(here or ())
        for grant in wanted.difference(held):
            yield Difference(name, key, grant.text, "not granted")
        for grant in held.difference(wanted):
            yield Difference(name, key, "not granted", grant.text, loosens=_guards(grant))
        return
    order = _STRICTER.get(key, ())
    # What is not written has the loosest of the values; but for the placement, which is then the plugin's affair.
    loosest = order[0] if order and key not in {"placement", "shadow"} else False if key == "shadow" else None
    old, new = (loosest if value is None else value for value in (here, there))
    stricter = old in order and new in order and order.index(new) >= order.index(old)
    if key == "enabled":
        there, here = ("enabled" if value else "disabled" for value in (there, here))
    yield Difference(name, key, _shown(there), _shown(here), loosens=not stricter)


def _guards(grant: Grant) -> bool:
    """Return whether the agent does without a guard once this grant is taken back."""
    return grant.kind in {"gate", "transform"}


def config_changes(there: Mapping[str, Any], here: Mapping[str, Any], kept: Iterable[str] = ()) -> dict[str, Any]:
    """Return the keys that make one table of the other, None for what is to be removed; `kept` are left as they are."""
    changes: dict[str, Any] = {}
    for key in {*there, *here} - {*kept}:
        new, old = there.get(key), here.get(key)
        if new == old:
            continue
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            changes[key] = config_changes(new, old)
        else:
            changes[key] = dict(new) if isinstance(new, Mapping) else new
    return changes


def _source(plugin: LockedPlugin) -> str:
    return f"{plugin.distribution or plugin.origin} {plugin.version}".strip()


def _shown(value: Any) -> str:
    return "as by default" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
