"""What was settled for plugins when somebody agreed, kept beside the agreement, so that a looser edit by hand is seen.

Commands keep what they change; a host keeps what was tightened by hand. What the file loosens is kept by
`agree_to_file` alone. The caller holds `home.locked()` where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve

from ally_plugins.contract.values.errors import ConsentError
from ally_plugins.contract.values.frozen import FrozenDict

from .decide.loosening import WHOLE_FILE
from .home.config import PluginConfig, host_table, read_config
from .home.config_edits import edit_config
from .home.consent import write_consent
from .plugin_facts import read_settled

if TYPE_CHECKING:
    from .home.folder import Home
    from .plugin_facts import Settled

__all__ = ["agree_to_file", "keep_tightened", "settle", "settled_now"]

_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "enabled": ("enabled", "is_decided"),
    "source": ("origin",),
    "on_error": ("gate_on_error", "transform_on_error"),
}
"""The fields of a key of `config.toml` that go by another name."""


def settle(
    home: Home, settled: Settled, name: str, change: Callable[[dict[str, Any]], dict[str, Any]], **agreed: Any
) -> None:
    """Change keys of `[plugins.NAME]`, as `edit_config` does, and keep that somebody wanted these.

    `agreed` are fields of the agreement that change with it.
    """
    keys: dict[str, Any] = {}

    def noted(before: dict[str, Any]) -> dict[str, Any]:
        keys.update(change(before))
        return keys

    edit_config(home, name, noted, settled.config)
    before = settled.agreements.get(name)
    if before is not None:
        now = evolve(before, settled=settled_now(home, settled, name, keys), **agreed)
        if now != before:
            write_consent(home, {**settled.agreements, name: now}, settled.agreed)


def settled_now(home: Home, settled: Settled, name: str, keys: Mapping[str, Any]) -> PluginConfig:
    """Return what holds for a plugin once these keys were written; what else the file loosens still waits."""
    written, before = read_config(home).of(name), settled.config.of(name)
    fields = [field for key in keys if key != "settings" for field in _FIELDS.get(key, (key,))]
    now = evolve(before, **{field: getattr(written, field) for field in fields if hasattr(written, field)})
    changed = keys.get("settings")
    if isinstance(changed, Mapping):
        kept = {key: value for key, value in before.settings.items() if key not in changed}
        kept |= {key: written.settings[key] for key in changed if key in written.settings}
        now = evolve(now, settings=FrozenDict(kept))
    return now


def keep_tightened(home: Home) -> None:
    """Keep what was tightened by hand, and what was settled before anything was kept; waits for the home's lock.

    Raises ConfigError and ConsentError for files that cannot be read or written.
    """
    settled = read_settled(home)
    is_kept = settled.agreed is not None and host_table(settled.agreed) == host_table(settled.config)
    kept = (_kept(settled, name) == agreement.settled for name, agreement in settled.agreements.items())
    # Without an agreement nothing is kept: a home in which nobody has agreed to anything has no consent.
    if not settled.agreements or (is_kept and all(kept)):
        return
    with home.locked():
        settled = read_settled(home)
        write_consent(
            home,
            {name: evolve(each, settled=_kept(settled, name)) for name, each in settled.agreements.items()},
            settled.config,
        )


def _kept(settled: Settled, name: str) -> PluginConfig | None:
    """Return what is to be kept of a plugin; one that the file does not decide about stays as it is."""
    now, before = settled.config.of(name), settled.agreements[name].settled
    if not now.is_decided:
        return before
    if before is not None and "enabled" in settled.loosened.get(name, ()):
        now = evolve(now, enabled=before.enabled)
    return evolve(now, is_decided=True)


def agree_to_file(home: Home, shown: Mapping[str, tuple[str, ...]]) -> None:
    """Agree to what `config.toml` loosens, as it was shown by plugin; waits for the home's lock.

    Raises ConsentError where it loosens something else by now, ConfigError for files that cannot be read or written.
    """
    with home.locked():
        settled = read_settled(home)
        if any(settled.loosened.get(name) != keys for name, keys in shown.items()):
            raise ConsentError("config.toml has changed since it was shown", command="ally-plugins review")
        plugins = shown.keys() - {WHOLE_FILE}
        agreed = {name: evolve(settled.agreements[name], settled=settled.written.of(name)) for name in plugins}
        host = settled.written if WHOLE_FILE in shown else settled.agreed
        write_consent(home, {**settled.agreements, **agreed}, host)
