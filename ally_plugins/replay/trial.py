"""One version of a plugin tried on recorded sessions, as if it had been agreed to; and how two versions differ.

What is agreed to, configured and recorded for the trial lies in a scratch home and ends with it. Nothing that a gate
says is enforced: a recording has happened already.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, frozen

from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import ConfigError, ConsentError
from ally_plugins.host.host import Host
from ally_plugins.host.sockets.leftovers import temporary_folder
from ally_plugins.journal.journal import Journal
from ally_plugins.journal.statistics import CHARACTERS_PER_TOKEN
from ally_plugins.journal.values import DECISION
from ally_plugins.runtime.sandbox.support import support

from .pacing import ReplayClock
from .player import Player
from .recording import open_recording
from .replay_registry import ReplayRegistry
from .scratch_home import ScratchHome

if TYPE_CHECKING:
    from collections.abc import Generator

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.journal.reader import JournalReader
    from ally_plugins.runtime.lanes.plugin import Plugin

__all__ = ["Change", "TrialDifference", "TrialHome", "compare", "try_version"]

_KEPT: Final = ("config.toml", "consent.toml")
"""Of the operator's files those that the trial begins with. A quarantine is about the version before."""


class TrialHome(ScratchHome):
    """A scratch home in which something can be agreed to as well."""

    @property
    @override
    def config_file(self) -> Path:
        """A copy of the operator's."""
        return self.scratch / "config.toml"

    @property
    @override
    def consent_file(self) -> Path:
        """A copy of what was agreed to."""
        return self.scratch / "consent.toml"

    @property
    @override
    def quarantine_file(self) -> Path:
        """What the trial alone has put there."""
        return self.scratch / "quarantine.json"


@contextmanager
def _trial_home(home: Home) -> Generator[TrialHome]:
    with temporary_folder("trial-") as folder:
        for name in _KEPT:
            with suppress(FileNotFoundError):
                shutil.copyfile(home.path / name, Path(folder, name))
                Path(folder, name).chmod(0o600)
        yield TrialHome(home.app, home.path, scratch=folder)


async def try_version(
    home: Home, name: str, files: Sequence[str], *, is_trusted: bool = False, site: str | None = None
) -> dict[str, Any]:
    """Play recordings through the version of a plugin that this process finds, and return what it did, as JSON values.

    It is granted what it would get now, and runs in a sandbox where it can, wherever it runs else. `site` is the folder
    that it has to come from. Raises RecordingError and ConfigError, and ConsentError for code that nobody has agreed to
    and no sandbox holds, unless it `is_trusted`. Cancelling ends the replay, and the scratch home.
    """
    with _trial_home(home) as trial:
        registry = ReplayRegistry(trial, only=[name])
        plan = registry.plan(name)
        if site is not None and not _comes_from(plan.record, site):
            # What is installed would be found in its place, and be said to do the same as itself.
            raise ConfigError(f"it has no plugin {name!r}")
        with suppress(ConsentError):  # it cannot run in one
            plan = registry.plan(name, placement="sandbox")
        if not (is_trusted or _is_agreed(plan.record) or _is_held(plan.record)):
            version = f"{name} {plan.record.version}"
            raise ConsentError(f"nobody has agreed to {version}, and no sandbox holds it here: add --without-sandbox")
        registry.enable(plan, "trial")
        journal = Journal.in_memory()
        try:
            host = Host(home.app, home=trial, journal=journal, clock=ReplayClock(), has_person=True, telemetry=False)
            host.registry = registry
            plugins: dict[str, Plugin] = {}
            player = Player(host, [open_recording(file) for file in files], before_end=lambda _: _keep(plugins, host))
            report = await player.run()
            sessions = {each.session_id: each.recorded_id for each in report.sessions}
            counts = report.plugin(name)
            return {
                "version": plan.record.version,
                "placement": plan.record.placement,
                "requests": list(plan.record.requested.texts()),
                "state": counts.state,
                "reason": counts.reason,
                "crashes": counts.crashes,
                "prompt_changes": counts.prompt_changes,
                "uncached_tokens": counts.uncached_tokens,
                "sessions": len(report.sessions),
                "not_kept": report.not_kept,
                "votes": list(_votes(journal.reader, name, sessions)),
                "messages": [
                    [sessions.get(each.session_id, ""), str((each.body or {}).get("content", ""))]
                    for each in journal.reader.messages()
                    if each.plugin == name
                ],
                "hooks": _times(plugins.get(name)),
            }
        finally:
            journal.close_blocking()


def _comes_from(record: PluginRecord, site: str) -> bool:
    root = record.found.root if record.found is not None else ""
    # A source of plugins need not know where the files are.
    return not root or Path(root).resolve().is_relative_to(Path(site).resolve())


def _is_agreed(record: PluginRecord) -> bool:
    return record.agreement is not None and not record.has_changed_code and not record.pending


def _is_held(record: PluginRecord) -> bool:
    return record.placement == "sandbox" and support().has_filter


async def _keep(plugins: dict[str, Plugin], host: Host) -> None:
    """Keep the plugins, which a host forgets when it stops."""
    plugins.update(host.plugins)


def _times(plugin: Plugin | None) -> dict[str, Any]:
    times = plugin.times.all() if plugin is not None else {}
    return {hook: {"calls": each.calls, "p50": each.quantile(0.5), "p95": each.quantile(0.95)}
            for hook, each in sorted(times.items())}  # fmt: skip


def _votes(reader: JournalReader, name: str, sessions: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield what the plugin said to each thing that gates were asked about, with what distinguishes that one."""
    seen: Counter[tuple[Any, ...]] = Counter()
    gates = {info.topic for info in HOOKS.values() if info.kind == "gate"}
    for record in reader.records(kind=DECISION):
        data = record.data or {}
        if data.get("kind") not in gates:
            continue
        about = (sessions.get(record.session_id or "", ""), data.get("kind"), data.get("cause"))
        for vote in data.get("votes", ()):
            if vote["plugin"] == name:
                number = seen[about]
                seen[about] += 1
                yield {"session": about[0], "kind": about[1], "cause": about[2], "number": number,
                       "subject": data.get("subject"), "verdict": vote["verdict"], "why": vote["cause"],
                       "reason": vote["reason"] or vote["detail"]}  # fmt: skip


# --- two of them


@frozen
class Change:
    """One thing about which the two versions said something else; "" where one of them was not asked at all."""

    session: str
    kind: str
    subject: str
    old: str
    new: str
    reason: str = ""
    """The new one's, or the old one's where the new one says nothing against it."""

    @property
    def is_loosened(self) -> bool:
        """Whether the old one was against it, or wanted the person asked, and the new one is less so."""
        return _STRICTNESS.get(self.old.partition(" ")[0], 0) > _STRICTNESS.get(self.new.partition(" ")[0], 0)


_STRICTNESS: Final = {"ask": 1, "deny": 2}


@frozen(kw_only=True)
class TrialDifference:
    """How two trials of the same recordings differ. The messages are pairs of a session and a text."""

    changes: tuple[Change, ...] = ()
    added: tuple[tuple[str, str], ...] = ()
    removed: tuple[tuple[str, str], ...] = ()
    tokens: tuple[int, int] = (0, 0)
    """What the old one's messages would have put into conversations, and the new one's; estimated."""
    requests: tuple[str, ...] = ()
    """What the new one asks for and the old one does not."""
    hooks: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = Factory(dict)

    @property
    def is_nothing(self) -> bool:
        """Whether both would have done the same, however long they took for it."""
        return not (self.changes or self.added or self.removed or self.requests)


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> TrialDifference:
    """Return how two results of `try_version` differ, what is loosened first."""
    before, after = (Counter(map(tuple, each["messages"])) for each in (old, new))
    hooks = {
        name: (old["hooks"].get(name, {}), new["hooks"].get(name, {})) for name in {**old["hooks"], **new["hooks"]}
    }
    return TrialDifference(
        changes=tuple(sorted(_changes(old, new), key=lambda each: not each.is_loosened)),
        added=tuple((after - before).elements()),
        removed=tuple((before - after).elements()),
        tokens=(_tokens(before), _tokens(after)),
        requests=tuple(each for each in new["requests"] if each not in old["requests"]),
        hooks=hooks,
    )


def _tokens(messages: Counter[tuple[str, ...]]) -> int:
    return sum(math.ceil(len(text) / CHARACTERS_PER_TOKEN) * count for (_, text), count in messages.items())


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = _by_subject(old["votes"]), _by_subject(new["votes"])
    for key in {**before, **after}:
        was, now = before.get(key), after.get(key)
        old_said, new_said = _said(was), _said(now)
        if old_said != new_said:
            either: Mapping[str, Any] = now or was or {}
            reason = (now or {}).get("reason") or (was or {}).get("reason") or ""
            yield Change(
                str(either["session"]), str(either["kind"]), str(either["subject"]), old_said, new_said, reason
            )


def _by_subject(votes: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    return {(vote["session"], vote["kind"], vote["cause"], vote["number"]): vote for vote in votes}


def _said(vote: Mapping[str, Any] | None) -> str:
    """Return a vote as one word; an abstention lets it go on, as an allow does."""
    if vote is None:
        return ""
    if vote["why"] != "verdict":
        return f"{vote['verdict']} ({vote['why']})"
    return "allow" if vote["verdict"] == "abstain" else str(vote["verdict"])
