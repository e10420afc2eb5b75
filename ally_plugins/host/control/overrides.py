"""What a person at a terminal may decide over plugins' heads: recorded first, and only where the policy allows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ally_plugins.catalog.home.machine_policy import read_policy
from ally_plugins.contract.values.errors import NotFoundRefused, UnavailableRefused
from ally_plugins.host.sessions.overrides import ALLOWED_SECONDS

if TYPE_CHECKING:
    from ally_plugins.host.bus.services import HostServices

__all__ = ["allow_call", "pause_agent"]


async def allow_call(services: HostServices, decision: str) -> dict[str, Any]:
    """Let a denied call run once, and return what it is; cancelling may leave it recorded and not allowed.

    Raises NotFoundRefused for one that this host has not denied, UnavailableRefused where that cannot be recorded or
    the policy forbids it, ConfigError where the policy cannot be read.
    """
    denied = services.overrides.find(decision)
    if not (await asyncio.to_thread(read_policy)).allow:
        raise UnavailableRefused("this machine's policy lets nobody allow what was denied")
    await services.records.write(
        "allow", None, denied.session_id, decision, {"agent": denied.agent, "tool": denied.tool_name}
    )
    services.overrides.allow(denied)
    return {"decision": decision, "agent": denied.agent, "session": denied.session_id, "tool": denied.tool_name,
            "seconds": ALLOWED_SECONDS}  # fmt: skip


async def pause_agent(services: HostServices, agent: str, seconds: float) -> dict[str, Any]:
    """Have the gates of an agent's calls decide nothing for so long; with 0 they decide again.

    Raises as `allow_call`, and cancels as it.
    """
    if agent not in services.agents:
        raise NotFoundRefused(f"this host takes no hooks of {agent!r:.40}")
    if seconds and not (await asyncio.to_thread(read_policy)).pause:
        raise UnavailableRefused("this machine's policy lets nobody pause what guards an agent")
    await services.records.write("pause", None, None, None, {"agent": agent, "seconds": seconds})
    services.overrides.pause(agent, seconds)
    return {"agent": agent, "seconds": seconds}
