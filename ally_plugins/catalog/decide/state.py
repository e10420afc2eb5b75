"""The state of one plugin, decided from the facts: whether it may run, why not, and the command that changes it.

A pure decision from what is installed, what `config.toml` says, and what was agreed to. `catalog.plugin_facts`
gathers these facts.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import evolve, frozen

from ally_plugins.catalog.discovery.found import Found
from ally_plugins.catalog.home.config import PluginConfig
from ally_plugins.catalog.home.consent import Agreement, file_changes, listing_of
from ally_plugins.catalog.home.machine_policy import MachinePolicy
from ally_plugins.catalog.home.setting_values import resolve_settings
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.policy.permissions import GrantSet
from ally_plugins.policy.serving import unserved_event, unserved_grants, unserved_warning

from .placement import DEFAULT_PLACEMENT, Interpreter, Placed, place, why_outside
from .policy_rules import forbidden_grants, guards_of, is_guarding, not_allowed
from .record import PluginRecord, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from ally_plugins.contract.grants import Grant
    from ally_plugins.contract.manifest import GrantRequest

__all__ = ["Facts", "judge"]

_NO_GRANTS: Final = GrantSet()
_NO_INTERPRETER: Final = Interpreter()
_NO_POLICY: Final = MachinePolicy()
_NO_MANIFEST: Final = Manifest()
_NOT_PLACED: Final = Placed()
_SHOWN: Final = 3
"""Changed files that a reason names; `review` shows them all."""


@frozen(kw_only=True)
class Facts:
    """One plugin before anything is decided: what was found, settled, agreed to and remembered."""

    name: str
    found: Found | None
    config: PluginConfig
    agreement: Agreement | None
    quarantine: str | None = None
    is_excluded: bool = False
    """Whether ALLY_PLUGINS names other plugins only."""
    failure: str = ""
    not_served: frozenset[str] = frozenset()
    """What the app's host has declared it does not serve; see `contract.serves`."""
    interpreter: Interpreter = _NO_INTERPRETER
    label: str = ""
    set_aside: str = ""
    """Why another one of its name is the one that counts."""
    unsearched: str = ""
    """Why it could not be found, where its source failed."""
    policy: MachinePolicy = _NO_POLICY
    """What the machine's administrator settled; `config` is as strict as that already."""
    loosened: tuple[str, ...] = ()
    """Keys that `config.toml` loosens and nobody has agreed to; `config` is as strict as what was agreed to."""
    written: PluginConfig | None = None
    """What stands in `config.toml`, where that was read."""


def judge(facts: Facts, secret: Callable[[str, str], str | None]) -> PluginRecord:
    """Decide the state of one plugin. Raises nothing.

    `secret` looks up a secret setting by plugin and key. It is called last and only for a plugin that is enabled
    otherwise, since a keyring may ask the person to unlock it.
    """
    outside, placement = "", facts.config.placement
    if (is_unplaced := _is_unplaced(facts)) and facts.found is not None:
        outside = why_outside(facts.name, facts.found, facts.config, facts.interpreter)
        placement = None if outside else DEFAULT_PLACEMENT
    elif placement is None and facts.agreement is not None:
        placement = facts.agreement.placement
    facts = evolve(facts, config=evolve(facts.config, placement=placement))
    found, config = facts.found, facts.config
    manifest = found.manifest if found is not None and found.manifest is not None else None
    placed = _placed(facts)
    state, reason = _state(facts, manifest, placed)
    settings: Mapping[str, Any] = FrozenDict()
    if state == "enabled" and manifest is not None:
        settings, problems = resolve_settings(facts.name, manifest, config.settings, secret)
        if facts.written is not None and "settings" in facts.loosened:
            # A wrong value is said, though the one that was agreed to would hold.
            problems = resolve_settings(facts.name, manifest, facts.written.settings, secret)[1] or problems
        if problems:
            state, reason = "not configured", "; ".join(problems)
    requested = GrantSet(manifest.grants) if manifest is not None else _NO_GRANTS
    has_changed = _has_changed(facts)
    # After the settings: where one of them is missing it is not enabled, and keeps its grants, whose gates deny.
    granted = _granted(facts, requested, state)
    failure = facts.failure if state == "enabled" else ""
    return PluginRecord(
        name=facts.name,
        state=state,
        reason=reason
        or _loosened_note(facts)
        or _failed_start_note(failure)
        or _changed_code_note(facts, has_changed=has_changed),
        distribution=found.distribution if found is not None else "",
        version=found.version if found is not None else "",
        entry_point=found.entry_point if found is not None else "",
        manifest=manifest or _NO_MANIFEST,
        granted=granted,
        pending=_pending(facts, manifest),
        config=config,
        settings=settings if state == "enabled" else FrozenDict(),
        agreement=facts.agreement,
        has_changed_code=has_changed,
        warnings=(*_warnings(facts, manifest, granted, requested), *placed.warnings),
        loosened=facts.loosened,
        failure=failure,
        found=found,
        daemon=placed.daemon,
        python=placed.python,
        is_unplaced=is_unplaced,
        outside=outside,
        label=facts.label or facts.name,
        is_set_aside=bool(facts.set_aside),
    )


def _is_unplaced(facts: Facts) -> bool:
    found, config = facts.found, facts.config
    is_whole = found is not None and found.manifest is not None and found.problem is None
    # What the machine's policy makes mandatory counts as enabled, whoever has decided anything about it.
    was_enabled = config.enabled and config.is_decided
    return is_whole and config.placement is None and not was_enabled and facts.agreement is None


def _placed(facts: Facts) -> Placed:
    found = facts.found
    if found is None or found.manifest is None:
        return _NOT_PLACED
    return place(facts.name, found, facts.config, facts.interpreter)


def _state(facts: Facts, manifest: Manifest | None, placed: Placed) -> tuple[State, str]:
    found = facts.found
    if facts.set_aside:
        return "disabled", facts.set_aside
    # Before all that may be wrong with it: gates of one that ALLY_PLUGINS leaves out do not deny.
    if facts.is_excluded and facts.config.enabled:
        return "left out", "ALLY_PLUGINS does not name it"
    if found is None:
        why = f"{facts.unsearched}; mend it" if facts.unsearched else f"enabled but not installed; {_install(facts)}"
        return "not installed", f"{why}, or: ally-plugins disable {facts.name}"
    if found.problem is not None or manifest is None:
        return "broken", found.problem or "it has no manifest"
    if not facts.config.enabled:
        return _disabled_state(facts)
    state, reason = _enabled_state(facts, found, manifest)
    return ("not configured", placed.problem) if state == "enabled" and placed.problem else (state, reason)


def _refused_by_policy(facts: Facts, found: Found) -> str:
    if why := not_allowed(facts.policy, facts.name, found):
        return f"{why}; ask who administers this machine, or: ally-plugins disable {facts.name}"
    # A guard that lost its grant in silence would be none: what it was granted denies until somebody decides.
    guarding = [each for each in facts.config.grants.grants if is_guarding(each)]
    for text, why in sorted(forbidden_grants(facts.policy, facts.name, guarding).items()):
        return f"it is granted {text!r}, and {why}: ally-plugins revoke {facts.name} {text}"
    return ""


def _disabled_state(facts: Facts) -> tuple[State, str]:
    if facts.config.is_decided or facts.agreement is not None:
        return "disabled", f"to enable it: {_enable(facts)}"
    return "waiting for consent", f"new; to see what it asks for, and agree: {_enable(facts)}"


def _enabled_state(facts: Facts, found: Found, manifest: Manifest) -> tuple[State, str]:
    name = facts.name
    if refused := _refused_by_policy(facts, found):
        return "not configured", refused
    if (missing := _missing_consent(facts, found, manifest)) is not None:
        return "waiting for consent", f"{missing}; to see it, and agree: {_enable(facts)}"
    if facts.quarantine is not None:
        # A reason that a host has written may end with the way out already.
        way_out = "" if "ally-plugins release" in facts.quarantine else f"; to try again: ally-plugins release {name}"
        return "quarantined", f"{facts.quarantine}{way_out}"
    # As for code that lacks the hook: who granted it relies on it, and an update may have dropped it.
    lost = [grant for grant in _idle_grants(facts, manifest) if grant.kind in {"gate", "transform"}]
    return ("not configured", _unrequested(facts, lost[0])) if lost else ("enabled", "")


def _install(facts: Facts) -> str:
    agreement = facts.agreement
    if agreement is None or not agreement.distribution or facts.config.origin not in {None, "package"}:
        return "install it"
    return f"if an upgrade has removed it: ally-plugins install {shlex.quote(agreement.distribution)}"


def _enable(facts: Facts) -> str:
    return f"ally-plugins enable {facts.label or facts.name}"


def _missing_consent(facts: Facts, found: Found, manifest: Manifest) -> str | None:
    agreement = facts.agreement
    if agreement is None:
        return "nobody has agreed to what it asks for"
    if "enabled" in facts.loosened and agreement.settled is not None and not agreement.settled.enabled:
        return "config.toml enables it, and a person has disabled it"
    if agreement.distribution != found.distribution:
        return f"it was agreed to from {agreement.distribution!r} and now comes from {found.distribution!r}"
    more = GrantSet(manifest.grants).difference(agreement.grants)
    if more:
        return f"it asks for more than was agreed to: {', '.join(grant.text for grant in more)}"
    if found.bridge is None and (missed := agreement.new_durable(manifest.durable)):
        return f"it asks for what it missed of {', '.join(missed)} too, which was not agreed to"
    return _files_problem(facts, agreement, found)


def _files_problem(facts: Facts, agreement: Agreement, found: Found) -> str | None:
    """Compare the files: those of a package only with `consent = "files"`, all others were hashed when it was found."""
    if found.origin == "package" and facts.config.consent != "files":
        return None
    if agreement.files == (found.content_digest() if found.origin == "package" else found.digest):
        return None
    changes = file_changes(agreement.listing, listing_of(found.files)) if agreement.listing else ()
    shown = f": {', '.join(changes[:_SHOWN])}{', ...' if len(changes) > _SHOWN else ''}" if changes else ""
    return f"its files are not those that were agreed to{shown}"


def _has_changed(facts: Facts) -> bool:
    agreement, found = facts.agreement, facts.found
    return agreement is not None and found is not None and bool(found.digest) and agreement.code != found.digest


def _loosened_note(facts: Facts) -> str:
    if not facts.loosened:
        return ""
    what = ", ".join(facts.loosened)
    return f"config.toml loosens {what}, and what was agreed to holds; to agree: ally-plugins review --agree"


def _failed_start_note(failure: str) -> str:
    return f"it did not start when a host last tried: {failure}" if failure else ""


def _changed_code_note(facts: Facts, *, has_changed: bool) -> str:
    if not has_changed or facts.agreement is None:
        return ""
    return f"its code has changed since version {facts.agreement.version}; to take note: {_enable(facts)}"


def _granted(facts: Facts, requested: GrantSet, state: State) -> GrantSet:
    guards = guards_of(facts.policy, facts.name, requested)
    if state != "enabled" or facts.agreement is None:
        return GrantSet(facts.config.grants.grants | guards)
    # Each of the three may be wider: config.toml is edited by hand, and a new version asks for less or more.
    granted = facts.config.grants.intersection(requested).intersection(facts.agreement.grants)
    ceiling = facts.policy.ceiling_of(facts.name)
    return GrantSet((granted if ceiling is None else granted.intersection(ceiling)).grants | guards)


def _pending(facts: Facts, manifest: Manifest | None) -> tuple[GrantRequest, ...]:
    if manifest is None:
        return ()
    agreement = facts.agreement
    # What was agreed to of another distribution says nothing about this one.
    is_same = agreement is not None and facts.found is not None and agreement.distribution == facts.found.distribution
    agreed = agreement.grants if agreement is not None and is_same else _NO_GRANTS
    return tuple(request for request in manifest.requests if not agreed.covers(request.grant))


def _warnings(facts: Facts, manifest: Manifest | None, granted: GrantSet, requested: GrantSet) -> tuple[str, ...]:
    if manifest is None:
        return ()
    idle = [unserved_event(name) for name in manifest.subscribe if name in facts.not_served]
    if unserved := unserved_grants(granted, requested, facts.not_served):
        idle.append(unserved_warning(facts.name, unserved, is_mandatory=facts.config.mandatory))
    above = forbidden_grants(facts.policy, facts.name, facts.config.grants.grants)
    idle += [f"it is granted {text!r}, and {why}, so that it has no effect" for text, why in sorted(above.items())]
    return (*idle, *(_unrequested(facts, grant) for grant in _idle_grants(facts, manifest)))


def _idle_grants(facts: Facts, manifest: Manifest) -> list[Grant]:
    """Return what is granted and not requested, not even a part of it: a wider grant has an effect."""
    written = facts.written.grants.grants if facts.written is not None else frozenset()
    beyond = GrantSet(facts.config.grants.grants | written).difference(GrantSet(manifest.grants))
    return [grant for grant in beyond if not any(grant.covers(requested) for requested in manifest.grants)]


def _unrequested(facts: Facts, grant: Grant) -> str:
    way_out = f"ally-plugins revoke {facts.name} {grant.text}"
    return f"config.toml grants {grant.text!r}, which it does not ask for: {way_out}"
