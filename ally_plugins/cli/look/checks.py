"""The checks of `doctor`, one function a topic; each yields its results, and `run_checks` turns errors into results."""

from __future__ import annotations

import os
import stat
import sys
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.catalog.home.filesystems import NETWORK_REMEDY, network_problem
from ally_plugins.catalog.home.machine_policy import read_policy
from ally_plugins.catalog.plugin_facts import read_settled
from ally_plugins.cli.shell.check_results import CheckResult, Level
from ally_plugins.cli.shell.journal_rows import reading_of, summary
from ally_plugins.cli.shell.processes import IN_PROCESS, INLINE, in_sandbox
from ally_plugins.cli.shell.projects import project_state
from ally_plugins.cli.shell.recorder import now_ms
from ally_plugins.cli.shell.requests import unheld_line
from ally_plugins.cli.shell.text import when
from ally_plugins.contract.process_spec import running_python
from ally_plugins.contract.values.errors import AllyError, OrderError
from ally_plugins.journal.owned_files import acting_as, check_folder
from ally_plugins.policy.owned_files import fault_of, shared_with

from .process_checks import check_environments, check_process, check_sandbox, platform_weaknesses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ally_plugins.catalog.decide.record import PluginRecord
    from ally_plugins.catalog.home.folder import Home
    from ally_plugins.catalog.registry import Registry
    from ally_plugins.cli.shell.state import State
    from ally_plugins.journal.values import StoredRecord

__all__ = ["CheckResult", "run_checks"]

_NEWEST: Final = (3, 15)
"""The newest Python that this version is made for."""
_OLDEST_SQLITE: Final = (3, 34)  # what Python 3.11 is found with; the journal needs nothing newer
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022
_UNRECORDED: Final = "until then, whatever needs a record is refused"
_SECRETS: Final = "secrets.json"
_EDITED: Final = "config.toml"
"""Whoever may read it learns no secret, and editors leave it readable."""
_LOST_SHOWN: Final = 3  # the last ones; `audit --kind lost_host` has all
_UNGATED_READ: Final = 100  # the last record of each agent is shown
_PROMPT_CHANGES_READ: Final = 10_000  # a plugin may change the prompt with each request, and a week's are counted
_REPEATED: Final = 2
_LOST_FOR_MS: Final = 7 * 24 * 3600 * 1000  # a week: who looks after a crash does so sooner

_LINUX_ONLY: Final = (
    ("darwin", "every write waits less surely for the disk on macOS: fsync leaves data in the drive's cache"),
    (
        "win32",
        "file modes are not checked on Windows: who may read the home follows from its folder's access list",
    ),
    ("win32", "a replaced file may not survive a power cut on Windows: folders cannot be synced"),
)


def run_checks(state: State) -> list[CheckResult]:
    """Run every check; an error in one of them becomes a problem and stops no other. Blocks on files."""
    checks: tuple[Callable[[State], Iterator[CheckResult]], ...] = (
        _check_python,
        _check_platform,
        _check_home,
        _check_plugins,
        _check_project,
        _check_journal,
        _check_keyring,
    )
    findings: list[CheckResult] = []
    for check in checks:
        topic = check.__name__.removeprefix("_check_")
        try:
            findings += check(state)
        # No others: those are errors in this program, which `doctor` should not show as the operator's.
        except (AllyError, OSError) as error:
            findings.append(CheckResult("problem", topic, str(error)))
    return findings


def _check_project(state: State) -> Iterator[CheckResult]:
    found = project_state(state.home, ".")
    for line in found.lines():
        text, _, remedy = line.partition(": ")
        yield CheckResult("note" if found.state == "not trusted" else "warning", "project", text, remedy)
    if found.state == "trusted":
        yield CheckResult("ok", "project", f"what {found.root}/.ally says is trusted")


def _check_python(_: State) -> Iterator[CheckResult]:
    import sqlite3

    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] > _NEWEST:
        yield CheckResult(
            "warning",
            "python",
            f"{version} is newer than what this version was made for (3.11 to 3.15)",
            "upgrade ally-plugins, or use an older Python",
        )
    else:
        yield CheckResult("ok", "python", f"{version} at {sys.executable}")
    if not running_python():
        yield CheckResult(
            "warning",
            "python",
            f"this program, {sys.executable!r}, is no Python: it has no guardian, and runs no class in a process",
            "name a Python for each such plugin: ally-plugins place NAME process --interpreter PYTHON",
        )
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        yield CheckResult(
            "warning",
            "python",
            f"its SQLite is {sqlite3.sqlite_version}, the journal is tested from 3.34 on",
            "use a Python with a newer SQLite",
        )
    # Since Python 3.13; before there was no other build.
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        yield CheckResult(
            "warning", "python", "this is a free-threaded build, on which nothing was tested", "use the ordinary build"
        )


def _check_platform(_: State) -> Iterator[CheckResult]:
    yield CheckResult("note", "platform", f"a plugin with the placement inline {INLINE}")
    yield CheckResult("note", "platform", f"a plugin with the placement process {IN_PROCESS}")
    yield CheckResult("note", "platform", f"a plugin with the placement sandbox {in_sandbox()}")
    weaker = [text for platform, text in _LINUX_ONLY if sys.platform == platform]
    if sys.platform == "linux":
        yield CheckResult("ok", "platform", "Linux, where everything is tested")
    else:
        yield CheckResult("note", "platform", f"{sys.platform}: tested on Linux only")
    for text in (*weaker, *platform_weaknesses(sys.platform)):
        yield CheckResult("note", "platform", text)


def _check_home(state: State) -> Iterator[CheckResult]:
    home = state.home
    if not home.path.exists():
        yield CheckResult("ok", "home", f"{home.path} is not there yet; it is made when it is needed")
        return
    linked = (home.config_file, home.journal_file)
    others = (
        home.audit_head_file, home.consent_file, home.quarantine_file, home.secrets_file, home.keyring_id_file
    )  # fmt: skip
    problems = [finding for folder in (home.path, home.run_dir) for finding in _folder(folder)]
    problems += [finding for file in (*linked, *others) for finding in _file(file, follow=file in linked)]
    yield from problems
    if (problem := network_problem(home.path)) is not None:
        yield CheckResult("warning", "home", problem, NETWORK_REMEDY)
    if not os.access(home.path, os.W_OK | os.X_OK):
        yield CheckResult(
            "problem", "home", f"{home.path} cannot be written", "give it back to this user, or set ALLY_HOME"
        )
    elif not problems:
        yield CheckResult("ok", "home", str(home.path))


def _folder(path: Path) -> Iterator[CheckResult]:
    """Check the home, or a folder in it."""
    with suppress(FileNotFoundError):
        yield from _state(path, path.stat(), 0o700, is_folder=True)


def _file(path: Path, *, follow: bool) -> Iterator[CheckResult]:
    """Check a file of the home; a link is followed only for a file that the operator may edit."""
    with suppress(FileNotFoundError):
        yield from _state(path, path.stat() if follow else path.lstat(), 0o600, is_folder=False)


def _state(path: Path, found: os.stat_result, expected_mode: int, *, is_folder: bool) -> Iterator[CheckResult]:
    """Check owner and mode: what the host would refuse to use, and what others may read or write."""
    mode, fault = stat.S_IMODE(found.st_mode), fault_of(str(path), found, acting_as(), is_folder=is_folder)
    shared = shared_with(str(path), found, acting_as())
    if fault and not (shared and fault.endswith(shared)):  # its mode alone would be mended by one command
        yield CheckResult("problem", "home", f"{path} is not used: {fault}")
    elif fault or (os.name == "posix" and mode & _OTHERS and path.name != _EDITED):
        may = "change" if mode & _OTHERS_WRITE else "read"
        level: Level = "warning" if may == "read" and path.name != _SECRETS else "problem"
        then = " and it is not used" if fault else ""
        text = f"{path} has mode {mode:04o}, so others may {may} it{then}"
        yield CheckResult(level, "home", text, f"chmod {expected_mode:o} {path}")


def _check_plugins(state: State) -> Iterator[CheckResult]:
    # Where hosts refuse the folder, what stands in it about plugins is not what they would run.
    try:
        check_folder(state.home.path)
    except OSError:
        yield CheckResult("note", "plugins", f"no plugin runs until {state.home.path} is mended")
        return
    registry = state.registry
    records = registry.load()
    for problem in registry.problems:
        yield CheckResult("problem", "discovery", problem)
    yield from _policy(registry, records)
    for source in read_settled(state.home).config.sources:
        names = [record.label for record in records if record.found_by == source]
        yield CheckResult("ok", f"source {source}", f"found {', '.join(names) or 'nothing'}")
    findings = [finding for record in records for finding in _plugin(record)]
    findings += _order([record for record in records if record.is_enabled])
    findings += _orphan_subscriptions(records)
    findings += _conflicts([record for record in records if record.is_enabled])
    findings += [finding for record in records for finding in check_process(record)]
    yield from findings
    yield from check_sandbox([record for record in records if record.is_enabled and record.placement == "sandbox"])
    yield from check_environments(state.home, records)
    if not findings:
        enabled = sum(record.is_enabled for record in records)
        yield CheckResult("ok", "plugins", f"{len(records)} installed, {enabled} of them enabled")


def _policy(registry: Registry, records: Sequence[PluginRecord]) -> Iterator[CheckResult]:
    policy = read_policy()
    if missing := registry.missing_mandatory(records):
        text, _, way_out = missing.partition(": ")
        yield CheckResult("problem", "policy", f"{text}; no host starts", way_out)
    elif policy.file:
        kept = ", ".join(policy.mandatory) or "none"
        yield CheckResult("ok", "policy", f"this machine has one, {policy.file}; mandatory: {kept}")


def _plugin(record: PluginRecord) -> Iterator[CheckResult]:
    if record.state in {"broken", "not installed", "quarantined", "not configured"}:
        level: Level = "problem" if record.config.enabled else "warning"
        yield CheckResult(level, f"plugin {record.name}", f"{record.state}: {record.reason}")
        if record.config.enabled and any(text.startswith("gate:") for text in record.config.grants.texts()):
            yield CheckResult(
                "warning",
                f"plugin {record.name}",
                "its granted gates deny until it runs",
                f"mend it, or: ally-plugins disable {record.name}",
            )
    elif record.state == "left out":
        yield CheckResult("note", f"plugin {record.name}", f"left out: {record.reason}")
    elif record.state == "waiting for consent":
        level = "warning" if record.config.enabled else "note"
        yield CheckResult(level, f"plugin {record.name}", record.reason)
    elif record.failure:
        yield CheckResult("problem", f"plugin {record.name}", record.reason)
    for warning in record.warnings:
        yield CheckResult("warning", f"plugin {record.name}", warning)
    if record.is_enabled and (note := unheld_line(record, record.granted)):
        yield CheckResult("note", f"plugin {record.name}", note)
    if record.is_enabled and record.has_changed_code and not record.failure:
        yield CheckResult("warning", f"plugin {record.name}", record.reason)


def _order(records: Sequence[PluginRecord]) -> Iterator[CheckResult]:
    from ally_plugins.policy.ordering import Orderable, find_missing, order

    plugins = [
        Orderable(each.name, each.manifest.before, each.manifest.after, each.config.mandatory) for each in records
    ]
    try:
        order(plugins)
    except OrderError as error:
        # Without any one member there is no cycle; the remedy has to name one.
        yield CheckResult("problem", "order", str(error), f"ally-plugins disable {error.cycle[-1]}")
    for line in find_missing(plugins):
        yield CheckResult(
            "note", "order", f"{line.replace('not installed', 'not enabled')}; without it, this has no effect"
        )


def _orphan_subscriptions(records: Sequence[PluginRecord]) -> Iterator[CheckResult]:
    """Find subscriptions to events of plugins that are not installed."""
    names = {record.name for record in records}
    for record in records:
        for topic in record.manifest.subscribe if record.is_enabled else ():
            source, colon, _ = topic.partition(":")
            # Without a colon it is an event of the host's own, which is always there.
            if colon and source not in names:
                yield CheckResult(
                    "note", f"plugin {record.name}", f"it listens to {topic!r}, and no plugin {source!r} is installed"
                )


def _conflicts(records: Sequence[PluginRecord]) -> Iterator[CheckResult]:
    """Find what several enabled plugins may transform: the last in order wins."""
    by_grant: defaultdict[str, list[str]] = defaultdict(list)
    for record in records:
        for text in record.granted.texts():
            if text.startswith("transform:"):
                by_grant[text].append(record.name)
    for text, names in sorted(by_grant.items()):
        if len(names) > 1:
            yield CheckResult(
                "note",
                "conflicts",
                f"{' and '.join(names)} may all change the same: {text}; the last one wins",
                "ally-plugins info NAME shows their order",
            )


def _check_journal(state: State) -> Iterator[CheckResult]:
    from ally_plugins.journal.schema import check_files

    try:
        check_files(state.home.journal_file)  # before SQLite opens it, which as root would take over another user's
    except AllyError as error:
        yield CheckResult("problem", "journal", str(error), _UNRECORDED)
        return
    yield from _check_chain(state.home)
    yield from _lost_hosts(state.home)
    yield from _ungated_tools(state.home)
    yield from _prompt_changes(state.home)


def _check_chain(home: Home) -> Iterator[CheckResult]:
    from ally_plugins.journal.journal import Journal

    from .audit import verified

    report = verified(home.journal_file, home.audit_head_file)
    if report is None:
        yield CheckResult("ok", "journal", "nothing is recorded yet")
        return
    if report.problem is not None:
        yield CheckResult(
            "problem",
            "journal",
            report.problem.text,
            "copy journal.db and audit.head away as evidence, then restore them or move them away",
        )
        return
    yield CheckResult("ok", "journal", f"{report.records} records, and their chain holds")
    try:
        # For writing, as hosts do: a reader does not notice that the file, its lock or the head cannot be written.
        Journal.open(home.journal_file, head=home.audit_head_file).close_blocking()
    except AllyError as error:
        yield CheckResult("problem", "journal", str(error), _UNRECORDED)


def _lost_hosts(home: Home) -> Iterator[CheckResult]:
    """Name the plugins in whose code hosts have ended lately."""
    found: Sequence[StoredRecord] = ()
    with suppress(AllyError), reading_of(home) as reading:  # what is wrong with it was said by `_check_chain`
        found = [] if reading is None else reading.last_records(_LOST_SHOWN, kind="lost_host")
    for record in found:
        if record.data is not None and record.at > now_ms() - _LOST_FOR_MS:
            what = f"{when(record.at)}: {summary(record)}, of the plugin {record.plugin!r}"
            way_out = f"ally-plugins place {record.plugin} sandbox, so that it ends only itself"
            yield CheckResult("warning", "hosts", what, way_out)


def _ungated_tools(home: Home) -> Iterator[CheckResult]:
    """Name the agents that lately had tools which no gate sees, the last record of each."""
    found: Sequence[StoredRecord] = ()
    with suppress(AllyError), reading_of(home) as reading:
        found = [] if reading is None else reading.last_records(_UNGATED_READ, kind="ungated_tools")
    # By its text, which names the agent and the tools; a later record of the same replaces the earlier.
    last = {summary(record): record for record in found if record.data is not None}
    for text, record in last.items():
        if record.at > now_ms() - _LOST_FOR_MS:
            level: Level = "warning" if record.plugin is not None else "note"
            yield CheckResult(level, "gates", f"{when(record.at)}: {text}")


def _prompt_changes(home: Home) -> Iterator[CheckResult]:
    """Name the plugins that lately changed what requests begin with, again and again, and what it has cost."""
    found: Sequence[StoredRecord] = ()
    with suppress(AllyError), reading_of(home) as reading:
        found = [] if reading is None else reading.last_records(_PROMPT_CHANGES_READ, kind="prompt_prefix")
    by_plugin: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in found:
        if record.data is not None and record.plugin is not None and record.at > now_ms() - _LOST_FOR_MS:
            by_plugin[record.plugin].append(record.data)
    for plugin, changes in sorted(by_plugin.items()):
        if max(data.get("changes", 0) for data in changes) < _REPEATED:  # one a session is what a new plugin costs
            continue
        counted = [data["uncached_tokens"] for data in changes if isinstance(data.get("uncached_tokens"), int)]
        cost = f"; {sum(counted):,} tokens were not read from the prompt cache" if counted else ""
        text = f"{plugin} has changed what requests to the model begin with {len(changes):,} times in a week{cost}"
        way_out = f"ask its author for volatile sections, or bound it: prompt_changes = 1 in [plugins.{plugin}.limits]"
        yield CheckResult("warning", "prompt cache", text, way_out)


def _check_keyring(state: State) -> Iterator[CheckResult]:
    secrets = state.registry.secrets
    found = secrets.keyring
    if found.is_silent:
        yield CheckResult(
            "problem", "secrets", f"{found.problem}; plugins with a secret in it do not run", found.remedy
        )
    elif found.backend is None:
        text = f"new ones are kept in {secrets.place}, since {found.problem}"
        yield CheckResult("note", "secrets", text, found.remedy)
    else:
        yield CheckResult("ok", "secrets", f"new ones are kept in {secrets.place}")
