"""What is known of one plugin, and what follows: whether it may run, why not, and the command that changes it.

A pure decision from three facts: what is installed, what `config.toml` says, and what was agreed to. Gathering them is
left to `registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from attrs import evolve, field, frozen

from .config import PluginConfig
from .consent import Agreement
from .daemons import Daemon
from .discovery import Found
from .errors import ConfigError, HostError
from .fields import suggest
from .frozen import FrozenDict, trusted
from .manifest import Manifest, Request
from .policy.permissions import GrantSet
from .settings import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .grants import Grant
    from .settings import Setting

__all__ = ["Facts", "PluginRecord", "State", "given_records", "judge", "resolve_settings"]

State = Literal[
    "enabled",
    "disabled",
    "waiting for consent",
    "not configured",
    "broken",
    "not installed",
    "quarantined",
    "left out",
]
"""Only an `enabled` plugin is loaded."""

_NO_GRANTS: Final = GrantSet()
_NO_CONFIG: Final = PluginConfig()
_NO_MANIFEST: Final = Manifest()


@frozen(kw_only=True)
class PluginRecord:
    """One plugin as the host and the commands see it; valid until something in the home or on the path changes.

    `reason` is one line, empty when the plugin is enabled and nothing is to be said.
    """

    name: str
    state: State
    reason: str = ""
    distribution: str = ""
    version: str = ""
    entry_point: str = ""
    manifest: Manifest = _NO_MANIFEST
    granted: GrantSet = _NO_GRANTS
    """What it may do; while it is not enabled, what it was granted, so that its gates are known to be missing."""
    pending: tuple[Request, ...] = ()
    """What it asks for and nobody has agreed to."""
    config: PluginConfig = _NO_CONFIG
    settings: Mapping[str, Any] = field(default=FrozenDict(), repr=False)
    """Resolved values, secrets among them; never show or journal them. Empty while it is not enabled."""
    agreement: Agreement | None = None
    has_changed_code: bool = False
    warnings: tuple[str, ...] = ()
    failure: str = ""
    """Why the host that last tried could not start it, a broken import for one; empty when it could."""
    found: Found | None = None
    daemon: Daemon | None = None
    """How it runs in a process of its own, all settled and ready to start; None for one that runs inline."""

    @property
    def placement(self) -> Literal["inline", "process"]:
        """Where it runs."""
        return "inline" if self.daemon is None else "process"

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables of the host that its process is given: those granted, sorted."""
        return tuple(sorted(grant.topic for grant in self.granted.grants if grant.kind == "env"))

    @property
    def source(self) -> str:
        """Where the plugin comes from, in words."""
        if not self.distribution:
            return "given by code" if self.found is None and self.state == "enabled" else "not installed"
        return f"{self.distribution} {self.version}".rstrip()

    @property
    def requested(self) -> GrantSet:
        """What it asks for."""
        return GrantSet(self.manifest.grants)

    @property
    def is_enabled(self) -> bool:
        """Whether it is to be loaded."""
        return self.state == "enabled"

    @property
    def is_missed(self) -> bool:
        """Whether the operator wants it and it cannot run: its granted gates deny until then."""
        return self.config.enabled and self.state not in ("enabled", "left out")

    @classmethod
    def by_code(
        cls,
        name: str,
        manifest: Manifest | None = None,
        *,
        grants: GrantSet | None = None,
        config: PluginConfig | None = None,
        settings: Mapping[str, Any] | None = None,
        daemon: Daemon | None = None,
    ) -> PluginRecord:
        """Return the record of a plugin that a host author gives by code; that is the author's consent.

        Without `grants` it has what its manifest asks for, and without a manifest everything but variables. With
        `daemon` it runs in a process of its own.
        """
        known = manifest if manifest is not None else Manifest()
        asked = GrantSet(known.grants) if manifest is not None else GrantSet.everything()
        granted = asked if grants is None else grants
        return cls(
            name=name,
            state="enabled",
            manifest=known,
            granted=granted,
            config=config or PluginConfig(enabled=True, is_decided=True, grants=granted),
            settings=_defaults(known) | dict(settings or {}),
            agreement=Agreement(requests=asked.texts(), distribution="", by="code"),
            daemon=daemon,
        )


def _defaults(manifest: Manifest) -> dict[str, Any]:
    return {name: setting.default for name, setting in manifest.settings.items()}


@frozen(kw_only=True)
class Facts:
    """What is known of one plugin before anything is decided."""

    name: str
    found: Found | None
    config: PluginConfig
    agreement: Agreement | None
    quarantine: str | None = None
    is_left_out: bool = False
    failure: str = ""
    never_emitted: frozenset[str] = frozenset()
    """Event types that the app's host has said it never emits."""


def judge(facts: Facts, secret: Callable[[str, str], str | None]) -> PluginRecord:
    """Decide the state of one plugin. `secret` looks one up, and is only asked when all else allows the plugin."""
    found, config = facts.found, facts.config
    manifest = found.manifest if found is not None and found.manifest is not None else None
    state, reason = _state(facts, manifest)
    settings: Mapping[str, Any] = FrozenDict()
    if state == "enabled" and manifest is not None:
        settings, problems = resolve_settings(facts.name, manifest, config.settings, secret)
        if problems:
            state, reason = "not configured", "; ".join(problems)
    requested = GrantSet(manifest.grants) if manifest is not None else _NO_GRANTS
    has_changed = _has_changed(facts)
    failure = facts.failure if state == "enabled" else ""
    return PluginRecord(
        name=facts.name,
        state=state,
        reason=reason or _failed(failure) or _remark(facts, has_changed=has_changed),
        distribution=found.distribution if found is not None else "",
        version=found.version if found is not None else "",
        entry_point=found.entry_point if found is not None else "",
        manifest=manifest or _NO_MANIFEST,
        granted=_granted(facts, requested, state),
        pending=_pending(facts, manifest),
        config=config,
        settings=settings if state == "enabled" else FrozenDict(),
        agreement=facts.agreement,
        has_changed_code=has_changed,
        warnings=_warnings(facts, manifest),
        failure=failure,
        found=found,
    )


def _state(facts: Facts, manifest: Manifest | None) -> tuple[State, str]:
    found = facts.found
    if facts.is_left_out and facts.config.enabled:
        return "left out", "ALLY_PLUGINS does not name it"
    if found is None:
        return "not installed", f"enabled but not installed; install it, or: ally-plugins disable {facts.name}"
    if found.problem is not None or manifest is None:
        return "broken", found.problem or "it has no manifest"
    return _enabled_state(facts, found, manifest) if facts.config.enabled else _disabled_state(facts)


def _disabled_state(facts: Facts) -> tuple[State, str]:
    if facts.config.is_decided or facts.agreement is not None:
        return "disabled", f"to enable it: ally-plugins enable {facts.name}"
    return "waiting for consent", f"new; to see what it asks for, and agree: ally-plugins enable {facts.name}"


def _enabled_state(facts: Facts, found: Found, manifest: Manifest) -> tuple[State, str]:
    name = facts.name
    if (missing := _missing_consent(facts, found, manifest)) is not None:
        return "waiting for consent", f"{missing}; to see it, and agree: ally-plugins enable {name}"
    if facts.quarantine is not None:
        way_out = "" if "ally-plugins release" in facts.quarantine else f"; to try again: ally-plugins release {name}"
        return "quarantined", f"{facts.quarantine}{way_out}"
    return "enabled", ""


def _missing_consent(facts: Facts, found: Found, manifest: Manifest) -> str | None:
    agreement = facts.agreement
    if agreement is None:
        return "nobody has agreed to what it asks for"
    if agreement.distribution != found.distribution:
        return f"it was agreed to from {agreement.distribution!r} and now comes from {found.distribution!r}"
    more = GrantSet(manifest.grants).difference(agreement.grants)
    if more:
        return f"it asks for more than was agreed to: {', '.join(grant.text for grant in more)}"
    if facts.config.consent == "files" and agreement.files != found.content_digest():
        return "its files are not those that were agreed to"
    return None


def _has_changed(facts: Facts) -> bool:
    agreement, found = facts.agreement, facts.found
    return agreement is not None and found is not None and bool(found.digest) and agreement.code != found.digest


def _failed(failure: str) -> str:
    return f"it did not start when a host last tried: {failure}" if failure else ""


def _remark(facts: Facts, *, has_changed: bool) -> str:
    if not has_changed or facts.agreement is None:
        return ""
    return (
        f"its code has changed since version {facts.agreement.version}; to take note: ally-plugins enable {facts.name}"
    )


def _granted(facts: Facts, requested: GrantSet, state: State) -> GrantSet:
    if state != "enabled" or facts.agreement is None:
        return facts.config.grants
    return facts.config.grants.intersection(requested).intersection(facts.agreement.grants)


def _pending(facts: Facts, manifest: Manifest | None) -> tuple[Request, ...]:
    if manifest is None:
        return ()
    agreement = facts.agreement
    is_same = agreement is not None and facts.found is not None and agreement.distribution == facts.found.distribution
    agreed = agreement.grants if agreement is not None and is_same else _NO_GRANTS
    return tuple(request for request in manifest.requests if not agreed.covers(request.grant))


def _warnings(facts: Facts, manifest: Manifest | None) -> tuple[str, ...]:
    if manifest is None:
        return ()
    idle = [
        f"it subscribes to {name}, which this app's host never emits"
        for name in manifest.subscribe
        if name in facts.never_emitted
    ]
    beyond = facts.config.grants.difference(GrantSet(manifest.grants))
    return (*idle, *_not_asked_for(facts, manifest, beyond))


def _not_asked_for(facts: Facts, manifest: Manifest, beyond: tuple[Grant, ...]) -> tuple[str, ...]:
    return tuple(
        f"config.toml grants {grant.text!r}, which it does not ask for: ally-plugins revoke {facts.name} {grant.text}"
        for grant in beyond
        if not any(grant.covers(asked) for asked in manifest.grants)
    )


def resolve_settings(
    plugin: str, manifest: Manifest, given: Mapping[str, Any], secret: Callable[[str, str], str | None]
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return a plugin's values (None where there is none) and what is wrong with those that were given."""
    problems = [
        f"plugins.{plugin}.settings.{key}: unknown setting, {suggest(key, tuple(manifest.settings))}"
        for key in given
        if key not in manifest.settings
    ]
    values: dict[str, Any] = {}
    for name, setting in manifest.settings.items():
        try:
            kept = secret(plugin, name) if setting.secret else given.get(name)
        except ConfigError as error:  # a locked keyring stops this plugin, not the others
            problems.append(str(error))
            continue
        value = Secret(kept) if setting.secret and isinstance(kept, str) else kept
        if (problem := _setting_problem(plugin, setting, value, is_in_file=name in given)) is not None:
            problems.append(problem)
        values[name] = setting.default if value is None else value
    return trusted(values), tuple(problems)


def _setting_problem(plugin: str, setting: Setting, value: object, *, is_in_file: bool) -> str | None:
    path = f"plugins.{plugin}.settings.{setting.name}"
    command = f"ally-plugins config {plugin} {setting.name}"
    if setting.secret and is_in_file:
        return f"{path}: a secret is not kept in config.toml; remove it there, then: {command}"
    if value is None:
        needs = setting.required and setting.default is None
        return f"{path}: required and not set: {command}{'' if setting.secret else '=VALUE'}" if needs else None
    if not setting.accepts(value):
        return f"{path}: expected {setting.expected}, found something else: {command}=VALUE"
    return None


def given_records(
    plugins: Mapping[str, Any], grants: Mapping[str, Iterable[str]]
) -> list[tuple[PluginRecord, Callable[[Any], Any] | None]]:
    """Return the records of plugins that a host author gives by code, each with its factory. Raises HostError.

    A plugin is given as a factory, as a `Daemon`, or as one of both with its record; a daemon has no factory.
    """
    given: list[tuple[PluginRecord, Callable[[Any], Any] | None]] = []
    for name, value in plugins.items():
        what, record = value if isinstance(value, tuple) else (value, _given(name, grants.get(name)))
        if isinstance(what, Daemon):
            given.append((evolve(record, daemon=what), None))
        else:
            given.append((record, what))
    if unknown := sorted(set(grants) - set(plugins)):
        raise HostError(f"grants are given for {', '.join(unknown)}, which plugins= does not name")
    return given


def _given(name: str, grants: Iterable[str] | None) -> PluginRecord:
    return PluginRecord.by_code(name, grants=GrantSet.of(grants) if grants is not None else None)
