"""What an operator would agree to: the plan that is shown, and what follows from agreeing.

Pure; writing it down is the registry's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from ally_plugins.catalog.home.config import Placement
from ally_plugins.contract.grants import Grant
from ally_plugins.contract.values.errors import ConsentError
from ally_plugins.contract.values.frozen import FrozenDict
from ally_plugins.policy.permissions import GrantSet

from .record import PluginRecord

__all__ = ["Plan", "agreed_facts", "default_grants", "is_for_review", "requested_grant", "source_keys"]

_PLACEMENT: Final = ("placement", "interpreter", "environment", "process")


@frozen(kw_only=True)
class Plan:
    """What enabling a plugin would agree to and grant; to be shown, and then given to `enable` as it is."""

    record: PluginRecord
    grants: GrantSet
    placement: Placement | None = None
    """Where it is placed with that; None leaves it as it is. `record` is as it would be then."""
    refused: Mapping[str, str] = FrozenDict()
    """Grants, as texts, that no operator can give, each with the reason: files from which it could free itself."""

    @property
    def withheld(self) -> tuple[Grant, ...]:
        """What the plugin asks for and would not get."""
        return self.record.requested.difference(self.grants)


def default_grants(record: PluginRecord) -> GrantSet:
    """Return what `enable` grants when the operator names nothing: all requests but those that were withheld before."""
    # Grants without an agreement were written by hand before the first consent: these are what is wanted.
    if not record.config.is_decided or (record.agreement is None and not record.config.grants):
        return record.requested
    kept = record.config.grants.intersection(record.requested)
    new = () if record.agreement is None else record.pending
    return GrantSet(kept.grants | {request.grant for request in new})


def requested_grant(record: PluginRecord, text: str) -> Grant:
    """Return a grant from its text. Raises ConsentError for what the plugin does not ask for."""
    grant = Grant.parse(text)
    if not record.requested.covers(grant):
        requested = ", ".join(record.requested.texts()) or "nothing"
        raise ConsentError(f"{record.name!r} does not ask for {text!r}; it asks for {requested}")
    return grant


def agreed_facts(record: PluginRecord) -> tuple[Any, ...]:
    """Return what an operator agrees to when enabling a plugin: where it differs, the consent was to something else."""
    digest = record.found.digest if record.found is not None else ""
    return (record.manifest, record.distribution, record.version, record.entry_point, digest)


def source_keys(record: PluginRecord, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `[plugins.NAME]` that choose this plugin among several of one name.

    Where another one was chosen before, its placement is removed with it: it describes how that one runs. What was
    settled for the only one of a name before anybody has agreed to it stays. Every source but "package" is always
    written down, so that a package of that name that is installed later changes nothing.
    """
    if record.origin == "package" and "source" not in before:
        return {}
    usual = "package" if record.is_set_aside or "enabled" in before else record.origin
    moved = {} if before.get("source", usual) == record.origin else dict.fromkeys(_PLACEMENT)
    return {**moved, "source": record.origin}


def is_for_review(record: PluginRecord) -> bool:
    """Say whether the operator should look at a plugin."""
    if record.loosened or record.state in ("waiting for consent", "quarantined", "not configured"):
        return True
    return record.config.enabled and (record.has_changed_code or record.state in ("broken", "not installed"))
