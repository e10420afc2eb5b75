"""Running the checks on a plugin, and their report. What is checked lies in `checks`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from ally_plugins.author import daemon_checks
from ally_plugins.author.daemon_checks import DaemonCheck, DaemonTrial
from ally_plugins.author.findings import Broken
from ally_plugins.contract.manifest import Manifest
from ally_plugins.contract.values.compat import override
from ally_plugins.contract.values.errors import AllyError

from .checks import BLOCK_MS, CHECKS, Check, Trial
from .subject import ManifestLike, PluginLike, Subject, plugin_name

__all__ = ["DAEMON_CHECKS", "Finding", "Report", "check_daemon", "check_plugin", "run_check", "run_daemon_check"]

DAEMON_CHECKS: Final = daemon_checks.DAEMON_CHECKS
"""Every check of a daemon by its name; `pytest.mark.parametrize("check", DAEMON_CHECKS)` makes a test of each."""


@frozen
class Finding:
    """What one check came to. `problem` is None when the plugin passed; `remarks` are no faults."""

    check: str
    problem: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        """Whether the plugin passed."""
        return self.problem is None


@frozen
class Report:
    """What all checks came to; as a text, one line each."""

    plugin: str
    findings: tuple[Finding, ...]

    @override
    def __str__(self) -> str:
        lines = [f"{self.plugin}: {'ok' if self.is_ok else f'{len(self.problems)} problems'}"]
        for each in self.findings:
            lines.append(
                f"  {'ok  ' if each.is_ok else 'FAIL'} {each.check}{f': {each.problem}' if each.problem else ''}"
            )
            lines += [f"       note: {remark}" for remark in each.remarks]
        return "\n".join(lines)

    @property
    def is_ok(self) -> bool:
        """Whether the plugin passed every check."""
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The checks that it did not pass."""
        return tuple(each for each in self.findings if not each.is_ok)


def check_plugin(
    plugin: PluginLike,
    manifest: ManifestLike | None = None,
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    block_ms: float = BLOCK_MS,
) -> Report:
    """Run every check on a plugin and return the report; `assert report.is_ok, report` in a test.

    `plugin` is a class, or the name of an installed plugin; manifest and name are found as `PluginHarness` finds them.
    Blocks for some seconds; call it outside of a loop.
    """
    found = [
        run_check(check, plugin, manifest, name=name, settings=settings, block_ms=block_ms) for check in CHECKS.values()
    ]
    return Report(name if name is not None else plugin_name(plugin), tuple(found))


def run_check(
    check: Check | str,
    plugin: PluginLike,
    manifest: ManifestLike | None = None,
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    block_ms: float = BLOCK_MS,
) -> Finding:
    """Run one check, which may be given by its name in `CHECKS`; otherwise as `check_plugin`."""
    wanted = CHECKS[check] if isinstance(check, str) else check
    label = next((title for title, each in CHECKS.items() if each is wanted), getattr(wanted, "__name__", "check"))
    try:
        trial = Trial(Subject.of(plugin, name=name, manifest=manifest), settings or {}, block_ms)
        # A loop for each check: what a plugin leaves on one does not disturb the next.
        return Finding(label, None, tuple(asyncio.run(_run(wanted, trial))))
    except (Broken, AllyError) as problem:
        return Finding(label, str(problem))


def check_daemon(
    plugin: PluginLike,
    manifest: ManifestLike | None = None,
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Run every check of the protocol on a daemon in whatever language, and return the report.

    `plugin` is the Path of its folder, the name of an installed one, or a Daemon. Starts its process some ten times,
    and blocks for about a second.
    """
    found = [run_daemon_check(check, plugin, manifest, name=name, settings=settings) for check in DAEMON_CHECKS]
    return Report(name if name is not None else plugin_name(plugin), tuple(found))


def run_daemon_check(
    check: DaemonCheck | str,
    plugin: PluginLike,
    manifest: ManifestLike | None = None,
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Finding:
    """Run one check of the protocol, which may be given by its name in `DAEMON_CHECKS`; otherwise as `check_daemon`."""
    wanted = DAEMON_CHECKS[check] if isinstance(check, str) else check
    label = next((title for title, each in DAEMON_CHECKS.items() if each is wanted), "check")
    try:
        subject = Subject.of(plugin, name=name, manifest=manifest)
        if subject.daemon is None:
            return Finding(label, "it is a class, and none that speaks the protocol itself; use run_check")
        trial = DaemonTrial(subject.name, subject.daemon, subject.manifest or Manifest(), settings or {})
        return Finding(label, None, tuple(wanted(trial)))
    except (Broken, AllyError) as problem:
        return Finding(label, str(problem))


async def _run(check: Check, trial: Trial) -> list[str]:
    return await check(trial)
