"""What was written into `config.toml` by hand and is less strict than what was agreed to: the stricter holds.

Pure. What a person agreed to is in `consent.toml`, written by commands; `review --agree` agrees to what the file says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, evolve

from ally_plugins.catalog.home.config import DEFAULT_SOURCES, Config, PluginConfig
from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.policy.budget import Limits
from ally_plugins.policy.permissions import GrantSet

from .policy_rules import is_guarding

if TYPE_CHECKING:
    from ally_plugins.contract.grants import Grant

__all__ = ["WHOLE_FILE", "keep_host_stricter", "keep_stricter"]

WHOLE_FILE: Final = "config.toml"
"""What stands for a plugin's name where keys are about none: no plugin is called so."""

_GUARDS: Final = ("gate", "transform")
_USUAL_DEADLINE: Final = 15.0
"""Seconds of a gate and a transform for which nothing is settled."""

_PLACES: Final = {"inline": 0, None: 0, "process": 1, "sandbox": 2, "shared": 2}
"""How much each placement holds. Without one a class runs inline, and a daemon in a process whatever is settled."""

Compare = Callable[[PluginConfig, PluginConfig], Mapping[str, Any]]
"""Returns what stays as it was agreed to, by the names of `PluginConfig`; empty where nothing was loosened."""


def keep_stricter(agreed: PluginConfig, written: PluginConfig) -> tuple[PluginConfig, tuple[str, ...]]:
    """Return what holds for a plugin, and which keys the file loosens.

    A plugin that the file enables and a person has disabled is enabled in it, so that its gates deny until somebody
    agrees: `enabled` is among the keys then.
    """
    kept: dict[str, Any] = {}
    loosened: list[str] = []
    for key, compare in _COMPARED.items():
        if stays := compare(agreed, written):
            kept.update(stays)
            loosened.append(key)
    return evolve(written, **kept), tuple(loosened)


def _enabled(agreed: PluginConfig, written: PluginConfig) -> Mapping[str, Any]:
    return {"enabled": True} if agreed.enabled != written.enabled else {}


def _placement(agreed: PluginConfig, written: PluginConfig) -> Mapping[str, Any]:
    # Neither holds more than the other: one runs code here, the other sends what it is shown to another machine.
    is_moved = agreed.placement != written.placement and "shared" in (agreed.placement, written.placement)
    is_looser = _PLACES[written.placement] < _PLACES[agreed.placement] or is_moved
    # Another Python is other code.
    is_other = (agreed.interpreter, agreed.environment) != (written.interpreter, written.environment)
    if not is_looser and not (is_other and written.placement != "inline"):
        return {}
    return {"placement": agreed.placement, "interpreter": agreed.interpreter, "environment": agreed.environment}


def _grants(agreed: PluginConfig, written: PluginConfig) -> Mapping[str, Any]:
    lost = {grant for grant in agreed.grants.difference(written.grants) if is_guarding(grant)}
    gained = {grant for grant in written.grants.difference(agreed.grants) if not _tightens(grant)}
    if not lost and not gained:
        return {}
    return {"grants": GrantSet(frozenset((written.grants.grants - gained) | lost))}


def _tightens(grant: Grant) -> bool:
    return is_guarding(grant) and not grant.text.endswith((":waive", ":sentence"))


def _process(agreed: PluginConfig, written: PluginConfig) -> Mapping[str, Any]:
    before = agreed.process
    # A limit that nobody has agreed to may be set; without one, none was held to.
    less = {key: value for key, value in written.process.items() if key not in before or _is_less(value, before[key])}
    held = {**before, **less}
    return {"process": FrozenDict(held)} if held != dict(written.process) else {}


def _is_less(value: Any, before: Any) -> bool:
    numbers = [each for each in (value, before) if isinstance(each, (int, float)) and not isinstance(each, bool)]
    return len(numbers) == 2 and value <= before  # noqa: PLR2004 - both of them


def _limits(agreed: PluginConfig, written: PluginConfig) -> Mapping[str, Any]:
    before, now = asdict(agreed.limits), asdict(written.limits)
    held = {key: min(value, before[key]) for key, value in now.items()}
    return {"limits": Limits(**held)} if held != now else {}


def _deadlines(agreed: PluginConfig, written: PluginConfig) -> Mapping[str, Any]:
    # A guard that has less time gives no answer more often, and a transform that gives none may be passed over.
    guarding = [*_GUARDS, *(name for name, info in HOOKS.items() if info.kind in _GUARDS)]
    shorter = {name for name in guarding if _deadline(written, name) < _deadline(agreed, name)}
    if not shorter:
        return {}
    return {"deadlines": FrozenDict({**written.deadlines, **{name: _deadline(agreed, name) for name in shorter}})}


def _deadline(config: PluginConfig, name: str) -> float:
    kind = HOOKS[name].kind if name in HOOKS else name
    return config.deadlines.get(name, config.deadlines.get(kind, _USUAL_DEADLINE))


def _settings(agreed: PluginConfig, written: PluginConfig) -> Mapping[str, Any]:
    # Nobody but the plugin knows which way is stricter.
    is_guard = any(map(is_guarding, agreed.grants.grants))
    return {"settings": agreed.settings} if is_guard and agreed.settings != written.settings else {}


def _origin(agreed: PluginConfig, written: PluginConfig) -> Mapping[str, Any]:
    return {"origin": agreed.origin} if agreed.origin != written.origin else {}


def _only_to(name: str, stricter: Any) -> Compare:
    """Compare a field of which one value is the stricter one."""

    def compare(agreed: PluginConfig, written: PluginConfig) -> Mapping[str, Any]:
        before, now = getattr(agreed, name), getattr(written, name)
        return {name: stricter} if before == stricter != now else {}

    return compare


def _no_more_of(name: str) -> Compare:
    """Compare a field that frees some or all: False, True, or names."""

    def compare(agreed: PluginConfig, written: PluginConfig) -> Mapping[str, Any]:
        before, now = getattr(agreed, name), getattr(written, name)
        if now is False or before is True or now == before:
            return {}
        if before is False or now is True:
            return {name: before}
        return {name: before & now} if now - before else {}

    return compare


_COMPARED: Final[Mapping[str, Compare]] = {
    "enabled": _enabled,
    "placement": _placement,
    "grants": _grants,
    "shadow": _no_more_of("shadow"),
    "mandatory": _only_to("mandatory", stricter=True),
    "ungated_tools": _no_more_of("ungated_tools"),
    "consent": _only_to("consent", "files"),
    "on_error.gate": _only_to("gate_on_error", "deny"),
    "on_error.transform": _only_to("transform_on_error", "block"),
    "sandbox": _only_to("sandbox", "require"),
    "process": _process,
    "limits": _limits,
    "deadlines": _deadlines,
    "settings": _settings,
    "source": _origin,
}


def keep_host_stricter(agreed: Config, written: Config) -> tuple[Config, tuple[str, ...]]:
    """Return what holds of what is settled for no single plugin, and which keys the file loosens.

    A source that is none of our own brings code that runs in the host. Of the journal, what would be removed sooner is
    gone for good, and what would be kept longer can be removed later. Whether it keeps contents is wanted by one for
    the evidence and not by another for the secrets in it, so neither way is the stricter. In the chat, a tool that is
    `allow`ed is not asked about, and where the conversation and its key are sent is the person's to say. The model's
    name and its window are not held: they say how well it answers, and to nobody new.
    """
    journal, chat = agreed.journal, agreed.chat
    limits = {"keep_days": journal.keep_days, "max_megabytes": journal.max_megabytes}
    held: dict[str, dict[str, Any]] = {
        "journal": {
            "content": journal.content,
            **{key: before for key, before in limits.items() if _removes_more(before, getattr(written.journal, key))},
        },
        "chat": {
            "base_url": chat.base_url,
            "api_key_env": chat.api_key_env,
            "allow": tuple(each for each in written.chat.allow if each in chat.allow),
        },
    }
    kept = evolve(
        written,
        sources=tuple(each for each in written.sources if each in agreed.sources or each in DEFAULT_SOURCES),
        journal=evolve(written.journal, **held["journal"]),
        chat=evolve(written.chat, **held["chat"]),
    )
    keys = ["sources"] if kept.sources != written.sources else []
    keys += [
        f"{part}.{key}"
        for part, values in held.items()
        for key in values
        if getattr(getattr(kept, part), key) != getattr(getattr(written, part), key)
    ]
    return kept, tuple(keys)


def _removes_more(before: int, now: int) -> bool:
    return now != 0 and (before == 0 or now < before)  # 0 is no limit
