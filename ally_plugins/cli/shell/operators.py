"""Who may change something: a person or their script, and no process of a plugin or of an agent that is guarded.

Every command that changes anything passes `require_operator`, whatever it was told to say yes to.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ally_plugins.contract.values.errors import ConsentError

if TYPE_CHECKING:
    from ally_plugins.catalog.home.folder import Home

__all__ = ["require_operator"]


def require_operator(home: Home) -> None:
    """Raise ConsentError where this command was started by a plugin's process, or by an agent that the home guards.

    Asked are the kernel, what the home says of agents, and the hosts that run on it, which know what was removed there.
    """
    from ally_plugins.catalog.home.agent_processes import GuardedAgents
    from ally_plugins.runtime.processes.ancestry import is_plugins_own, lineage_of

    if is_plugins_own():
        raise ConsentError(
            "this command was started by a plugin's process, and plugins change nothing here, with --yes or without; "
            "run it in a terminal of your own"
        )
    lineage = lineage_of(os.getpid())
    if lineage is None:
        raise ConsentError("it cannot be seen who has started this command, so it changes nothing; run it again")
    try:
        agent = GuardedAgents(home).above(lineage.processes)
    except OSError as error:
        way_out = "remove what is in the way" if not isinstance(error, PermissionError) else "see who owns it"
        raise ConsentError(
            f"it cannot be seen which agents are connected, so nothing is changed: {error}; {way_out}"
        ) from error
    if agent is not None:
        who = f"{agent.agent} (process {agent.identity.pid})"
        raise ConsentError(
            f"this command was started by {who}, which ally-plugins guards, and an agent loosens nothing here, "
            "with --yes or without; run it in a terminal outside the agent"
        )
    _ask_hosts(home)


def _ask_hosts(home: Home) -> None:
    """Raise ConsentError where a running host refuses: it knows its agents, whatever has become of their files."""
    from ally_plugins.host.control.client import call_all, hosts_of

    from .running_hosts import STATUS_TIMEOUT

    hosts = hosts_of(home)
    for answer in call_all(hosts, "may_change", None, STATUS_TIMEOUT) if hosts else ():
        # By the code of the refusal. One that is silent, or older, says nothing of who asks: the home has.
        if answer.reason == "permission":
            raise ConsentError(answer.error.replace("may_change", "a change", 1))
