"""What each agent serves, and what its tools are called: from the adapters' and dialects' own tables."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from ally_plugins.contract.serves import Serves
from ally_plugins.contract.values.errors import ConfigError
from ally_plugins.contract.wording import suggest
from ally_plugins.policy.serving import unserved_grants

if TYPE_CHECKING:
    from ally_plugins.contract.manifest import Manifest

__all__ = ["Agent", "agents", "chosen_agents", "known_tools", "not_served"]


@frozen
class Agent:
    """An agent or a framework: what it serves, and by grant why something is served only partly."""

    name: str
    serves: Serves
    limits: Mapping[str, str]


def agents() -> dict[str, Agent]:
    """Return every agent that there is an adapter or a dialect for, by name. Imports no framework."""
    import ally_plugins.adapters
    from ally_plugins.adapters.coding.dialects import DIALECTS

    found = {name: Agent(name, dialect.serves, dialect.limits) for name, dialect in DIALECTS.items()}
    for path in sorted(Path(ally_plugins.adapters.__path__[0]).glob("*/serves.py")):
        module = path.parent.name
        if module != "kit":
            serves: Serves = importlib.import_module(f"ally_plugins.adapters.{module}.serves").SERVES
            name = module.replace("_", "-")
            found[name] = Agent(name, serves, {})
    return found


def chosen_agents(names: str) -> list[Agent]:
    """Return the agents of a list with commas; `all` is all of them. Raises ConfigError for one not known, or none."""
    known = agents()
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if wanted == ["all"]:
        return list(known.values())
    if not wanted:  # a variable that is not set, where somebody relies on the check
        raise ConfigError(f"no agent is named, expected all, or some of {', '.join(sorted(known))}")
    for name in wanted:
        if name not in known:
            raise ConfigError(f"no agent {name!r} is known, {suggest(name, sorted(known))}")
    return [known[name] for name in wanted]


def not_served(agent: Agent, manifest: Manifest) -> Iterator[tuple[str, str, bool]]:
    """Yield what a plugin asks for and an agent does not serve, or only partly: the grant, why, if not at all."""
    from ally_plugins.policy.permissions import GrantSet

    requested = GrantSet(manifest.grants)
    for name in unserved_grants(requested, requested, agent.serves.missing):
        kind = name.partition(":")[0]
        what = "it is never asked" if kind == "gate" else "it never runs"
        yield name, agent.limits.get(name, what), True
    for name in sorted(
        {f"{grant.kind}:{grant.topic}" for grant in manifest.grants if grant.kind in ("gate", "transform")}
    ):
        if name in agent.serves and (why := agent.limits.get(name)):
            yield name, why, False
    for event in manifest.subscribe:
        if event in agent.serves.missing:
            yield f"events:{event}", "it never comes", False


def known_tools() -> frozenset[str]:
    """Return the common names of tools, and those that the known agents have for them."""
    from ally_plugins.contract.tools.common_names import COMMON_NAMES, TOOL_NAMES

    return COMMON_NAMES.union(*TOOL_NAMES.values())
