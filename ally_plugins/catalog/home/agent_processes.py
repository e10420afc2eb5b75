"""Which processes are coding agents whose hooks reach this home: what they have started loosens nothing there.

The host that takes hooks notes each agent before it answers it, in a file of `run/agents` whose name says all, so that
none can be torn. It keeps in memory what it has noted, and lays a file anew that was removed.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from ally_plugins.journal.process_identity import ProcessIdentity

from .folder import Home, try_lock, unlock

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

__all__ = ["HOOK_LOCK", "GuardedAgent", "GuardedAgents"]

HOOK_LOCK: Final = "coding.lock"
"""The file in `run` that the host which takes hooks keeps locked."""

_NAME: Final = re.compile(r"([a-z_]+)\.([0-9]+)\.([0-9]+)\.([0-9a-f-]*)\.([0-9]*)")
_FIRST_NAMESPACE: Final = "pid:[4026531836]"
"""That of the machine itself, which Linux always gives this number: nothing stands above its processes unseen."""


@frozen
class GuardedAgent:
    """A coding agent as a process of this machine."""

    agent: str
    identity: ProcessIdentity

    @property
    def name(self) -> str:
        """The name of its file."""
        known = self.identity
        namespace = re.sub("[^0-9]", "", known.namespace or "")
        return f"{self.agent}.{known.pid}.{known.started}.{known.boot or ''}.{namespace}"

    @classmethod
    def of_name(cls, name: str) -> GuardedAgent | None:
        """Return that of a file's name; None for one that is none."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        agent, pid, started, boot, namespace = found.groups()
        where = f"pid:[{namespace}]" if namespace else None
        return cls(agent, ProcessIdentity(int(pid), int(started), boot or None, where))


@define(eq=False)
class GuardedAgents:
    """The agents of one home; lives as long as the host or the command that looks. Its methods wait for the disk."""

    home: Home
    _noted: dict[str, GuardedAgent] = field(init=False, factory=dict)

    @property
    def folder(self) -> Path:
        """Where their files lie."""
        return self.home.run_dir / "agents"

    def note(self, agent: str, pid: int, started: int) -> None:
        """Keep a process, of this PID namespace, as an agent. Raises OSError where that cannot be written."""
        found = GuardedAgent(agent, ProcessIdentity.of(pid, started))
        if found.name not in self._noted:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._forget_ended()
            self._noted[found.name] = found
        try:
            self._lay(found)
        except FileNotFoundError:  # somebody has removed the folder
            self.folder.mkdir(mode=0o700)
            self._lay(found)

    def _lay(self, found: GuardedAgent) -> None:
        # Each time: a file that somebody has removed is there again at the next hook.
        os.close(os.open(self.folder / found.name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))

    def _forget_ended(self) -> None:
        for found in (*self._files(), *self._noted.values()):
            if found.identity.is_dead():
                self._noted.pop(found.name, None)
                with suppress(OSError):
                    (self.folder / found.name).unlink()

    def _files(self) -> Iterator[GuardedAgent]:
        try:
            names = os.listdir(self.folder)  # noqa: PTH208 - names are all that is needed
        except FileNotFoundError:
            return
        for name in names:
            if (found := GuardedAgent.of_name(name)) is not None:
                yield found

    def above(self, processes: Collection[tuple[int, int]]) -> GuardedAgent | None:
        """Return the agent that is among these processes, each given with its start; None where there is none.

        In another container than an agent's, where nobody can say what stands above, it is that agent for as long as
        a host takes hooks. Raises OSError where the files cannot be read.
        """
        own, elsewhere = ProcessIdentity.own(), None
        for found in {each.name: each for each in (*self._files(), *self._noted.values())}.values():
            known = found.identity
            if known.boot != own.boot:
                continue
            if known.namespace == own.namespace:
                if (known.pid, known.started) in processes:
                    return found
            elif own.namespace != _FIRST_NAMESPACE:
                elsewhere = found
        return elsewhere if elsewhere is not None and self._is_served() else None

    def _is_served(self) -> bool:
        """Return whether a host holds the lock of those that take hooks; one of a container that is gone does not."""
        try:
            descriptor = self.home.open_lock(HOOK_LOCK)
        except OSError:  # a home that is only shown to this container
            return True
        if not try_lock(descriptor):
            os.close(descriptor)
            return True
        unlock(descriptor)
        return False
