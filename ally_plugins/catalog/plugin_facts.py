"""The facts about every plugin of a home: what the sources found, what was settled, agreed to and remembered.

What follows from them is decided in `decide`; where two sources found one name, there are facts about both, and
`config.toml` chooses which one may run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

import orjson
from attrs import evolve, frozen

from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.values.raised import describe_raised
from ally_plugins.contract.wording import describe
from ally_plugins.policy.permissions import GrantSet

from .decide.loosening import WHOLE_FILE, keep_host_stricter, keep_stricter
from .decide.policy_rules import tightened
from .decide.state import Facts
from .environments.build import chosen_interpreter
from .home.config import Config, PluginConfig, read_config
from .home.consent import Agreement, read_consent
from .home.failed_starts import failed_starts
from .home.folder import MAX_STATE_BYTES
from .home.machine_policy import MachinePolicy, read_policy
from .home.quarantine import read_quarantine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .decide.placement import Interpreter
    from .discovery.found import Discovery, Found
    from .home.folder import Home

__all__ = ["Gathered", "Settled", "emptied_config_error", "gather", "names_of", "read_settled"]


@frozen
class Settled:
    """What the operator has decided, as read from the home: `config.toml`, the agreements, and damage to the latter."""

    config: Config
    agreements: Mapping[str, Agreement]
    damage: tuple[str, ...]
    policy: MachinePolicy
    """What the machine's administrator settled, which is stricter."""
    written: Config
    """What stands in `config.toml`; `config` is as strict as what was agreed to."""
    loosened: Mapping[str, tuple[str, ...]]
    """The keys that the file loosens and nobody has agreed to, by plugin, and under `WHOLE_FILE` those of none."""
    agreed: Config | None
    """What was agreed to that is about no single plugin; None where nothing was kept yet, and the file counts."""

    @property
    def names(self) -> frozenset[str]:
        """The plugins that either file names, installed or not."""
        return frozenset({*self.config.plugins, *self.agreements})


def read_settled(home: Home) -> Settled:
    """Read both files of the operator, and the machine's policy.

    Raises ConfigError and ConsentError for those that cannot be read.
    """
    written = read_config(home)
    agreements, agreed, damage = read_consent(home)
    held: dict[str, PluginConfig] = {}
    loosened: dict[str, tuple[str, ...]] = {}
    for name, agreement in agreements.items():
        # A file that does not decide about a plugin any more was emptied, which is an error of its own.
        if agreement.settled is not None and (config := written.of(name)).is_decided:
            held[name], keys = keep_stricter(agreement.settled, config)
            if keys:
                loosened[name] = keys
    holds = evolve(written, plugins=MappingProxyType({**written.plugins, **held}))
    if agreed is not None:
        holds, keys = keep_host_stricter(agreed, holds)
        if keys:
            loosened[WHOLE_FILE] = keys
    return Settled(holds, agreements, damage, read_policy(), written, loosened, agreed)


@frozen
class Gathered:
    """The facts about all plugins, by name, the chosen one of a name first; and `problems` that concern no plugin.

    `unanswered` are the plugins that were agreed to and of which `config.toml` does not say whether they are enabled,
    or with which grants.
    """

    facts: list[Facts]
    problems: tuple[str, ...]
    unanswered: tuple[str, ...]


def gather(
    home: Home, settled: Settled, discovery: Discovery, only: frozenset[str] | None, about: str | None = None
) -> Gathered:
    """Join what was found with what was settled and remembered. `only` are the names that may be loaded.

    With `about`, only plugins of that name, which is all that was searched for. Raises ConfigError when `config.toml`
    decides about no plugin and `consent.toml` is damaged: then nothing is left of what the operator decided.
    """
    config, agreements, damage = settled.config, settled.agreements, settled.damage
    # One damaged file is reported and its plugins deny; with both gone nobody knows which plugins there should be.
    if damage and not any(plugin.is_decided for plugin in config.plugins.values()):
        text = (
            f"{home.config_file} says of no plugin whether it is enabled, and what was agreed to cannot be read: "
            f"{damage[0]}; restore both files, or remove both to begin from nothing"
        )
        raise ConfigError(text, file=str(home.config_file))
    by_name = _by_name(discovery.found, config.sources)
    enabled = {name for name, plugin in config.plugins.items() if plugin.enabled}
    # What is enabled and not found stays: a guard that was uninstalled has to deny, and not to vanish.
    names = {about} & (enabled | by_name.keys()) if about is not None else enabled | by_name.keys()
    stopped, not_served = read_quarantine(home), _not_served(home)
    all_of = {name: list(_candidates(name, by_name.get(name, {}), config, discovery)) for name in sorted(names)}
    versions = {name: each[0].found.version for name, each in all_of.items() if each[0].found is not None}
    failures = failed_starts(home, versions)
    facts: list[Facts] = []
    for name, of_name in all_of.items():
        first = evolve(
            of_name[0],
            config=tightened(settled.policy, name, of_name[0].config),
            policy=settled.policy,
            loosened=settled.loosened.get(name, ()),
            written=settled.written.of(name),
            agreement=agreements.get(name),
            quarantine=stopped.of(name),
            is_excluded=only is not None and only.isdisjoint(names_of(of_name[0])),
            failure=failures.get(name, ""),
            not_served=not_served,
            interpreter=_interpreter(home, of_name[0]),
        )
        facts += [first, *of_name[1:]]
    if stopped.damage:
        way_out = "restore it, or let each of them out that you trust: ally-plugins release NAME"
        damage = (*damage, f"{stopped.damage}; every plugin that it may name stays stopped; {way_out}")
    waiting = settled.loosened.get(WHOLE_FILE, ())
    if waiting:
        way_out = "what was agreed to holds until: ally-plugins review --agree"
        damage = (*damage, f"{home.config_file} loosens {', '.join(waiting)}; {way_out}")
    # With `about`, a fault of another plugin is no reason to refuse this one.
    agreed = agreements if about is None else {about} & agreements.keys()
    unanswered = tuple(sorted(name for name in agreed if not config.of(name).is_decided))
    return Gathered(facts, (*damage, *discovery.problems), unanswered)


def names_of(facts: Facts) -> tuple[str, ...]:
    """Return what may name a plugin: the name, and that with where it is from, such as `folder:NAME`."""
    return (facts.name,) if facts.found is None else (facts.name, f"{facts.found.origin}:{facts.name}")


def emptied_config_error(home: Home, names: Sequence[str]) -> ConfigError:
    """Return the error for a `config.toml` that does not mention plugins which were agreed to."""
    file, first = str(home.config_file), names[0]
    text = (
        f"{file} does not say whether {', '.join(map(describe, names))} is enabled and with which grants, and "
        f"{home.consent_file} says that it was agreed to; was the file emptied or cut off? expected enabled = false, "
        f"or enabled = true and grants, for each; restore it, or say so anew: ally-plugins enable {first}, or: "
        f"ally-plugins disable {first}; to begin from nothing, remove both files"
    )
    return ConfigError(text, path=f"plugins.{first}.enabled", file=file)


def _interpreter(home: Home, facts: Facts) -> Interpreter:
    """Return the Python that was named for a plugin; dependencies that its bridge misses are a problem of it."""
    chosen = chosen_interpreter(home, facts.name, facts.config)
    bridge = facts.found.bridge if facts.found is not None else None
    if bridge is None or chosen.problem:
        return chosen
    try:
        # Looked up here and not in `decide`, which is pure: it reads what is installed.
        return evolve(chosen, problem=bridge.missing(home))
    except Exception as error:  # noqa: BLE001  # its source may be a stranger's
        return evolve(chosen, problem=f"its bridge failed: {describe_raised(error)}")


def _by_name(all_found: Iterable[Found], sources: Sequence[str]) -> Mapping[str, dict[str, Found]]:
    """Return what was found by name and origin; without a choice in `config.toml`, the first origin is used."""
    by_name: defaultdict[str, dict[str, Found]] = defaultdict(dict)
    for found in sorted(all_found, key=lambda each: _rank(each.origin, sources)):
        by_name[found.name][found.origin] = found
    return by_name


def _rank(origin: str, sources: Sequence[str]) -> tuple[int, int]:
    """Order what was found under one name: a package, a folder, then the other sources as the operator named them."""
    # The origin once more at the end, since `package` and `folder` are the names of no source.
    return (0 if origin == "package" else 1 if origin == "folder" else 2, [*sources, origin].index(origin))


def _candidates(name: str, by_origin: dict[str, Found], config: Config, discovery: Discovery) -> Iterator[Facts]:
    """Yield the facts of the chosen one, and of the other ones of that name.

    The bare name is the label of the one that would be used without a choice.
    """
    settled = config.of(name)
    origin = _origin(by_origin, settled)
    usual = min((origin, *by_origin), key=lambda each: _rank(each, config.sources))
    labels = {each: name if each == usual else f"{each}:{name}" for each in (origin, *by_origin)}
    yield Facts(
        name=name,
        found=by_origin.get(origin),
        config=settled,
        agreement=None,
        label=labels[origin],
        unsearched=discovery.failed.get(origin, ""),
    )
    for found in by_origin.values():
        if found.origin != origin:
            yield Facts(
                name=name,
                found=found,
                # Without what was settled and agreed to: both are about the chosen one of this name.
                config=_untouched(settled),
                agreement=None,
                label=labels[found.origin],
                set_aside=_set_aside(name, labels[found.origin], by_origin.get(origin)),
            )


def _origin(by_origin: dict[str, Found], settled: PluginConfig) -> str:
    """Return the chosen origin, also when it is gone: nothing else may run in its place without consent."""
    if settled.origin is not None and (settled.enabled or settled.origin in by_origin):
        return settled.origin
    # The first is the usual one: `_by_name` has put them in by rank.
    return next(iter(by_origin), "package")


def _untouched(settled: PluginConfig) -> PluginConfig:
    """Return the configuration for one that was not chosen: what the operator settled is about the other one."""
    return evolve(settled, enabled=False, is_decided=False, grants=GrantSet(), placement=None, interpreter="",
                  environment="")  # fmt: skip


def _set_aside(name: str, label: str, chosen: Found | None) -> str:
    command = f"ally-plugins enable {label}"
    if chosen is None:
        return f"config.toml chooses another {name!r}, which is not there; to choose this one: {command}"
    what = {"package": f"the package {chosen.distribution!r}", "folder": f"the folder {chosen.root}"}.get(
        chosen.origin, f"the one of the source {chosen.source!r}"
    )
    return f"{what} has this name too, and counts; to choose this one: {command}"


def _not_served(home: Home) -> frozenset[str]:
    with suppress(OSError, ValueError):  # only for a warning; without the file there is none
        names = orjson.loads(home.read(home.not_served_file, MAX_STATE_BYTES) or b"[]")
        return frozenset(name for name in names if isinstance(name, str))
    return frozenset()
