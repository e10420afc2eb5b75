"""`check`: everything that is wrong with a plugin, at once, each with its file, its line and the way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ally_plugins.cli.shell.completion import plugin_names
from ally_plugins.cli.shell.exits import REFUSED
from ally_plugins.cli.shell.state import command
from ally_plugins.cli.shell.text import counted_noun, echo, inert, paint, print_json
from ally_plugins.contract.values.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ally_plugins.author.findings import Level, SourceFinding
    from ally_plugins.author.project import Project
    from ally_plugins.cli.shell.state import State
    from ally_plugins.contract.manifest import Manifest

__all__ = ["check"]

_FORMATS: Final = ("text", "json", "github", "sarif")
_PATIENCE: Final = 300  # seconds for the checks that run code; a plugin that hangs is waited for in each of them


@command("check")
@click.argument("what", metavar="[PATH | NAME]", default=".", shell_complete=plugin_names)
@click.option(
    "--run", "runs", is_flag=True, help="Run its code as well: the contract of a class, the protocol of a daemon."
)
@click.option(
    "--for",
    "agents",
    metavar="AGENTS",
    help="Say what these do not serve of what it asks for: claude,codex,langchain; or all.",
)
@click.option(
    "--format", "format_", type=click.Choice(_FORMATS), default="text", show_default=True, help="How to print it."
)
@click.option("--strict", is_flag=True, help="Count warnings as errors.")
def check(
    state: State,
    what: str,
    format_: str,
    agents: str | None,
    *,
    runs: bool,
    strict: bool,
) -> None:
    """Show everything that is wrong with a plugin: in the folder PATH (this one), or the installed NAME.

    Its manifest, its packaging and its sources are read, and nothing of it is run. With --run its code is: a class on a
    real host in memory, a daemon's program over its standard input and output.

    The exit code is 1 when there is an error; warnings alone are none.

    \b
    Example:
      ally-plugins check
      ally-plugins check ./loop-warner --run --for claude,codex
      ally-plugins check --format sarif > check.sarif
    """
    from ally_plugins.author.agents import chosen_agents

    from .reports import FORMATS

    if state.as_json:
        format_ = "json"
    wanted = chosen_agents(agents) if agents is not None else []  # before anything else: a slip in a name is no finding
    projects = _projects(state, what)
    findings: list[SourceFinding] = []
    for project in projects:
        manifest, found = _read(project)
        findings += found
        if manifest is not None:
            for agent in wanted:
                findings += _not_served(project, manifest, agent)
            # Code that cannot be loaded has nothing more to say; what is wrong stands there with its line.
            if runs and not any(each.level == "error" for each in found):
                findings += _run(project, manifest, is_quiet=format_ != "text")
    findings = sorted(set(findings))  # what several plugins of one project share is said once
    errors = sum(each.level == "error" for each in findings)
    names = ", ".join(project.name for project in projects)
    summary = _summary(names, findings, errors, runs=runs)
    if format_ == "json":
        print_json(_data(projects, findings, errors, runs=runs))
    else:
        FORMATS[format_](findings, summary)
    if errors or (strict and findings):
        raise click.exceptions.Exit(REFUSED)


def _projects(state: State, what: str) -> list[Project]:
    from ally_plugins.author.project import find_projects

    if os.path.isdir(what) or os.sep in what or what == ".":  # noqa: PTH112 - a name may be no path at all
        return find_projects(what)
    try:
        return [_installed(state, what)]
    except ConfigError:
        if os.path.isfile(what):  # noqa: PTH113 - likewise
            return find_projects(what)  # which says what it expects
        raise


def _installed(state: State, name: str) -> Project:
    """Return what is installed under a name, as a project. Raises NotFound errors of the registry."""
    from ally_plugins.author.project import Project
    from ally_plugins.catalog.home.files import locate
    from ally_plugins.contract.manifest import MANIFEST_NAME

    record = state.registry.get(name)
    found = record.found
    if found is None or not found.root:
        raise ConfigError(f"of {name!r} there are no files to look at: it is {record.state}")
    root = Path(found.root)
    located = locate(found.entry_point.partition(":")[0]) if found.entry_point else None
    expected = located.expected if located is not None else str(root / MANIFEST_NAME)
    return Project(
        root=root if root.is_dir() else root.parent,
        name=record.name,
        target=found.entry_point,
        base=root.parent,
        code=root,
        manifest_path=Path(found.manifest_path or expected),
    )


def _read(project: Project) -> tuple[Manifest | None, list[SourceFinding]]:
    """Return the manifest and what is wrong with it, the packaging and the sources; nothing of the plugin runs."""
    from ally_plugins.author.agents import known_tools
    from ally_plugins.author.manifest_checks import check_manifest, check_packaging
    from ally_plugins.author.source_checks import check_source
    from ally_plugins.author.source_model import read_sources

    tools = known_tools()
    manifest, found = check_manifest(project, tools)
    found += check_packaging(project)
    found += check_source(project, manifest, read_sources(project), tools)
    return manifest, found


def _not_served(project: Project, manifest: Manifest, agent: Any) -> Iterator[SourceFinding]:
    from ally_plugins.author.agents import not_served
    from ally_plugins.author.findings import SourceFinding
    from ally_plugins.author.manifest_checks import line_of

    text = project.manifest_bytes().decode("utf-8", "replace")
    for grant, why, is_missing in not_served(agent, manifest):
        kind = grant.partition(":")[0]
        line = line_of(text, "events.subscribe" if kind == "events" else f"permissions.{kind}.on")
        how = "does not serve" if is_missing or kind == "events" else "serves only partly"
        # A gate that is never asked is no guard, and its author is the one who has to know.
        level: Level = "error" if is_missing and kind == "gate" else "warning"
        yield SourceFinding(
            str(project.manifest_path), line, "not-served", f"{agent.name} {how} {grant}: {why}", "", level
        )


def _run(project: Project, manifest: Manifest, *, is_quiet: bool) -> Iterator[SourceFinding]:
    """Run the plugin's code and yield what it does not keep to."""
    is_daemon = manifest.daemon is not None
    if not is_quiet:
        what = " ".join(manifest.daemon.command) if manifest.daemon is not None else project.target
        echo(paint(f"running {inert(what)} ...", dim=True), to_stderr=True)
    place = project.code / "__init__.py" if project.code is not None and project.code.is_dir() else project.code
    file = str(project.manifest_path if is_daemon or place is None else place)
    for label, problem, remarks in _run_daemon(project, manifest) if is_daemon else _run_class(project):
        yield from _ran(file, label, problem, remarks)


def _ran(file: str, label: str, problem: str | None, remarks: Sequence[str]) -> Iterator[SourceFinding]:
    from ally_plugins.author.findings import SourceFinding

    rule = label.replace(" ", "-")
    if problem is not None:
        yield SourceFinding(file, 0, rule, f"run: {problem}")
    for remark in remarks:
        yield SourceFinding(file, 0, rule, f"run: {remark}", "", "warning")


Ran = tuple[str, "str | None", "Sequence[str]"]


def _run_daemon(project: Project, manifest: Manifest) -> Iterator[Ran]:
    from ally_plugins.author.daemon_checks import DAEMON_CHECKS, DaemonTrial
    from ally_plugins.author.findings import Broken
    from ally_plugins.contract.values.errors import AllyError

    if manifest.daemon is not None and manifest.daemon.transport != "stdio":
        yield "answers the handshake", None, ["a daemon on a socket speaks Code-Ally's protocol, which is not checked"]
        return
    trial = DaemonTrial(project.name, project.daemon(manifest), manifest)
    for label, trying in DAEMON_CHECKS.items():
        try:
            yield label, None, trying(trial)
        except (Broken, AllyError) as error:
            yield label, str(error), []
            if label == "answers the handshake":
                return  # every other check begins with it, and would say the same


def _run_class(project: Project) -> Iterator[Ran]:
    """Run the contract's checks in a process of their own: what hangs or exits there is a finding, and not our end."""
    words = [sys.executable, "-m", "ally_plugins.testing", project.target, "--name", project.name]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(project.base), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    try:
        done = subprocess.run(  # noqa: S603 - the author's own code, which they had us run
            words, check=False, capture_output=True, text=True, timeout=_PATIENCE, env=env, cwd=project.root
        )
    except subprocess.TimeoutExpired:
        yield "contract", f"its checks were not done after {_PATIENCE} s; it hangs", []
        return
    try:
        findings = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        said = " / ".join(done.stderr.strip().splitlines()[-3:])
        yield "contract", f"its checks ended with code {done.returncode}: {said}", []
        return
    for each in findings:
        yield each["check"], each["problem"], each["remarks"]


def _summary(names: str, findings: Sequence[SourceFinding], errors: int, *, runs: bool) -> list[str]:
    if not findings:
        line = f"{paint(inert(names), bold=True)}: nothing is wrong"
    else:
        warnings = len(findings) - errors
        line = f"{paint(inert(names), bold=True)}: {counted_noun(errors, 'error')}, {counted_noun(warnings, 'warning')}"
    return [line, *([] if runs else [paint("its code was read and not run; --run does that too", dim=True)])]


def _data(projects: Sequence[Project], findings: Sequence[SourceFinding], errors: int, *, runs: bool) -> dict[str, Any]:
    from .reports import rows_of

    return {
        "plugins": [project.name for project in projects],
        "ok": not errors,
        "errors": errors,
        "warnings": len(findings) - errors,
        "ran": runs,
        "findings": rows_of(findings),
    }
