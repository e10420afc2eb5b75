"""What the policy of the machine's administrator makes of one plugin, and of all together.

Pure, but for reading the files of a plugin whose digest the policy names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

from ally_plugins.contract.wording import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ally_plugins.catalog.discovery.found import Found
    from ally_plugins.catalog.home.config import PluginConfig
    from ally_plugins.catalog.home.machine_policy import MachinePolicy
    from ally_plugins.contract.grants import Grant
    from ally_plugins.policy.permissions import GrantSet

    from .record import PluginRecord

__all__ = ["forbidden_grants", "guards_of", "is_guarding", "missing_mandatory", "not_allowed", "tightened"]


def tightened(policy: MachinePolicy, name: str, config: PluginConfig) -> PluginConfig:
    """Return what the operator settled for a plugin, as strict as the policy has it."""
    if name in policy.digests:
        # Looked at before each start of its process: the files may change after they were found right.
        config = evolve(config, consent="files")
    if name not in policy.mandatory:
        return config
    return evolve(
        config,
        enabled=True,
        mandatory=True,
        shadow=False,
        ungated_tools=False,
        gate_on_error="deny",
        transform_on_error="block",
    )


def not_allowed(policy: MachinePolicy, name: str, found: Found) -> str:
    """Return why the policy lets a plugin not run, empty where it does. Reads its files where digests are named."""
    if (digests := policy.digests.get(name)) is not None:
        return _wrong_digest(policy, digests, found)
    if policy.distributions is None:
        return ""
    if found.origin != "package":
        # A folder may call itself anything.
        return f"it comes from no distribution, and {policy.file} allows those of {', '.join(policy.distributions)}"
    if policy.allows_distribution(found.distribution):
        return ""
    return f"{policy.file} does not allow the distribution {describe(found.distribution)}"


def _wrong_digest(policy: MachinePolicy, digests: Iterable[str], found: Found) -> str:
    try:
        digest = found.content_digest() if found.origin == "package" else found.digest
    except OSError as error:
        return f"its files cannot be read, and {policy.file} names their digest: {error.strerror or error}"
    return "" if digest in digests else f"its files have the digest {digest}, which {policy.file} does not allow"


def forbidden_grants(policy: MachinePolicy, name: str, grants: Iterable[Grant]) -> Mapping[str, str]:
    """Return which grants, as texts, are above the plugin's ceiling, each with the reason."""
    ceiling = policy.ceiling_of(name)
    if ceiling is None:
        return {}
    return {each.text: f"{policy.file} does not allow it" for each in grants if not ceiling.covers(each)}


def guards_of(policy: MachinePolicy, name: str, requested: GrantSet) -> frozenset[Grant]:
    """Return what a plugin is granted whatever the operator settled: the guards of a mandatory one."""
    return frozenset(filter(is_guarding, requested.grants)) if name in policy.mandatory else frozenset()


def is_guarding(grant: Grant) -> bool:
    """Say whether a grant has a plugin stand in the way of something, so that taking it away would loosen."""
    return grant.kind in {"gate", "transform"} and grant.topic != "waive"


def missing_mandatory(policy: MachinePolicy, records: Iterable[PluginRecord]) -> str:
    """Return which mandatory plugin does not guard as the policy wants it, and the way out; empty where all do."""
    by_name = {record.name: record for record in reversed(list(records))}  # of one name the first counts
    for name in policy.mandatory:
        record, says = by_name.get(name), f"{policy.file} makes {name!r} mandatory"
        if record is None:
            return f"{says}, which is not installed: ally-plugins install its distribution, and enable it"
        if not record.is_enabled:
            return f"{says}, and it is {record.state}: {record.reason}"
    return ""
